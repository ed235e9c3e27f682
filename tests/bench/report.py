"""The results as tables for people."""

from bed import VARIANTS
from pair import CERTIFIED, PLAIN, UNSCANNED
from transaction import ACCEPTANCE, CHARGE, DELIVERY, GROUPS, MANY, MESSAGE, RECIPIENTS

# What tests/bench is there to watch: the variant, and how much of OpenDKIM's rate it is to reach.
WANTED = (("d", "receipts parked", 1.0), ("e", "receipts flowing", 0.6))

# A transaction's CPU beside plain mail's, by the format of the mailboxes; and what a large mailbox may take beside an empty one.
ALLOWED = {"sdbox": {CERTIFIED: 1.4, UNSCANNED: 1.25}, "maildir": {CERTIFIED: 1.5, UNSCANNED: 1.35}}
ALLOWED_GROWTH = 1.1

TURNS = {PLAIN: "plain Postfix and Dovecot", CERTIFIED: "certified", UNSCANNED: "certified, pec_clamd = none"}


def text(results):
    return "\n\n".join("\n".join(lines) for lines in sections(results)) + "\n"


def sections(results):
    machine = results["machine"]
    opendkim = f", OpenDKIM {machine['opendkim']}" if "opendkim" in machine else ""
    yield [
        f"{machine['cpus']} processors, Postfix {machine['postfix']}, Dovecot {machine['dovecot']}, PostgreSQL {machine['postgresql']} "
        f"(fsync and synchronous_commit on){opendkim}.",
        f"A write and fsync of 4 kB where Postfix's queue lies takes {machine['fsync_ms']:.2f} ms.",
    ]
    for rates in results.get("rates", []):
        yield rate_table(rates)
        yield cost_table(rates)
        yield verdict(rates)
    if "callbacks" in results:
        yield callback_table(results["callbacks"])
    for peaks in results.get("peaks", []):
        yield peak_table(peaks)
    if "memory" in results:
        yield memory_table(results["memory"])
    if "transactions" in results:
        yield from transaction_sections(results["transactions"])
    yield [f"It took {results['seconds']:.0f} s."]


def table(title, head, rows, *notes, words=1):
    """The first `words` columns are of words, the others of figures."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [cell.ljust(width) if n < words else cell.rjust(width) for n, (cell, width) in enumerate(zip(row, widths))]
        lines.append("  " + "  ".join(cells).rstrip())
    return [title, "", *lines, *("  " + note for note in notes)]


def size_name(size):
    return f"{size // 1_000_000} MB" if size >= 1_000_000 else f"{size // 1000} kB"


def spread(figure, digits):
    return f"{figure['median']:.{digits}f} ({figure['least']:.{digits}f}-{figure['most']:.{digits}f})"


def rows_of(rates):
    return [(f"({variant.key}) {variant.name}", rates["variants"][variant.key]) for variant in VARIANTS]


def rate_table(rates):
    rows = [
        [
            name, spread(v["accepted_per_second"], 1), spread(v["accepted_to_opendkim"], 2),
            spread(v["done_per_second"], 1), spread(v["done_to_opendkim"], 2),
            f"{v['wait_p50_ms']['median']:.0f}", f"{v['wait_p99_ms']['median']:.0f}", f"{v['others_cpu_share']['median'] * 100:.0f} %",
        ]
        for name, v in rows_of(rates)
    ]  # fmt: skip
    return table(
        f"Messages of {size_name(rates['size'])}: {rates['messages']} in each run, {rates['sessions']} connections; median (least-most) of the rounds",
        ["", "accepted/s", "to (c)", "done/s", "to (c)", "p50 ms", "p99 ms", "others' CPU"],
        rows,
        "accepted: 250 to the final dot, from the first MAIL to the last 250; the message then stays on hold, in (e) deferred.",
        "done: the same, in (e) from the first MAIL until the last receipt is in its mailbox.",
        "p50, p99: from the final dot to 250, as the client sees it. others' CPU: of the machine, by whatever is not measured here.",
    )


def cost_table(rates):
    def cpu(v):
        return {who: figure["median"] for who, figure in v["cpu_ms"].items()}

    def row(name, v):
        counts = [f"{v[what]['median']:.2f}" for what in ("queue_passes", "signatures", "commits", "transactions")]
        whose = [f"{cpu(v)[who]:.2f}" for who in ("client", "postfix", "milters", "postgres", "dovecot")]
        return [name, *counts, *whose, f"{sum(cpu(v).values()):.2f}", f"{of_opendkim / sum(cpu(v).values()):.2f}"]

    of_opendkim = sum(cpu(rates["variants"]["c"]).values())
    return table(
        f"What a message of {size_name(rates['size'])} takes; medians",
        ["", "queue passes", "signatures", "commits", "transactions"]
        + ["CPU ms: client", "Postfix", "milters", "PostgreSQL", "Dovecot", "all", "(c) to this"],
        [row(name, v) for name, v in rows_of(rates)],
        "commits: PostgreSQL's transactions that wrote. transactions: those that only read as well.",
        "(c) to this: OpenDKIM's CPU divided by this one's, which is the ratio of the rates where CPU is all that is short.",
    )


def verdict(rates):
    lines = []
    for key, name, wanted in WANTED:
        figures = rates["variants"][key]
        accepted, done = (figures[f"{what}_to_opendkim"]["median"] for what in ("accepted", "done"))
        judged = "reached" if accepted >= wanted else "NOT REACHED"
        lines.append(f"{size_name(rates['size'])}, {name}: {accepted:.2f} x OpenDKIM accepted, {wanted:.2f} wanted: {judged}; done: {done:.2f} x")
    return lines


def callback_table(callbacks):
    rows = [[c["milter"], size_name(c["size"]), str(c["sessions"]), str(c["count"]), f"{c['p50_ms']:.2f}", f"{c['p99_ms']:.2f}"] for c in callbacks]
    return table(
        "End-of-message callback, from SMFIC_BODYEOB to the final reply, at the milter's socket",
        ["", "message", "connections", "measured", "p50 ms", "p99 ms"],
        rows,
    )


def mega(size):
    return f"{size / 1e6:.1f}"


def peak_table(peaks):
    rows = [[m["milter"], mega(m["idle"]), mega(m["peak"]), mega(m["peak"] - m["idle"])] for m in peaks["milters"]]
    return table(f"Memory under the load of {size_name(peaks['size'])}, {peaks['sessions']} at once, MB", ["", "idle", "peak", "above idle"], rows)


def memory_table(cases):
    rows = [
        [
            case["case"] if number == 0 else "", m["met"], mega(case["size"]), mega(m["idle"]), mega(m["peak"]), mega(m["above_idle"]),
            f"{m['times_message']:.2f}", mega(m["allowed"]), "yes" if m["holds"] else "NO",
        ]
        for case in cases
        for number, m in enumerate(case["milters"])
    ]  # fmt: skip
    return table(
        "Peak memory for one message (VmHWM), MB; allowed above idle: 16 MB and three times the message",
        ["", "", "message", "idle", "peak", "above idle", "x message", "allowed", "holds"],
        rows,
        "port 25: the envelope for a recipient elsewhere, and the receipt that comes back.",
        "pec-delivery: the envelope for a recipient here, and the delivery receipt with the original.",
        words=2,
    )


# ---- Transactions


def transaction_sections(found):
    sizes = ", ".join(size_name(size) for size in (MESSAGE, ACCEPTANCE, CHARGE, DELIVERY))
    idle = ", ".join(f"{who} {used:.1f}" for who, used in found["idle_ms_per_second"].items())
    yield [
        f"Transactions: certified messages of {size_name(MESSAGE)} from a user of Alfa's until every receipt is in its mailbox, beside the four",
        f"messages ({sizes}) of plain Postfix and Dovecot with the milters taken out.",
        f"In turn in the same containers, {found['pairs']} times; {found['transactions']} transactions in each run.",
        f"On both sides: mailboxes in {found['mailboxes']}, TLS between the providers {'reused' if found['tls_reuse'] else 'made anew for each connection'}.",
        "CPU: ms for a transaction, all processes of both providers but the client's; those of plain mail are Postfix and Dovecot alone.",
        f"While nothing happens certified mail takes, ms a second: {idle}.",
    ]
    for part in ("transaction", "same"):
        for case in found.get(part, []):
            yield turn_table(case)
            yield transaction_verdict(case, found["mailboxes"]) if part == "transaction" else clamd_part(case)
    if "growth" in found:
        yield from growth_sections(found["growth"], f"Mailboxes of {MANY} messages beside empty ones", {CERTIFIED: ALLOWED_GROWTH})
    if "recipients" in found:
        title = f"Messages to {RECIPIENTS} recipients beside those to one; all figures for each recipient"
        yield from growth_sections(found["recipients"], title, {})


def turn_row(name, turn):
    groups = [f"{turn['cpu_ms'][group]['median']:.1f}" if group in turn["cpu_ms"] else "" for group in GROUPS]
    others = f"{turn['others_cpu_share']['median'] * 100:.0f} %"
    rates = [spread(turn[f"{what}_per_second"], 1) for what in ("accepted", "done")]
    return [name, f"{turn['queue_passes']['median']:.2f}", *groups, spread(turn["all_ms"], 1), spread(turn["to_plain"], 2), *rates, others]


FIRST, *OTHERS = GROUPS
TURN_HEAD = ["", "queue passes", f"CPU ms: {FIRST}", *OTHERS, "all", "to plain", "accepted/s", "done/s", "others' CPU"]


def turn_table(case):
    rows = [turn_row(TURNS[key], turn) for key, turn in case["turns"].items()]
    return table(
        f"{case['case']}; median (least-most)",
        TURN_HEAD,
        rows,
        "to plain: of the CPU, in the same round. done: until the last is in its mailbox and the queues are empty.",
        "others' CPU: of the machine, by the client and whatever is not measured here.",
    )


def transaction_verdict(case, stored_as):
    lines = []
    for key, allowed in ALLOWED[stored_as].items():
        ratio = case["turns"][key]["to_plain"]["median"]
        judged = "reached" if ratio <= allowed else "NOT REACHED"
        lines.append(f"{case['case']}, {TURNS[key]}: {ratio:.2f} x plain, {allowed:.2f} wanted: {judged}")
    return lines + clamd_part(case)


def clamd_part(case):
    clamd = case["turns"][CERTIFIED]["cpu_ms"]["clamd"]["median"]
    return [f"clamd's own part: {clamd:.1f} ms, {clamd / case['turns'][PLAIN]['all_ms']['median']:.2f} x plain"]


def growth_sections(cases, title, allowed):
    rows = [turn_row(f"{case['case']}: {TURNS[key]}", turn) for case in cases for key, turn in case["turns"].items()]
    yield table(title + "; median (least-most)", TURN_HEAD, rows)
    small, large = cases
    lines = []
    for key, turn in large["turns"].items():
        ratio = turn["to_first"]
        judged = f", {allowed[key]:.2f} allowed: {'reached' if ratio['median'] <= allowed[key] else 'NOT REACHED'}" if key in allowed else ""
        lines.append(f"{large['case']} beside {small['case']}, {TURNS[key]}: {spread(ratio, 2)} x the CPU{judged}")
    yield lines
