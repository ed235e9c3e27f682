"""SMTP smuggling: line ends that are none, by which one message would become two, the second with a sender of its choice."""

import base64
import socket

import pytest
from network import ANNA, BRUNO, CARLA, NESSUNO

pytestmark = pytest.mark.both

# What some server somewhere takes for the end of a message; "\r\n.\r\n" alone is it.
ENDS = {
    "LF dot LF": b"\n.\n", "LF dot CRLF": b"\n.\r\n", "CRLF dot LF": b"\r\n.\n", "CR dot CR": b"\r.\r", "CR dot CRLF": b"\r.\r\n",
    "CRLF dot CR": b"\r\n.\r", "CRLF NUL dot CRLF": b"\r\n\0.\r\n",
}  # fmt: skip


class Client:
    """SMTP without a library that would mend the lines."""

    def __init__(self, net, server, service):
        connection = socket.create_connection(net.deployment.address(server, service), timeout=30)
        self.socket = net.deployment.tls.wrap_socket(connection, server_hostname="localhost") if service == "SUBMISSIONS" else connection
        self.file = self.socket.makefile("rb")
        self.reply()

    def reply(self):
        lines = []
        while not lines or lines[-1][3:4] == b"-":
            lines.append(self.file.readline())
        return b"".join(lines)

    def say(self, line):
        self.socket.sendall(line + b"\r\n")
        return self.reply()

    def starttls(self, net):
        assert self.say(b"STARTTLS").startswith(b"220")
        self.socket = net.deployment.tls.wrap_socket(self.socket, server_hostname="localhost")
        self.file = self.socket.makefile("rb")

    def login(self, net, address):
        password = net.deployment.passwords[address]
        assert self.say(b"AUTH PLAIN " + base64.b64encode(f"\0{address}\0{password}".encode())).startswith(b"235")

    def begin(self, sender, recipient):
        for line in (f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "DATA"):
            assert self.say(line.encode())[:1] in b"23", line


def both(net, sender, recipient, end):
    """Two messages of which the second is hidden in the first: the bytes, and both Message-IDs."""
    outer, outer_id = net.letter(sender, [recipient], text="Ciao\r\n")
    inner, inner_id = net.letter(BRUNO, [recipient], text="Pagate a me.\r\n")
    commands = f"MAIL FROM:<{BRUNO}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode()
    return outer.removesuffix(b"\r\n") + end + commands + inner, outer_id, inner_id


def finish(client, raw):
    """The answer to the whole; afterwards nothing is left to be answered."""
    client.socket.sendall(raw + b"\r\n.\r\n")
    answer = client.reply()
    assert client.say(b"QUIT").startswith(b"221"), answer
    assert client.file.read() == b""
    return answer


@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_smuggled_in_through_port_25(net, end):
    raw, outer, inner = both(net, CARLA, ANNA, ENDS[end])
    client = Client(net, "ALFA", "SMTP")
    client.say(b"EHLO client.test")
    client.begin(CARLA, ANNA)
    assert finish(client, raw).startswith(b"250")
    message = net.deployment.wait_for(ANNA, lambda m: m.header["Message-ID"] == outer)
    assert message.kind == "errore" and b"Pagate a me." in message.original
    nothing_came_of(net, inner)


@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_smuggled_out_through_submission(net, end):
    """What leaves us must not be two messages for a server that reads other line ends."""
    raw, outer, inner = both(net, ANNA, NESSUNO, ENDS[end])
    client = Client(net, "ALFA", "SUBMISSIONS")
    client.say(b"EHLO client.test")
    client.login(net, ANNA)
    client.begin(ANNA, NESSUNO)
    client.socket.sendall(raw + b"\r\n.\r\n")
    answer = client.reply()
    if answer.startswith(b"250"):
        assert "caratteri NUL o CR isolati" in net.expect(ANNA, "non-accettazione", outer).value("errore-esteso")
    else:
        assert answer.startswith(b"5"), answer
    net.drain("alfa", "beta")
    kinds = [m.kind for _, m in net.all_about(outer)]
    assert kinds in ([], ["non-accettazione"])
    nothing_came_of(net, inner)


def nothing_came_of(net, msgid):
    net.drain("alfa", "beta")
    for address in net.deployment.passwords:
        assert not [m for m in net.deployment.messages(address) if msgid in (m.header["Message-ID"], m.value("msgid"))], address
    assert net.story("alfa", msgid) == [] == net.story("beta", msgid)
