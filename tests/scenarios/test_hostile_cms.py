"""What strangers send to port 25 to stop a program: it is answered, and so is the next one. A program that ends all the same comes
back by itself."""

import base64
import smtplib
import subprocess
import time

import pytest
from network import ALDO, ANNA, BRUNO, CARLA

pytestmark = pytest.mark.both

ALGORITHMS = 16_000


def parsed(der):
    """Tag, content, and what is behind an element."""
    length, start = der[1], 2
    if length & 0x80:
        start = 2 + (length & 0x7F)
        length = int.from_bytes(der[2:start], "big")
    return der[0], der[start : start + length], der[start + length :]


def children(content):
    while content:
        tag, inside, behind = parsed(content)
        yield tag, inside
        content = behind


def element(tag, content):
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + content


def with_many_digests(cms):
    """A SignedData that names its digest algorithm very often; all else is correct."""
    [(_, kind), (_, explicit)] = children(parsed(cms)[1])
    fields = [list(field) for field in children(parsed(explicit)[1])]
    fields[1][1] = fields[1][1] * ALGORITHMS
    signed = element(0x30, b"".join(element(tag, inside) for tag, inside in fields))
    return element(0x30, element(0x06, kind) + element(0xA0, signed))


@pytest.fixture(scope="module")
def bomb(tmp_path_factory):
    """Signed with a key that anybody can make."""
    home = tmp_path_factory.mktemp("cms")
    key, certificate, content = (home / name for name in ("key.pem", "certificate.pem", "content"))
    content.write_bytes(b"Content-Type: text/plain\r\n\r\nCiao\r\n")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-subj", "/CN=x", "-addext", f"subjectAltName=email:{CARLA}"]
    subprocess.run(make, check=True, capture_output=True)
    sign = ["openssl", "cms", "-sign", "-binary", "-signer", certificate, "-inkey", key, "-in", content, "-outform", "DER"]
    cms = with_many_digests(subprocess.run(sign, check=True, capture_output=True).stdout)
    text = base64.encodebytes(cms).replace(b"\n", b"\r\n")
    head = (
        f"From: {CARLA}\r\nTo: {ANNA}\r\nSubject: POSTA CERTIFICATA: x\r\nX-Trasporto: posta-certificata\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/signed; protocol="application/pkcs7-signature"; micalg=sha-256; boundary="b"\r\n\r\n'
    )
    part = 'Content-Type: application/pkcs7-signature; name="smime.p7s"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    return head.encode() + b"--b\r\n" + content.read_bytes() + b"\r\n--b\r\n" + part.encode() + text + b"\r\n--b--\r\n"


def test_a_signature_with_very_many_digests_is_answered_and_so_is_the_next_message(net, bomb):
    net.drain("alfa", "beta")
    assert len(bomb) > 250_000
    running = net.inside(net.container("alfa", "incoming"))
    for _ in range(5):
        with smtplib.SMTP(*net.deployment.address("ALFA", "SMTP"), timeout=60) as client:
            client.sendmail(CARLA, [ANNA], bomb)
    assert net.inside(net.container("alfa", "incoming")) == running, "it is the same process"
    msgid, _ = net.submit(BRUNO, [ANNA])
    net.expect(BRUNO, "avvenuta-consegna", msgid, ANNA)


@pytest.mark.parametrize("program", ["access", "incoming", "delivery", "clock"])
def test_a_program_that_aborts_comes_back_by_itself(net, program):
    net.drain("alfa", "beta")
    before = net.execute("alfa", program, "pidof", f"pec-{program}").stdout
    net.execute("alfa", program, "sh", "-c", f"kill -ABRT {before}")
    deadline = time.monotonic() + 60
    while net.execute("alfa", program, "pidof", f"pec-{program}", check=False).stdout in ("", before):
        assert time.monotonic() < deadline, net.logs("alfa", program)[-2000:]
        time.sleep(0.1)
    net.wait_until_up("alfa", program)
    for sender, recipient in ((BRUNO, ALDO), (ALDO, BRUNO)):
        msgid, _ = net.submit(sender, [recipient])
        net.expect(sender, "accettazione", msgid)
        net.expect(sender, "avvenuta-consegna", msgid, recipient)
