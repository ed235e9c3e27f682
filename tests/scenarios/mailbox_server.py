"""Another mailbox server than Dovecot, as small as LMTP (RFC 2033) allows: no pipelining, no enhanced status codes, no DSN.

It has the mailboxes that are named, one a directory; each message is a file there before the answer is 250. What a mailbox named
`piena` is given it refuses, on the socket that counts quotas.

    mailbox_server.py SOCKET SOCKET_WITHOUT_QUOTA DIRECTORY MAILBOX ...
"""

import os
import re
import socketserver
import sys
import threading

COUNTS, COUNTS_NOT, DIRECTORY, *MAILBOXES = sys.argv[1:]


class Session(socketserver.StreamRequestHandler):
    def say(self, line):
        self.wfile.write(line.encode() + b"\r\n")

    def handle(self):
        self.say("220 mailboxes.test LMTP")
        recipients = []
        for line in self.rfile:
            verb = line[:4].upper()
            if verb == b"LHLO":
                self.say("250-mailboxes.test")
                self.say("250 8BITMIME")
            elif verb == b"RCPT":
                recipient = re.search(rb"<([^>]*)>", line)[1].decode().lower()
                if recipient in MAILBOXES:
                    recipients.append(recipient)
                self.say("250 ok" if recipient in MAILBOXES else "550 nobody of that name")
            elif verb == b"DATA":
                self.say("354 go on")
                content = b"".join(iter(self.rfile.readline, b".\r\n"))
                for recipient in recipients:
                    self.say(self.stored(recipient, re.sub(rb"(?m)^\.", b"", content)))
                recipients = []
            elif verb == b"QUIT":
                self.say("221 bye")
                return
            else:
                # MAIL, RSET
                recipients = []
                self.say("250 ok")

    def stored(self, recipient, content):
        if recipient.startswith("piena@") and self.server.server_address == COUNTS:
            return "552 no room"
        mailbox = f"{DIRECTORY}/{recipient}"
        os.makedirs(mailbox, exist_ok=True)
        name = f"{mailbox}/{len(os.listdir(mailbox))}"
        with open(f"{name}.eml", "wb") as file:
            file.write(content)
        return "250 stored"


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


os.umask(0)
for path in (COUNTS, COUNTS_NOT):
    if os.path.exists(path):
        os.unlink(path)
    threading.Thread(target=Server(path, Session).serve_forever).start()
