"""What a client says of delivery reports reaches nothing: DSN (RFC 3461) is announced at no door, and each of its words gets 501,
however the line is written. Postfix reads over VT, FF and CR before a verb."""

import re

import pytest
from network import ANNA, BRUNO, PROTOCOLLO, SERVICE
from test_smuggling import Client

pytestmark = pytest.mark.both

DOORS = {"25": ("BETA", "SMTP"), "587": ("ALFA", "SUBMISSION"), "465": ("ALFA", "SUBMISSIONS")}
SEGRETERIA, NOBODY = "segreteria@comune.example", "nessuno@comune.example"
WORDS = {
    "ENVID": ("MAIL FROM:<{}> ENVID=00ff", ANNA), "RET": ("MAIL FROM:<{}> RET=FULL", ANNA),
    "NOTIFY": ("RCPT TO:<{}> NOTIFY=SUCCESS,FAILURE", BRUNO), "ORCPT": (f"RCPT TO:<{{}}> ORCPT=rfc822;{NOBODY}", BRUNO),
}  # fmt: skip
FORMS = {
    "plain": lambda line: line,
    "VT": lambda line: "\x0b" + line,
    "FF": lambda line: "\x0c" + line,
    "CR": lambda line: "\r" + line,
    "tab": lambda line: "\t" + line,
    "blank": lambda line: " " + line,
    "all of them": lambda line: "\r\x0b \x0c\t" + line,
    "lower case": lambda line: line.lower(),
    "no brackets": lambda line: line.replace("<", "").replace(">", ""),
    "VT between": lambda line: line.replace("> ", ">\x0b"),
    "tab between": lambda line: line.replace("> ", ">\t"),
    "twice": lambda line: f"{line} {line.rsplit(' ', 1)[1]}",
}


def connected(net, door):
    server, service = DOORS[door]
    client = Client(net, server, service)
    if service == "SUBMISSION":
        client.say(b"EHLO client.test")
        client.starttls(net)
    greeting = client.say(b"EHLO client.test")
    if service != "SMTP":
        client.login(net, ANNA)
    return client, greeting


@pytest.mark.parametrize("door", DOORS)
def test_dsn_is_not_announced(net, door):
    _, greeting = connected(net, door)
    assert b"PIPELINING" in greeting and b"DSN" not in greeting, greeting


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("door", DOORS)
def test_every_word_of_it_is_refused(net, door, form):
    client, _ = connected(net, door)
    for word, (line, address) in WORDS.items():
        if line.startswith("RCPT"):
            assert client.say(f"MAIL FROM:<{ANNA}>".encode()).startswith(b"250")
        answer = client.say(FORMS[form](line.format(address)).encode())
        assert answer.startswith(b"501 "), (word, answer)
        client.say(b"RSET")


@pytest.fixture
def envelope(net):
    """A correct envelope of Alfa's for two mailboxes of Beta's, of which Beta has not heard yet: its bytes and Anna's Message-ID."""
    net.stop("beta", "postfix")
    try:
        msgid, _ = net.submit(ANNA, [PROTOCOLLO, SEGRETERIA])
        net.expect(ANNA, "accettazione", msgid)
        [queue_id] = [entry["queue_id"] for entry in net.queue("alfa") if entry["recipients"][0]["address"] == PROTOCOLLO]
        net.execute("alfa", "postfix", "postsuper", "-h", queue_id)
        raw = net.execute("alfa", "postfix", "postcat", "-qbh", queue_id).stdout
        net.execute("alfa", "postfix", "postsuper", "-d", queue_id)
    finally:
        net.start("beta", "postfix")
        net.wait_until_up("beta", "postfix")
        net.deployment.wait_until_up(server="BETA")
    return raw.replace("\n", "\r\n").encode(), msgid


def test_no_receipt_is_about_whom_a_client_names(net, envelope):
    """Whoever has an envelope in hand brings it, and says at each RCPT TO that it was for somebody else."""
    raw, msgid = envelope
    for number, before in enumerate(("\x0b", "\x0c", "\r", " \t")):
        client, _ = connected(net, "25")
        assert client.say(f"MAIL FROM:<{ANNA}>".encode()).startswith(b"250")
        taken = [client.say(f"{before}RCPT TO:<{address}> ORCPT=rfc822;{NOBODY} NOTIFY=SUCCESS,FAILURE".encode()) for address in (PROTOCOLLO, SEGRETERIA)]
        assert all(answer.startswith(b"501 ") for answer in taken), taken
        if number:
            continue
        client.say(f"RCPT TO:<{PROTOCOLLO}>".encode())
        client.say(f"{before}RCPT TO:<{SEGRETERIA}>".encode())
        assert client.say(b"DATA").startswith(b"354")
        client.socket.sendall(re.sub(rb"(?m)^\.", b"..", raw))
        assert client.say(b".").startswith(b"250")
    for address in (PROTOCOLLO, SEGRETERIA):
        net.expect(ANNA, "avvenuta-consegna", msgid, address)
    net.drain("alfa", "beta")
    found = sorted((mailbox, m.label) for mailbox, m in net.all_about(msgid))
    assert found == sorted([
        (PROTOCOLLO, "posta-certificata"), (SEGRETERIA, "posta-certificata"), (ANNA, "accettazione"),
        (ANNA, f"avvenuta-consegna {PROTOCOLLO}"), (ANNA, f"avvenuta-consegna {SEGRETERIA}"),
        (SERVICE["alfa"], f"presa-in-carico {PROTOCOLLO} {SEGRETERIA}"),
    ])  # fmt: skip
    for host in ("alfa", "beta"):
        assert net.sql(host, f"SELECT kind FROM fact WHERE recipient = '{NOBODY}'") == []
