"""TLS on every port, as sslscan sees it (RFC 6109 s. 5.3). A probe that finds nothing weak must have found it elsewhere."""

import re
import time
import xml.etree.ElementTree as ET

import pytest
from network import run

pytestmark = pytest.mark.both

PORTS = {
    "SMTP": (25, ["--starttls-smtp"]),
    "SUBMISSION": (587, ["--starttls-smtp"]),
    "SUBMISSIONS": (465, []),
    "IMAPS": (993, []),
    "POP3S": (995, []),
}
# Suites of TLS 1.2 with keys that are gone with the connection; those that users' programs may choose authenticate as well.
FORWARD_SECRET = re.compile(r"(ECDHE|DHE)-")
AUTHENTICATED = re.compile(r"(ECDHE|DHE)-(RSA|ECDSA)-(AES(128|256)-(GCM|CCM8?)|CHACHA20|ARIA(128|256)-GCM)|(ECDHE|DHE)-.*(GCM|CCM8?)|TLS_")
WEAK = 4433
WEAK_STARTTLS = 4434


class Seen:
    """What sslscan found: protocols that are spoken, and the suites of each."""

    def __init__(self, xml):
        scan = ET.fromstring(xml).find("ssltest")
        assert scan is not None, xml
        names = {p: f"{p.get('type').upper()}v{p.get('version')}" for p in scan.iter("protocol")}
        self.protocols = {name for p, name in names.items() if p.get("enabled") == "1"}
        self.compression = any(c.get("supported") == "1" for c in scan.iter("compression"))
        self.suites = {(c.get("sslversion"), c.get("cipher"), int(c.get("bits"))) for c in scan.iter("cipher")}


def scan(net, port, options):
    network = f"container:{net.project}-alfa"
    done = run("docker", "run", "--rm", "--network", network, f"pec-between:{net.base}", "sslscan", "--xml=-", "--timeout=30", "--no-check-certificate", *options, f"127.0.0.1:{port}")
    return Seen(done.stdout[done.stdout.index("<?xml") :])


def test_rfc6109_5_3_nothing_else_listens(net):
    """No IMAP, POP3 or submission without TLS: what is not on loopback is one of the ports above."""
    tables = net.execute("alfa", "postfix", "sh", "-c", "cat /proc/net/tcp /proc/net/tcp6").stdout.splitlines()
    listening = [fields[1].rsplit(":", 1) for fields in map(str.split, tables) if len(fields) > 3 and fields[3] == "0A"]
    # 127.x.x.x as the kernel writes it, alone or in an address of IPv6, and ::1.
    loopback = re.compile(r"[0-9A-F]{6}7F|0{24}01000000|0{16}FFFF0000[0-9A-F]{6}7F")
    assert {int(port, 16) for address, port in listening if not loopback.fullmatch(address)} == {port for port, _ in PORTS.values()}


@pytest.fixture(scope="module")
def weak(net):
    """A server that speaks TLS 1.0 and 1.1 with whatever there is."""
    name = net.container("alfa", "weak")
    make = "openssl req -x509 -newkey rsa:2048 -nodes -keyout /key -out /certificate -subj /CN=weak.test -days 2"
    serve = f"openssl s_server -accept {WEAK} -key /key -cert /certificate -no_tls1_2 -no_tls1_3 -cipher ALL:@SECLEVEL=0 -quiet"
    run("docker", "rm", "-f", name, check=False)
    run("docker", "run", "--detach", "--name", name, "--network", f"container:{net.project}-alfa", f"pec-between:{net.base}", "sh", "-c", f"{make} && exec {serve}")
    deadline = time.monotonic() + 30
    while net.execute("alfa", "postfix", "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{WEAK}", check=False).returncode != 0:
        assert time.monotonic() < deadline, run("docker", "logs", name).stderr
        time.sleep(0.1)
    yield WEAK
    run("docker", "rm", "-f", name)


@pytest.fixture(scope="module")
def weak_starttls(net):
    """Alfa's own Postfix on another port, with everything allowed that the others must not do."""
    options = "smtpd_tls_security_level=may smtpd_tls_protocols=>=TLSv1,<=TLSv1.1 smtpd_tls_ciphers=low smtpd_tls_exclude_ciphers= tls_low_cipherlist=ALL:@SECLEVEL=0 smtpd_milters="
    service = f"{WEAK_STARTTLS} inet n - n - - smtpd " + " ".join(f"-o {option}" for option in options.split())
    net.execute("alfa", "postfix", "postconf", "-M", f"{WEAK_STARTTLS}/inet={service}")
    net.reload_postfix("alfa")
    deadline = time.monotonic() + 30
    while net.execute("alfa", "postfix", "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{WEAK_STARTTLS} && head -c 3 <&3", check=False).stdout != "220":
        assert time.monotonic() < deadline, net.logs("alfa", "postfix")[-2000:]
        time.sleep(0.1)
    yield WEAK_STARTTLS
    net.execute("alfa", "postfix", "postconf", "-MX", f"{WEAK_STARTTLS}/inet")
    net.reload_postfix("alfa")


@pytest.mark.parametrize("options", [[], ["--starttls-smtp"]], ids=["TLS", "STARTTLS"])
def test_the_probe_sees_what_is_weak(net, options, request):
    seen = scan(net, request.getfixturevalue("weak_starttls" if options else "weak"), options)
    assert {"TLSv1.0", "TLSv1.1"} <= seen.protocols
    ciphers = {cipher for _, cipher, _ in seen.suites}
    assert {"AES128-SHA", "ADH-AES256-SHA"} <= ciphers
    assert not any(AUTHENTICATED.match(cipher) for cipher in ciphers)


@pytest.mark.parametrize("port", PORTS)
def test_rfc6109_5_3_todays_tls_on_every_port(net, port):
    seen = scan(net, *PORTS[port])
    assert seen.protocols == {"TLSv1.2", "TLSv1.3"} and not seen.compression
    for version, cipher, bits in seen.suites:
        assert bits >= 128 and "ADH" not in cipher and "AECDH" not in cipher, cipher
        if version == "TLSv1.2":
            assert FORWARD_SECRET.match(cipher) and not cipher.endswith("-SHA"), cipher
            assert port == "SMTP" or AUTHENTICATED.match(cipher), cipher
