"""Nobody but the milters can make a trigger work: no notice without its fact."""

import json
import smtplib

import pytest
from network import ALDO, ANNA, BRUNO, PROTOCOLLO, SERVICE, run

MADE_UP = "0" * 32


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
    triggers = [f"accettazione+{sent}", f"presa-in-carico+{custody}", f"ricezione+{sent}", *[f"avvenuta-consegna+{f}" for f in facts]]
    return msgid, envelope, triggers


def targets(real):
    made_up = [f"{kind}+{MADE_UP}" for kind in ("accettazione", "presa-in-carico", "avvenuta-consegna", "errore-consegna", "ricezione")]
    for name in [*made_up, *real[2], "accettazione", "nonsense+1"]:
        yield f"{name}@{'ricezione' if name.startswith('ricezione') else 'notices'}.pec.internal"


def count(net):
    return {address: len(net.deployment.messages(address)) for address in net.deployment.passwords}, net.sql("alfa", "SELECT count(*) FROM fact")


@pytest.mark.parametrize("host", ["ALFA", "BETA"])
def test_from_port_25(net, real, host):
    for target in targets(real):
        # Each on a connection of its own: Postfix answers slower and slower after errors.
        with smtplib.SMTP(*net.deployment.address(host, "SMTP"), timeout=30) as client:
            client.ehlo()
            client.mail("x@posta.test")
            code, text = client.rcpt(target)
            assert code // 100 == 5, (target, code, text)


def test_from_an_authenticated_submission(net, real):
    for target in targets(real):
        with smtplib.SMTP_SSL(*net.deployment.address("ALFA", "SUBMISSIONS"), context=net.deployment.tls, timeout=30) as client:
            client.login(ANNA, net.deployment.passwords[ANNA])
            client.mail(ANNA)
            code, text = client.rcpt(target)
            assert code // 100 == 5, (target, code, text)


LOCAL_PROCESS = """
import json, smtplib, sys
results = []
for port, target, message in json.load(sys.stdin):
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        client.ehlo()
        client.mail("posta-certificata@gestore.alfa.test")
        code, text = client.rcpt(target)
        if code == 250:
            code, text = client.data(message.encode("latin-1"))
        results.append((code, text.decode()))
print(json.dumps(results))
"""


def from_a_local_process(net, attempts):
    """(code, text) of each attempt (port, target, message), made inside Alfa's host as an ordinary user."""
    done = run(
        "docker", "run", "--rm", "--interactive", "--user", "nobody", "--network", f"container:{net.project}-alfa", f"pec-between:{net.base}",
        "python3", "-c", LOCAL_PROCESS, input=json.dumps(attempts),
    )  # fmt: skip
    return json.loads(done.stdout)


def test_from_a_local_process_on_the_internal_ports(net, real):
    """Made-up ids, and real ids with other bytes: waits, is never believed, and the administrator is told."""
    msgid, envelope, _ = real
    mailboxes, facts = count(net)
    other_bytes = envelope.raw.decode("latin-1").replace("Ciao", "Addio")
    assert other_bytes.encode("latin-1") != envelope.raw
    notices = [(10025, target, other_bytes) for target in targets(real) if "@notices" in target]
    ricezione = [(10026, target, other_bytes) for target in targets(real) if "@ricezione" in target]
    for attempt, (code, text) in zip(notices + ricezione, from_a_local_process(net, notices + ricezione), strict=True):
        assert code // 100 in (4, 5), (attempt[1], code, text)
    assert count(net) == (mailboxes, facts)
    assert "the trigger is not believed" in net.logs("alfa", "notices")


def test_the_internal_ports_deliver_to_nobody(net, real):
    """What is no trigger is refused there: neither port is a way around the Incoming Point."""
    _, envelope, _ = real
    plain = f"From: {ANNA}\r\nTo: {ALDO}\r\nSubject: x\r\n\r\nx\r\n"
    attempts = [(port, target, message) for port in (10025, 10026) for target in (ALDO, BRUNO) for message in (plain, envelope.raw.decode("latin-1"))]
    mailboxes, facts = count(net)
    for attempt, (code, text) in zip(attempts, from_a_local_process(net, attempts), strict=True):
        assert code // 100 in (4, 5), (attempt[:2], code, text)
    assert count(net) == (mailboxes, facts)


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


@pytest.mark.parametrize("table", ["pec-notify-both", "pec-notify-failure"])
def test_no_client_gives_a_message_its_envelope_id(net, table):
    def filtered(command):
        done = net.execute("alfa", "postfix", "postmap", "-q", command, f"regexp:/etc/postfix/{table}", check=False)
        return done.stdout.rstrip("\n") or command

    assert filtered("MAIL FROM:<a@b.test> SIZE=1000 BODY=8BITMIME") == "MAIL FROM:<a@b.test> SIZE=1000 BODY=8BITMIME"
    for given in ("MAIL FROM:<a@b.test> ENVID=00ff", "mail from:<a@b.test> envid=00ff SIZE=1", "MAIL FROM:<> RET=FULL\tENVID=00ff AUTH=<>"):
        assert "envid" not in filtered(given).lower() and filtered(given).lower().startswith("mail from:<"), filtered(given)
    assert filtered("MAIL FROM:<a@b.test> ENVID=00ff ENVID=00ff") == "RSET"


def test_an_envelope_is_delivered_to_those_whom_its_sender_wrote_to(net, real):
    """Whoever holds an envelope can bring it again, to anybody; nobody certifies that."""
    msgid, _ = net.submit(ANNA, [BRUNO])
    envelope = net.expect(BRUNO, "posta-certificata", msgid)
    net.drain("alfa", "beta")
    mailboxes, _ = count(net)
    header = envelope.raw.split(b"\r\n\r\n", 1)[0].split(b"\r\n")
    clean = b"\r\n".join(line for line in header if not line.lower().startswith(b"x-pec-custody"))
    raw = clean + envelope.raw[envelope.raw.index(b"\r\n\r\n") :]
    for message, recipient, says in ((raw, PROTOCOLLO, "was not sent to"), (envelope.raw, BRUNO, "X-Pec-Custody")):
        with smtplib.SMTP(*net.deployment.address("BETA", "SMTP"), timeout=30) as client:
            client.sendmail(ANNA, [recipient], message)
        identificativo = envelope.header["Message-ID"]
        anomaly = net.deployment.wait_for(recipient, lambda m: m.kind == "errore" and m.header["Message-ID"] == identificativo)
        assert says in anomaly.text
    # To the same recipient it is the envelope that came before: taken, and nothing more happens.
    with smtplib.SMTP(*net.deployment.address("BETA", "SMTP"), timeout=30) as client:
        client.sendmail(ANNA, [BRUNO], raw)
    net.drain("alfa", "beta")
    mailboxes[BRUNO] += 1
    mailboxes[PROTOCOLLO] += 1
    assert count(net)[0] == mailboxes, "an anomaly envelope each, which certifies nothing"


def test_only_postfix_can_connect_to_the_milters(net):
    for name in ("access", "incoming", "internal", "triggers", "reports"):
        path = f"/var/spool/postfix/pec/{name}"
        probe = f"import socket; socket.socket(socket.AF_UNIX).connect('{path}')"
        done = run(
            "docker", "run", "--rm", "--user", "nobody", "--volume", f"{net.project}-alfa-queue:/var/spool/postfix", f"pec-between:{net.base}",
            "python3", "-c", probe, check=False,
        )  # fmt: skip
        assert "PermissionError" in done.stderr, (name, done.stderr)
