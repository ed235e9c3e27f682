"""What a person is shown is what a provider signed: a true envelope, sent again with a header or a frame that programs read in
different ways, never shows a stranger's words as certified. Python's email package and Dovecot's IMAP are the judges."""

import email
import email.policy
import smtplib
import time

import pytest
from network import ALDO, BRUNO

pytestmark = pytest.mark.both

SIGNED = 'multipart/signed; protocol="application/x-pkcs7-signature"; micalg=sha-256'
# The header's media type and what stands before the first part; {real} is the boundary that the provider chose.
EVIL = {
    "a comment and two boundaries": (SIGNED + '; boundary (c)="EVIL"; boundary="{real}"', True),
    "two boundaries": (SIGNED + '; boundary="EVIL"; boundary="{real}"', True),
    "two boundaries the other way round": (SIGNED + '; boundary="{real}"; boundary="EVIL"', True),
    "an empty quote": (SIGNED + '; boundary=""EVIL; boundary="{real}"', True),
    "RFC 2231": (SIGNED + "; boundary*=us-ascii''EVIL; boundary=\"{real}\"", True),
    "a quote that never closes": (SIGNED + '; boundary="{real}', True),
    "another part before the first": (SIGNED + '; boundary="{real}"', True),
    "a carriage return in the subject": (None, True),
}


@pytest.fixture(scope="module")
def envelope(net):
    """A true envelope, as Beta's Postfix got it, and its boundary."""
    msgid, _ = net.submit(ALDO, [BRUNO])
    found = net.expect(BRUNO, "posta-certificata", msgid)
    net.expect(ALDO, "avvenuta-consegna", msgid, BRUNO)
    net.drain("alfa", "beta")
    head, body = found.raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n").split(b"\r\n\r\n", 1)
    boundary = email.message_from_bytes(found.raw, policy=email.policy.default).get_boundary()
    fields, keep = [], True
    for line in head.split(b"\r\n"):
        if not line.startswith((b" ", b"\t")):
            keep = not line.lower().startswith((b"return-path:", b"delivered-to:", b"received:", b"content-type:"))
        if keep:
            fields.append(line)
    return fields, boundary, body


@pytest.mark.parametrize("name", EVIL)
def test_no_reader_sees_a_strangers_words_as_certified(net, envelope, name):
    fields, boundary, body = envelope
    media, before = EVIL[name]
    marker = f"EVIL-{abs(hash(name))}"
    evil = f"--EVIL\r\nContent-Type: text/plain\r\n\r\n{marker}\r\n--EVIL--\r\n".encode() if before else b""
    if media is None:
        media = SIGNED + f'; boundary="{boundary}"'
        fields = [line + b" \rContent-Type: multipart/mixed; boundary=EVIL" if line.lower().startswith(b"subject:") else line for line in fields]
    content_type = b"Content-Type: " + media.format(real=boundary).encode()
    raw = b"\r\n".join([*fields, content_type, b"", evil + body])
    before = {m.raw for m in net.deployment.messages(BRUNO)}
    with smtplib.SMTP(*net.deployment.address("BETA", "SMTP"), timeout=60) as client:
        client.sendmail(ALDO, [BRUNO], raw)
    deadline = time.monotonic() + 60
    while not (new := [m.raw for m in net.deployment.messages(BRUNO) if m.raw not in before]):
        assert time.monotonic() < deadline, "it is delivered, as an anomaly; as an envelope it would be one that came before"
        time.sleep(0.2)
    [delivered] = new
    message = email.message_from_bytes(delivered, policy=email.policy.default)
    assert message["X-Trasporto"] == "errore" and message["Subject"].startswith("ANOMALIA MESSAGGIO:")
    # The first that Python shows is what Beta signed; the stranger's words are in the attached message alone.
    first = next(part for part in message.walk() if part.get_content_type() == "text/plain")
    assert "Anomalia nel messaggio" in first.get_content() and marker not in first.get_content()
    with net.deployment.imap(BRUNO) as client:
        client.select("INBOX", readonly=True)
        _, [numbers] = client.search(None, "ALL")
        for number in reversed(numbers.split()):
            _, [(_, whole), *_] = client.fetch(number, "(BODY.PEEK[])")
            if whole.replace(b"\r\n", b"\n") == delivered.replace(b"\r\n", b"\n"):
                break
        # What an IMAP server cannot quote it gives out as a literal.
        _, pieces = client.fetch(number, "(BODYSTRUCTURE)")
        structure = b" ".join(piece if isinstance(piece, bytes) else b" ".join(piece) for piece in pieces)
        _, [(_, text), *_] = client.fetch(number, "(BODY.PEEK[1.1.1])")
    assert b'"signed"' in structure.lower() and b"rfc822" in structure.lower()
    assert b"Anomalia nel messaggio" in text and marker.encode() not in text
