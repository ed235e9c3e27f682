"""Many messages under way while processes are killed: afterwards everything is where it belongs, once, and nothing else is.

PEC_TEST_LOAD says how many messages (100 if unset).
"""

import os
import random
import threading
import time
from contextlib import contextmanager

import pytest
from ledger import Ledger
from network import ALDO, ANNA, BRUNO, CARLA, NESSUNO, PROCESSES, PROTOCOLLO, run

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


@contextmanager
def load(net, messages):
    """Clients bring that many letters; gives a function that says whether some still do. Afterwards the queues are empty, and what
    came of the letters is as it must be: [how often something came twice]."""
    letters = [(*net.letter(ANNA, due), due) for due in (RECIPIENTS[n % len(RECIPIENTS)] for n in range(messages))]
    accepted, over, repeats = [], threading.Event(), []
    clients = [Client(net, letters, accepted, over) for _ in range(CLIENTS)]
    for client in clients:
        client.start()

    def goes_on():
        return any(client.is_alive() for client in clients)

    try:
        yield goes_on, repeats
        while goes_on():
            time.sleep(0.1)
    finally:
        over.set()
    assert len(accepted) == messages
    net.drain("alfa", "beta", "posta")
    ledger = Ledger(net)
    ledger.refresh()
    for msgid, due in accepted:
        external, failed = [r for r in due if r == CARLA], [r for r in due if r == NESSUNO]
        repeats.append(ledger.check(msgid, ANNA, [r for r in due if r not in (CARLA, NESSUNO)], failed, external, late=None))


@pytest.mark.parametrize("seed", [1])
def test_processes_are_killed_under_load(net, seed):
    chance, kills = random.Random(seed), 0
    with load(net, MESSAGES) as (goes_on, repeats):
        while goes_on():
            host, process = chance.choice(("alfa", "beta")), chance.choice(PROCESSES)
            net.kill(host, process)
            net.start(host, process)
            net.wait_until_up(host, process)
            kills += 1
    print(f"{MESSAGES} messages, {kills} kills, {sum(repeats)} messages came twice")


def test_sigterm_under_load_leaves_no_second_copy(net):
    """pec-delivery ends when what it has in hand is finished."""
    ends = 0
    with load(net, MESSAGES // 2) as (goes_on, repeats):
        while goes_on():
            for host in ("alfa", "beta"):
                time.sleep(0.5)
                run("docker", "kill", "--signal", "TERM", net.container(host, "delivery"))
                assert run("docker", "wait", net.container(host, "delivery")).stdout.strip() == "0"
                net.start(host, "delivery")
                net.wait_until_up(host, "delivery")
                ends += 1
    assert ends >= 2 and sum(repeats) == 0, (ends, repeats)


def test_a_reload_under_load_loses_nothing(net):
    """Of Dovecot, which ends its processes in the middle of something, of Postfix and of pec-delivery."""
    reloads = 0
    with load(net, MESSAGES // 2) as (goes_on, repeats):
        while goes_on():
            for host in ("alfa", "beta"):
                net.execute(host, "dovecot", "doveadm", "reload")
                net.execute(host, "postfix", "postfix", "reload")
                net.hangup(host, "delivery")
                reloads += 1
            time.sleep(0.5)
    print(f"{MESSAGES // 2} messages, {reloads} reloads, {sum(repeats)} messages came twice")
    assert reloads >= 2


@contextmanager
def few_processes(net, host):
    """Fewer than there are connections at once: one of each of Postfix's, two of Dovecot's for each listener."""
    services = {f"{service}/unix/process_limit": None for service in ("pecdelivery", "pectriggers", "pecoutgoing")}
    for service in services:
        services[service] = net.execute(host, "postfix", "postconf", "-F", service).stdout.split()[-1]
    dovecot = "sed -i 's/^\\( *process_limit =\\) .*/\\1 {}/' /etc/dovecot/dovecot.conf && doveadm reload"
    net.execute(host, "postfix", "postconf", "-F", *[f"{service}=1" for service in services])
    net.reload_postfix(host)
    before = net.execute(host, "dovecot", "sed", "-n", "s/^ *process_limit = //p", "/etc/dovecot/dovecot.conf").stdout.split()
    net.execute(host, "dovecot", "sh", "-c", dovecot.format(2))
    try:
        yield
    finally:
        net.execute(host, "postfix", "postconf", "-F", *[f"{service}={limit}" for service, limit in services.items()])
        net.reload_postfix(host)
        net.execute(host, "dovecot", "sh", "-c", dovecot.format(before[0]))


@pytest.mark.slow
def test_process_limits_below_the_demand_slow_and_never_stop(net):
    with few_processes(net, "alfa"), few_processes(net, "beta"):
        begun = time.monotonic()
        with load(net, MESSAGES // 2) as (_, repeats):
            pass
    print(f"{MESSAGES // 2} messages in {time.monotonic() - begun:.0f} s")
    assert sum(repeats) == 0, repeats
