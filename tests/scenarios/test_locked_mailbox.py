"""A mailbox that is locked for six minutes: what is for it waits, and everybody else has his mail within seconds.

Another process holds Dovecot's own lock, as one that hangs would. Dovecot gives up an attempt after three minutes, after six where
it wants the lock twice.
"""

import subprocess
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from ledger import HEARD_WITHIN, Ledger
from network import ANNA, BRUNO, PROTOCOLLO

LOCKED = "chiusa@pec.beta.test"
INDEX = "/var/mail/pec/pec.beta.test/chiusa/sdbox/mailboxes/INBOX/dbox-Mails/dovecot.index.log"
# More than pec-delivery is brought at once.
LETTERS = 20
SECONDS = 365
# Within these the others have theirs.
SOON = 10
LOCK = "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); print('locked', flush=True); sys.stdin.read()"


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


def test_a_locked_mailbox_holds_up_nobody_else(net):
    with net.mailboxes("beta", LOCKED):
        first, _ = net.submit(ANNA, [LOCKED])
        net.expect(ANNA, "avvenuta-consegna", first, LOCKED)
        net.drain("alfa", "beta")
        with locked(net):
            begun = time.monotonic()
            waiting = [net.submit(ANNA, [LOCKED])[0] for _ in range(LETTERS)]
            others = []
            while time.monotonic() < begun + SECONDS:
                msgid, _ = net.submit(ANNA, [BRUNO, PROTOCOLLO])
                for address in (BRUNO, PROTOCOLLO):
                    net.expect(ANNA, "avvenuta-consegna", msgid, address, seconds=SOON)
                others.append(msgid)
                net.flush("beta")
                time.sleep(5)
            assert not any(LOCKED in m.about for msgid in waiting for _, m in net.all_about(msgid, [ANNA]))
        net.drain("alfa", "beta")
        ledger = Ledger(net)
        ledger.refresh()
        for msgid in others:
            assert ledger.check(msgid, ANNA, [BRUNO, PROTOCOLLO]) == 0
        for msgid in waiting:
            assert ledger.check(msgid, ANNA, [LOCKED], late=SECONDS) == 0
            [(_, envelope)] = net.all_about(msgid, [LOCKED])
            certified = net.expect(ANNA, "avvenuta-consegna", msgid, LOCKED).header["Date"].datetime
            assert timedelta(0) <= certified - saved(net, envelope.uid) <= timedelta(seconds=HEARD_WITHIN)
