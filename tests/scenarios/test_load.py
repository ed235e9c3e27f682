"""Many messages under way while processes are killed: afterwards everything is where it belongs, once, and nothing else is.

PEC_TEST_LOAD says how many messages (100 if unset).
"""

import os
import random
import threading

import pytest
from ledger import Ledger
from network import ALDO, ANNA, BRUNO, CARLA, NESSUNO, PROCESSES, PROTOCOLLO

MESSAGES = int(os.environ.get("PEC_TEST_LOAD", "100"))
CLIENTS = 8
RECIPIENTS = [[BRUNO], [ALDO], [BRUNO, ALDO], [PROTOCOLLO, NESSUNO], [BRUNO, PROTOCOLLO, ALDO, NESSUNO, CARLA]]


class Client(threading.Thread):
    """Submits letters from a common list, each again until it is accepted."""

    def __init__(self, net, letters, accepted, over):
        super().__init__(daemon=True)
        self.net, self.letters, self.accepted, self.over = net, letters, accepted, over

    def run(self):
        while self.letters and not self.over.is_set():
            try:
                raw, msgid, due = self.letters.pop()
            except IndexError:
                return
            while not self.over.wait(0.1):
                try:
                    self.net.deployment.submit(ANNA, due, raw, timeout=30)
                except Exception:
                    continue
                self.accepted.append((msgid, due))
                break


@pytest.mark.parametrize("seed", [1])
def test_processes_are_killed_under_load(net, seed):
    chance = random.Random(seed)
    letters = [(*net.letter(ANNA, due), due) for due in (RECIPIENTS[n % len(RECIPIENTS)] for n in range(MESSAGES))]
    accepted, over = [], threading.Event()
    clients = [Client(net, letters, accepted, over) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    kills = 0
    try:
        while any(client.is_alive() for client in clients):
            host, process = chance.choice(("alfa", "beta")), chance.choice(PROCESSES)
            net.kill(host, process)
            net.start(host, process)
            net.wait_until_up(host, process)
            kills += 1
    finally:
        over.set()
    assert len(accepted) == MESSAGES
    net.drain("alfa", "beta", "posta")
    ledger = Ledger(net)
    ledger.refresh()
    repeats = 0
    for msgid, due in accepted:
        external, failed = [r for r in due if r == CARLA], [r for r in due if r == NESSUNO]
        repeats += ledger.check(msgid, ANNA, [r for r in due if r not in (CARLA, NESSUNO)], failed, external)
    print(f"{MESSAGES} messages, {kills} kills, {repeats} messages came twice")
