"""What a whole certified message costs: from a user of Alfa's until every receipt is in its mailbox, beside the same messages as
plain mail.

Plain mail sends four ordinary messages for it, as large as the message and its receipts are, through as many queue passes as
certified mail once took (seven between two providers): the message of 20 kB, 7 kB to its sender from his own provider (for the
accettazione), 7 kB from the other provider to the service mailbox (presa in carico), 30 kB from there to the sender (avvenuta
consegna). All four set out at once, the receipts by a door without TLS, login or a second connection: that favours plain mail.

Both by turns in the same containers with the same mailboxes (pair.py); CPU by the containers' cgroups, from the first MAIL until
the queues are empty and what is done every second has been done. Who sends the load is in no figure.
"""

import itertools
import os
import queue
import re
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass

from load import Client, Letters, Load
from measured import busy, of
from network import SERVICE
from pair import CERTIFIED, DOOR, HOSTS, OURS, PLAIN, RECIPIENTS, UNSCANNED, recipient

# Sizes of the four messages.
MESSAGE, ACCEPTANCE, CHARGE, DELIVERY = 20_000, 7_000, 7_000, 30_000

# So many messages at once through submission, and through each door.
AT_ONCE, AT_DOOR = 4, 2

# Transactions before a clock starts: processes run, mailboxes and files are open.
WARM_UP = 50

# What is done every second (seals) has been done after so long.
SETTLE = 1.5

# Postfix gives another provider so many recipients of a message at a time.
RECIPIENTS_AT_A_TIME = 50

# A mailbox that has become large.
MANY = 20_000

GROUPS = {"Postfix": ("postfix",), "Dovecot": ("dovecot",), "ours": OURS, "clamd": ("clamd",), "PostgreSQL": ("postgres",)}
PLAIN_GROUPS = ("Postfix", "Dovecot")
KINDS = ("accettazione", "presa-in-carico", "posta-certificata", "avvenuta-consegna")


@dataclass(frozen=True)
class Case:
    """Who writes to whom: `recipients` has those of one message, of the next, and so on in turn."""

    name: str
    host: str  # of the recipients; the senders are Alfa's
    senders: tuple
    recipients: tuple

    @property
    def each(self):
        return len(self.recipients[0])

    @property
    def pieces(self):
        """How many messages the other provider gets of it."""
        return 1 if self.host == "alfa" else -(-self.each // RECIPIENTS_AT_A_TIME)

    @property
    def passes(self):
        """Queue passes of plain mail."""
        return 2 + self.pieces + self.each if self.host == "alfa" else 2 + 3 * self.pieces + 2 * self.each

    @property
    def kinds(self):
        return dict(zip(KINDS, (1, self.pieces, self.each, self.each)))

    @property
    def mailboxes(self):
        addresses = dict.fromkeys(address for recipients in self.recipients for address in recipients)
        return [*(("alfa", sender) for sender in self.senders), *((self.host, address) for address in addresses)]


class Stream:
    """Messages of one size; whoever has waited longest sends the next, to the next in turn."""

    def __init__(self, at_once, clients, size, recipients):
        self.at_once, self.letters, self.recipients = at_once, Letters(size), itertools.cycle(recipients)
        self.clients, self.free = clients, queue.SimpleQueue()
        for client in clients:
            self.free.put(client)

    def tasks(self, messages):
        turns = iter(range(messages))

        def work():
            for _ in turns:
                client, to = self.free.get(), next(self.recipients)
                client.submit(to, self.letters.next(client.account, ",\r\n ".join(to)))
                self.free.put(client)

        return [work] * self.at_once

    def quit(self):
        for client in self.clients:
            client.quit()


class Transactions:
    def __init__(self, pair, say, transactions, pairs):
        self.pair, self.say, self.transactions, self.pairs = pair, say, transactions, pairs
        self.users = [address for address in pair.deployment.passwords if address.startswith("utente-")]

    # ---- Sending

    def streams(self, turn, case):
        """The four of plain mail, each with how many of its messages there are for one transaction; or the one of certified mail."""
        pair = self.pair
        passwords = pair.deployment.passwords

        def submission():
            return [Client((pair.address["alfa"], 587), pair.deployment.tls, sender, passwords[sender]) for sender in case.senders]

        def door(host):
            address = f"posta-certificata@{pair.SERVICE_DOMAIN[host]}"
            return [Client((pair.address[host], DOOR), None, address, None) for _ in range(AT_DOOR)]

        message = (1, Stream(AT_ONCE, submission(), MESSAGE, case.recipients))
        if turn != PLAIN:
            return [message]
        senders = [(sender,) for sender in case.senders]
        return [
            message,
            (1, Stream(AT_DOOR, door("alfa"), ACCEPTANCE, senders)),
            (case.pieces, Stream(AT_DOOR, door(case.host), CHARGE, [(SERVICE["alfa"],)])),
            (case.each, Stream(AT_DOOR, door(case.host), DELIVERY, senders)),
        ]

    @staticmethod
    def send(streams, transactions):
        """Returns the seconds until the last of them was accepted."""
        start = time.perf_counter()
        Load.together([task for times, stream in streams for task in stream.tasks(times * transactions)])
        return time.perf_counter() - start

    # ---- One run

    def received(self, case):
        """The files of all messages in the mailboxes of the case, the service mailbox among them."""
        return {file for mailbox in (*case.mailboxes, ("alfa", SERVICE["alfa"])) for file in self.pair.messages(*mailbox)}

    def until_done(self, streams, case, transactions, seconds=600):
        """Sends so many and returns when everything that follows from them is in its mailbox and the queues are empty: the seconds
        until the last was accepted, those until the end, and the new messages' files."""
        before, start = self.received(case), time.perf_counter()
        accepted = self.send(streams, transactions)
        wanted, new = transactions * sum(case.kinds.values()), set()
        while len(new) < wanted or any(self.pair.has_mail(host) for host in HOSTS):
            look = time.perf_counter()
            if look > start + seconds:
                queues = str([self.pair.queue(host) for host in HOSTS])
                raise TimeoutError(f"{case.name}: {len(new)} of {wanted} messages in {seconds} s; in the queues: {queues[:3000]}")
            new = self.received(case) - before
            time.sleep(max(0.05, 5 * (time.perf_counter() - look)))
        return accepted, time.perf_counter() - start, new

    def measure(self, turn, case, transactions):
        """Figures for each recipient."""
        pair, streams = self.pair, self.streams(turn, case)
        self.until_done(streams, case, max(1, WARM_UP // case.each))
        time.sleep(SETTLE)
        logs, cpu, everybody, start = {host: pair.log_size(host) for host in HOSTS}, pair.all_cpu(), busy(), time.perf_counter()
        accepted, done, new = self.until_done(streams, case, transactions)
        time.sleep(SETTLE)
        each = transactions * case.each
        cpu = {which: (after - cpu[which]) * 1000 / each for which, after in pair.all_cpu().items()}
        everybody, whole = busy() - everybody, time.perf_counter() - start
        for _, stream in streams:
            stream.quit()
        log = b"".join(pair.log_since(host, size) for host, size in logs.items())
        passes = pair.queue_passes(log) / transactions
        self.check(turn, case, transactions, new, passes)
        groups = grouped(cpu)
        if turn == PLAIN:
            # It needs none of the others, who go on with what they do every second.
            groups = {group: groups[group] for group in PLAIN_GROUPS}
        return {
            "accepted_per_second": each / accepted,
            "done_per_second": each / done,
            "queue_passes": passes / case.each,
            "deferred": log.count(b"status=deferred"),
            "all_ms": sum(groups.values()),
            "cpu_ms": groups,
            "containers_ms": {f"{host}-{process}": used for (host, process), used in cpu.items()},
            "others_cpu_share": max(0, everybody - sum(cpu.values()) * each / 1000) / (whole * os.cpu_count()),
        }

    @staticmethod
    def check(turn, case, transactions, new, passes):
        """What came is what the turn is to measure, each message once."""
        found = Counter(kind(file) for file in new)
        wanted = {None: sum(case.kinds.values())} if turn == PLAIN else case.kinds
        if found != {what: number * transactions for what, number in wanted.items()}:
            raise RuntimeError(f"{case.name}, {turn}: for {transactions} transactions the mailboxes received {dict(found)}")
        if turn == PLAIN and passes != case.passes:
            raise RuntimeError(f"{case.name}: plain mail took {passes} queue passes, not {case.passes}")

    # ---- The parts

    def rounds(self, cases, turns, around=lambda case: nullcontext()):
        """Every turn of every case, then again, each second time backwards: what else the machine does hits all of them."""
        found = {case: {turn: [] for turn in turns} for case in cases}
        for number in range(self.pairs):
            for turn in turns if number % 2 == 0 else reversed(turns):
                self.pair.turn(turn)
                for case in cases if number % 2 == 0 else reversed(cases):
                    with around(case):
                        run = self.measure(turn, case, max(1, self.transactions // case.each))
                    found[case][turn].append(run)
                    self.say(f"round {number + 1}, {case.name}, {turn}: {run['all_ms']:.1f} ms of CPU, {run['done_per_second']:.1f}/s{deferred(run)}")
        return [summary(case, runs, found[cases[0]]) for case, runs in found.items()]

    def transaction(self):
        """From Alfa to Beta, with the virus scan and without."""
        return self.rounds([self.case("Alfa to Beta", "beta")], (PLAIN, CERTIFIED, UNSCANNED))

    def same(self):
        """From Alfa to Alfa."""
        return self.rounds([self.case("Alfa to Alfa", "alfa")], (PLAIN, CERTIFIED, UNSCANNED))

    def growth(self):
        """From one user to one: the mailboxes of both and the service mailbox empty, and with many messages."""
        sender, to = self.users[-1], recipient(RECIPIENTS, self.pair.DOMAIN["beta"])
        mailboxes = (("beta", to), ("alfa", sender), ("alfa", SERVICE["alfa"]))
        self.say(f"filling mailboxes with {MANY} messages each")
        self.pair.fill(MANY, mailboxes)
        empty, full = (Case(name, "beta", (sender,), ((to,),)) for name in ("empty", f"{MANY} messages"))

        def around(case):
            for mailbox in mailboxes:
                self.pair.renew(*mailbox)
            return self.pair.filled(mailboxes) if case is full else nullcontext()

        return self.rounds([empty, full], (PLAIN, CERTIFIED), around)

    def recipients(self):
        """One message to one and to many recipients."""
        many = tuple(recipient(number, self.pair.DOMAIN["beta"]) for number in range(1, RECIPIENTS + 1))
        cases = [self.case("1 recipient", "beta"), Case(f"{RECIPIENTS} recipients", "beta", tuple(self.users), (many,))]
        return self.rounds(cases, (PLAIN, CERTIFIED))

    def case(self, name, host):
        """Each of Alfa's users writes to a mailbox of its own."""
        to = (recipient(number, self.pair.DOMAIN[host]) for number, _ in enumerate(self.users, 1))
        return Case(name, host, tuple(self.users), tuple((address,) for address in to))

    def setting(self):
        """What holds on both sides."""
        pair = self.pair
        return {
            "transactions": self.transactions,
            "pairs": self.pairs,
            "mailboxes": pair.stored_as("alfa"),
            "tls_reuse": pair.execute("alfa", "postfix", "postconf", "-h", "smtp_tls_connection_reuse").stdout.strip() == "yes",
            "idle_ms_per_second": self.idle(),
        }

    def idle(self, seconds=10):
        """Of certified mail, while nothing happens."""
        self.pair.turn(CERTIFIED)
        time.sleep(SETTLE)
        before = self.pair.all_cpu()
        time.sleep(seconds)
        return grouped({which: (after - before[which]) * 1000 / seconds for which, after in self.pair.all_cpu().items()})


def grouped(cpu):
    return {group: sum(cpu[host, process] for host in HOSTS for process in processes) for group, processes in GROUPS.items()}


def summary(case, turns, first):
    """Median, least and most of each figure; the ratios are to plain mail, and to the first case, in the same round."""
    found = {}
    for turn, runs in turns.items():
        figures = {name: of([run[name] for run in runs]) for name in runs[0] if not isinstance(runs[0][name], dict)}
        figures["to_plain"] = of([run["all_ms"] / plain["all_ms"] for run, plain in zip(runs, turns[PLAIN])])
        figures["to_first"] = of([run["all_ms"] / other["all_ms"] for run, other in zip(runs, first[turn])])
        for name in ("cpu_ms", "containers_ms"):
            figures[name] = {who: of([run[name][who] for run in runs]) for who in runs[0][name]}
        found[turn] = figures
    return {"case": case.name, "recipients": case.each, "plain_passes": case.passes, "turns": found}


def kind(file):
    """X-Trasporto or X-Ricevuta of a message; None: it has neither."""
    with open(file, "rb") as message:
        header = message.read(1 << 16).replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    found = re.search(rb"^X-(?:Trasporto|Ricevuta): *(\S+)", header, re.MULTILINE)
    return found and found[1].decode()


def deferred(run):
    return f" ({run['deferred']} deliveries were put off)" if run["deferred"] else ""
