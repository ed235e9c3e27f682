"""S/MIME verifiers that are not ours: OpenSSL, NSS (Thunderbird's), gpgsm (GnuPG's), GnuTLS; and xmllint for daticert.xml."""

import email
import os
import re
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Rejected(Exception):
    pass


def call(*command, **options):
    """Exit status and output; into a file, since some of these programs write without end when they are unhappy."""
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, timeout=20, **options)
            code = done.returncode
        except subprocess.TimeoutExpired:
            code = -1
        output.seek(0)
        return code, output.read(10_000).decode(errors="replace")


def split(raw, directory):
    """Content as it was signed (CRLF) and signature (DER) of a multipart/signed message, cut by its boundary alone."""
    raw = re.sub(rb"\r?\n", b"\r\n", raw)
    head, _, body = raw.partition(b"\r\n\r\n")
    boundary = email.message_from_bytes(head + b"\r\n\r\n").get_boundary().encode()
    parts = re.split(rb"(?:^|\r\n)--" + re.escape(boundary) + rb"(?:--)?[ \t]*(?=\r\n|$)", body)[1:3]
    content, signature = (part.removeprefix(b"\r\n") for part in parts)
    (directory / "content").write_bytes(content)
    (directory / "signature").write_bytes(email.message_from_bytes(signature).get_payload(decode=True))


def openssl(raw, ca, directory):
    message = directory / "message.eml"
    message.write_bytes(raw)
    for command in ("cms", "smime"):
        code, output = call("openssl", command, "-verify", "-in", message, "-CAfile", ca, "-no-CApath", "-no-CAstore", "-purpose", "smimesign", "-out", os.devnull)
        if code:
            raise Rejected(f"openssl {command}: {output}")


def nss(_, ca, directory):
    database = f"sql:{directory}"
    code, output = call("certutil", "-N", "-d", database, "--empty-password")
    if code:
        raise RuntimeError(f"certutil -N: {code} {output[:500]}")
    call("certutil", "-A", "-d", database, "-n", "ca", "-t", ",C,", "-i", ca)
    header = directory / "header"
    code, output = call("cmsutil", "-D", "-d", database, "-u", "4", "-n", "-h", "1", "-c", directory / "content", "-i", directory / "signature", "-o", header)
    told = header.read_text(errors="replace") if header.exists() else ""
    # cmsutil's exit status says nothing; this line does.
    if "signer0.status=GoodSignature" not in told:
        raise Rejected(f"NSS: {code} {told} {output}")


def gpgsm(_, ca, directory):
    fingerprint = call("openssl", "x509", "-in", ca, "-noout", "-fingerprint", "-sha1")[1].strip().split("=")[1]
    directory.chmod(0o700)
    (directory / "trustlist.txt").write_text(f"{fingerprint} S relax\n")
    (directory / "gpgsm.conf").write_text("disable-crl-checks\n")
    environment = {**os.environ, "GNUPGHOME": str(directory)}
    call("gpgsm", "--batch", "--quiet", "--import", ca, env=environment)
    code, output = call("gpgsm", "--batch", "--status-fd", "1", "--verify", directory / "signature", directory / "content", env=environment)
    call("gpgconf", "--homedir", directory, "--kill", "all")
    if code or "GOODSIG" not in output or "TRUST_FULLY" not in output:
        raise Rejected(f"gpgsm: {output}")


def gnutls(_, ca, directory):
    code, output = call("certtool", "--p7-verify", "--inder", "--infile", directory / "signature", "--load-data", directory / "content", "--load-ca-certificate", ca)
    if code or "Signature status: ok" not in output:
        raise Rejected(f"GnuTLS: {output}")


ALL = (openssl, nss, gpgsm, gnutls)


def judge(verifier, raw, ca):
    """Raises Rejected if the verifier does not find the signature good."""
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        split(raw, directory)
        verifier(raw, ca, directory)


def verify(raw, ca, verifiers=ALL):
    """Every verifier finds the signature good, and finds it bad when one letter of the content is another."""
    for verifier in verifiers:
        judge(verifier, raw, ca)
        try:
            judge(verifier, raw.replace(b"Content-Disposition", b"Content-Dispositiom", 1), ca)
        except Rejected:
            continue
        raise AssertionError(f"{verifier.__name__} accepts a changed message: it proves nothing")


def valid_daticert(xml):
    with tempfile.NamedTemporaryFile(suffix=".xml") as file:
        file.write(xml)
        file.flush()
        code, output = call("xmllint", "--noout", "--dtdvalid", HERE.parent / "verify" / "daticert.dtd", file.name)
        assert code == 0, output
