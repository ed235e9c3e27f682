"""Each process killed once at each step of the flow, and each connection torn down there: nothing is lost, nothing false.

A step is a point between two processes that tap.py stops at (see there for the names). A cell that is not reached fails.
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
# The scanner is asked at two of the steps and remembers nothing: test_waiting.py and test_viruses.py stop it.
COLUMNS = (*(process for process in PROCESSES if process != "clamd"), "connection")
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


def reach(net, tap, step):
    """Waits for the step. Mail that the cell before has left deferred on a connection to a dead process is sent on meanwhile."""
    for _ in range(15):
        try:
            return tap.wait(step, seconds=2)
        except TimeoutError:
            net.flush("alfa")
            net.flush("beta")
    return tap.wait(step, seconds=2)


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize(("host", "recipients", "step"), STEPS, ids=lambda value: value if isinstance(value, str) else "+".join(value))
def test_cell(net, taps, host, recipients, step, column):
    row = f"{host} {step}" + {1: "", 2: " (two recipients)"}[len(recipients)] + (" (no mailbox)" if recipients == [NESSUNO] else "")
    TABLE.setdefault(row, {})[column] = "not reached"
    tap = taps[host]
    tap.clear()
    tap.hold(step)
    client = Client(net, recipients)
    client.start()
    reach(net, tap, step)
    TABLE[row][column] = "FAILED"
    if column == "connection":
        tap.drop(step)
    else:
        net.kill(host, column)
        tap.release(step)
        net.start(host, column)
        net.wait_until_up(host, column)
    assert client.accepted.wait(90), "the client was never told that its letter is accepted"
    net.drain("alfa", "beta")
    TABLE[row][column] = "went on"
    LETTERS.append((row, column, client.msgid, recipients))


def test_the_table(net, capsys):
    """Every letter of every cell against mailboxes and logs; every cell as a table, none is missing."""
    ledger = Ledger(net)
    ledger.refresh()
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
    assert all(cells.get(c, "").startswith("ok") for cells in TABLE.values() for c in COLUMNS)
