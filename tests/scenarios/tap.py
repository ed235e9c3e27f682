"""Stands between the processes of a provider and can stop time there.

Every edge (Postfix and a milter, a milter and PostgreSQL, Postfix and LMTP) goes through this program while a test wants it.
It understands enough of each protocol to name the steps of the flow:

    access.eom, .edits, .accept          Postfix says that the message is complete; the first change; the final reply
    incoming. internal. triggers.KIND. reports.   the same for the other sockets
    db.TABLE.statement, .committed       an INSERT before PostgreSQL has it; its confirmation before the milter has it
                                         (db.fact.KIND for the facts)
    lmtp.KIND.dot, .saved                the end of a message before Dovecot has it; Dovecot's 250 before Postfix has it

A step that a test holds waits, once, until the test lets it go on ("release") or tears both connections down ("drop").
Everything else passes untouched.

    tap.py CONTROL_SOCKET QUEUE_DIRECTORY
"""

import asyncio
import json
import os
import re
import sys

CONTROL, QUEUE = sys.argv[1:]

MILTERS = {name: (f"{QUEUE}/pec/tap-{name}", f"{QUEUE}/pec/{name}") for name in ("access", "incoming", "internal", "triggers", "reports")}
LMTP = [(f"{QUEUE}/private/tap-{name}", f"{QUEUE}/private/dovecot-{name}") for name in ("lmtp", "lmtp-notices")]
DATABASE = (("127.0.0.1", 5433), ("127.0.0.1", 5432))


class Steps:
    """What is held, who waits, what happened."""

    def __init__(self):
        self.held = set()
        self.waiting = {}
        self.reached = []
        self.changed = asyncio.Condition()

    async def pass_through(self, step):
        """Called at a step. Returns whether to go on."""
        async with self.changed:
            self.reached.append(step)
            if step not in self.held:
                return True
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


async def at(step):
    if not await steps.pass_through(step):
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


async def milter_requests(name, reader, writer, state):
    async for frame in frames(reader, True):
        command = frame[4:5]
        if command == b"R":
            trigger = re.match(rb"<([a-z-]+)\+[0-9a-f]*@notices\.pec\.internal>", frame[5:])
            state["name"] = f"{name}.{trigger[1].decode()}" if trigger else name
        if command == b"E":
            state["edited"] = False
            await at(f"{state.get('name', name)}.eom")
        writer.write(frame)
        await writer.drain()


async def milter_replies(name, reader, writer, state):
    edits = (b"h", b"i", b"m", b"e", b"+", b"2", b"-", b"b")
    async for frame in frames(reader, True):
        command = frame[4:5]
        if command in edits and not state.get("edited", True):
            state["edited"] = True
            await at(f"{state.get('name', name)}.edits")
        elif command in (b"c", b"a", b"d") and state.get("edited") is True:
            await at(f"{state.get('name', name)}.accept")
            state["edited"] = None
        writer.write(frame)
        await writer.drain()


KINDS = (b"accettazione", b"presa-in-carico", b"avvenuta-consegna", b"errore-consegna", b"rilevazione-virus")


async def database_requests(_, reader, writer, state):
    first = await reader.readexactly(4)
    writer.write(first + await reader.readexactly(int.from_bytes(first, "big") - 4))
    statements = {}
    async for frame in frames(reader, False):
        command, payload = frame[:1], frame[5:]
        if command == b"P":
            name, query = payload.split(b"\0")[:2]
            statements[name] = query
        elif command == b"B":
            _, statement, parameters = payload.split(b"\0", 2)
            table = re.match(rb"(?:WITH \w+ AS \()?(?:INSERT INTO|UPDATE) (\w+)", statements.get(statement, b""))
            state["step"] = None
            if table and table[1] in (b"sent", b"not_accepted", b"custody", b"fact", b"trigger_body", b"ricevuta"):
                step = f"db.{table[1].decode()}"
                if table[1] == b"fact":
                    step += "." + next((kind.decode() for kind in KINDS if kind in parameters), "notice")
                state["step"] = step
                await at(f"{step}.statement")
        writer.write(frame)
        await writer.drain()


async def database_replies(_, reader, writer, state):
    async for frame in frames(reader, False):
        if frame[:1] == b"C" and state.get("step"):
            step, state["step"] = state["step"], None
            await at(f"{step}.committed")
        writer.write(frame)
        await writer.drain()


async def lmtp_requests(_, reader, writer, state):
    in_data, kind = False, "other"
    while line := await reader.readline():
        if not in_data and line.upper().startswith(b"DATA"):
            in_data, kind = True, "other"
        elif in_data and line == b".\r\n":
            in_data = False
            await at(f"lmtp.{kind}.dot")
            state["saved"] = f"lmtp.{kind}.saved"
        elif in_data:
            if line.lower().startswith(b"x-trasporto: posta-certificata"):
                kind = "busta"
            elif line.lower().startswith(b"x-ricevuta: ") and kind == "other":
                kind = line[12:].strip().decode()
        writer.write(line)
        await writer.drain()


async def lmtp_replies(_, reader, writer, state):
    while line := await reader.readline():
        if state.get("saved") and line.startswith(b"2"):
            step, state["saved"] = state["saved"], None
            await at(step)
        writer.write(line)
        await writer.drain()


async def connect(target):
    return await (asyncio.open_unix_connection(target) if isinstance(target, str) else asyncio.open_connection(*target))


def edge(name, target, requests, replies):
    async def serve(client_reader, client_writer):
        try:
            server_reader, server_writer = await connect(target)
        except OSError:
            client_writer.close()
            return
        state = {}
        pumps = [
            asyncio.create_task(requests(name, client_reader, server_writer, state)),
            asyncio.create_task(replies(name, server_reader, client_writer, state)),
        ]
        # When one side ends, or a step is dropped, both sides end.
        done, rest = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        for task in done:
            if not task.cancelled():
                task.exception()
        for writer in (client_writer, server_writer):
            writer.transport.abort() if any(isinstance(t.exception(), Dropped) for t in done if not t.cancelled()) else writer.close()

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
        return await asyncio.start_unix_server(serve, address)
    return await asyncio.start_server(serve, *address)


async def main():
    os.umask(0)
    for name, (address, target) in MILTERS.items():
        await listen(address, edge(name, target, milter_requests, milter_replies))
    for address, target in LMTP:
        await listen(address, edge("lmtp", target, lmtp_requests, lmtp_replies))
    await listen(DATABASE[0], edge("db", DATABASE[1], database_requests, database_replies))
    await listen(CONTROL, control)
    await asyncio.Event().wait()


asyncio.run(main())
