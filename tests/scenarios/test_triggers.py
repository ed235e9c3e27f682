"""Nobody but the milters can make a trigger work: no notice without its fact."""

import smtplib

import pytest
from network import ALDO, ANNA, BRUNO, PROTOCOLLO, SERVICE, run

MADE_UP = "0" * 32
SENDER = "posta-certificata@gestore.alfa.test"


@pytest.fixture(scope="module")
def real(net):
    """A message with everything that came of it, and the ids of its rows, which nobody outside is ever told."""
    msgid, _ = net.submit(ANNA, [ALDO])
    envelope = net.expect(ALDO, "posta-certificata", msgid)
    net.expect(ANNA, "avvenuta-consegna", msgid)
    net.expect(SERVICE["alfa"], "presa-in-carico", msgid)
    net.drain("alfa")
    identificativo = envelope.value("identificativo")

    def ids(table):
        return net.sql("alfa", f"SELECT id FROM {table} WHERE identificativo = '{identificativo}'")

    [sent], [custody], facts = ids("sent"), ids("custody"), ids("fact")
    again = [f"{kind}+{fact}" for fact in facts for kind in ("avvenuta-consegna", "rispedizione")]
    return msgid, envelope, [f"accettazione+{sent}", f"presa-in-carico+{custody}", *again]


def targets(real):
    kinds = ("accettazione", "presa-in-carico", "avvenuta-consegna", "errore-consegna", "preavviso-12", "rilevazione-virus", "rispedizione")
    for name in [*[f"{kind}+{MADE_UP}" for kind in kinds], *real[2], "accettazione", "nonsense+1"]:
        yield f"{name}@notices.pec.internal"


def count(net):
    return {address: len(net.deployment.messages(address)) for address in net.deployment.passwords}, net.sql("alfa", "SELECT count(*) FROM fact")


@pytest.mark.both
@pytest.mark.parametrize("host", ["ALFA", "BETA"])
def test_from_port_25(net, real, host):
    for target in targets(real):
        # Each on a connection of its own: Postfix answers slower and slower after errors.
        with smtplib.SMTP(*net.deployment.address(host, "SMTP"), timeout=30) as client:
            client.ehlo()
            client.mail("x@posta.test")
            code, text = client.rcpt(target)
            assert code // 100 == 5, (target, code, text)


@pytest.mark.both
def test_from_an_authenticated_submission(net, real):
    for target in targets(real):
        with smtplib.SMTP_SSL(*net.deployment.address("ALFA", "SUBMISSIONS"), context=net.deployment.tls, timeout=30) as client:
            client.login(ANNA, net.deployment.passwords[ANNA])
            client.mail(ANNA)
            code, text = client.rcpt(target)
            assert code // 100 == 5, (target, code, text)


def test_from_a_process_that_reaches_the_socket(net, real):
    """Made-up ids, and real ids with other bytes: waits, is never believed, and the administrator is told."""
    _, envelope, _ = real
    since, before = net.now(), count(net)
    other_bytes = envelope.raw.replace(b"Ciao", b"Addio")
    assert other_bytes != envelope.raw
    for target in targets(real):
        code, text = net.give("alfa", "pec/triggers", SENDER, target, other_bytes)
        assert (code, text.startswith("4.")) == (451, True), (target, code, text)
    assert count(net) == before
    assert net.logs("alfa", "delivery", since).count("the trigger is not believed") == len(list(targets(real)))


def test_a_trigger_that_comes_again_makes_nothing(net, real):
    """The right bytes, by whoever has them: what was handed over is not handed over again."""
    _, envelope, triggers = real
    before = count(net)
    for name in triggers[:2]:
        code, text = net.give("alfa", "pec/triggers", SENDER, f"{name}@notices.pec.internal", envelope.raw)
        assert code == 250, (name, code, text)
    assert count(net) == before


def test_neither_socket_takes_what_the_other_one_is_for(net, real):
    _, envelope, triggers = real
    before = count(net)
    for socket, recipients in (("pec/triggers", (ALDO, BRUNO)), ("pec/delivery", [f"{name}@notices.pec.internal" for name in triggers])):
        for recipient in recipients:
            code, text = net.give("alfa", socket, SENDER, recipient, envelope.raw)
            assert code // 100 == 4, (socket, recipient, code, text)
    assert count(net) == before


@pytest.mark.both
def test_postfixs_smtpd_for_notices_takes_no_trigger(net, real):
    _, envelope, _ = real
    for target in targets(real):
        code, text = net.give("alfa", "public/pecoutgoing", SENDER, target, envelope.raw)
        assert code // 100 == 5, (target, code, text)


@pytest.mark.both
def test_a_report_that_a_local_user_made_up(net, real):
    """sendmail does not reach the socket of Postfix's own reports: no receipt comes of it."""
    _, envelope, _ = real
    identificativo = envelope.value("identificativo")
    [envid] = net.sql("alfa", f"SELECT envid FROM custody WHERE identificativo = '{identificativo}'")
    before = net.sql("alfa", "SELECT count(*) FROM fact")
    report = (
        "From: MAILER-DAEMON@mail.gestore.alfa.test\nTo: x@posta.test\nSubject: Successful Mail Delivery Report\nMIME-Version: 1.0\n"
        "Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n"
        f"--b\n\nx\n--b\nContent-Type: message/delivery-status\n\nOriginal-Envelope-Id: {envid}\nReporting-MTA: dns; mail.gestore.alfa.test\n\n"
        f"Final-Recipient: rfc822; anna@pec.alfa.test\nAction: failed\nStatus: 5.1.1\n\n--b\nContent-Type: text/rfc822-headers\n\n"
        f"Message-ID: <{identificativo}>\n\n--b--\n"
    )
    sendmail = [net.container("alfa", "postfix"), "sendmail", "-V", envid, "-f", "", ALDO]
    refused = run("docker", "exec", "--interactive", "--user", "nobody", *sendmail, input=report, check=False)
    assert refused.returncode != 0 and "not allowed to submit mail" in refused.stderr
    run("docker", "exec", "--interactive", "--user", "root", *sendmail, input=report)
    net.wait_for_log("alfa", "postfix", "postfix/local/cleanup")
    net.drain("alfa")
    assert net.sql("alfa", "SELECT count(*) FROM fact") == before


def test_an_envelope_is_delivered_to_those_whom_its_sender_wrote_to(net, real):
    """Whoever holds an envelope can bring it again, to anybody; nobody certifies that."""
    msgid, _ = net.submit(ANNA, [BRUNO])
    envelope = net.expect(BRUNO, "posta-certificata", msgid)
    net.drain("alfa", "beta")
    mailboxes, _ = count(net)
    with smtplib.SMTP(*net.deployment.address("BETA", "SMTP"), timeout=30) as client:
        client.sendmail(ANNA, [PROTOCOLLO], envelope.raw)
    identificativo = envelope.header["Message-ID"]
    anomaly = net.deployment.wait_for(PROTOCOLLO, lambda m: m.kind == "errore" and m.header["Message-ID"] == identificativo)
    assert "was not sent to" in anomaly.text
    # To the same recipient it is the envelope that came before: taken, and nothing more happens.
    with smtplib.SMTP(*net.deployment.address("BETA", "SMTP"), timeout=30) as client:
        client.sendmail(ANNA, [BRUNO], envelope.raw)
    net.drain("alfa", "beta")
    mailboxes[PROTOCOLLO] += 1
    assert count(net)[0] == mailboxes, "an anomaly envelope, which certifies nothing"
