"""Stands between the processes of a provider and can stop time there.

Every edge (Postfix and a milter, Postfix and pec-delivery, pec-delivery and the mailbox server, pec-delivery and Postfix's smtpd, a
program of ours and PostgreSQL) goes through this program while a test wants it. It understands enough of each protocol to name
the steps of the flow:

    access.eom, .edits, .accept           Postfix says that the message is complete; the first change; the final reply
    incoming. reports.                    the same for the other milters
    delivery.KIND.dot, .answer            the end of a message for a mailbox before pec-delivery has it; its 250 before Postfix has that
    triggers.NAME.dot, .answer            the same of a trigger
    lmtp.KIND.dot, .saved                 the end of a message before Dovecot has it; Dovecot's 250 before pec-delivery has that
    outgoing.KIND.dot, .queued            the same of a notice for another provider, and Postfix's smtpd
    db.TABLE.statement, .committed        an INSERT before PostgreSQL has it; that it is committed before the program hears so
    db.fact.KIND. db.notice.KIND.         of a fact; of what its notice came out as, where that is written later
    db.handover.WHAT. db.taken. db.refused.   that WHAT is being handed over, was taken, was not taken

KIND is what a message is: busta, anomalia, a receipt's kind. WHAT is that, or why something that is no envelope was let pass.

A step that a test holds waits, once, until the test lets it go on ("release") or tears both connections down ("drop"). With
a recipient after it ("lmtp.busta.dot anna@pec.alfa.test") it is held for him alone. Everything else passes untouched.

    tap.py CONTROL_SOCKET QUEUE_DIRECTORY
"""

import asyncio
import json
import os
import re
import sys
from collections import deque

CONTROL, QUEUE = sys.argv[1:]

MILTERS = {name: (f"{QUEUE}/pec/tap-{name}", f"{QUEUE}/pec/{name}") for name in ("access", "incoming", "reports")}
# Where it listens, who is behind it, the name of the edge and of the step at which a message was taken.
MAIL = [
    ("pec/tap-delivery", "pec/delivery", "delivery", "answer"),
    ("pec/tap-triggers", "pec/triggers", "triggers", "answer"),
    ("pec/tap-lmtp", "pec/dovecot-lmtp", "lmtp", "saved"),
    ("pec/tap-lmtp-no-quota", "pec/dovecot-lmtp-no-quota", "lmtp", "saved"),
    ("pec/tap-outgoing", "public/pecoutgoing", "outgoing", "queued"),
]
DATABASE = (("127.0.0.1", 5433), ("127.0.0.1", 5432))
# The longest line of a message.
LINE = 1 << 20


class Steps:
    """What is held, who waits, what happened."""

    def __init__(self):
        self.held = set()
        self.waiting = {}
        self.reached = []
        self.changed = asyncio.Condition()

    async def pass_through(self, step, recipient):
        """Called at a step. Returns whether to go on."""
        async with self.changed:
            self.reached.append(step)
            held = {step, f"{step} {recipient}"} & self.held
            if not held:
                return True
            step = held.pop()
            self.held.discard(step)
            answer = asyncio.get_running_loop().create_future()
            self.waiting[step] = answer
            self.changed.notify_all()
        return await answer

    @staticmethod
    def resume(answer, go_on):
        # Whoever waited may be gone: its connection ended when the other side was killed.
        if not answer.done():
            answer.set_result(go_on)

    async def command(self, request):
        match request["do"]:
            case "hold":
                self.held.add(request["step"])
            case "wait":
                async with self.changed:
                    await asyncio.wait_for(self.changed.wait_for(lambda: request["step"] in self.waiting), request["seconds"])
            case "release" | "drop":
                self.resume(self.waiting.pop(request["step"]), request["do"] == "release")
            case "clear":
                self.held.clear()
                for answer in self.waiting.values():
                    self.resume(answer, True)
                self.waiting.clear()
                self.reached.clear()
            case "reached":
                return self.reached
        return "ok"


steps = Steps()


class Dropped(Exception):
    pass


async def at(step, recipient=""):
    if not await steps.pass_through(step, recipient):
        raise Dropped


async def frames(reader, length_first):
    """Whole frames: a 4-byte length, before (milter) or after (PostgreSQL) a type byte."""
    while True:
        head = await reader.readexactly(5)
        if length_first:
            size = int.from_bytes(head[:4], "big") - 1
        else:
            size = int.from_bytes(head[1:], "big") - 4
        yield head + await reader.readexactly(size)


class Milter:
    """Postfix and a milter."""

    def __init__(self, name):
        self.name, self.edited = name, None

    async def requests(self, reader, writer):
        async for frame in frames(reader, True):
            if frame[4:5] == b"E":
                self.edited = False
                await at(f"{self.name}.eom")
            writer.write(frame)
            await writer.drain()

    async def replies(self, reader, writer):
        edits = (b"h", b"i", b"m", b"e", b"+", b"2", b"-", b"b")
        async for frame in frames(reader, True):
            command = frame[4:5]
            if command in edits and self.edited is False:
                self.edited = True
                await at(f"{self.name}.edits")
            elif command in (b"c", b"a", b"d") and self.edited is True:
                await at(f"{self.name}.accept")
                self.edited = None
            writer.write(frame)
            await writer.drain()


class Mail:
    """LMTP or SMTP, of which one message to one recipient is at the same time on a connection."""

    TRIGGER = re.compile(rb"([a-z0-9-]+)\+[0-9a-f]*@notices\.pec\.internal", re.IGNORECASE)

    def __init__(self, name, taken):
        self.name, self.taken = name, taken
        self.recipient, self.trigger, self.kind = "", None, "other"
        self.in_data = self.in_header = False
        self.answers = None

    async def requests(self, reader, writer):
        while line := await reader.readline():
            if self.in_data and line == b".\r\n":
                self.in_data = False
                step = f"{self.name}.{self.trigger or self.kind}"
                self.answers = step
                await at(f"{step}.dot", self.recipient)
            elif self.in_data:
                if self.in_header:
                    self.read(line)
            elif found := re.match(rb"RCPT TO:<([^>]*)>", line, re.IGNORECASE):
                self.recipient = found[1].decode().lower()
                trigger = self.TRIGGER.fullmatch(found[1])
                self.trigger = trigger[1].decode() if trigger else None
            writer.write(line)
            await writer.drain()

    def read(self, line):
        if line == b"\r\n":
            self.in_header = False
        elif found := re.match(rb"x-(trasporto|ricevuta):[ \t]*([a-z-]+)", line.lower()):
            self.kind = {b"posta-certificata": "busta", b"errore": "anomalia"}.get(found[2], found[2].decode())

    async def replies(self, reader, writer):
        while line := await reader.readline():
            if line.startswith(b"354"):
                self.in_data = self.in_header = True
                self.kind = "other"
            elif self.answers:
                step, self.answers = self.answers, None
                if line.startswith(b"2"):
                    await at(f"{step}.{self.taken}", self.recipient)
            writer.write(line)
            await writer.drain()


# What a fact, an envelope or a message that was let pass is, by its id.
WHAT = {}

# The first words of a statement, and the step; where a kind belongs to it, the value that is an id, and the one that is the kind.
STATEMENTS = [
    (b"WITH sent AS (INSERT", "db.sent", None, None),
    (b"WITH refused AS (INSERT", "db.not_accepted", 5, 8),
    (b"WITH custody AS (INSERT", "db.custody", 1, "busta"),
    (b"INSERT INTO passed", "db.passed", 0, 1),
    (b"WITH passed AS (INSERT", "db.passed", 0, 1),
    (b"WITH fact AS (INSERT", "db.fact.", 0, 3),
    (b"INSERT INTO fact", "db.fact.", 0, 3),
    (b"WITH fact AS (UPDATE", "db.notice.", 3, None),
    (b"WITH begun AS (INSERT", "db.handover.", 0, None),
    (b"INSERT INTO handover", "db.refused.", 0, None),
    (b"WITH ended AS (INSERT", "db.refused.", 0, None),
    (b"WITH taken AS (INSERT", "db.taken.", 0, None),
    (b"INSERT INTO trigger_body", "db.trigger_body", None, None),
    (b"WITH ricevuta AS (INSERT", "db.ricevuta", 8, 9),
]


def values(bind):
    """The values of a Bind message, after the names of portal and statement."""

    def number(size):
        nonlocal bind
        taken, bind = bind[:size], bind[size:]
        return int.from_bytes(taken, "big", signed=True)

    for _ in range(number(2)):
        number(2)
    found = []
    for _ in range(number(2)):
        size = max(number(4), 0)
        found.append(bind[:size])
        bind = bind[size:]
    return found


def step_of(query, bind):
    for words, step, key, kind in STATEMENTS:
        if query.startswith(words):
            if key is None:
                return step
            given = values(bind)
            if kind is not None:
                WHAT[given[key]] = kind if isinstance(kind, str) else given[kind].decode()
            return step + WHAT.get(given[key], "other") if step.endswith(".") else step
    return None


class Database:
    """A program of ours and PostgreSQL."""

    def __init__(self):
        self.statements = {}
        # The steps of what PostgreSQL answers with one ReadyForQuery; those of a transaction that is not at its end yet.
        self.unit, self.units, self.open = [], deque(), []

    async def requests(self, reader, writer):
        first = await reader.readexactly(4)
        writer.write(first + await reader.readexactly(int.from_bytes(first, "big") - 4))
        async for frame in frames(reader, False):
            command, payload = frame[:1], frame[5:]
            if command == b"P":
                name, query = payload.split(b"\0")[:2]
                self.statements[name] = query
            elif command == b"B":
                _, statement, bind = payload.split(b"\0", 2)
                if step := step_of(self.statements.get(statement, b""), bind):
                    self.unit.append(step)
                    await at(f"{step}.statement")
            elif command in (b"S", b"Q"):
                self.units.append(self.unit)
                self.unit = []
            writer.write(frame)
            await writer.drain()

    async def replies(self, reader, writer):
        held, failed = b"", False
        async for frame in frames(reader, False):
            held += frame
            failed |= frame[:1] == b"E"
            unit = self.units[0] if self.units else []
            if frame[:1] == b"Z":
                self.open += [] if failed else unit
                if self.units:
                    self.units.popleft()
                if frame[5:6] != b"T":
                    done, self.open = self.open, []
                    for step in done if frame[5:6] == b"I" and not failed else []:
                        await at(f"{step}.committed")
                failed = False
            elif unit or self.open:
                continue
            writer.write(held)
            held = b""
            await writer.drain()


async def connect(target):
    return await (asyncio.open_unix_connection(target, limit=LINE) if isinstance(target, str) else asyncio.open_connection(*target))


def edge(target, conversation):
    """Serves a connection and one to the target; `conversation` makes what both are read by."""

    async def serve(client_reader, client_writer):
        try:
            server_reader, server_writer = await connect(target)
        except OSError:
            client_writer.close()
            return
        between = conversation()
        pumps = [asyncio.create_task(between.requests(client_reader, server_writer)), asyncio.create_task(between.replies(server_reader, client_writer))]
        # When one side ends, or a step is dropped, both sides end.
        done, rest = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        errors = [task.exception() for task in done if not task.cancelled()]
        for error in errors:
            if error and not isinstance(error, (Dropped, OSError, asyncio.IncompleteReadError)):
                print(f"tap: {error!r}", file=sys.stderr, flush=True)
        for writer in (client_writer, server_writer):
            writer.transport.abort() if any(isinstance(error, Dropped) for error in errors) else writer.close()

    return serve


async def control(reader, writer):
    while line := await reader.readline():
        try:
            answer = await steps.command(json.loads(line))
        except (TimeoutError, asyncio.TimeoutError):
            answer = "timeout"
        except KeyError as error:
            answer = f"nothing waits at {error}"
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
    writer.close()


async def listen(address, serve):
    if isinstance(address, str):
        if os.path.exists(address):
            os.unlink(address)
        return await asyncio.start_unix_server(serve, address, limit=LINE)
    return await asyncio.start_server(serve, *address)


async def main():
    os.umask(0)
    for name, (address, target) in MILTERS.items():
        await listen(address, edge(target, lambda name=name: Milter(name)))
    for address, target, name, taken in MAIL:
        await listen(f"{QUEUE}/{address}", edge(f"{QUEUE}/{target}", lambda name=name, taken=taken: Mail(name, taken)))
    await listen(DATABASE[0], edge(DATABASE[1], Database))
    await listen(CONTROL, control)
    await asyncio.Event().wait()


asyncio.run(main())
