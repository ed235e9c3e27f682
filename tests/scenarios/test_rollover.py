"""Another certificate for Alfa while its users write: nobody is refused, and every signature is good for all five verifiers."""

import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import verifiers
from network import ALDO, ANNA, BRUNO, SERVICE

# Who write at the same time.
WRITERS = 4
MILTERS = ("access", "incoming", "delivery", "clock")
PROFILE = """keyUsage=critical,digitalSignature
extendedKeyUsage=emailProtection
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid:always
subjectAltName=email:posta-certificata@gestore.alfa.test
"""


def openssl(*arguments, **options):
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, **options).stdout


@pytest.fixture
def second(net, tmp_path):
    """Key and certificate beside Alfa's first; back to those at the end. The certificate's hash."""
    home = net.deployment.home
    key, certificate, request, extensions = (home / f"alfa/{name}" for name in ("key-2.pem", "cert-2.pem", "request", "extensions"))
    extensions.write_text(PROFILE)
    openssl("req", "-new", "-newkey", "rsa:3072", "-nodes", "-keyout", key, "-out", request, "-subj", "/C=IT/O=Alfa PEC S.p.A./CN=Posta Certificata")
    ca = ("-CA", home / "ca/issuing.pem", "-CAkey", home / "ca/issuing.key", "-set_serial", "0x2a2a", "-days", "30", "-sha256")
    openssl("x509", "-req", "-in", request, *ca, "-extfile", extensions, "-out", certificate)
    certificate.write_bytes(certificate.read_bytes() + (home / "ca/issuing.pem").read_bytes())
    owner = (home / "alfa/key.pem").stat()
    os.chown(key, owner.st_uid, owner.st_gid)
    key.chmod(0o600)
    directories = [home / host / "igpec.ldif" for host in ("alfa", "beta")]
    for directory in directories:
        shutil.copy(directory, tmp_path / directory.parent.name)
    yield openssl("x509", "-in", certificate, "-noout", "-fingerprint", "-sha1").decode().split("=")[1].replace(":", "").strip()
    net.postconf("alfa", "pec_certificate_file=/etc/pec/cert.pem", "pec_signing_key=/etc/pec/key.pem")
    for directory in directories:
        shutil.copy(tmp_path / directory.parent.name, directory)
    take_up(net, "alfa", "beta")
    for file in (key, certificate, request, extensions):
        file.unlink()


def take_up(net, *hosts):
    for host in hosts:
        since = net.now()
        net.hangup(host, *MILTERS)
        for milter in MILTERS:
            net.wait_for_log(host, milter, "NOQUEUE: reloaded", since)


class Writer(threading.Thread):
    """Anna writes one letter after the other until she is told to stop; what goes wrong ends it."""

    def __init__(self, net):
        super().__init__(daemon=True)
        self.net, self.enough, self.msgids, self.error = net, threading.Event(), [], None

    def run(self):
        try:
            while not self.enough.is_set():
                self.msgids.append(self.net.submit(ANNA, [BRUNO, ALDO])[0])
        except Exception as error:
            self.error = error


def signer(raw):
    """SHA-1 of the certificate that signed, by openssl."""
    printed = subprocess.run(["openssl", "cms", "-verify", "-noverify", "-signer", "/dev/stdout", "-out", os.devnull], input=raw, capture_output=True, check=True)
    return openssl("x509", "-noout", "-fingerprint", "-sha1", input=printed.stdout).decode().split("=")[1].replace(":", "").strip()


@pytest.mark.slow
def test_rfc6109_2_2_4_a_certificate_is_replaced_while_mail_flows(net, second):
    writers = [Writer(net) for _ in range(WRITERS)]
    for writer in writers:
        writer.start()
    for host in ("alfa", "beta"):
        directory = net.deployment.home / host / "igpec.ldif"
        text = directory.read_text()
        directory.write_text(text.replace("mailReceipt: ricevute@gestore.alfa.test", f"providerCertificateHash: {second}\nmailReceipt: ricevute@gestore.alfa.test", 1))
    take_up(net, "alfa", "beta")
    net.postconf("alfa", "pec_certificate_file=/etc/pec/cert-2.pem", "pec_signing_key=/etc/pec/key-2.pem")
    take_up(net, "alfa")
    for writer in writers:
        last = len(writer.msgids) + 2
        while writer.is_alive() and len(writer.msgids) < last:
            writer.join(0.1)
    for writer in writers:
        writer.enough.set()
    for writer in writers:
        writer.join()
        assert writer.error is None, writer.error

    net.drain("alfa", "beta")
    expected = {(BRUNO, "posta-certificata"): 1, (ALDO, "posta-certificata"): 1, (ANNA, "accettazione"): 1, (ANNA, "avvenuta-consegna"): 2, (SERVICE["alfa"], "presa-in-carico"): 2}
    found = []
    for msgid in sum((writer.msgids for writer in writers), []):
        about = net.all_about(msgid, [ANNA, ALDO, BRUNO, SERVICE["alfa"]])
        kinds = [(address, message.kind) for address, message in about]
        assert {kind: kinds.count(kind) for kind in expected} == expected and len(kinds) == sum(expected.values()), kinds
        found += [message for _, message in about]
    assert len(verifiers.ALL) == 5
    with ThreadPoolExecutor(2) as pool:
        for verifier in verifiers.ALL:
            list(pool.map(lambda message: verifiers.judge(verifier, message.raw, net.deployment.home / "ca/ca.pem"), found))
    envelopes = [signer(message.raw) for message in found if message.kind == "posta-certificata"]
    assert second in envelopes and len(set(envelopes)) == 2, envelopes
