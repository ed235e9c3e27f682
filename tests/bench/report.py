"""The results as tables for people."""

from bed import VARIANTS

# What tests/bench is there to watch: the variant, and how much of OpenDKIM's rate it is to reach.
WANTED = (("d", "receipts parked", 1.0), ("e", "receipts flowing", 0.6))


def text(results):
    return "\n\n".join("\n".join(lines) for lines in sections(results)) + "\n"


def sections(results):
    machine = results["machine"]
    yield [
        f"{machine['cpus']} processors, Postfix {machine['postfix']}, PostgreSQL {machine['postgresql']} (fsync and synchronous_commit on), "
        f"OpenDKIM {machine['opendkim']}.",
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
        "internal way: the envelope for a recipient here. port 25: the envelope for one elsewhere, and the receipt that comes back.",
        "pec-notices: the delivery receipt with the original.",
        words=2,
    )
