"""What people do with the retained log, in the containers: search, extract, report, the infected store; and who read."""

import json

import pytest
from network import ANNA, BRUNO
from test_viruses import EICAR, attached


def pecctl(net, *arguments):
    return net.execute("alfa", "access", "pecctl", *arguments).stdout


def rows(net, *arguments):
    return [json.loads(line) for line in pecctl(net, "log", "search", "--json", *arguments).splitlines()]


def test_a_message_is_found_by_what_is_known_of_it_and_the_reading_is_in_the_log(net):
    msgid, _ = net.submit(ANNA, [BRUNO])
    net.expect(ANNA, "avvenuta-consegna", msgid)
    net.drain("alfa", "beta")
    story = net.story("alfa", msgid)
    submitted = next(row for row in story if row["event"] == "accesso")
    for options in (
        ("--msgid", msgid),
        ("--address", BRUNO.upper(), "--kind", "accesso"),
        ("--account", submitted["account"]),
        ("--queue-id", submitted["queue_id"]),
        ("--from", submitted["happened_at"], "--kind", "accesso"),
    ):
        assert submitted in rows(net, *options), options
    assert msgid in pecctl(net, "log", msgid)
    readings = rows(net, "--kind", "lettura-registro", "--account", "root")
    assert any(row["error"] == f"pecctl log {msgid}" for row in readings)


@pytest.mark.both
def test_an_extract_verifies_with_openssl(net):
    msgid, _ = net.submit(ANNA, [BRUNO])
    net.expect(ANNA, "avvenuta-consegna", msgid)
    net.execute("alfa", "access", "rm", "-f", "/tmp/extract.html", "/tmp/extract.html.p7s")
    pecctl(net, "log", "extract", msgid, "--output", "/tmp/extract.html")
    page = net.execute("alfa", "access", "cat", "/tmp/extract.html").stdout
    assert all(row["identificativo"] in page for row in net.story("alfa", msgid))
    verify = "openssl cms -verify -binary -inform DER -in /tmp/extract.html.p7s -content /tmp/extract.html -CAfile /etc/pec/ca.pem -purpose any -out /dev/null"
    net.execute("alfa", "access", "sh", "-c", verify)


def test_the_report_counts_and_the_programs_have_started(net):
    started = {row["identificativo"].split("@")[0] for row in rows(net, "--kind", "avvio")}
    assert started == {"pec-access", "pec-incoming", "pec-delivery", "pec-clock"}
    report = json.loads(pecctl(net, "report", "--from", "2020-01-01", "--to", "2040-01-01", "--json"))
    counted = net.sql("alfa", "SELECT count(*) FROM log WHERE event = 'accettazione'")
    assert report["mailboxes"] >= 1 and report["events"]["avvio"] >= 4 and str(report["events"].get("accettazione", 0)) == counted[0]


@pytest.mark.both
def test_rfc6109_2_2_4_the_infected_store_opens_with_the_auditors_key_alone(net):
    msgid, _ = net.submit(ANNA, [BRUNO], **attached("relazione.txt", EICAR))
    net.expect(ANNA, "non-accettazione", msgid)
    identificativo = net.story("alfa", msgid)[0]["identificativo"]
    kept = next(line.split()[0] for line in pecctl(net, "infected", "list").splitlines() if identificativo in line)
    here = net.deployment.home / "alfa"
    (here / "auditor.key").write_bytes((net.deployment.home / "ca/auditor.key").read_bytes())
    try:
        assert msgid in pecctl(net, "infected", "show", kept, "--key", "/etc/pec/auditor.key")
        refused = net.execute("alfa", "access", "pecctl", "infected", "show", kept, "--key", "/etc/pec/key.pem", check=False)
        assert refused.returncode == 1 and "is not the key to pec_infected_certificate_file" in refused.stderr
    finally:
        (here / "auditor.key").unlink()
    assert f"pecctl infected show {kept}" in [row["error"] for row in rows(net, "--kind", "lettura-infetti")]
