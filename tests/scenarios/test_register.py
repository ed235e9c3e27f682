"""The register on a real provider: sealed while mail flows and processes are killed, and what a dishonest administrator does
to it is named. He has psql as the database's owner, and the disk."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from network import ALDO, ANNA, BRUNO, CARLA, run

REGISTER = "/var/lib/pec/register"
TILES = Path(__file__).resolve().parent.parent / "verify/tiles.py"


def pecctl(net, *arguments, host="alfa"):
    return net.execute(host, "postfix", "pecctl", *arguments, check=False)


def verify(net, *arguments, host="alfa"):
    done = pecctl(net, "log", "verify", "--json", *arguments, host=host)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def sealed(net, host="alfa"):
    """What `pecctl log verify` says, once no row of this moment waits for its seal."""
    net.wait_until_sealed(host)
    return verify(net, host=host)


def as_owner(net, sql):
    """No trigger stands in his way."""
    net.sql("alfa", f"SET session_replication_role = replica; {sql}")


@pytest.fixture(scope="module")
def msgid(net):
    msgid, _ = net.submit(ANNA, [BRUNO, ALDO])
    for recipient in (BRUNO, ALDO):
        net.expect(ANNA, "avvenuta-consegna", msgid, recipient)
    net.drain("alfa", "beta")
    return msgid


@pytest.mark.parametrize("host", ["alfa", "beta"])
def test_rfc6109_2_3_every_row_is_sealed_within_seconds(net, msgid, host):
    found = sealed(net, host=host)
    assert (found["wrong"], found["findings"], found["lost"]) == (0, [], []) and found["rows"] == found["size"] > 5
    shown = pecctl(net, "log", "verify", host=host)
    assert (shown.returncode, shown.stdout.splitlines()[-1]) == (0, "all of it is as it was sealed"), shown.stdout + shown.stderr


def test_rfc6109_2_3_a_reader_of_the_tile_format_that_is_not_ours_computes_the_same_root(net, msgid, tmp_path):
    found = sealed(net)
    run("docker", "cp", f"{net.container('alfa', 'clock')}:{REGISTER}", str(tmp_path / "register"))
    done = subprocess.run([sys.executable, str(TILES), str(tmp_path / "register")], capture_output=True, text=True)
    assert done.returncode == 0 and str(found["size"]) in done.stdout, done.stdout + done.stderr


@pytest.mark.both
def test_rfc6109_2_3_the_roles_of_the_programs_change_nothing(net, msgid):
    for user, password in (("pec", "database"), ("registrar", "registrar")):
        for statement in (
            "UPDATE log SET oggetto = 'x'", "DELETE FROM log", "TRUNCATE log", "DROP TABLE log", "UPDATE seal SET root = ''", "DELETE FROM seal",
            "INSERT INTO log (seq, happened_at, event, identificativo, mittente, destinatari, gestore, certified_by, recipients, queue_id, time_source) "
            "VALUES (1, now(), 'x', 'x', 'x', '{}', 'x', 'x', '{}', 'x', 'clock')",
        ):  # fmt: skip
            done = net.execute(
                "alfa", "postgres", "sh", "-c", f'PGPASSWORD=$(cat /etc/pec/{password}.password) psql -h 127.0.0.1 -U {user} -c "$0" pec', statement, check=False
            )
            assert done.returncode != 0 and ("permission denied" in done.stderr or "must be owner" in done.stderr), (user, statement, done.stderr)
    # The owner without a trick is stopped by the trigger.
    done = net.execute("alfa", "postgres", "psql", "-h", "/var/run/postgresql", "-c", "UPDATE log SET oggetto = 'x'", "pec", user="postgres", check=False)
    assert "the retained log is never changed" in done.stderr


def test_a_dishonest_administrator_is_found_whatever_he_changes(net, msgid):
    before = sealed(net)
    seqs = [int(seq) for seq in net.sql("alfa", "SELECT seq FROM log WHERE identificativo = (SELECT identificativo FROM log WHERE event = 'accesso' ORDER BY seq DESC LIMIT 1) ORDER BY seq")]
    kept = verify(net, "--keep", "/tmp/kept")
    assert kept["wrong"] == 0
    net.stop("alfa", "clock")  # What he leaves meanwhile must not be sealed as it stands.
    as_owner(net, "CREATE TABLE evil_log AS TABLE log; CREATE TABLE evil_seal AS TABLE seal")
    try:
        for sql, named in (
            (f"UPDATE log SET happened_at = happened_at - interval '1 day' WHERE seq = {seqs[0]}", f"row {seqs[0]} "),
            (f"UPDATE log SET error = '' WHERE seq = {seqs[-1]}", f"row {seqs[-1]} "),
            (f"DELETE FROM log WHERE seq = {seqs[1]}", f"row {seqs[1]} "),
            ("TRUNCATE log", "row 1 (leaf 0) is missing"),
            ("UPDATE seal SET checkpoint = replace(checkpoint, 'time 2', 'time 1') WHERE number = 0", "seal 0: its checkpoint"),
            ("DELETE FROM seal WHERE number = (SELECT max(number) FROM seal)", "the checkpoint in "),
        ):
            as_owner(net, sql)
            found = verify(net)
            assert found["wrong"] > 0 and any(named in finding for finding in found["findings"]), (sql, found)
            as_owner(net, "DELETE FROM log; INSERT INTO log SELECT * FROM evil_log; DELETE FROM seal; INSERT INTO seal SELECT * FROM evil_seal")
            assert verify(net, "--since", "/tmp/kept")["wrong"] == 0
    finally:
        as_owner(net, "DROP TABLE evil_log, evil_seal")
        net.start("alfa", "clock")
    assert sealed(net)["wrong"] == 0 and sealed(net)["size"] >= before["size"]


@pytest.mark.both
def test_yesterdays_database_is_noticed_and_recovered_from_by_the_documented_commands(net, msgid):
    """On a copy of everything: the database from its dump, the register's directory, a main.cf for both."""
    postgres = "cd /var/lib/postgresql && "
    net.execute("alfa", "postgres", "sh", "-c", postgres + "pg_dump -h /var/run/postgresql --format=custom --file=pec.dump pec", user="postgres")
    size = sealed(net)["size"]
    net.submit(ANNA, [ALDO])
    net.drain("alfa", "beta")
    assert sealed(net)["size"] > size
    net.execute(
        "alfa", "postgres", "sh", "-c",
        postgres + "dropdb -h /var/run/postgresql --if-exists pec_restored; createdb --encoding=UTF8 --template=template0 -h /var/run/postgresql pec_restored && "
        "pg_restore -h /var/run/postgresql --dbname=pec_restored pec.dump && rm pec.dump", user="postgres",
    )  # fmt: skip
    try:
        net.execute(
            "alfa", "postfix", "sh", "-c",
            f"rm -rf /tmp/restored && cp -a {REGISTER} /tmp/restored && rm -rf /tmp/conf && cp -a /etc/postfix /tmp/conf && "
            "postconf -c /tmp/conf -e pec_register=/tmp/restored \"$(postconf -h pec_database | sed 's/.*/pec_database=&/; s/dbname=pec/dbname=pec_restored/')\" "
            "\"$(postconf -h pec_register_database | sed 's/.*/pec_register_database=&/; s/dbname=pec/dbname=pec_restored/')\"",
        )  # fmt: skip
        # Rows of the programs' own may have come besides.
        today = int(net.execute("alfa", "postfix", "sed", "-n", "2p", "/tmp/restored/checkpoint").stdout)
        found = verify(net, "-c", "/tmp/conf")
        assert any(f"it is of {today} rows" in finding or "were removed" in finding for finding in found["findings"]), found
        recovered = pecctl(net, "-c", "/tmp/conf", "log", "recover")
        assert "are lost: an older backup of the database was restored" in recovered.stdout, recovered.stdout + recovered.stderr
        found = verify(net, "-c", "/tmp/conf")
        assert (found["wrong"], found["lost"][0][1]) == (0, today), found
    finally:
        net.execute("alfa", "postgres", "dropdb", "-h", "/var/run/postgresql", "--force", "pec_restored", user="postgres")
    assert verify(net)["wrong"] == 0


def test_a_witness_by_mail_has_a_checkpoint_that_the_register_is_held_against(net, msgid):
    net.postconf("alfa", f"pec_witnesses={CARLA}")
    net.hangup("alfa", "clock")
    try:
        deadline = time.monotonic() + 150  # two rounds of those who prove
        while not (sent := [m for m in net.deployment.messages(CARLA) if m.header["Subject"].startswith("Checkpoint ")]):
            assert time.monotonic() < deadline, net.logs("alfa", "clock")[-2000:]
            net.flush("alfa")
            time.sleep(0.2)
    finally:
        net.postconf("alfa", "pec_witnesses=")
        net.reload_programs("alfa", "clock")
    assert sent[0].header["From"] == "posta-certificata@gestore.alfa.test"
    text = sent[0].header.get_content()
    net.execute("alfa", "postfix", "sh", "-c", 'printf %s "$0" > /tmp/witnessed', text)
    held = pecctl(net, "log", "verify", "--checkpoint", "/tmp/witnessed")
    assert held.returncode == 0, held.stdout + held.stderr
    forged = text.replace("gestore.alfa.test", "gestore.beta.test", 1)
    net.execute("alfa", "postfix", "sh", "-c", 'printf %s "$0" > /tmp/witnessed', forged)
    assert pecctl(net, "log", "verify", "--checkpoint", "/tmp/witnessed").returncode != 0


def test_nothing_of_the_register_is_lost_or_doubled_when_what_seals_is_killed(net, msgid):
    messages = []
    for process in ("postgres", "clock", "postgres", "clock"):
        messages.append(net.submit(ANNA, [ALDO])[0])
        net.kill("alfa", process)
        net.start("alfa", process)
        net.wait_until_up("alfa", "postgres")
    net.drain("alfa", "beta")
    for msgid in messages:
        net.expect(ANNA, "avvenuta-consegna", msgid, ALDO)
    found = sealed(net)
    assert (found["wrong"], found["findings"]) == (0, []), found
    for msgid in messages:
        events = [row["event"] for row in net.story("alfa", msgid)]
        # An envelope whose answer was lost with PostgreSQL arrives once more, and that is a row, too.
        assert "ricezione" in events, events
        others = sorted(event for event in events if event != "ricezione")
        assert others == sorted(["accesso", "accettazione", "presa-in-carico", "avvenuta-consegna"]), events


def test_no_rule_of_certified_mail_is_broken(net, msgid):
    done = pecctl(net, "log", "audit", "--json")
    broken = [json.loads(line) for line in done.stdout.splitlines()]
    known = {row["identificativo"] for row in net.story("alfa", msgid)}
    assert known and not [violation for violation in broken if violation["identificativo"] in known], broken
