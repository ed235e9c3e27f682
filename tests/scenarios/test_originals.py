"""Originals that are hard to carry: postacert.eml is what the client submitted, byte for byte, in envelope and receipt."""

import email
import email.policy
import re
import smtplib

import pytest
import verifiers
from network import ANNA, BRUNO, CARLA, run


def multipart(parts):
    """A MIME message of so many small parts."""
    body = "".join(f"--b\r\nContent-Type: text/plain\r\n\r\nparte {n}\r\n" for n in range(parts))
    return "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n", f"{body}--b--\r\n".encode()


# name: (header lines beyond From, To, Subject and Message-ID; body)
ORIGINALS = {
    "latin-1 bytes without a MIME header": ("", "Perché così è la vita, più o meno.\r\n".encode("latin-1")),
    "UTF-8 labelled 8bit": (
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n",
        "Città, perché: €\r\n".encode(),
    ),
    "every byte but NUL, CR and LF": ("", bytes(b for b in range(1, 256) if b not in b"\r\n") + b"\r\n"),
    "lines of 998 bytes": ("", (b"x" * 998 + b"\r\n") * 3),
    "trailing blanks and empty lines": ("", b"a  \r\n \r\n\t\r\nb\t \r\n\r\n\r\n \r\n\r\n"),
    "a header with and without a blank after the colon": ("X:a\r\nX: a\r\nX:  a\r\nX:\ta\r\nX:\r\nX: \r\n", b"Ciao\r\n"),
    "oddly folded headers": (
        "X-A:\r\n a\r\nX-B: b\r\n\t \tb  \r\n  b\r\nX-C: c\r\n \r\n c\r\nx-LOWER-Case: d\r\nContent-type: text/plain;\r\n\tcharset=us-ascii\r\n",
        b"Ciao\r\n",
    ),
    "dots at the start of lines": ("", b".\r\n..\r\n.a\r\n...\r\n . \r\n"),
    "an empty body": ("", b""),
    "a body of one empty line": ("", b"\r\n"),
    "a long header": ("X-Long: " + "x" * 990 + "\r\n" + "X-Folded:" + " parola" * 140 + "\r\n" + "\tparola" * 100 + "\r\n", b"Ciao\r\n"),
    "the same header many times": ("Received: from a.test by b.test; Mon, 1 Jan 2024 00:00:00 +0100\r\n" * 20, b"Ciao\r\n"),
    "2,000 MIME parts": multipart(2000),
    "a boundary like ours": (
        "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n",
        b"preamble\r\n--b\r\n\r\n--b--\r\nepilogue --b\r\n--b\r\n--b--",
    ),
    "text after From": ("", b"From here on\r\n>From there\r\nFrom: nobody\r\n"),
}


def carried(original, identificativo, msgid):
    """What the client submitted, from the bytes of postacert.eml: without what the rules have the provider change."""
    body = re.sub(rb"\AReceived:.*?\r\n(?![ \t])", b"", original, count=1, flags=re.DOTALL)
    reference = f"X-Riferimento-Message-ID: {msgid}\r\n".encode()
    assert body.count(reference) == 1
    return body.replace(reference, b"", 1).replace(f"<{identificativo}>".encode(), msgid.encode(), 1)


def check(net, raw, msgid):
    """The envelope and the delivery receipt, both with the original as it was."""
    envelope = net.expect(BRUNO, "posta-certificata", msgid)
    receipt = net.expect(ANNA, "avvenuta-consegna", msgid)
    expected = raw if raw.endswith(b"\r\n") else raw + b"\r\n"
    for message in (envelope, receipt):
        assert carried(message.original, envelope.value("identificativo"), msgid) == expected
        verifiers.verify(message.raw, net.deployment.home / "ca/ca.pem")
        assert all(len(line) <= 998 for line in message.raw.splitlines())
    return envelope


@pytest.mark.both
@pytest.mark.parametrize("name", ORIGINALS)
def test_is_carried_byte_for_byte(net, name):
    extra, body = ORIGINALS[name]
    head, msgid = net.letter(ANNA, [BRUNO], text="", extra=extra)
    raw = head + body
    net.deployment.submit(ANNA, [BRUNO], raw)
    envelope = check(net, raw, msgid)
    part = next(p for p in envelope.header.get_payload(0).get_payload() if p.get_content_type() == "message/rfc822")
    assert part["Content-Transfer-Encoding"] == ("7bit" if raw.isascii() else "8bit")


def test_a_forwarded_certified_message(net):
    """PEC inside PEC: the inner message neither breaks the outer one nor passes for it."""
    inner_msgid, _ = net.submit(ANNA, [BRUNO])
    inner = net.expect(BRUNO, "posta-certificata", inner_msgid).raw
    extra = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=fwd\r\n"
    head, msgid = net.letter(ANNA, [BRUNO], text="", extra=extra)
    raw = head + b"--fwd\r\n\r\nVedi sotto\r\n--fwd\r\nContent-Type: message/rfc822\r\n\r\n" + inner + b"\r\n--fwd--\r\n"
    net.deployment.submit(ANNA, [BRUNO], raw)
    envelope = check(net, raw, msgid)
    assert envelope.value("msgid") == msgid and envelope.value("identificativo") != inner_msgid.strip("<>")
    assert inner in envelope.original


def test_a_message_that_the_user_signed(net, tmp_path):
    """The user's own S/MIME signature verifies after extraction from postacert.eml."""
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key", "-out", tmp_path / "cert", "-subj", "/CN=Anna")
    (tmp_path / "text").write_bytes(b"Content-Type: text/plain\r\n\r\nCon la mia firma.  \r\n")
    signed = tmp_path / "signed"
    run("openssl", "cms", "-sign", "-in", tmp_path / "text", "-signer", tmp_path / "cert", "-inkey", tmp_path / "key", "-crlfeol", "-out", signed)
    head, msgid = net.letter(ANNA, [BRUNO], text="")
    raw = head[:-2] + re.sub(rb"\r?\n", b"\r\n", signed.read_bytes())
    net.deployment.submit(ANNA, [BRUNO], raw)
    (tmp_path / "postacert.eml").write_bytes(check(net, raw, msgid).original)
    run("openssl", "cms", "-verify", "-in", tmp_path / "postacert.eml", "-CAfile", tmp_path / "cert", "-purpose", "any", "-out", tmp_path / "out")
    assert b"Con la mia firma." in (tmp_path / "out").read_bytes()


def test_rfc6109_2_2_1_a_message_without_message_id_gets_none_invented(net):
    subject = f"Senza {net.letter(ANNA, [BRUNO])[1]}"
    raw = f"From: {ANNA}\r\nTo: {BRUNO}\r\nSubject: {subject}\r\n\r\nCiao\r\n".encode()
    net.deployment.submit(ANNA, [BRUNO], raw)
    for address, kind in ((BRUNO, "posta-certificata"), (ANNA, "accettazione"), (ANNA, "avvenuta-consegna")):
        message = net.deployment.wait_for(address, lambda m: m.kind == kind and m.value("oggetto") == subject)
        assert message.value("msgid") is None
        assert message.header["X-Riferimento-Message-ID"] is None
        if message.original:
            inner = email.message_from_bytes(message.original, policy=email.policy.SMTP)
            assert inner["X-Riferimento-Message-ID"] is None


def test_rfc6109_3_3_2_2_eight_bits_reach_an_ordinary_server_untouched(net):
    head, msgid = net.letter(ANNA, [CARLA], text="")
    raw = head + "Perché\r\n".encode("latin-1")
    net.deployment.submit(ANNA, [CARLA], raw)
    envelope = net.expect(CARLA, "posta-certificata", msgid)
    assert carried(envelope.original, envelope.value("identificativo"), msgid) == raw
    verifiers.verify(envelope.raw, net.deployment.home / "ca/ca.pem")


@pytest.mark.both
@pytest.mark.parametrize("length", [999, 2047, 2049, 5000, 100_000])
def test_rfc5321_4_5_3_1_6_a_longer_line_is_refused(net, length):
    head, msgid = net.letter(ANNA, [BRUNO], text="")
    net.deployment.submit(ANNA, [BRUNO], head + b"x" * length + b"\r\n")
    assert f"riga di {length} caratteri" in net.expect(ANNA, "non-accettazione", msgid).value("errore-esteso")
    assert [row["event"] for row in net.story("alfa", msgid)] == ["non-accettazione"]


# name: (lines before the header, header lines, body)
STRAY = {
    "a bare CR": ("", "", b"a\rb\r\n"),
    "CR CR LF": ("", "", b"a\r\r\nb\r\n"),
    "a bare CR in a field": ("", "X-A: a\rb\r\n", b"Ciao\r\n"),
    "CR CR LF in a folded field": ("", "X-A: a\r\r\n b\r\n", b"Ciao\r\n"),
    "CR CR LF at the end of a field": ("", "X-A: a\r\r\n", b"Ciao\r\n"),
    "a line of an mbox file": (f"From {ANNA} Thu Nov 19 10:00:00 2026\r\n", "", b"Ciao\r\n"),
}


@pytest.mark.parametrize("name", STRAY)
def test_what_cannot_be_carried_untouched_is_not_accepted(net, name):
    before, extra, body = STRAY[name]
    head, msgid = net.letter(ANNA, [BRUNO], text="", extra=extra)
    net.deployment.submit(ANNA, [BRUNO], before.encode() + head + body)
    reason = net.expect(ANNA, "non-accettazione", msgid).value("errore-esteso")
    assert ("prima riga (From ...)" if before else "caratteri NUL o CR isolati") in reason and ";" not in reason, reason
    assert [row["event"] for row in net.story("alfa", msgid)] == ["non-accettazione"]


@pytest.mark.both
@pytest.mark.parametrize(("extra", "body"), [("", b"a\nb\r\n"), ("", b"a\0b\r\n"), ("X-A: a\0b\r\n", b"Ciao\r\n"), ("X-A\0: b\r\n", b"Ciao\r\n")])
def test_what_postfix_would_change_before_a_milter_sees_it_is_refused(net, extra, body):
    """A bare LF might begin a smuggled message; a NUL would cut a header field."""
    head, msgid = net.letter(ANNA, [BRUNO], text="", extra=extra)
    with pytest.raises(smtplib.SMTPResponseException) as refused:
        net.deployment.submit(ANNA, [BRUNO], head + body)
    assert 500 <= refused.value.smtp_code < 600, refused.value
    assert net.story("alfa", msgid) == []


@pytest.mark.both
def test_submission_does_not_announce_8bitmime(net):
    for service in ("SUBMISSION", "SUBMISSIONS"):
        host, port = net.deployment.address("ALFA", service)
        client = smtplib.SMTP_SSL(host, port, context=net.deployment.tls) if service == "SUBMISSIONS" else smtplib.SMTP(host, port)
        with client:
            if service == "SUBMISSION":
                client.starttls(context=net.deployment.tls)
            client.ehlo()
            assert not client.has_extn("8bitmime") and not client.has_extn("chunking") and not client.has_extn("smtputf8")


@pytest.mark.both
def test_pop3_gives_out_the_same_bytes(net):
    import poplib

    msgid, _ = net.submit(ANNA, [BRUNO])
    envelope = net.expect(BRUNO, "posta-certificata", msgid)
    host, port = net.deployment.address("BETA", "POP3S")
    client = poplib.POP3_SSL(host, port, context=net.deployment.tls)
    client.user(BRUNO)
    client.pass_(net.deployment.passwords[BRUNO])
    count = client.stat()[0]
    bodies = [b"\r\n".join(client.retr(n)[1]) + b"\r\n" for n in range(count, max(0, count - 5), -1)]
    client.quit()
    assert envelope.raw in bodies
