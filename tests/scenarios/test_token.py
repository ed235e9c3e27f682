"""The key on a token (SoftHSM2), pulled while many write: mail waits, and every message goes out once (RFC 6109 s. 5.1)."""

import smtplib
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from network import ANNA, BRUNO, SERVICE, run

SIGNERS = ("access", "incoming", "delivery")
MESSAGES, SENDERS = 200, 10
# After so many messages the token is pulled; after so many refusals it is put back.
PULLED_AFTER, BACK_AFTER = 60, 20
CONFIGURATION = "directories.tokendir = /etc/pec/softhsm/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
# By an image that has SoftHSM2; the key is the one of the file, so nothing changes for others.
MAKE = f"""set -e
    rm -rf /etc/pec/softhsm; mkdir -p /etc/pec/softhsm/tokens /etc/softhsm; cd /etc/pec/softhsm
    printf '{CONFIGURATION}' > /etc/softhsm/softhsm2.conf
    printf '4711-token-pin\n' > pin
    softhsm2-util --init-token --free --label alfa --so-pin so-pin-4711 --pin 4711-token-pin
    openssl pkcs8 -topk8 -nocrypt -in ../key.pem -out key.p8
    softhsm2-util --import key.p8 --token alfa --label pec --id 01 --pin 4711-token-pin
    rm key.p8; cp -L /usr/lib/softhsm/libsofthsm2.so .; chmod 600 pin; chown -R "$(stat -c %u:%g ../key.pem)" .
"""
PARAMETERS = {
    "pec_signing_key": "pkcs11:token=alfa;object=pec",
    "pec_pkcs11_module": "/etc/pec/softhsm/libsofthsm2.so",
    "pec_pkcs11_pin_file": "/etc/pec/softhsm/pin",
}


def take_up(net):
    since = net.now()
    net.hangup("alfa", *SIGNERS)
    for program in SIGNERS:
        net.wait_for_log("alfa", program, "NOQUEUE: reloaded", since)


@pytest.fixture
def token(net):
    """Alfa signs with a key on a token; where the token lies, and where it is when it is pulled."""
    home = net.deployment.home / "alfa"
    run("docker", "run", "--rm", "--volume", f"{home}:/etc/pec", f"pec-between:{net.base}", "sh", "-c", MAKE)
    for program in SIGNERS:
        net.execute("alfa", program, "sh", "-c", f"mkdir -p /etc/softhsm; printf '{CONFIGURATION}' > /etc/softhsm/softhsm2.conf")
    net.postconf("alfa", *[f"{name}={value}" for name, value in PARAMETERS.items()])
    take_up(net)
    here, pulled = home / "softhsm/tokens", home / "softhsm/pulled"
    yield here, pulled
    if pulled.exists():
        pulled.rename(here)
    net.postconf("alfa", "pec_signing_key=/etc/pec/key.pem")
    net.execute("alfa", "postfix", "postconf", "-X", "pec_pkcs11_module", "pec_pkcs11_pin_file")
    take_up(net)


class Counter:
    """Does something once, when it has counted far enough."""

    def __init__(self, enough, then):
        self.enough, self.then, self.count, self.lock = enough, then, 0, threading.Lock()

    def add(self):
        with self.lock:
            self.count += 1
            if self.count == self.enough:
                self.then()


@pytest.mark.slow
def test_rfc6109_5_1_the_token_is_pulled_while_two_hundred_messages_are_under_way(net, token):
    here, pulled = token
    since = net.now()
    assert net.execute("alfa", "access", "pidof", "pec-token").stdout, "it is the token that signs"
    begun = Counter(PULLED_AFTER, lambda: here.rename(pulled))
    refused = Counter(BACK_AFTER, lambda: pulled.rename(here))
    deadline = time.monotonic() + 300

    def send(n):
        raw, msgid = net.letter(ANNA, [BRUNO], msgid=f"<{time.time_ns()}.{n}@client.test>")
        begun.add()
        while True:
            try:
                net.deployment.submit(ANNA, [BRUNO], raw)
                return msgid
            except smtplib.SMTPDataError as error:
                assert error.smtp_code == 451, error
                refused.add()
                assert time.monotonic() < deadline
                time.sleep(0.2)

    with ThreadPoolExecutor(SENDERS) as pool:
        msgids = list(pool.map(send, range(MESSAGES)))
    assert begun.count == MESSAGES and refused.count >= BACK_AFTER
    net.drain("alfa", "beta", seconds=300)

    mailboxes = (ANNA, BRUNO, SERVICE["alfa"])
    found = {msgid: [] for msgid in msgids}
    for address in mailboxes:
        for message in net.deployment.messages(address):
            if message.value("msgid") in found:
                found[message.value("msgid")].append((address, message.kind))
    due = sorted([(ANNA, "accettazione"), (ANNA, "avvenuta-consegna"), (BRUNO, "posta-certificata"), (SERVICE["alfa"], "presa-in-carico")])
    assert {msgid: kinds for msgid, kinds in found.items() if sorted(kinds) != due} == {}

    log = net.logs("alfa", "access", since)
    assert "NOQUEUE: error: messages wait until the token with the signing key signs again: " in log
    assert log.count(": error: waits: ") >= BACK_AFTER
    assert log.rindex("NOQUEUE: the token with the signing key signs again") > log.rindex("NOQUEUE: error: messages wait until")
    for program in SIGNERS:
        assert "4711-token-pin" not in net.logs("alfa", program, since)
        assert "4711-token-pin" not in net.execute("alfa", program, "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'", check=False).stdout
