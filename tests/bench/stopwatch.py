"""Stands between Postfix and milters and measures their end-of-message callbacks; passes everything on untouched.

    stopwatch.py LISTEN TARGET [LISTEN TARGET ...]

A callback's time is that from SMFIC_BODYEOB to the final reply, edits included, as seen here: with this program's own delays,
which a milter that does nothing shows. SIGTERM ends it: the seconds of each TARGET on standard output, as JSON.
"""

import asyncio
import json
import os
import signal
import sys
import time

END_OF_MESSAGE = ord("E")
FINAL_REPLIES = b"acdrtyf"


class Frames:
    """Calls `see` with the command byte of each frame of a stream that comes in pieces."""

    def __init__(self, see):
        self.see, self.rest = see, b""

    def feed(self, piece):
        data = self.rest + piece if self.rest else piece
        at = 0
        while len(data) - at >= 5 and len(data) - at >= 4 + (size := int.from_bytes(data[at : at + 4], "big")):
            self.see(data[at + 4])
            at += 4 + size
        self.rest = data[at:]


class Side(asyncio.Protocol):
    """One of the two connections; what comes is for the other one."""

    def __init__(self, see, other=None):
        self.frames, self.other, self.early = Frames(see), other, []

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if self.other:
            self.other.transport.write(data)
        else:
            self.early.append(data)
        self.frames.feed(data)

    def connection_lost(self, _):
        if self.other:
            self.other.transport.close()


def edge(target, seconds):
    """Serves connections to the milter at `target`."""

    def accept():
        started = None

        def request(command):
            nonlocal started
            if command == END_OF_MESSAGE:
                started = time.perf_counter()

        def reply(command):
            nonlocal started
            if started and command in FINAL_REPLIES:
                seconds.append(time.perf_counter() - started)
                started = None

        postfix = Side(request)

        async def connect():
            _, milter = await asyncio.get_running_loop().create_unix_connection(lambda: Side(reply, postfix), target)
            postfix.other = milter
            for data in postfix.early:
                milter.transport.write(data)

        postfix.connecting = asyncio.ensure_future(connect())
        return postfix

    return accept


async def main():
    os.umask(0)
    loop, ended, measured = asyncio.get_running_loop(), asyncio.Event(), {}
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    for listen, target in zip(sys.argv[1::2], sys.argv[2::2]):
        if os.path.exists(listen):
            os.unlink(listen)
        await loop.create_unix_server(edge(target, measured.setdefault(target, [])), listen)
    await ended.wait()
    print(json.dumps(measured), flush=True)


asyncio.run(main())
