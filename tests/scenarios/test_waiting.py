"""Whatever is stopped: mail waits and goes on by itself. A slow server elsewhere delays nobody else."""

import re
import smtplib
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from ledger import Ledger
from network import ALDO, ANNA, BRUNO, CARLA, NESSUNO, PROCESSES, run


@pytest.fixture(scope="module")
def ledger(net):
    ledger = Ledger(net)
    ledger.refresh()
    return ledger


# Who is asked for what while a message of Anna's goes to this host's user. Stopped, nobody else can do it: mail is deferred,
# or the client is told to come again.
CLIENT_WAITS = {("alfa", process) for process in ("access", "postgres", "clamd", "dovecot", "postfix")}


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
            if (host, process) != ("beta", "access"):
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


def test_the_receipt_has_the_mailboxs_time_however_late_it_is_made(net, ledger):
    net.stop("beta", "notices")
    try:
        msgid, _ = net.submit(ANNA, [BRUNO])
        envelope = net.expect(BRUNO, "posta-certificata", msgid)
        saved = internal_date(net, BRUNO, envelope.uid)
        # Time has to pass, or the two moments could not be told apart.
        while (datetime.now(saved.tzinfo) - saved).total_seconds() < 4:
            time.sleep(0.2)
    finally:
        net.start("beta", "notices")
        net.wait_until_up("beta", "notices")
    net.drain("alfa", "beta")
    receipt = net.expect(ANNA, "avvenuta-consegna", msgid)
    assert receipt.header["Date"].datetime == saved
    assert f"{receipt.value('giorno')} {receipt.value('ora')}" == saved.astimezone(receipt.header["Date"].datetime.tzinfo).strftime("%d/%m/%Y %H:%M:%S")
    ledger.refresh()
    ledger.check(msgid, ANNA, [BRUNO])


def internal_date(net, address, uid):
    client = net.deployment.imap(address)
    client.select("INBOX", readonly=True)
    answer = client.uid("FETCH", str(uid), "(INTERNALDATE)")[1][0].decode()
    client.logout()
    return datetime.strptime(re.search(r'INTERNALDATE "([^"]+)"', answer)[1], "%d-%b-%Y %H:%M:%S %z")


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


def test_dovecot_that_refuses_for_a_while(net, ledger):
    """A mailbox over its limits is a 4xx of LMTP: the message waits, no avviso is made."""
    folder = "/var/mail/pec/pec.beta.test/bruno/Maildir/tmp"
    net.execute("beta", "dovecot", "chmod", "0", folder)
    try:
        msgid, _ = net.submit(ANNA, [BRUNO])
        net.expect(ANNA, "accettazione", msgid)
        deadline = time.monotonic() + 30
        while not any(BRUNO in str(entry) and entry["queue_name"] == "deferred" for entry in net.queue("beta")):
            assert time.monotonic() < deadline, net.queue("beta")
            time.sleep(0.1)
    finally:
        net.execute("beta", "dovecot", "chmod", "700", folder)
    net.drain("alfa", "beta")
    ledger.refresh()
    ledger.check(msgid, ANNA, [BRUNO])


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
