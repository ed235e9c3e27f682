"""Each process killed once at each step of the flow, and each connection torn down there: nothing is lost, nothing false.

A step is a point between two processes that tap.py stops at (see there for the names). A cell that is not reached fails.
"""

import threading
import time

import pytest
from ledger import Ledger
from network import ALDO, ANNA, BRUNO, PROCESSES

# Where it happens, to whom the letter goes, the step.
STEPS = [
    *[("alfa", ALDO, step) for step in (
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
    *[("beta", BRUNO, step) for step in ("incoming.eom", "db.custody.statement", "db.custody.committed", "incoming.edits", "incoming.accept")],
    *[("alfa", BRUNO, step) for step in ("incoming.eom", "db.ricevuta.statement", "db.ricevuta.committed", "incoming.edits", "incoming.accept")],
]  # fmt: skip
COLUMNS = (*PROCESSES, "connection")
TABLE = {}


@pytest.fixture(scope="module")
def taps(net):
    with net.tapped("alfa", "beta") as taps:
        yield taps


@pytest.fixture(scope="module")
def ledger(net):
    ledger = Ledger(net)
    ledger.refresh()
    return ledger


class Client(threading.Thread):
    """A mail client that tries again until its letter is accepted."""

    def __init__(self, net, recipient):
        super().__init__(daemon=True)
        self.net, self.recipient = net, recipient
        self.raw, self.msgid = net.letter(ANNA, [recipient])
        self.accepted = threading.Event()

    def run(self):
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                self.net.deployment.submit(ANNA, [self.recipient], self.raw, timeout=30)
            except Exception:
                time.sleep(0.3)
                continue
            self.accepted.set()
            return


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize(("host", "recipient", "step"), STEPS)
def test_cell(net, taps, ledger, host, recipient, step, column):
    row = f"{host} {step}"
    TABLE.setdefault(row, {})[column] = "not reached"
    tap = taps[host]
    tap.hold(step)
    client = Client(net, recipient)
    client.start()
    tap.wait(step)
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
    repeats = ledger.check(client.msgid, ANNA, [recipient])
    TABLE[row][column] = f"ok, {repeats} again" if repeats else "ok"


def test_the_table(net, capsys):
    """Every cell, as a table; none is missing."""
    width = max(map(len, TABLE))
    lines = [f"{'step':<{width}}  " + "  ".join(f"{c:<11}" for c in COLUMNS)]
    lines += [f"{row:<{width}}  " + "  ".join(f"{cells.get(c, '-'):<11}" for c in COLUMNS) for row, cells in TABLE.items()]
    table = "\n".join(line.rstrip() for line in lines)
    (net.deployment.home / "kill-table.txt").write_text(table + "\n")
    with capsys.disabled():
        print(f"\n\n{table}\n")
    assert len(TABLE) == len(STEPS)
    assert all(cells.get(c, "").startswith("ok") for cells in TABLE.values() for c in COLUMNS)
