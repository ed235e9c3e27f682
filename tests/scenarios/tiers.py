"""What a commit runs of the scenarios, and what waits for `tests/run --all`.

PEC_TEST_TIER says which (tests/run sets it):

commit  scenarios marked `both` on Debian 12 and 13; each other file on one of the two; `slow` ones nowhere; of those with
        `sampled` as many cases as they say. What is drawn follows from PEC_TEST_SEED
all     everything, on both

A scenario that somebody names (a node, -k, -m) runs, whatever its marks. What is left out is counted by pytest as deselected.
"""

import os
import random
from collections import defaultdict

import pytest

BASES = ("trixie", "bookworm")
MARKS = {
    "both": "it can come out differently on Debian 12 and 13. That is what another version of Postfix, Dovecot, PostgreSQL, "
    "OpenSSL, ClamAV or rspamd says or does: configuration in another syntax, the words of an answer or a log line, TLS, locks, "
    "sockets and their owners, the order in which something is handed over. What our programs make of a message that they "
    "have is the same there, and so are bytes that no server touches.",
    "slow": "it takes more than half a minute, and something cheaper guards the same in each commit. --all runs it.",
    "sampled(number, *strata)": "a commit runs that many of its cases. `strata`: functions of a case's parameters. Each value of "
    "each stratum is drawn once, in this order and as far as the number goes, before any is drawn twice.",
}


def sample(cases, number, strata, seed):
    """So many of the cases, in their own order. What covers a value that none before it has comes first."""
    shuffled = random.Random(seed).sample(range(len(cases)), len(cases))
    taken = []
    for stratum in strata:
        seen = {stratum(cases[index]) for index in taken}
        for index in shuffled:
            value = stratum(cases[index])
            if value not in seen and index not in taken:
                taken.append(index)
                seen.add(value)
    taken += [index for index in shuffled if index not in taken]
    return [cases[index] for index in sorted(taken[:number])]


class Tiers:
    """The plugin."""

    def __init__(self, tier, base, seed):
        self.tier, self.base, self.seed = tier, base, seed
        # {scenario: (cases that run, cases that there are)}
        self.drawn = {}

    def pytest_report_header(self):
        return f"tier: {self.tier}; Debian: {self.base}; seed: {self.seed}"

    def pytest_collection_modifyitems(self, config, items):
        kept = [item for item in items if self.belongs(item)]
        kept = self.draw(kept)
        left_out = set(items) - set(kept)
        if left_out:
            config.hook.pytest_deselected(items=[item for item in items if item in left_out])
            items[:] = kept

    def belongs(self, item):
        if item.get_closest_marker("slow"):
            return False
        return item.path.parent.name == "faults" or item.get_closest_marker("both") or self.base == self.drawn_base(item.path)

    def drawn_base(self, file):
        """By its name and the seed alone: the run on the other Debian comes to the same."""
        return random.Random(f"{self.seed} {file.name}").choice(BASES)

    def draw(self, items):
        """The items without those that are not drawn."""
        scenarios = defaultdict(list)
        for item in items:
            if item.get_closest_marker("sampled"):
                scenarios[item.function].append(item)
        drawn = set(items)
        for cases in scenarios.values():
            mark = cases[0].get_closest_marker("sampled")
            number, *strata = mark.args
            strata = [lambda item, of=stratum: of(**item.callspec.params) for stratum in strata]
            chosen = sample(cases, number, strata, self.seed)
            self.drawn[cases[0].originalname] = (len(chosen), len(cases))
            drawn -= set(cases) - set(chosen)
        return [item for item in items if item in drawn]

    def pytest_terminal_summary(self, terminalreporter):
        for name, (chosen, all_) in self.drawn.items():
            terminalreporter.write_line(f"drawn: {chosen} of {all_} cases of {name}, seed {self.seed}")


def named(config):
    """Whether somebody says himself what is to run."""
    return bool(config.option.keyword or config.option.markexpr or any("::" in str(argument) for argument in config.args))


def pytest_configure(config):
    for name, what in MARKS.items():
        config.addinivalue_line("markers", f"{name}: {what}")
    tier = os.environ.get("PEC_TEST_TIER", "all")
    if tier not in ("commit", "all"):
        raise pytest.UsageError(f"PEC_TEST_TIER={tier}: not allowed; it must be commit or all")
    if tier != "all" and not named(config):
        config.pluginmanager.register(Tiers(tier, os.environ["PEC_TEST_BASE"], os.environ.get("PEC_TEST_SEED", "0")), "tier")
