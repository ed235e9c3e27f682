"""A mailbox that is locked: what is for it waits, and everybody else has his mail within seconds.

Another process holds Dovecot's own lock, as one that hangs would, until Dovecot has given it up often enough.
"""

import subprocess
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from ledger import HEARD_WITHIN, Ledger
from network import ANNA, BRUNO, PROTOCOLLO

LOCKED = "chiusa@pec.beta.test"
INDEX = "/var/mail/pec/pec.beta.test/chiusa/sdbox/mailboxes/INBOX/dbox-Mails/dovecot.index.log"
# More than pec-delivery is brought at once.
LETTERS = 20
# Within these seconds the others have theirs.
SOON = 10
# How long Dovecot waits for a lock: as dovecot-conf has it, and shorter, but so long that who waited behind it would be late.
SHIPPED, SHORTER = 60, 2 * SOON
# Twice for each of the two that are brought to a mailbox at once. An attempt may want the lock twice.
GIVEN_UP = 4
LOCK = "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); print('locked', flush=True); sys.stdin.read()"


@contextmanager
def lock_timeout(net, seconds):
    setting = "sed -i 's/^\\( *mail_max_lock_timeout =\\) .*/\\1 {}s/' /etc/dovecot/dovecot.conf && doveadm reload"
    net.execute("beta", "dovecot", "sh", "-c", setting.format(seconds))
    try:
        yield
    finally:
        net.execute("beta", "dovecot", "sh", "-c", setting.format(SHIPPED))


def given_up(net, since, seconds):
    """How often Dovecot has waited that long in vain."""
    return net.logs("beta", "dovecot", since).count(f"Timeout ({seconds}s) while waiting for lock")


@contextmanager
def locked(net):
    pid = net.inside(net.container("beta", "dovecot"))
    enter = ("nsenter", f"--target={pid}", "--mount", "--pid", "--", "python3", "-c", LOCK, INDEX)
    with subprocess.Popen(enter, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            holder.stdin.close()


def saved(net, uid):
    """When the mailbox had it, which is later than when it began to take it (INTERNALDATE)."""
    done = net.execute("beta", "dovecot", "doveadm", "-f", "tab", "fetch", "-u", LOCKED, "date.saved.unixtime", "uid", str(uid))
    return datetime.fromtimestamp(int(done.stdout.split()[-1]), UTC)


@pytest.mark.both
@pytest.mark.parametrize("seconds", [SHORTER, pytest.param(SHIPPED, marks=pytest.mark.slow)])
def test_a_locked_mailbox_holds_up_nobody_else(net, seconds):
    with net.mailboxes("beta", LOCKED), lock_timeout(net, seconds):
        first, _ = net.submit(ANNA, [LOCKED])
        net.expect(ANNA, "avvenuta-consegna", first, LOCKED)
        net.drain("alfa", "beta")
        with locked(net):
            begun, since = time.monotonic(), net.now()
            waiting = [net.submit(ANNA, [LOCKED])[0] for _ in range(LETTERS)]
            others = []
            while given_up(net, since, seconds) < GIVEN_UP:
                assert time.monotonic() < begun + 2 * GIVEN_UP * seconds, net.logs("beta", "dovecot", since)[-2000:]
                msgid, _ = net.submit(ANNA, [BRUNO, PROTOCOLLO])
                for address in (BRUNO, PROTOCOLLO):
                    net.expect(ANNA, "avvenuta-consegna", msgid, address, seconds=SOON)
                others.append(msgid)
                net.flush("beta")
            assert not any(LOCKED in m.about for msgid in waiting for _, m in net.all_about(msgid, [ANNA]))
            held = time.monotonic() - begun
        net.drain("alfa", "beta")
        ledger = Ledger(net)
        ledger.refresh()
        for msgid in others:
            assert ledger.check(msgid, ANNA, [BRUNO, PROTOCOLLO]) == 0
        for msgid in waiting:
            assert ledger.check(msgid, ANNA, [LOCKED], late=held) == 0
            [(_, envelope)] = net.all_about(msgid, [LOCKED])
            certified = net.expect(ANNA, "avvenuta-consegna", msgid, LOCKED).header["Date"].datetime
            assert timedelta(0) <= certified - saved(net, envelope.uid) <= timedelta(seconds=HEARD_WITHIN)
    print(f"locked for {held:.0f} s, {len(others)} letters of others")
