"""Mail clients: the standard library's SMTP and IMAP, and messages as Python's email package reads them."""

import email
import email.policy
import imaplib
import smtplib
import socket
import ssl
import time
import xml.etree.ElementTree as xml
from dataclasses import dataclass, field
from pathlib import Path


class Deployment:
    """What DIR/env says: hosts, ports, accounts."""

    def __init__(self, home):
        self.home = Path(home)
        lines = (line.split("=", 1) for line in (self.home / "env").read_text().splitlines())
        self.env = dict(lines)
        numbers = [key[5:] for key in self.env if key.startswith("USER_")]
        self.passwords = {self.env[f"USER_{n}"]: self.env[f"PASSWORD_{n}"] for n in numbers}
        self.servers = {self.env[f"USER_{n}"]: self.env[f"SERVER_{n}"] for n in numbers}
        self.known = {}
        self.reading = {}
        self.tls = ssl.create_default_context(cafile=self.home / "ca/ca.pem")

    def address(self, server, service):
        host, port = self.env[f"{server}_{service}"].rsplit(":", 1)
        return host, int(port)

    def submit(self, sender, recipients, message, service="SUBMISSION", timeout=60):
        """Submits the bytes of a message as `sender`; what the server refuses raises smtplib's exceptions."""
        host, port = self.address(self.servers[sender], service)
        if service == "SUBMISSIONS":
            client = smtplib.SMTP_SSL(host, port, context=self.tls, timeout=timeout)
        else:
            client = smtplib.SMTP(host, port, timeout=timeout)
        with client:
            if service == "SUBMISSION":
                client.starttls(context=self.tls)
            client.login(sender, self.passwords[sender])
            return client.sendmail(sender, recipients, message)

    def imap(self, address):
        host, port = self.address(self.servers[address], "IMAPS")
        client = imaplib.IMAP4_SSL(host, port, ssl_context=self.tls, timeout=30)
        client.login(address, self.passwords[address])
        return client

    def mailbox(self, address, since=0):
        """All messages of the mailbox with a UID above `since`, as IMAP gives them out."""
        try:
            return self.read(self.reading[address], since)
        except (KeyError, OSError, imaplib.IMAP4.error):
            # Not connected yet, or the server has been started again since.
            client = self.reading[address] = self.imap(address)
            client.select("INBOX", readonly=True)
            return self.read(client, since)

    @staticmethod
    def read(client, since):
        client.noop()
        uids = [uid for uid in client.uid("SEARCH", "UID", f"{since + 1}:*")[1][0].split() if int(uid) > since]
        # What the server says of its own accord about others comes with the answer; what was asked for is a pair.
        answers = [client.uid("FETCH", uid, "(BODY.PEEK[])")[1] for uid in uids]
        return [Message.read(part[1], int(uid)) for uid, answer in zip(uids, answers) for part in answer if isinstance(part, tuple)]

    def messages(self, address):
        """All messages of the mailbox; what was read before is not read again."""
        known = self.known.setdefault(address, [])
        known += self.mailbox(address, known[-1].uid if known else 0)
        return known

    def wait_for(self, address, wanted, seconds=60):
        """The first message in the mailbox for which `wanted(message)` holds. TimeoutError after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            for message in self.messages(address):
                if wanted(message):
                    return message
            if time.monotonic() > deadline:
                last = [message.label for message in self.messages(address)[-30:]]
                raise TimeoutError(f"{address}: not there after {seconds} s; the last that are: {last}")
            time.sleep(0.1)

    def wait_until_up(self, seconds=90, server=""):
        """Returns when every port of every server, or of one, serves; with SMTP that takes the milters behind it."""
        deadline = time.monotonic() + seconds
        for key in [k for k in self.env if k.startswith(server) and k.endswith(("_SUBMISSION", "_SUBMISSIONS", "_IMAPS", "_POP3S", "_SMTP"))]:
            while not self.serves(key):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{key} ({self.env[key]}) does not serve after {seconds} s")
                time.sleep(0.2)

    def serves(self, key):
        host, port = self.env[key].rsplit(":", 1)
        try:
            if key.endswith("SUBMISSIONS"):
                with smtplib.SMTP_SSL(host, int(port), context=self.tls, timeout=5) as client:
                    return client.ehlo()[0] == 250
            if key.endswith(("SUBMISSION", "SMTP")):
                with smtplib.SMTP(host, int(port), timeout=5) as client:
                    return client.ehlo()[0] == 250 and client.starttls(context=self.tls)[0] == 220
            with socket.create_connection((host, int(port)), timeout=5) as plain, self.tls.wrap_socket(plain, server_hostname="localhost") as secure:
                return secure.recv(1) != b""
        except (OSError, smtplib.SMTPException):
            return False


@dataclass
class Message:
    """A message of a mailbox, read by Python's email package."""

    raw: bytes
    uid: int
    header: email.message.EmailMessage = field(repr=False)
    kind: str
    daticert: xml.Element | None = field(repr=False)

    @classmethod
    def read(cls, raw, uid=0):
        header = email.message_from_bytes(raw, policy=email.policy.SMTP)
        trasporto, ricevuta = header.get("X-Trasporto"), header.get("X-Ricevuta")
        kind = trasporto or ricevuta or "ordinario"
        return cls(raw, uid, header, kind.strip().lower(), cls.find_daticert(header))

    @staticmethod
    def find_daticert(header):
        """daticert.xml of the message itself: in the first part of the signed message, never inside a message in it."""
        if header.get_content_type() != "multipart/signed":
            return None
        content = header.get_payload(0)
        if content.get_content_type() != "multipart/mixed":
            return None
        for part in content.get_payload():
            if part.get_content_type() == "application/xml" and part.get_filename() == "daticert.xml":
                return xml.fromstring(part.get_payload(decode=True))
        return None

    def value(self, name):
        """The text of an element of daticert.xml, or None."""
        found = None if self.daticert is None else self.daticert.find(f".//{name}")
        return None if found is None else found.text

    @property
    def about(self):
        """The recipient or recipients that a receipt is about."""
        found = [] if self.daticert is None else self.daticert.findall(".//consegna") + self.daticert.findall(".//ricezione")
        return [element.text for element in found]

    @property
    def recipients(self):
        """All recipients with their type."""
        found = [] if self.daticert is None else self.daticert.findall(".//destinatari")
        return {element.text: element.get("tipo") for element in found}

    @property
    def label(self):
        return f"{self.kind} {' '.join(self.about)}".strip()

    @property
    def text(self):
        """What people read, as plain text."""
        return self.header.get_body(("plain",)).get_content().replace("\r\n", "\n")

    @property
    def original(self):
        """The bytes of postacert.eml, cut out of the raw message by its boundaries, or None."""
        if self.header.get_content_type() != "multipart/signed":
            return None
        boundary = self.header.get_payload(0).get_boundary().encode()
        body = self.raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        for part in body.split(b"\r\n--" + boundary)[1:]:
            head, _, content = part.partition(b"\r\n\r\n")
            if b"postacert.eml" in head:
                return content
        return None
