"""Closed where a milter is missing: into a certified mailbox goes what a program of ours signed or let in, and nothing else, by
whichever door Postfix took it. What is not known waits, and an alarm names it."""

import smtplib
import time
from contextlib import contextmanager

import pytest
from network import ALDO, ANNA, BRUNO, CARLA, shipped_milter

pytestmark = pytest.mark.both


@contextmanager
def set_for_a_while(net, option, value, back):
    net.execute("alfa", "postfix", "postconf", "-P", f"{option}={value}")
    net.reload_postfix("alfa")
    try:
        yield
    finally:
        net.execute("alfa", "postfix", "postconf", "-P", f"{option}={back}")
        net.reload_postfix("alfa")


def by_port25(net, raw, **_):
    with set_for_a_while(net, "smtp/inet/smtpd_milters", "", shipped_milter("incoming")), smtplib.SMTP(*net.deployment.address("ALFA", "SMTP"), timeout=30) as client:
        client.sendmail(CARLA, [ANNA], raw)


def by_submission(net, raw, **_):
    with set_for_a_while(net, "submission/inet/smtpd_milters", "", shipped_milter("access")):
        net.deployment.submit(ALDO, [ANNA], raw)


def by_pickup(net, raw, envid=None):
    """Root's sendmail sets envelope ids."""
    options = ["-V", envid] if envid else []
    with set_for_a_while(net, "cleanup-local/unix/non_smtpd_milters", "", shipped_milter("local")):
        script = 'printf "%s" "$0" | sendmail -oi "$@"'
        net.execute("alfa", "postfix", "sh", "-c", script, raw.decode("latin-1").replace("\r\n", "\n"), *options, "-f", CARLA, ANNA)


def by_pecoutgoing(net, raw, envid=None):
    """What pec-delivery alone can reach, if somebody became it. No milter is there even in order."""
    code, text = net.give("alfa", "public/pecoutgoing", "posta-certificata@gestore.alfa.test", ANNA, raw, envid)
    assert code == 250, text


DOORS = {"port 25": by_port25, "submission": by_submission, "pickup": by_pickup, "pecoutgoing": by_pecoutgoing}


def waits(net, since, why):
    """The one message in the queue stays there, as Postfix and the alarm say; it is removed, as the administrator would."""
    deadline = time.monotonic() + 30
    while not any("delay_reason" in recipient for entry in net.queue("alfa") for recipient in entry["recipients"]):
        assert time.monotonic() < deadline, net.queue("alfa")
        time.sleep(0.1)
    [entry] = net.queue("alfa")
    reason = entry["recipients"][0]["delay_reason"]
    assert "said: 451 4.3.0 not delivered to anna@pec.alfa.test: " in reason and why in reason, reason
    log = net.wait_for_log("alfa", "delivery", f"{entry['queue_id']}: error: alarm: ", since)
    assert f"to={ANNA} reason={why}" in log.splitlines()[-1]
    net.execute("alfa", "postfix", "postsuper", "-d", entry["queue_id"])


@pytest.mark.parametrize("door", DOORS)
def test_what_no_milter_saw_reaches_no_mailbox(net, door):
    net.drain("alfa", "beta")
    since = net.now()
    raw, msgid = net.letter(ALDO if door == "submission" else CARLA, [ANNA])
    DOORS[door](net, raw)
    waits(net, since, "it has no envelope id, so no milter of ours has seen it")
    # In order again.
    passes, _ = net.submit(ALDO, [ANNA])
    net.expect(ALDO, "avvenuta-consegna", passes, ANNA)
    assert not any(msgid.encode() in m.raw for m in net.deployment.messages(ANNA))


@pytest.fixture(scope="module")
def delivered(net):
    """A message from Aldo to Anna: its envelope, and ENVIDs that rows have."""
    msgid, _ = net.submit(ALDO, [ANNA])
    envelope = net.expect(ANNA, "posta-certificata", msgid)
    net.expect(ALDO, "avvenuta-consegna", msgid, ANNA)
    net.drain("alfa")
    where = f"WHERE identificativo = '{envelope.value('identificativo')}'"
    [custody] = net.sql("alfa", f"SELECT envid FROM custody {where}")
    [fact] = net.sql("alfa", f"SELECT id FROM fact {where} AND kind = 'accettazione'")
    return envelope, custody, fact


@pytest.mark.parametrize("door", ["pickup", "pecoutgoing"])
def test_an_envelope_id_of_ours_with_other_bytes_or_another_recipient_reaches_no_mailbox(net, delivered, door):
    envelope, custody, fact = delivered
    other_bytes = envelope.raw.replace(b"Ciao", b"Addio")
    assert other_bytes != envelope.raw
    there = len(net.deployment.messages(ANNA))
    for envid, message, why in (
        (custody, other_bytes, "it is not the envelope that was taken in charge for this recipient"),
        # The receipt went to Aldo.
        (fact, envelope.raw, "it is not the notice that has this envelope id"),
        ("0" * 32, envelope.raw, "its envelope id is none of ours, so no milter of ours has let it in"),
    ):
        since = net.now()
        DOORS[door](net, message, envid=envid)
        waits(net, since, why)
    assert len(net.deployment.messages(ANNA)) == there


def test_a_milter_that_is_not_configured_for_reports_delivers_none(net):
    """Postfix's report about an ordinary recipient would come raw."""
    nobody = "nobody@posta.test"
    net.postconf("posta", f"smtpd_recipient_restrictions=check_recipient_access,inline:{{{{{nobody}=550 5.1.1 no}}}}")
    net.postconf("alfa", "non_smtpd_milters=")
    for host in ("alfa", "posta"):
        net.reload_postfix(host)
    since = net.now()
    try:
        msgid, _ = net.submit(ANNA, [nobody])
        net.expect(ANNA, "accettazione", msgid)
        waits(net, since, "it has no envelope id, so no milter of ours has seen it")
    finally:
        net.execute("posta", "postfix", "postconf", "-X", "smtpd_recipient_restrictions")
        net.postconf("alfa", f"non_smtpd_milters={shipped_milter('reports')}")
        for host in ("alfa", "posta"):
            net.reload_postfix(host)


@contextmanager
def stopped(net, program):
    net.stop("alfa", program)
    try:
        yield
    finally:
        net.start("alfa", program)
        net.wait_until_up("alfa", program)


@contextmanager
def main_cf(net, setting, back):
    net.postconf("alfa", setting)
    net.reload_postfix("alfa")
    try:
        yield
    finally:
        net.postconf("alfa", back)
        net.reload_postfix("alfa")


def refused_for_now(give):
    """Postfix or a program of ours says 4xx, at whichever command."""
    with pytest.raises((smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused)) as refused:
        give()
    code = getattr(refused.value, "smtp_code", None) or next(iter(refused.value.recipients.values()))[0]
    assert 400 <= code < 500, refused.value


def to_port25(net, raw):
    with smtplib.SMTP(*net.deployment.address("ALFA", "SMTP"), timeout=30) as client:
        client.sendmail(CARLA, [ANNA], raw)


@pytest.mark.parametrize("program", ["incoming", "access"])
def test_while_a_milter_is_down_nothing_is_taken_whatever_main_cf_says(net, program):
    net.drain("alfa", "beta")
    raw, msgid = net.letter(CARLA if program == "incoming" else ALDO, [ANNA] if program == "incoming" else [BRUNO])
    give = (lambda: to_port25(net, raw)) if program == "incoming" else (lambda: net.deployment.submit(ALDO, [BRUNO], raw))
    with main_cf(net, "milter_default_action=accept", "milter_default_action=tempfail"), stopped(net, program):
        refused_for_now(give)
        assert net.queue("alfa") == []
    # It comes again, as mail servers and clients do.
    give()
    if program == "incoming":
        deadline = time.monotonic() + 60
        while not any(msgid.encode() in m.raw and b"X-Trasporto: errore" in m.raw for m in net.deployment.messages(ANNA)):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    else:
        net.expect(ALDO, "avvenuta-consegna", msgid, BRUNO)


def test_without_its_parameter_in_main_cf_a_milter_is_where_it_ships(net):
    net.drain("alfa", "beta")
    for name in ("access", "incoming"):
        net.execute("alfa", "postfix", "postconf", "-X", f"pec_{name}_milter", check=False)
    net.reload_postfix("alfa")
    try:
        msgid, _ = net.submit(ALDO, [BRUNO])
        net.expect(ALDO, "avvenuta-consegna", msgid, BRUNO)
        msgid, _ = net.submit(BRUNO, [ALDO])
        net.expect(BRUNO, "avvenuta-consegna", msgid, ALDO)
    finally:
        net.postconf("alfa", *[f"pec_{name}_milter=unix:pec/{name}" for name in ("access", "incoming")])
        net.reload_postfix("alfa")


@pytest.mark.parametrize("value", ["", "inet:127.0.0.1:9", "{unix:pec/access,default_action=accept}"])
def test_a_program_by_which_mail_could_pass_takes_nothing_and_says_what_to_mend(net, value):
    net.drain("alfa", "beta")
    since = net.now()
    raw, msgid = net.letter(ALDO, [BRUNO])
    with set_for_a_while(net, "submission/inet/smtpd_milters", value, shipped_milter("access")):
        line = net.wait_for_log("alfa", "access", "mail could pass by, so nothing is taken (451)", since)
        assert "master.cf submission/inet: " in line and "mend: " in line, line
        # By the other door, which is as it must be.
        refused_for_now(lambda: net.deployment.submit(ALDO, [BRUNO], raw, service="SUBMISSIONS"))
    net.deployment.submit(ALDO, [BRUNO], raw, service="SUBMISSIONS")
    net.expect(ALDO, "avvenuta-consegna", msgid, BRUNO)


def test_a_service_that_asks_no_milter_closes_port_25(net):
    net.drain("alfa", "beta")
    since = net.now()
    with set_for_a_while(net, "smtp/inet/smtpd_milters", "{unix:pec/incoming,default_action=accept}", shipped_milter("incoming")):
        net.wait_for_log("alfa", "incoming", "mail could pass by, so nothing is taken (451)", since)
        raw, msgid = net.letter(CARLA, [ANNA])
        refused_for_now(lambda: to_port25(net, raw))
    assert not any(msgid.encode() in m.raw for m in net.deployment.messages(ANNA))
    # What Beta has waits there, and goes on by itself.
    msgid, _ = net.submit(BRUNO, [ALDO])
    net.expect(BRUNO, "avvenuta-consegna", msgid, ALDO)
