"""Five S/MIME verifiers that are not ours: OpenSSL's two (cms, smime), NSS (Thunderbird's), gpgsm (GnuPG's), GnuTLS; and xmllint
for daticert.xml."""

import atexit
import email
import os
import re
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Rejected(Exception):
    pass


def call(*command, **options):
    """Exit status and output; into a file, and not more than a large message's, since some of these programs write without end
    when they are unhappy."""
    with tempfile.TemporaryFile() as output:
        try:
            limited = ["prlimit", "--fsize=500000000", *map(str, command)]
            done = subprocess.run(limited, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, timeout=120, **options)
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


@cache
def home(verifier, ca, _thread):
    """A verifier's own files, made once for each CA and thread: `verifier.prepare` has it trust the CA."""
    directory = tempfile.mkdtemp(prefix="verifier-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    verifier.prepare(Path(ca), Path(directory))
    return Path(directory)


class OpenSsl:
    """Of its two engines, which share nothing but the arithmetic, one."""

    def __init__(self, command):
        self.command = command

    def prepare(self, ca, home):
        shutil.copy(ca, home / "ca.pem")

    def judge(self, message, home):
        options = ("-CAfile", home / "ca.pem", "-no-CApath", "-no-CAstore", "-purpose", "smimesign", "-out", os.devnull)
        code, output = call("openssl", self.command, "-verify", "-in", message / "message.eml", *options)
        if code:
            raise Rejected(f"openssl {self.command}: {output}")


class Nss:
    """Thunderbird's."""

    def prepare(self, ca, home):
        code, output = call("certutil", "-N", "-d", f"sql:{home}", "--empty-password")
        if code:
            raise RuntimeError(f"certutil -N: {code} {output[:500]}")
        call("certutil", "-A", "-d", f"sql:{home}", "-n", "ca", "-t", ",C,", "-i", ca)

    def judge(self, message, home):
        header = message / "header"
        code, output = call("cmsutil", "-D", "-d", f"sql:{home}", "-u", "4", "-n", "-h", "1", "-c", message / "content", "-i", message / "signature", "-o", header)
        told = header.read_text(errors="replace") if header.exists() else ""
        # cmsutil's exit status says nothing; this line does.
        if "signer0.status=GoodSignature" not in told:
            raise Rejected(f"NSS: {code} {told} {output}")


class Gpgsm:
    """GnuPG's."""

    def prepare(self, ca, home):
        fingerprint = call("openssl", "x509", "-in", ca, "-noout", "-fingerprint", "-sha1")[1].strip().split("=")[1]
        home.chmod(0o700)
        (home / "trustlist.txt").write_text(f"{fingerprint} S relax\n")
        (home / "gpgsm.conf").write_text("disable-crl-checks\n")
        call("gpgsm", "--batch", "--quiet", "--import", ca, env={**os.environ, "GNUPGHOME": str(home)})
        atexit.register(call, "gpgconf", "--homedir", home, "--kill", "all")

    def judge(self, message, home):
        environment = {**os.environ, "GNUPGHOME": str(home)}
        code, output = call("gpgsm", "--batch", "--status-fd", "1", "--verify", message / "signature", message / "content", env=environment)
        if code or "GOODSIG" not in output or "TRUST_FULLY" not in output:
            raise Rejected(f"gpgsm: {output}")


class GnuTls:
    def prepare(self, ca, home):
        shutil.copy(ca, home / "ca.pem")

    def judge(self, message, home):
        files = ("--infile", message / "signature", "--load-data", message / "content", "--load-ca-certificate", home / "ca.pem")
        code, output = call("certtool", "--p7-verify", "--inder", *files)
        if code or "Signature status: ok" not in output:
            raise Rejected(f"GnuTLS: {output}")


ALL = (OpenSsl("cms"), OpenSsl("smime"), Nss(), Gpgsm(), GnuTls())


def judge(verifier, raw, ca):
    """Raises Rejected if the verifier does not find the signature good."""
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        (directory / "message.eml").write_bytes(raw)
        split(raw, directory)
        verifier.judge(directory, home(verifier, str(ca), threading.get_ident()))


def verify(raw, ca, verifiers=ALL):
    """Every verifier finds the signature good, and finds it bad when one letter of the content is another."""
    for verifier in verifiers:
        judge(verifier, raw, ca)
        try:
            judge(verifier, raw.replace(b"Content-Disposition", b"Content-Dispositiom", 1), ca)
        except Rejected:
            continue
        raise AssertionError(f"{type(verifier).__name__} accepts a changed message: it proves nothing")


def valid_daticert(xml):
    with tempfile.NamedTemporaryFile(suffix=".xml") as file:
        file.write(xml)
        file.flush()
        code, output = call("xmllint", "--noout", "--dtdvalid", HERE.parent / "verify" / "daticert.dtd", file.name)
        assert code == 0, output
