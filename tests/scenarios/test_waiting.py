"""Whatever is stopped: mail waits and goes on by itself. A slow server elsewhere delays nobody else."""

import smtplib
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta

import pytest
from ledger import HEARD_WITHIN, Ledger
from network import ALDO, ANNA, BRUNO, CARLA, NESSUNO, PROCESSES, run


@pytest.fixture(scope="module")
def ledger(net):
    ledger = Ledger(net)
    ledger.refresh()
    return ledger


# Who is asked for what while a message of Anna's goes to this host's user. Stopped, nobody else can do it: mail is deferred,
# or the client is told to come again.
CLIENT_WAITS = {("alfa", process) for process in ("access", "postgres", "clamd", "dovecot", "postfix")}

# What comes from outside passes the one, what goes out the other.
NOBODY_WAITS = {("alfa", "incoming"), ("beta", "access")}


@pytest.mark.both
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(("host", "recipient"), [("alfa", ALDO), ("beta", BRUNO)])
def test_a_stopped_process_is_waited_for(net, ledger, host, recipient, process):
    """Stopped before the message comes, started when that has been noticed: nothing lost, nothing twice."""
    net.stop(host, process)
    try:
        raw, msgid = net.letter(ANNA, [recipient])
        if (host, process) in CLIENT_WAITS:
            with pytest.raises((smtplib.SMTPException, OSError)) as refused:
                net.deployment.submit(ANNA, [recipient], raw)
            code = getattr(refused.value, "smtp_code", 451)
            assert 400 <= code < 500, f"a permanent refusal, though {process} is only stopped: {refused.value}"
        else:
            net.deployment.submit(ANNA, [recipient], raw)
            if (host, process) not in NOBODY_WAITS:
                wait_until_deferred(net)
    finally:
        net.start(host, process)
        net.wait_until_up(host, process)
    if (host, process) in CLIENT_WAITS:
        net.submit_until_accepted(ANNA, [recipient], raw)
    net.drain("alfa", "beta")
    ledger.refresh()
    ledger.check(msgid, ANNA, [recipient])


def wait_until_deferred(net):
    """Somewhere something waits."""
    deadline = time.monotonic() + 30
    while not any(entry["queue_name"] == "deferred" for host in ("alfa", "beta") if running(net, host) for entry in net.queue(host)):
        assert time.monotonic() < deadline, "nothing is deferred"
        time.sleep(0.1)


def running(net, host):
    return run("docker", "inspect", "--format", "{{.State.Running}}", net.container(host, "postfix")).stdout.strip() == "true"


def test_the_receipt_has_the_second_of_the_delivery_however_late_it_leaves(net, ledger):
    """Nobody takes the notice for a while: what the mailbox said is written, and is not asked for again."""
    net.postconf("beta", "pec_outgoing_smtpd=unix:public/nobody")
    net.reload_programs("beta", "delivery")
    try:
        msgid, _ = net.submit(ANNA, [BRUNO])
        envelope = net.expect(BRUNO, "posta-certificata", msgid)
        saved = net.received(BRUNO, envelope.uid)[envelope.uid]
        # Time has to pass, or the two moments could not be told apart.
        while (datetime.now(saved.tzinfo) - saved).total_seconds() < 4:
            time.sleep(0.2)
            net.flush("beta")
    finally:
        net.postconf("beta", "pec_outgoing_smtpd=unix:public/pecoutgoing")
        net.reload_programs("beta", "delivery")
    net.drain("alfa", "beta")
    receipt = net.expect(ANNA, "avvenuta-consegna", msgid)
    assert timedelta(0) <= receipt.header["Date"].datetime - saved <= timedelta(seconds=HEARD_WITHIN)
    assert f"{receipt.value('giorno')} {receipt.value('ora')}" == receipt.header["Date"].datetime.strftime("%d/%m/%Y %H:%M:%S")
    ledger.refresh()
    assert ledger.check(msgid, ANNA, [BRUNO]) == 0


def test_a_dead_external_server_delays_nobody_else(net, ledger):
    """The ordinary server takes connections and says nothing, which is worse than being down."""
    run("docker", "pause", net.container("posta", "postfix"))
    try:
        letters = [net.submit(ANNA, [CARLA, ALDO, BRUNO, NESSUNO])[0] for _ in range(5)]
        for msgid in letters:
            net.expect(ANNA, "accettazione", msgid)
            for recipient in (ALDO, BRUNO):
                net.expect(ANNA, "avvenuta-consegna", msgid, recipient)
            net.expect(ANNA, "errore-consegna", msgid, NESSUNO)
        assert any(recipient["address"] == CARLA for entry in net.queue("alfa") for recipient in entry["recipients"])
    finally:
        run("docker", "unpause", net.container("posta", "postfix"))
    net.drain("alfa", "beta", "posta")
    ledger.refresh()
    for msgid in letters:
        ledger.check(msgid, ANNA, [ALDO, BRUNO], failed=[NESSUNO], external=[CARLA])


@pytest.mark.both
def test_dovecot_that_refuses_for_a_while(net, ledger):
    """A mailbox that cannot be written is a 4xx of LMTP: the message waits, no avviso is made."""
    home = "/var/mail/pec/pec.beta.test/bruno"
    net.execute("beta", "dovecot", "chmod", "0", home)
    try:
        msgid, _ = net.submit(ANNA, [BRUNO])
        net.expect(ANNA, "accettazione", msgid)
        deadline = time.monotonic() + 30
        while not any(BRUNO in str(entry) and entry["queue_name"] == "deferred" for entry in net.queue("beta")):
            assert time.monotonic() < deadline, net.queue("beta")
            time.sleep(0.1)
    finally:
        net.execute("beta", "dovecot", "chmod", "700", home)
    net.drain("alfa", "beta")
    ledger.refresh()
    assert ledger.check(msgid, ANNA, [BRUNO]) == 0


@contextmanager
def in_betas_queue(net, *recipients):
    """Something from Anna, with its trigger, that waits in Beta's queue until pec-delivery is there: its Message-ID."""
    net.stop("beta", "delivery")
    try:
        msgid, _ = net.submit(ANNA, recipients)
        net.expect(ANNA, "accettazione", msgid)
        deadline = time.monotonic() + 30
        while sum(len(entry["recipients"]) for entry in net.queue("beta") if entry["queue_name"] == "deferred") < len(recipients) + 1:
            assert time.monotonic() < deadline, net.queue("beta")
            time.sleep(0.1)
        yield msgid
    finally:
        net.start("beta", "delivery")
        net.wait_until_up("beta", "delivery")


@pytest.mark.both
def test_what_postsuper_requeues_is_the_same_message(net, ledger):
    """An envelope and its trigger, under another queue id and past every milter."""
    with in_betas_queue(net, BRUNO, NESSUNO) as msgid:
        before = {entry["queue_id"] for entry in net.queue("beta")}
        net.execute("beta", "postfix", "postsuper", "-r", "ALL", "deferred")
        deadline = time.monotonic() + 30
        while not (after := {entry["queue_id"] for entry in net.queue("beta")}) or after & before:
            assert time.monotonic() < deadline, (before, after)
            net.flush("beta")
            time.sleep(0.1)
    net.drain("alfa", "beta")
    ledger.refresh()
    assert ledger.check(msgid, ANNA, [BRUNO], failed=[NESSUNO]) == 0


@contextmanager
def read_only(net, host):
    """The programs' role can read and not write, as on a standby."""
    again = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'pec'"
    net.sql(host, "ALTER ROLE pec IN DATABASE pec SET default_transaction_read_only = on")
    net.sql(host, again)
    try:
        yield
    finally:
        net.sql(host, "ALTER ROLE pec IN DATABASE pec RESET default_transaction_read_only")
        net.sql(host, again)


@pytest.mark.both
def test_a_database_that_takes_no_rows_makes_no_copies(net, ledger):
    with ExitStack() as stack:
        with in_betas_queue(net, BRUNO) as msgid:
            stack.enter_context(read_only(net, "beta"))
            since = net.now()
        # Ten attempts of Postfix's at the envelope.
        deadline = time.monotonic() + 60
        while net.logs("beta", "postfix", since).count(f"to=<{BRUNO}>, relay=mail.gestore.beta.test[pec/delivery]") < 10:
            assert time.monotonic() < deadline, net.logs("beta", "postfix", since)[-2000:]
            net.flush("beta")
            time.sleep(0.2)
        assert "waits: the database: cannot execute INSERT in a read-only transaction" in net.logs("beta", "delivery", since)
        assert net.all_about(msgid, [BRUNO]) == []
    net.drain("alfa", "beta")
    ledger.refresh()
    assert ledger.check(msgid, ANNA, [BRUNO]) == 0


@pytest.mark.both
def test_a_users_file_that_is_empty_for_a_moment_makes_no_mancata_consegna(net, ledger):
    """Somebody writes it anew, say. Dovecot says meanwhile of everybody that there is no such mailbox."""
    net.execute("beta", "dovecot", "cp", "/etc/dovecot/users", "/etc/dovecot/users.new")
    try:
        net.execute("beta", "dovecot", "truncate", "--size=0", "/etc/dovecot/users")
        net.wait_for_mailbox("beta", BRUNO, there=False)
        msgid, _ = net.submit(ANNA, [BRUNO])
        deadline = time.monotonic() + 30
        while not (said := [r["delay_reason"] for entry in net.queue("beta") for r in entry["recipients"] if r["address"] == BRUNO and "delay_reason" in r]):
            assert time.monotonic() < deadline, net.queue("beta")
            time.sleep(0.1)
    finally:
        net.execute("beta", "dovecot", "sh", "-c", "cat /etc/dovecot/users.new > /etc/dovecot/users; rm /etc/dovecot/users.new")
        net.wait_for_mailbox("beta", BRUNO)
    assert "said: 451 4.3.0" in said[0] and "550 5.1.1" in said[0], said
    net.drain("alfa", "beta")
    ledger.refresh()
    assert ledger.check(msgid, ANNA, [BRUNO]) == 0


def test_many_at_once(net, ledger):
    """Thirty clients at the same moment, to recipients of every sort."""
    due = [ALDO, BRUNO, NESSUNO, CARLA]
    letters = [net.letter(ANNA, due) for _ in range(30)]
    with ThreadPoolExecutor(len(letters)) as pool:
        refused = list(pool.map(lambda letter: net.submit_until_accepted(ANNA, due, letter[0]), letters))
    # A statement that took too long, on a machine that is busy elsewhere.
    assert sum(refused) <= 2, refused
    net.drain("alfa", "beta", "posta")
    ledger.refresh()
    for _, msgid in letters:
        assert ledger.check(msgid, ANNA, [ALDO, BRUNO], failed=[NESSUNO], external=[CARLA]) == 0
