"""Each process killed once at each step of the flow at which it has a part, and each connection torn down there: nothing is lost,
nothing false, and a mailbox has at most one more copy of what was being handed over.

A step is a point between two processes that tap.py stops at (see there for the names). A cell that is not reached fails.

A commit runs some cells, `tests/run --all` runs all of them.
"""

import threading
import time
from contextlib import contextmanager

import pytest
from ledger import Ledger
from network import ALDO, ANNA, BRUNO, NESSUNO

# Beta's Postfix refuses him while it is talked to.
RIFIUTATO = "rifiutato@pec.beta.test"


def around(*names):
    """A row that is written: before PostgreSQL has it, and before the program hears that it is committed."""
    return [f"{name}.{end}" for name in names for end in ("statement", "committed")]


# Where it happens, to whom the letter goes, the program that is in the middle of it, the steps.
GROUPS = [
    # At the Access Point. What recipients of ours have of it (db.custody) is in the same transaction.
    ("alfa", [ALDO], "access", ["access.eom", *around("db.sent"), "access.edits", "access.accept"]),
    # A trigger becomes a notice for a mailbox of ours.
    ("alfa", [ALDO], "delivery", [
        "triggers.accettazione.dot", *around("db.fact.accettazione"), "lmtp.accettazione.dot", "lmtp.accettazione.saved",
        *around("db.taken.accettazione"), "triggers.accettazione.answer",
        "triggers.presa-in-carico.dot", "db.fact.presa-in-carico.committed", "lmtp.presa-in-carico.saved", "triggers.presa-in-carico.answer",
    ]),
    # An envelope for a mailbox of ours, whose sender has one here too.
    ("alfa", [ALDO], "delivery", [
        "delivery.busta.dot", *around("db.handover.busta"), "lmtp.busta.dot", "lmtp.busta.saved",
        *around("db.fact.avvenuta-consegna", "db.notice.avvenuta-consegna"), "lmtp.avvenuta-consegna.dot", "lmtp.avvenuta-consegna.saved",
        *around("db.taken.avvenuta-consegna"), "delivery.busta.answer",
    ]),
    # The same for a sender elsewhere.
    ("beta", [BRUNO], "incoming", ["incoming.eom", *around("db.custody"), "incoming.edits", "incoming.accept"]),
    ("beta", [BRUNO], "delivery", [
        "outgoing.presa-in-carico.dot", "outgoing.presa-in-carico.queued", "db.taken.presa-in-carico.statement",
        "outgoing.avvenuta-consegna.dot", "outgoing.avvenuta-consegna.queued", *around("db.taken.avvenuta-consegna"), "delivery.busta.answer",
    ]),
    # A mailbox that does not exist, which is asked for twice.
    ("beta", [NESSUNO], "delivery", [*around("db.refused.busta"), "db.fact.errore-consegna.committed", "outgoing.errore-consegna.queued"]),
    # A receipt comes home.
    ("alfa", [BRUNO], "incoming", ["incoming.eom", *around("db.ricevuta"), "incoming.edits", "incoming.accept"]),
    ("alfa", [BRUNO], "delivery", [
        "delivery.avvenuta-consegna.dot", *around("db.handover.ricevuta-dovuta"), "lmtp.avvenuta-consegna.dot", "lmtp.avvenuta-consegna.saved",
        *around("db.taken.ricevuta-dovuta"), "delivery.avvenuta-consegna.answer",
    ]),
    # Postfix reports that an envelope did not leave.
    ("alfa", [RIFIUTATO], "delivery", [
        "reports.eom", *around("db.fact.errore-consegna", "db.trigger_body"), "reports.edits", "reports.accept",
        "triggers.errore-consegna.dot", *around("db.notice.errore-consegna"), "lmtp.errore-consegna.dot", "lmtp.errore-consegna.saved",
        "triggers.errore-consegna.answer",
    ]),
]  # fmt: skip
COLUMNS = ("access", "incoming", "delivery", "postgres", "clamd", "dovecot", "postfix", "clock", "connection")
# pec-clock looks, also when it starts, for facts whose notice is not handed over. These have one under way, and it must leave them
# alone. Its own notices: test_deadlines.py and milters/clock/tests.
CLOCK = ("db.trigger_body.committed", "db.fact.avvenuta-consegna.committed", "lmtp.avvenuta-consegna.saved", "triggers.errore-consegna.dot")


def parts(program, step):
    """Who has a part in what happens at this step or right after it."""
    yield program
    # Who is being asked, or is asked next.
    if not step.endswith((".edits", ".accept", ".answer")):
        yield "postgres"
    if step.startswith("lmtp.") or step in ("delivery.busta.dot", "db.handover.busta.committed", "incoming.eom"):
        yield "dovecot"
    if step in ("access.eom", "incoming.eom"):
        yield "clamd"
    if step in CLOCK:
        yield "clock"
    # Whether what it waits for is written already or not yet, Postfix is as dead.
    if not step.endswith(".statement"):
        yield "postfix"
    yield "connection"


CELLS = [(host, recipients, step, column) for host, recipients, program, steps in GROUPS for step in steps for column in parts(program, step)]
# {row: the group that it is in}
GROUP = {(host, *recipients, step): number for number, (host, recipients, _, steps) in enumerate(GROUPS) for step in steps}
# So many cells for a commit, hardly two of them in one row.
OF_A_COMMIT = 48
# {row: {column: what came of it}}, and the letter of each cell: (row, column, msgid, recipients, how long all stood at the step).
TABLE = {}
LETTERS = []


@contextmanager
def refused_by_beta(net):
    net.postconf("beta", f"smtpd_sender_restrictions=check_recipient_access inline:{{ {{ {RIFIUTATO} = 550 5.7.1 not from you }} }}")
    net.reload_postfix("beta")
    try:
        yield
    finally:
        net.execute("beta", "postfix", "postconf", "-X", "smtpd_sender_restrictions")
        net.reload_postfix("beta")


@pytest.fixture(scope="module")
def taps(net):
    with refused_by_beta(net), net.tapped("alfa", "beta") as taps:
        yield taps


class Client(threading.Thread):
    """A mail client that tries again until its letter is accepted."""

    def __init__(self, net, recipients, sender=ANNA, **options):
        super().__init__(daemon=True)
        self.net, self.recipients = net, recipients
        self.raw, self.msgid = net.letter(sender, recipients, **options)
        self.accepted = threading.Event()

    def bring(self):
        self.net.deployment.submit(ANNA, self.recipients, self.raw, timeout=30)

    def run(self):
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                self.bring()
            except Exception:
                time.sleep(0.3)
                continue
            self.accepted.set()
            return


def stop_at(net, tap, step, client):
    """The client brings its letter, and everything stands at the step. Mail that the cell before has left deferred on a connection
    to a dead process is sent on meanwhile, and so is what is asked for twice."""
    tap.clear()
    tap.hold(step)
    client.start()
    for _ in range(15):
        try:
            return tap.wait(step, seconds=2)
        except TimeoutError:
            net.flush("alfa")
            net.flush("beta")
    return tap.wait(step, seconds=2)


def name(host, recipients, step):
    return f"{host} {step}" + {NESSUNO: " (no mailbox)", BRUNO: " (another provider)" if host == "alfa" else ""}.get(recipients[0], "")


def column_of(column, **_):
    return column


def group_of(host, recipients, step, **_):
    return GROUP[host, *recipients, step]


def row_of(host, recipients, step, **_):
    return host, *recipients, step


@pytest.mark.sampled(OF_A_COMMIT, column_of, group_of, row_of)
@pytest.mark.parametrize(("host", "recipients", "step", "column"), CELLS, ids=lambda value: value if isinstance(value, str) else "+".join(value))
def test_cell(net, taps, host, recipients, step, column):
    row = name(host, recipients, step)
    TABLE.setdefault(row, {})[column] = "not reached"
    tap, client = taps[host], Client(net, recipients)
    stop_at(net, tap, step, client)
    TABLE[row][column] = "FAILED"
    tap.strike(step, None if column == "connection" else column)
    assert client.accepted.wait(90), "the client was never told that its letter is accepted"
    try:
        net.drain("alfa", "beta", seconds=150)
    except TimeoutError:
        # The other cells are not to wait for it too.
        for provider in ("alfa", "beta"):
            net.execute(provider, "postfix", "postsuper", "-d", "ALL")
        raise
    TABLE[row][column] = "went on"
    LETTERS.append((row, column, client.msgid, recipients, tap.stood))


def asked_for(session):
    """The cells that this run is to have: (row, column)."""
    asked = [item.callspec.params for item in session.items if getattr(item, "originalname", "") == "test_cell"]
    return [(name(cell["host"], cell["recipients"], cell["step"]), cell["column"]) for cell in asked]


def what_became_of(row, column):
    """`.`: this run leaves it out; `-`: there is no such cell."""
    there = (row, column) in {(name(*where), which) for *where, which in CELLS}
    return TABLE[row].get(column, "." if there else "-")


def test_the_table(request, net, capsys):
    """Every letter of every cell against mailboxes, queues and logs; the cells as a table, none that was asked for is missing."""
    asked = asked_for(request.session)
    ledger = Ledger(net)
    ledger.refresh()
    ledger.check_queues()
    wrong = []
    for row, column, msgid, recipients, stood in LETTERS:
        delivered = [r for r in recipients if r not in (NESSUNO, RIFIUTATO)]
        failed, unsent = [r for r in recipients if r == NESSUNO], [r for r in recipients if r == RIFIUTATO]
        # What the mailbox has said was kept from pec-delivery meanwhile.
        late = stood if "lmtp.busta.saved" in row else 0
        try:
            repeats = ledger.check(msgid, ANNA, delivered, failed, unsent=unsent, most=2, late=late)
        except AssertionError as error:
            TABLE[row][column] = "WRONG"
            wrong.append(f"{row}, {column}: {error}")
            continue
        TABLE[row][column] = f"ok, {repeats} again" if repeats else "ok"
    width = max(map(len, TABLE))
    lines = [f"{len(asked)} of {len(CELLS)} cells", f"{'step':<{width}}  " + "  ".join(f"{c:<11}" for c in COLUMNS)]
    lines += [f"{row:<{width}}  " + "  ".join(f"{what_became_of(row, c):<11}" for c in COLUMNS) for row in TABLE]
    table = "\n".join(line.rstrip() for line in lines)
    (net.deployment.home / "kill-table.txt").write_text(table + "\n")
    with capsys.disabled():
        print(f"\n\n{table}\n")
    assert not wrong, "\n".join(wrong)
    ok = [(row, column) for row, cells in TABLE.items() for column, became in cells.items() if became.startswith("ok")]
    assert sorted(ok) == sorted(asked), f"not ok: {sorted(set(asked) - set(ok))}"
