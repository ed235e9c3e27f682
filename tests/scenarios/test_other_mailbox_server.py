"""Any mailbox server that speaks LMTP will do: Beta's Dovecot is replaced by mailbox_server.py, and certified mail goes on."""

import smtplib
import time

import pytest
import verifiers
from clients import Message
from network import ANNA, BRUNO, CARLA, HERE, NESSUNO, SERVICE, run

FULL = "piena@pec.beta.test"
HAS = (BRUNO, FULL, "posta-certificata@gestore.beta.test", SERVICE["beta"])
SHIPPED = {"pec_mailbox_lmtp": "unix:pec/dovecot-lmtp", "pec_mailbox_lmtp_no_quota": "unix:pec/dovecot-lmtp-no-quota"}


class Mailboxes:
    def __init__(self, directory):
        self.directory = directory

    def messages(self, address):
        found = sorted((self.directory / address).glob("*.eml"), key=lambda path: int(path.stem))
        return [Message.read(path.read_bytes()) for path in found]

    def wait_for(self, address, wanted, seconds=60):
        deadline = time.monotonic() + seconds
        while not (found := [message for message in self.messages(address) if wanted(message)]):
            assert time.monotonic() < deadline, [message.label for message in self.messages(address)]
            time.sleep(0.1)
        return found[0]


@pytest.fixture(scope="module")
def mailboxes(net):
    directory = net.deployment.home / "mailboxes-of-another-kind"
    directory.mkdir(exist_ok=True)
    name = net.container("beta", "mailboxes")
    run("docker", "rm", "-f", name, check=False)
    sockets = [f"/var/spool/postfix/pec/other-{kind}" for kind in ("lmtp", "lmtp-no-quota")]
    run(
        "docker", "run", "--detach", "--init", "--name", name, "--network", f"container:{net.project}-beta",
        "--volume", f"{net.project}-beta-queue:/var/spool/postfix", "--volume", f"{HERE}:/tests:ro", "--volume", f"{directory}:/mailboxes",
        f"pec-between:{net.base}", "python3", "/tests/mailbox_server.py", *sockets, "/mailboxes", *HAS,
    )  # fmt: skip
    net.postconf("beta", *[f"{parameter}=unix:{socket.removeprefix('/var/spool/postfix/')}" for parameter, socket in zip(SHIPPED, sockets, strict=True)])
    net.reload_programs("beta")
    net.stop("beta", "dovecot")
    try:
        yield Mailboxes(directory)
    finally:
        net.drain("alfa", "beta")
        net.start("beta", "dovecot")
        net.wait_until_up("beta", "dovecot")
        net.postconf("beta", *[f"{parameter}={value}" for parameter, value in SHIPPED.items()])
        net.reload_programs("beta")
        run("docker", "rm", "-f", name)


def test_certified_mail_is_delivered_and_refused_as_its_answers_say(net, mailboxes):
    msgid, _ = net.submit(ANNA, [BRUNO, FULL, NESSUNO])
    envelope = mailboxes.wait_for(BRUNO, lambda m: m.kind == "posta-certificata" and m.value("msgid") == msgid)
    receipt = net.expect(ANNA, "avvenuta-consegna", msgid, BRUNO)
    assert receipt.original == envelope.original
    for message in (envelope, receipt):
        verifiers.verify(message.raw, net.deployment.home / "ca/ca.pem")
    for address, errore, errore_esteso in ((FULL, "altro", "5.2.2"), (NESSUNO, "no-dest", "5.1.1")):
        notice = net.expect(ANNA, "errore-consegna", msgid, address)
        assert (notice.daticert.get("errore"), notice.value("errore-esteso").split(" ")[0]) == (errore, errore_esteso)
    net.drain("alfa", "beta")
    labels = sorted(m.label for _, m in net.all_about(msgid, [ANNA]))
    assert labels == sorted(["accettazione", f"avvenuta-consegna {BRUNO}", f"errore-consegna {FULL}", f"errore-consegna {NESSUNO}"])
    assert [m.kind for m in mailboxes.messages(FULL)] == []


def test_ordinary_mail_and_nobody_to_give_it_to(net, mailboxes):
    raw, msgid = net.letter(CARLA, [BRUNO])
    with smtplib.SMTP(*net.deployment.address("BETA", "SMTP"), timeout=60) as client:
        client.sendmail(CARLA, [BRUNO], raw)
    assert mailboxes.wait_for(BRUNO, lambda m: m.header["Message-ID"] == msgid).kind == "errore"
    with smtplib.SMTP(*net.deployment.address("BETA", "SMTP"), timeout=60) as client, pytest.raises(smtplib.SMTPDataError) as refused:
        client.sendmail(CARLA, [NESSUNO], raw)
    assert refused.value.smtp_code == 550 and b"no such mailbox" in refused.value.smtp_error

