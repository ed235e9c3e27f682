"""Mail clients that submit as fast as they are answered: STARTTLS on 587, login, then one message after the other.

Promise: a message counts when the server has said 250 to its final dot; any other answer ends the run. Everybody is logged
in before a clock starts, so TLS handshakes and password hashes are in no figure.
"""

import base64
import random
import socket
import threading
import time


class Letters:
    """Messages of exactly `size` bytes, each with a Message-ID of its own."""

    def __init__(self, size):
        self.size, self.run, self.number, self.lock = size, time.time_ns(), 0, threading.Lock()
        self.text = base64.encodebytes(random.Random(0).randbytes(size)).replace(b"\n", b"\r\n")

    def next(self, sender, recipient):
        with self.lock:
            self.number += 1
            number = self.number
        header = (
            f"From: {sender}\r\nTo: {recipient}\r\nSubject: Prova {number:09}\r\n"
            f"Date: Sat, 1 Mar 2025 12:00:00 +0100\r\nMessage-ID: <{self.run}.{number:09}@client.test>\r\n"
            "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"
        ).encode()
        return header + self.text[: self.size - len(header) - 2] + b"\r\n"


class Client:
    """One connection, logged in where there is a password."""

    def __init__(self, address, tls, account, password):
        self.account = account
        self.socket = socket.create_connection(address, timeout=120)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answer("220")
        self.command("EHLO client.test")
        if not password:
            return
        self.command("STARTTLS", "220")
        self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.command("EHLO client.test")
        login = base64.b64encode(f"\0{account}\0{password}".encode()).decode()
        self.command(f"AUTH PLAIN {login}", "235")

    def command(self, line, expected="250"):
        self.socket.sendall(line.encode() + b"\r\n")
        return self.answer(expected)

    def answer(self, expected):
        """Reads one reply, of several lines perhaps."""
        reply = b""
        while not (reply.endswith(b"\r\n") and reply.rstrip(b"\r\n").rpartition(b"\n")[2][3:4] != b"-"):
            piece = self.socket.recv(4096)
            if not piece:
                raise RuntimeError(f"the server closed the connection after {reply!r}")
            reply += piece
        if not reply.startswith(expected.encode()):
            raise RuntimeError(f"expected {expected}, got {reply!r}")

    def submit(self, recipients, message):
        """Returns the seconds from the final dot to 250."""
        self.command(f"MAIL FROM:<{self.account}>")
        for recipient in recipients:
            self.command(f"RCPT TO:<{recipient}>")
        self.command("DATA", "354")
        self.socket.sendall(message + b".\r\n")
        dot = time.perf_counter()
        self.answer("250")
        return time.perf_counter() - dot

    def quit(self):
        self.command("QUIT", "221")
        self.socket.close()


class Load:
    """So many clients side by side, each an account of its own as far as `accounts` (address: password) reach."""

    def __init__(self, letters, sessions, recipient, address, tls, accounts):
        self.letters, self.recipient, self.clients = letters, recipient, []
        logins = list(accounts.items())

        def connect(number):
            self.clients.append(Client(address, tls, *logins[number % len(logins)]))

        self.together([lambda n=n: connect(n) for n in range(sessions)])

    def submit(self, messages):
        """Submits so many; whoever is free takes the next. Returns the seconds from the first MAIL to the last 250, those
        from dot to 250 of each message, and the seconds of CPU that the clients took."""
        turns, waits = iter(range(messages)), []

        def work(client):
            for _ in turns:
                waits.append(client.submit([self.recipient], self.letters.next(client.account, self.recipient)))

        start, cpu = time.perf_counter(), time.process_time()
        self.together([lambda c=c: work(c) for c in self.clients])
        return time.perf_counter() - start, waits, time.process_time() - cpu

    def quit(self):
        for client in self.clients:
            client.quit()

    @staticmethod
    def together(tasks):
        """Runs the tasks at once; the first error is raised."""
        errors = []

        def guarded(task):
            try:
                task()
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=guarded, args=(task,)) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
