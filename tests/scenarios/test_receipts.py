"""Which delivery receipt a sender gets back: complete, brief, concise (RFC 6109 s. 3.3.2)."""

import base64
import email
import email.policy
import hashlib
import os
import re

import pytest
import verifiers
from network import ALDO, ANNA, BRUNO, PROTOCOLLO, run

PDF = base64.encodebytes(os.urandom(3000)).replace(b"\n", b"\r\n").removesuffix(b"\r\n")
FORWARDED = b"From: x@y.test\r\nSubject: Inoltrato\r\nContent-Type: multipart/mixed; boundary=f\r\n\r\n--f\r\n\r\nDentro\r\n--f--"
PICTURE = base64.encodebytes(os.urandom(200)).replace(b"\n", b"\r\n").removesuffix(b"\r\n")

# (header of the part, its body as it travels, the name of the hash or None where the part stays)
PARTS = [
    (b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit", "Perché sì,  \r\n".encode(), None),
    (b'Content-Type: application/pdf; name="offerta.pdf"\r\nContent-Transfer-Encoding: base64', PDF, "offerta.pdf.hash"),
    (b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\nContent-ID: <1@x>", PICTURE, None),
    (b"Content-Disposition: attachment;\r\n filename*0*=utf-8''citt%C3%A0;\r\n filename*1*=%20vecchia.txt", b"Attenti\r\n\r\n", "città vecchia.txt.hash"),
    (b"Content-Type: message/rfc822", FORWARDED, "message.eml.hash"),
]


def mixed(parts=PARTS):
    body = b"".join(b"--b=_1\r\n" + header + b"\r\n\r\n" + content + b"\r\n" for header, content, _ in parts)
    return b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b=_1"\r\n\r\n' + body + b"--b=_1--\r\n"


def submit(net, entity, to=(BRUNO,), cc=(), wish=None):
    """Submits a letter of Anna's that consists of this MIME entity; its Message-ID."""
    extra = (f"Cc: {', '.join(cc)}\r\n" if cc else "") + (f"X-TipoRicevuta: {wish}\r\n" if wish else "")
    head, msgid = net.letter(ANNA, to, text="", extra=extra)
    recipients = {address.lower(): address for address in (*cc, *to)}
    net.deployment.submit(ANNA, list(recipients.values()), head[:-2] + entity)
    return msgid


def receipt(net, msgid, address, asked):
    """The delivery receipt for this recipient, good for every verifier; title and daticert.xml say what the sender asked."""
    found = net.expect(ANNA, "avvenuta-consegna", msgid, address)
    verifiers.verify(found.raw, net.deployment.home / "ca/ca.pem")
    assert found.daticert.find(".//ricevuta").get("tipo") == asked
    title = {"completa": "Ricevuta di", "breve": "Ricevuta breve di", "sintetica": "Ricevuta sintetica di"}[asked] + " avvenuta consegna"
    plain = found.header.get_payload(0).get_payload(0).get_payload(0).get_content()
    assert plain.splitlines()[0] == title
    return found


def original(net, msgid, address):
    return net.expect(address, "posta-certificata", msgid).original


def sha1(content, tmp_path):
    """By Python's hashlib and by openssl."""
    (tmp_path / "part").write_bytes(content)
    by_openssl = run("openssl", "dgst", "-sha1", "-r", tmp_path / "part").stdout.split()[0]
    assert by_openssl == hashlib.sha1(content).hexdigest()
    return by_openssl


def test_rfc6109_3_3_2_2_brief(net, tmp_path):
    msgid = submit(net, mixed(), wish="breve")
    brief, whole = receipt(net, msgid, BRUNO, "breve").original, original(net, msgid, BRUNO)
    before, after = (message.split(b"--b=_1") for message in (whole, brief))
    assert len(before) == len(after) == len(PARTS) + 2
    assert (before[0], before[-1]) == (after[0], after[-1]), "header, preamble, epilogue"
    read = email.message_from_bytes(brief, policy=email.policy.SMTP).get_payload()
    for (_, content, name), was, is_, part in zip(PARTS, before[1:], after[1:], read, strict=False):
        if name is None:
            assert was == is_
        else:
            assert content not in is_
            assert (part.get_content_type(), part.get_filename(), list(part.defects)) == ("text/plain", name, [])
            assert part.get_payload() == sha1(content, tmp_path)


def test_rfc6109_3_3_2_2_brief_of_a_signed_original(net, tmp_path):
    """The signature stays, the attachments under it are hashes: what remains no longer verifies, as the rule says."""
    sign(tmp_path, mixed(), "-crlfeol")
    msgid = submit(net, (tmp_path / "signed").read_bytes(), wish="breve")
    brief, whole = receipt(net, msgid, BRUNO, "breve").original, original(net, msgid, BRUNO)
    assert openssl_verifies(tmp_path, whole)
    assert not openssl_verifies(tmp_path, brief)
    content, signature = email.message_from_bytes(brief).get_payload()
    assert signature.as_bytes() == email.message_from_bytes(whole).get_payload(1).as_bytes()
    names = [part.get_filename() for part in content.get_payload()]
    assert names == [name for _, _, name in PARTS]
    assert content.get_payload(1).get_payload() == sha1(PDF, tmp_path)


def test_rfc6109_3_3_2_2_brief_of_what_cms_holds(net, tmp_path):
    sign(tmp_path, mixed(), "-nodetach", "-binary")
    msgid = submit(net, (tmp_path / "signed").read_bytes(), wish="breve")
    brief = receipt(net, msgid, BRUNO, "breve").original
    assert email.message_from_bytes(brief).get_content_type() in ("application/pkcs7-mime", "application/x-pkcs7-mime")
    assert brief == original(net, msgid, BRUNO)
    assert openssl_verifies(tmp_path, brief)


def sign(directory, entity, *options):
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", directory / "key", "-out", directory / "cert", "-subj", "/CN=Anna")
    (directory / "entity").write_bytes(entity)
    signer = ("-signer", directory / "cert", "-inkey", directory / "key")
    run("openssl", "cms", "-sign", "-in", directory / "entity", *signer, *options, "-out", directory / "signed")
    (directory / "signed").write_bytes(re.sub(rb"\r?\n", b"\r\n", (directory / "signed").read_bytes()))


def openssl_verifies(directory, message):
    (directory / "message").write_bytes(message)
    options = ("-CAfile", directory / "cert", "-purpose", "any", "-out", os.devnull)
    return run("openssl", "cms", "-verify", "-in", directory / "message", *options, check=False).returncode == 0


def test_rfc6109_3_3_2_2_brief_of_a_message_that_is_an_attachment(net, tmp_path):
    header = b'MIME-Version: 1.0\r\nContent-Type: application/pdf; name="a.pdf"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    msgid = submit(net, header + PDF + b"\r\n", wish="breve")
    brief = email.message_from_bytes(receipt(net, msgid, BRUNO, "breve").original, policy=email.policy.SMTP)
    whole = email.message_from_bytes(original(net, msgid, BRUNO), policy=email.policy.SMTP)
    assert (brief.get_content_type(), brief.get_filename(), brief.get_payload()) == ("text/plain", "a.pdf.hash", sha1(PDF + b"\r\n", tmp_path))
    of_the_message = [[field for field in message.items() if not field[0].startswith("Content-")] for message in (brief, whole)]
    assert of_the_message[0] == of_the_message[1]


def test_rfc6109_3_1_1_what_cannot_be_taken_apart_is_not_accepted(net):
    msgid = submit(net, mixed().replace(b"--b=_1--\r\n", b""), wish="breve")
    assert "struttura MIME non valida" in net.expect(ANNA, "non-accettazione", msgid).value("errore-esteso")


@pytest.mark.parametrize("wish", [None, "completa", "Completa", "banana"])
def test_rfc6109_3_3_2_1_complete_is_the_default(net, wish):
    msgid = submit(net, mixed(), wish=wish)
    assert receipt(net, msgid, BRUNO, "completa").original == original(net, msgid, BRUNO) is not None


def test_rfc6109_3_3_2_3_concise(net):
    msgid = submit(net, mixed(), to=[BRUNO], cc=[PROTOCOLLO], wish="sintetica")
    for address in (BRUNO, PROTOCOLLO):
        assert receipt(net, msgid, address, "sintetica").original is None


@pytest.mark.parametrize("wish", ["completa", "breve"])
@pytest.mark.parametrize("copy", [PROTOCOLLO, ALDO])
def test_rfc6109_3_3_2_1_who_is_in_cc_gets_a_concise_receipt(net, wish, copy):
    msgid = submit(net, mixed(), to=[BRUNO], cc=[copy], wish=wish)
    assert receipt(net, msgid, BRUNO, wish).original is not None
    assert receipt(net, msgid, copy, wish).original is None


def test_rfc6109_3_3_2_1_who_is_in_to_and_cc_counts_as_in_to(net):
    msgid = submit(net, mixed(), to=[BRUNO, PROTOCOLLO], cc=[PROTOCOLLO.upper()], wish="completa")
    for address in (BRUNO, PROTOCOLLO):
        assert receipt(net, msgid, address, "completa").original == original(net, msgid, address) is not None
