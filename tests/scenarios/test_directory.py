"""The directory of providers on real Postfix: who answers for what, and no clear text towards its domains (RFC 6109 s. 5.3)."""

import json
import re
import smtplib
import time

import pytest
from network import ANNA, BRUNO

POLICY = "/etc/postfix/pec-tls-policy"
# As docs/configuration.md has it.
WRITE = f"pecctl directory tls-policy --write {POLICY}"
TABLE = f"{WRITE} && postconf -e 'smtp_tls_policy_maps = ${{default_database_type}}:{POLICY}'"


def shell(net, host, script, check=True):
    return net.execute(host, "postfix", "sh", "-c", script, check=check)


@pytest.fixture
def policy(net):
    """Alfa's Postfix has the policy that pecctl writes."""
    shell(net, "alfa", TABLE)
    net.reload_postfix("alfa")
    yield
    shell(net, "alfa", f"postconf -X smtp_tls_policy_maps; rm -f {POLICY}*")
    net.reload_postfix("alfa")


def offers_tls(net, host, offered):
    net.postconf(host, f"smtpd_tls_security_level={'may' if offered else 'none'}")
    net.reload_postfix(host)


def greeting(net, host):
    """What port 25 offers."""
    with smtplib.SMTP(*net.deployment.address(host, "SMTP"), timeout=30) as client:
        return client.ehlo()[1]


def wait_for(what, seconds=30):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.both
def test_rfc6109_5_3_without_tls_mail_to_another_provider_waits_and_goes_on_when_tls_is_back(net, policy):
    asked = shell(net, "alfa", f"postmap -q pec.beta.test $(postconf -h default_database_type):{POLICY}").stdout
    assert asked == "encrypt protocols=>=TLSv1.2 ciphers=high\n"
    offers_tls(net, "beta", False)
    try:
        wait_for(lambda: b"STARTTLS" not in greeting(net, "BETA"))
        msgid, _ = net.submit(ANNA, [BRUNO])
        waiting = lambda: [r for e in net.queue("alfa") for r in e["recipients"] if r["address"] == BRUNO and "delay_reason" in r]  # noqa: E731
        wait_for(waiting)
        assert "TLS is required, but was not offered" in waiting()[0]["delay_reason"]
        assert not any(m.kind == "posta-certificata" for _, m in net.all_about(msgid, [BRUNO])), "nothing went in clear text"
    finally:
        offers_tls(net, "beta", True)
    wait_for(lambda: b"STARTTLS" in greeting(net, "BETA"))
    net.drain("alfa", "beta")
    net.expect(ANNA, "avvenuta-consegna", msgid)


@pytest.fixture
def old_tls(net):
    """Beta offers STARTTLS, and speaks nothing that anybody should. Alfa would go on in clear text after two seconds, not five minutes."""
    backoff = net.execute("alfa", "postfix", "postconf", "-h", "minimal_backoff_time").stdout.strip()
    net.postconf("alfa", "minimal_backoff_time=2s")
    net.reload_postfix("alfa")
    net.postconf("beta", "smtpd_tls_protocols=<=TLSv1.1")
    net.reload_postfix("beta")
    wait_for(lambda: not handshake(net))
    yield
    net.postconf("alfa", f"minimal_backoff_time={backoff}")
    net.reload_postfix("alfa")
    net.postconf("beta", "smtpd_tls_protocols=>=TLSv1.2")
    net.reload_postfix("beta")
    wait_for(lambda: handshake(net))
    net.drain("alfa", "beta")


def handshake(net):
    with smtplib.SMTP(*net.deployment.address("BETA", "SMTP"), timeout=30) as client:
        assert client.ehlo()[0] == 250 and client.has_extn("starttls")
        try:
            return client.starttls(context=net.deployment.tls)[0] == 220
        except (OSError, smtplib.SMTPException):
            return False


def test_without_the_policy_a_failing_handshake_ends_in_clear_text(net, old_tls):
    """What the next test shows to be kept from happening does happen."""
    since = net.now()
    msgid, _ = net.submit(ANNA, [BRUNO])
    net.drain("alfa")
    net.expect(BRUNO, "posta-certificata", msgid)
    net.wait_for_log("beta", "incoming", "clear text: provider=Alfa PEC S.p.A. sent certified mail without TLS", since)


@pytest.mark.both
def test_rfc6109_5_3_a_failing_handshake_with_another_provider_waits(net, policy, old_tls):
    since = net.now()
    msgid, _ = net.submit(ANNA, [BRUNO])
    pattern = re.compile(rf"to=<{BRUNO}>.* delay=([0-9.]+),.* status=deferred \(Cannot start TLS: handshake failure")

    def waits_on():
        net.flush("alfa")
        return any(float(delay) > 5 for delay in pattern.findall(net.logs("alfa", "postfix", since)))

    wait_for(waits_on, 60)
    assert "clear text:" not in net.logs("beta", "incoming", since)
    assert not any(m.kind == "posta-certificata" for _, m in net.all_about(msgid, [BRUNO])), "nothing went in clear text"


@pytest.fixture
def new_domain(net):
    """Beta has another domain, as after a refresh of the directory."""
    file = net.deployment.home / "alfa/igpec.ldif"
    before = file.read_text()
    file.write_text(before.replace("managedDomains: pec.beta.test", "managedDomains: pec.beta.test\nmanagedDomains: nuovo.example", 1))
    assert file.read_text() != before
    yield "nuovo.example"
    file.write_text(before)


def test_a_policy_older_than_the_directory_is_named_and_written_again(net, policy, new_domain):
    def found():
        done = shell(net, "alfa", "pecctl check --json", check=False)
        return [f for f in map(json.loads, done.stdout.splitlines()) if f["what"] == "smtp_tls_policy_maps"]

    [stale] = found()
    assert "without 1 domains of other providers, such as nuovo.example" in stale["value"], stale
    shell(net, "alfa", WRITE)
    assert found() == []
    assert shell(net, "alfa", f"postmap -q {new_domain} $(postconf -h default_database_type):{POLICY}").stdout.startswith("encrypt ")
    assert shell(net, "alfa", f"stat -c %a {POLICY}").stdout == "644\n"


def test_rfc6109_4_5_who_answers_for_a_domain(net):
    found = shell(net, "alfa", "pecctl directory lookup pec.beta.test")
    assert "managedDomains has pec.beta.test" in found.stdout and "ricevute@gestore.beta.test" in found.stdout
    nobody = shell(net, "alfa", "pecctl directory lookup posta.test", check=False)
    assert (nobody.returncode, nobody.stdout) == (1, "posta.test: no record has the domain: it counts as ordinary (esterno)\n")
