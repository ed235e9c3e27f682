"""A disk that is full: mail waits for PostgreSQL's, seals wait for the register's, and both go on by themselves.

Each disk is a small one in memory, filled to the last byte: what fails there is what the kernel says of a full disk.
"""

import json
import smtplib
from contextlib import contextmanager

import pytest
from ledger import Ledger
from network import ALDO, ANNA, BRUNO

REGISTER = "/var/lib/pec/register"
FULL = "No space left on device"
# A row is smaller than a page, and PostgreSQL takes some pages ahead.
MOST = 100


@pytest.fixture
def ledger(net):
    ledger = Ledger(net)
    ledger.refresh()
    return ledger


def fill(net, process):
    net.execute("alfa", process, "dd", "if=/dev/zero", "of=/dev/shm/fill", "bs=4096", "oflag=append", "conv=notrunc", check=False)


@contextmanager
def full(net, process):
    """/dev/shm of that container, which every container has for itself. Whoever replaces or removes a file there gives its room
    back; `fill` takes that, too."""
    for _ in range(MOST):
        fill(net, process)
        free = net.execute("alfa", process, "df", "--output=avail", "/dev/shm").stdout.split()[-1]
        if free == "0":
            break
    assert free == "0", free
    try:
        yield
    finally:
        net.execute("alfa", process, "rm", "/dev/shm/fill")


def verify(net, process):
    """Once no row waits for its seal."""
    net.wait_until_sealed("alfa", seconds=60)
    return json.loads(net.execute("alfa", process, "pecctl", "log", "verify", "--json", check=False).stdout)


@pytest.fixture
def small_disk_for_the_log(net):
    """This month's rows on a disk of their own."""
    month = net.execute("alfa", "postgres", "date", "--utc", "+log_%Y_%m").stdout.strip()
    net.execute("alfa", "postgres", "install", "-d", "-o", "postgres", "-m", "700", "/dev/shm/small")
    net.sql("alfa", "CREATE TABLESPACE small LOCATION '/dev/shm/small'")
    net.sql("alfa", f"ALTER TABLE {month} SET TABLESPACE small")
    assert net.sql("alfa", f"SELECT spcname FROM pg_tablespace JOIN pg_class ON reltablespace = pg_tablespace.oid WHERE relname = '{month}'") == ["small"]
    yield
    net.sql("alfa", f"ALTER TABLE {month} SET TABLESPACE pg_default")
    net.sql("alfa", "DROP TABLESPACE small")


def test_mail_waits_while_the_database_s_disk_is_full(net, ledger, small_disk_for_the_log):
    since, accepted, refused, tries = net.now(), [], None, 0
    with full(net, "postgres"):
        while refused is None:
            tries += 1
            assert tries < MOST
            raw, msgid = net.letter(ANNA, [ALDO, BRUNO])
            try:
                net.deployment.submit(ANNA, [ALDO, BRUNO], raw)
                accepted.append(msgid)
            except smtplib.SMTPResponseException as answer:
                assert 400 <= answer.smtp_code < 500, answer
                # Why, for the administrator. A database that is only slow has another reason.
                if FULL in net.logs("alfa", "access", since):
                    refused = answer
    net.submit_until_accepted(ANNA, [ALDO, BRUNO], raw)
    net.drain("alfa", "beta")
    ledger.refresh()
    for one in [*accepted, msgid]:
        ledger.check(one, ANNA, [ALDO, BRUNO])
    found = verify(net, "postfix")
    assert (found["wrong"], found["findings"]) == (0, []), found


@pytest.fixture
def small_disk_for_the_register(net):
    """The register's directory on a disk of its own."""
    # What is being written there, and what a copy lacks, is made up for at the start.
    net.execute("alfa", "clock", "sh", "-c", f"for n in 1 2 3 4 5; do cp -a {REGISTER} /dev/shm/register && exit; rm -rf /dev/shm/register; done; exit 1")
    net.postconf("alfa", "pec_register=/dev/shm/register")
    since = net.now()
    net.hangup("alfa", "clock")
    net.wait_for_log("alfa", "clock", "sealing: the register has", since)
    yield
    net.stop("alfa", "clock")
    net.postconf("alfa", f"pec_register={REGISTER}")
    since = net.now()
    net.start("alfa", "clock")
    net.wait_for_log("alfa", "clock", "started: program=", since)


def test_rows_wait_for_their_seals_while_the_register_s_disk_is_full(net, ledger, small_disk_for_the_register):
    since, msgids, said = net.now(), [], []
    with full(net, "clock"):
        while not any("the register is not sealed: " in line and FULL in line for line in said):
            # A seal that was under way has replaced its files, and the next ones live on what the last gives back.
            fill(net, "clock")
            msgids.append(net.submit(ANNA, [ALDO, BRUNO])[0])
            assert len(msgids) < MOST
            said = net.logs("alfa", "clock", since).splitlines()
        # Mail does not wait for it.
        net.drain("alfa", "beta")
        ledger.refresh()
        for msgid in msgids:
            ledger.check(msgid, ANNA, [ALDO, BRUNO])
    net.wait_for_log("alfa", "clock", "the register is sealed again", since)
    found = verify(net, "clock")
    assert (found["wrong"], found["findings"]) == (0, []), found
