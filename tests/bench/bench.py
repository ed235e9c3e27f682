"""Measures and reports; see tests/bench/run, which brings the network up first.

    bench.py HOME PROJECT BASE [OPTION ...]
"""

import argparse
import json
import os
import statistics
import sys
import time

import memory
import report
from bed import STOPWATCH, VARIANTS, Bed
from load import Letters, Load
from measured import STORED_AS, busy, of, run
from network import BRUNO, PROGRAMS
from pair import Pair
from transaction import Transactions

SMALL, LARGE = 20_000, 5_000_000

# Messages that every client sends before a clock starts: processes are started, connections and files are open.
WARM_UP = 2

# So many clients for large messages: each message is in hand for long.
LARGE_SESSIONS = 4

# Which sockets the stopwatch stands before.
CALLBACKS = (
    ("noop", "the no-op milter: what the stopwatch itself adds"),
    ("opendkim", "OpenDKIM"),
    ("access", "pec-access"),
)

# Which parts need the network as bed.py has it, and which as pair.py.
COMPARED = ("rates", "callbacks", "memory")
TRANSACTIONS = ("transaction", "same", "growth", "recipients")

START = time.monotonic()


def say(text):
    print(f"bench: {time.monotonic() - START:4.0f} s: {text}", file=sys.stderr, flush=True)


def percentile(values, per_cent):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * per_cent / 100))]


class Bench:
    def __init__(self, bed):
        self.bed = bed
        self.accounts = {a: p for a, p in bed.deployment.passwords.items() if a.startswith("utente-")}

    def load(self, variant, size, sessions):
        return Load(Letters(size), sessions, BRUNO, (self.bed.address["alfa"], variant.port), self.bed.deployment.tls, self.accounts)

    # ---- Messages per second

    def measure(self, variant, size, messages, sessions):
        """One run of one variant, from an empty queue."""
        bed = self.bed
        bed.clear()
        log, (wrote, transactions) = bed.log_size("alfa"), bed.transactions()
        load = self.load(variant, size, sessions)
        load.submit(WARM_UP * sessions)
        if variant.flowing:
            bed.wait_for_receipts(WARM_UP * sessions)

        before, everybody, start = bed.cpu(), busy(), time.perf_counter()
        seconds, waits, client = load.submit(messages)
        if variant.flowing:
            bed.wait_for_receipts(messages + WARM_UP * sessions)
        whole, everybody = time.perf_counter() - start, busy() - everybody
        cpu = {process: after - before[process] for process, after in bed.cpu().items()}
        load.quit()

        total = messages + WARM_UP * sessions
        bed.wait_until_parked(total)
        bed.close_database_sessions()
        wrote, transactions = (after - at_first for after, at_first in zip(bed.transactions(), (wrote, transactions)))
        signatures = bed.signatures() / total
        if (signatures >= 1) != variant.signs:
            raise RuntimeError(f"{variant.name}: {signatures} signatures a message; the milter was not where it should be")
        milters = sum(cpu[milter] for milter in (*PROGRAMS, *bed.COMPARISONS))
        each = {"client": client, "postfix": cpu["postfix"], "milters": milters, "postgres": cpu["postgres"], "dovecot": cpu["dovecot"]}
        return {
            "accepted_per_second": messages / seconds,
            # With nothing left to do: the last 250 where receipts are parked, the last receipt in its mailbox where they flow.
            "done_per_second": messages / (whole if variant.flowing else seconds),
            "wait_p50_ms": percentile(waits, 50) * 1000,
            "wait_p99_ms": percentile(waits, 99) * 1000,
            "queue_passes": bed.queue_passes(bed.log_since("alfa", log)) / total,
            "signatures": signatures,
            "commits": wrote / total,
            "transactions": transactions / total,
            "cpu_ms": {who: used * 1000 / messages for who, used in each.items()},
            "others_cpu_share": max(0, everybody - sum(each.values())) / (whole * os.cpu_count()),
        }

    def rounds(self, size, messages, sessions, rounds):
        """All variants in turn, then again, each second time backwards: what else the machine does hits all of them."""
        results = {variant.key: [] for variant in VARIANTS}
        for number in range(rounds):
            for variant in VARIANTS if number % 2 == 0 else reversed(VARIANTS):
                result = self.measure(variant, size, messages, sessions)
                results[variant.key].append(result)
                say(f"{size // 1000} kB, round {number + 1}: {variant.name}: {result['accepted_per_second']:.1f} accepted/s")
        return {
            "size": size, "messages": messages, "sessions": sessions,
            "variants": {key: summary(runs, results["c"]) for key, runs in results.items()},
        }  # fmt: skip

    # ---- The end-of-message callback

    def callback(self, milter, size, messages, sessions):
        """How long each callback of one milter takes, by a stopwatch before it."""
        bed, directory = self.bed, "/var/spool/postfix/pec"
        bed.clear()
        bed.member("stopwatch", "python3", "/opt/bench/stopwatch.py", f"{directory}/stopwatch", f"{directory}/{milter}")
        bed.wait_for_socket("stopwatch")
        load = self.load(STOPWATCH, size, sessions)
        for number in (WARM_UP * sessions, messages):
            load.submit(number)
        load.quit()
        container = bed.container("alfa", "stopwatch")
        run("docker", "stop", container)
        [seconds] = json.loads(run("docker", "logs", container).stdout).values()
        run("docker", "rm", container)
        seconds = seconds[WARM_UP * sessions :]
        return {"count": len(seconds), "p50_ms": percentile(seconds, 50) * 1000, "p99_ms": percentile(seconds, 99) * 1000}

    def callbacks(self, messages, sessions, large_messages):
        found = []
        for milter, name in CALLBACKS:
            for size, number, side_by_side in ((SMALL, messages, sessions), (SMALL, messages // 3, 1), (LARGE, large_messages, LARGE_SESSIONS)):
                measured = self.callback(milter, size, max(number, side_by_side), side_by_side)
                found.append({"milter": name, "size": size, "sessions": side_by_side} | measured)
            say(f"callback of {name}")
        return found


def summary(runs, of_opendkim):
    """Median, least and most of each figure over the rounds; the ratios are to OpenDKIM in the same round."""

    figures = {name: of([r[name] for r in runs]) for name in runs[0] if name != "cpu_ms"}
    for what in ("accepted", "done"):
        ratios = [r[f"{what}_per_second"] / c["accepted_per_second"] for r, c in zip(runs, of_opendkim)]
        figures[f"{what}_to_opendkim"] = of(ratios)
    return figures | {"cpu_ms": {who: of([r["cpu_ms"][who] for r in runs]) for who in runs[0]["cpu_ms"]}}


def fsync_ms(directory):
    """The median of writing 4 kB to a file there and having the disk say so."""
    file, times = directory / f".fsync.{os.getpid()}", []
    with open(file, "wb", buffering=0) as out:
        for _ in range(50):
            out.write(b"\0" * 4096)
            start = time.perf_counter()
            os.fsync(out.fileno())
            times.append((time.perf_counter() - start) * 1000)
    file.unlink()
    return statistics.median(times)


def machine(network):
    """What the figures hold for. Refuses a PostgreSQL that does not wait for the disk."""
    settings = {name: network.sql("alfa", f"SHOW {name}")[0] for name in ("fsync", "synchronous_commit", "full_page_writes")}
    if set(settings.values()) != {"on"}:
        raise SystemExit(f"bench: PostgreSQL does not keep what it confirms: {settings}")
    return {
        "cpus": os.cpu_count(),
        "postfix": network.execute("alfa", "postfix", "postconf", "-h", "mail_version").stdout.strip(),
        "dovecot": network.execute("alfa", "dovecot", "dovecot", "--version").stdout.split()[0],
        "postgresql": network.sql("alfa", "SHOW server_version")[0],
        "fsync_ms": fsync_ms(network.volume("alfa-queue")),
        **settings,
    }


def compare(options, parts):
    """Ours beside no milter, a no-op milter and OpenDKIM."""
    bed = Bed(options.home, options.project, options.base)
    # Before Postfix, which would hold it against the silent server that the one of an earlier run went away.
    bed.start_comparisons()
    bed.prepare()
    bench = Bench(bed)
    opendkim = bed.execute("alfa", "opendkim", "dpkg-query", "-W", "-f", "${Version}", "opendkim").stdout
    results = {"machine": machine(bed) | {"opendkim": opendkim}}
    if "rates" in parts:
        results["rates"], results["peaks"] = [], []
        for size, messages, sessions in ((SMALL, options.messages, options.sessions), (LARGE, options.large, LARGE_SESSIONS)):
            idle = memory.idle(bed)
            results["rates"].append(bench.rounds(size, messages, sessions, options.rounds))
            results["peaks"].append({"size": size, "sessions": sessions, "milters": memory.peaks(bed, idle)})
    if "callbacks" in parts:
        results["callbacks"] = bench.callbacks(options.messages // 2, options.sessions, options.large)
    if "memory" in parts:
        results["memory"] = memory.one_by_one(bed, say)
    return results


def transact(options, parts):
    """Whole transactions beside plain mail."""
    pair = Pair(options.home, options.project, options.base)
    pair.prepare(say, options.mailboxes, options.set)
    transactions = Transactions(pair, say, options.transactions, options.pairs)
    results = {"machine": machine(pair), "transactions": transactions.setting()}
    for part in TRANSACTIONS:
        if part in parts:
            results["transactions"][part] = getattr(transactions, part)()
    return results


def main():
    arguments = argparse.ArgumentParser(
        prog="tests/bench/run", description="Ours beside no milter, a no-op milter and OpenDKIM; whole transactions beside plain mail."
    )
    arguments.add_argument("home", help=argparse.SUPPRESS)
    arguments.add_argument("project", help=argparse.SUPPRESS)
    arguments.add_argument("base", help=argparse.SUPPRESS)
    arguments.add_argument("--messages", type=int, default=400, help="messages of 20 kB in each run (400)")
    arguments.add_argument("--large", type=int, default=12, help="messages of 5 MB in each run (12)")
    arguments.add_argument("--rounds", type=int, default=5, help="rounds over all variants (5)")
    arguments.add_argument("--sessions", type=int, default=20, help="clients side by side, for 20 kB (20)")
    arguments.add_argument("--transactions", type=int, default=100, help="transactions in each run of them (100)")
    arguments.add_argument("--pairs", type=int, default=3, help="how often plain mail and ours in turn (3)")
    arguments.add_argument("--mailboxes", choices=STORED_AS["2.4"], help="format of the mailboxes in transactions (as deployed)")
    arguments.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="for transactions: in main.cf, or SERVICE/TYPE=... in master.cf")
    every = ",".join((*COMPARED, *TRANSACTIONS))
    arguments.add_argument("--parts", default=",".join(COMPARED), help=f"which parts, joined by commas, of {every} (%(default)s)")
    arguments.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = arguments.parse_args()
    parts = options.parts.split(",")
    unknown = set(parts) - {*COMPARED, *TRANSACTIONS}
    if unknown:
        arguments.error(f"no such part: {', '.join(unknown)}")

    results = compare(options, parts) if set(parts) & set(COMPARED) else {}
    if set(parts) & set(TRANSACTIONS):
        transacted = transact(options, parts)
        results = transacted | results
    results["seconds"] = time.monotonic() - START
    print(json.dumps(results, indent=1) if options.json else report.text(results))


main()
