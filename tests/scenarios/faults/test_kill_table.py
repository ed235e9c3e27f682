"""Each process killed once at each step of the flow, and each connection torn down there: nothing is lost, nothing false.

A step is a point between two processes that tap.py stops at (see there for the names). A cell that is not reached fails.
Two processes have no part in most steps, and a dash in the table: see WHERE.
"""

import threading
import time

import pytest
from ledger import Ledger
from network import ALDO, ANNA, BRUNO, NESSUNO, PROCESSES

# Where it happens, to whom the letter goes, the step.
STEPS = [
    *[("alfa", [ALDO], step) for step in (
        "access.eom", "db.sent.statement", "db.sent.committed", "access.edits", "access.accept",
        "triggers.accettazione.eom", "db.fact.accettazione.statement", "db.fact.accettazione.committed",
        "triggers.accettazione.edits", "triggers.accettazione.accept", "lmtp.accettazione.dot", "lmtp.accettazione.saved",
        "internal.eom", "db.custody.statement", "db.custody.committed", "internal.edits", "internal.accept",
        "triggers.presa-in-carico.eom", "db.fact.presa-in-carico.statement", "db.fact.presa-in-carico.committed",
        "triggers.presa-in-carico.edits", "triggers.presa-in-carico.accept",
        "lmtp.busta.dot", "lmtp.busta.saved",
        "reports.eom", "db.fact.avvenuta-consegna.statement", "db.fact.avvenuta-consegna.committed", "reports.edits", "reports.accept",
        "lmtp.avvenuta-consegna.dot", "lmtp.avvenuta-consegna.saved",
    )],
    # One report about several recipients: each notice comes round as a trigger.
    *[("alfa", [ALDO, ANNA], step) for step in (
        "reports.eom", "db.fact.avvenuta-consegna.statement", "db.fact.avvenuta-consegna.committed", "db.trigger_body.statement",
        "db.trigger_body.committed", "reports.edits", "reports.accept",
        "triggers.avvenuta-consegna.eom", "triggers.avvenuta-consegna.edits", "triggers.avvenuta-consegna.accept",
    )],
    *[("beta", [NESSUNO], step) for step in (
        "reports.eom", "db.fact.errore-consegna.statement", "db.fact.errore-consegna.committed", "reports.edits", "reports.accept",
    )],
    *[("beta", [BRUNO], step) for step in ("incoming.eom", "db.custody.statement", "db.custody.committed", "incoming.edits", "incoming.accept")],
    *[("alfa", [BRUNO], step) for step in ("incoming.eom", "db.ricevuta.statement", "db.ricevuta.committed", "incoming.edits", "incoming.accept")],
]  # fmt: skip
COLUMNS = (*PROCESSES, "clock", "connection")
# Killed where they have a part, each with the reason why elsewhere they have none.
WHERE = {
    # Asked once about what arrives, right after this step; it remembers nothing. test_waiting.py and test_viruses.py stop it too.
    "clamd": ("access.eom", "incoming.eom"),
    # The main flow does without it. It looks, also when it starts, for facts whose notice nobody has started: here there are some,
    # whose trigger is under way, and it must leave them alone. Its own notices: test_deadlines.py and milters/clock/tests.
    "clock": ("db.trigger_body.committed", "triggers.avvenuta-consegna.eom", "triggers.avvenuta-consegna.accept"),
}
CELLS = [(*row, column) for row in STEPS for column in COLUMNS if row[2] in WHERE.get(column, row)]
# {row: {column: what came of it}}, and the letter of each cell: (row, column, msgid, recipients).
TABLE = {}
LETTERS = []


@pytest.fixture(scope="module")
def taps(net):
    with net.tapped("alfa", "beta") as taps:
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
    """The client brings its letter, and everything stands at the step. Mail that the cell before has left deferred on a connection to a dead process is sent on meanwhile."""
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
    return f"{host} {step}" + {1: "", 2: " (two recipients)"}[len(recipients)] + (" (no mailbox)" if recipients == [NESSUNO] else "")


@pytest.mark.parametrize(("host", "recipients", "step", "column"), CELLS, ids=lambda value: value if isinstance(value, str) else "+".join(value))
def test_cell(net, taps, host, recipients, step, column):
    row = name(host, recipients, step)
    TABLE.setdefault(row, {})[column] = "not reached"
    tap, client = taps[host], Client(net, recipients)
    stop_at(net, tap, step, client)
    TABLE[row][column] = "FAILED"
    tap.strike(step, None if column == "connection" else column)
    assert client.accepted.wait(90), "the client was never told that its letter is accepted"
    net.drain("alfa", "beta")
    TABLE[row][column] = "went on"
    LETTERS.append((row, column, client.msgid, recipients))


def test_the_table(net, capsys):
    """Every letter of every cell against mailboxes, queues and logs; every cell as a table, none is missing."""
    ledger = Ledger(net)
    ledger.refresh()
    ledger.check_queues()
    wrong = []
    for row, column, msgid, recipients in LETTERS:
        delivered, failed = [r for r in recipients if r != NESSUNO], [r for r in recipients if r == NESSUNO]
        try:
            repeats = ledger.check(msgid, ANNA, delivered, failed)
        except AssertionError as error:
            TABLE[row][column] = "WRONG"
            wrong.append(f"{row}, {column}: {error}")
            continue
        TABLE[row][column] = f"ok, {repeats} again" if repeats else "ok"
    width = max(map(len, TABLE))
    lines = [f"{'step':<{width}}  " + "  ".join(f"{c:<11}" for c in COLUMNS)]
    lines += [f"{row:<{width}}  " + "  ".join(f"{cells.get(c, '-'):<11}" for c in COLUMNS) for row, cells in TABLE.items()]
    table = "\n".join(line.rstrip() for line in lines)
    (net.deployment.home / "kill-table.txt").write_text(table + "\n")
    with capsys.disabled():
        print(f"\n\n{table}\n")
    assert not wrong, "\n".join(wrong)
    assert len(TABLE) == len(STEPS)
    assert all(TABLE[name(*row)].get(column, "").startswith("ok") for *row, column in CELLS)
