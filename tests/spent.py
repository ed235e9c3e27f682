#!/usr/bin/env python3
"""Where the time of a run went: tests/run prints it before the runners' summaries.

target/times has a line "BEGIN END WHAT" for each part, in seconds since 1970; what runs inside another part begins with its
name and a colon. The scenarios are in pytest's junit files, the in-process tests in what nextest printed.
"""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

HOW_MANY = 10
PARTS = ("trixie", "bookworm", "faults")
# "PASS [   1.234s] (  7/850) pec-core header::tests::name": what nextest says of a test.
TEST = re.compile(r"^\s*(?:PASS|FAIL|LEAK|SLOW|TIMEOUT|TRY \d+ \w+) \[ *([\d.]+)s\] (?:\([ \d]+/\d+\) )?(\S.*)$")


def parts(target):
    rows = [line.split(maxsplit=2) for line in (target / "times").read_text().splitlines()]
    rows = sorted((int(begin), -int(end), what) for begin, end, what in rows)
    zero = rows[0][0]
    for begin, minus_end, what in rows:
        yield f"  {what:<34}{clock(begin - zero)} - {clock(-minus_end - zero)} {-minus_end - begin:6} s"


def clock(seconds):
    return f"{seconds // 60:3}:{seconds % 60:02}"


def scenarios(target):
    for part in PARTS:
        file = target / f"test-{part}/junit.xml"
        for case in ElementTree.parse(file).iter("testcase") if file.exists() else ():
            module = case.get("classname").rsplit(".", 1)[-1]
            yield float(case.get("time")), f"{part} {module}::{case.get('name')}"


def in_process(target):
    found = {}
    for line in (target / "code.log").read_text().splitlines():
        if told := TEST.match(line):
            found[told[2]] = max(float(told[1]), found.get(told[2], 0))
    return [(seconds, what) for what, seconds in found.items()]


def slowest(what, found):
    found = sorted(found, reverse=True)
    yield f"the slowest of {len(found)} {what}, which took {sum(seconds for seconds, _ in found):.0f} s"
    for seconds, name in found[:HOW_MANY]:
        yield f"  {seconds:7.1f} s  {name}"


target = Path(sys.argv[1])
print("where the time went", *parts(target), sep="\n")
print(*slowest("scenarios", scenarios(target)), sep="\n")
print(*slowest("in-process tests", in_process(target)), sep="\n")
