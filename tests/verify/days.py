#!/usr/bin/env python3
"""Reads the register's daily files as docs/register-proof.md describes them, with nothing of ours: days.py FILE...

Prints one line for each file; exit status 1 and a line that says why if the files, in the order given, are not one chain
whose leaves give the roots of the checkpoints.
"""

import base64
import datetime
import gzip
import hashlib
import json
import sys


def sha256(data):
    return hashlib.sha256(data).digest()


def node(left, right):
    return sha256(b"\x01" + left + right)


class Tree:
    """RFC 6962's tree as the hashes of its whole subtrees, with their sizes, from left to right."""

    def __init__(self, size, hashes):
        sizes = [1 << bit for bit in range(63, -1, -1) if size >> bit & 1]
        assert len(sizes) == len(hashes), "the edge has another number of hashes than the size says"
        self.subtrees = list(zip(sizes, hashes))

    def add(self, entry):
        size, hash = 1, sha256(b"\x00" + entry)
        while self.subtrees and self.subtrees[-1][0] == size:
            hash = node(self.subtrees.pop()[1], hash)
            size *= 2
        self.subtrees.append((size, hash))

    def size(self):
        return sum(size for size, _ in self.subtrees)

    def hashes(self):
        return [hash for _, hash in self.subtrees]

    def root(self):
        hashes = self.hashes()
        if not hashes:
            return sha256(b"")
        root = hashes.pop()
        while hashes:
            root = node(hashes.pop(), root)
        return root


def main(files):
    before = None
    for file in files:
        data = gzip.open(file).read()
        lines = data.split(b"\n")
        assert lines.pop() == b"", f"{file}: does not end in a line's end"
        header = json.loads(lines[0])
        assert header["format"] == "pec-register-day/1", file
        if before is not None:
            day = datetime.date.fromisoformat(before["day"]) + datetime.timedelta(days=1)
            assert header["day"] == day.isoformat(), f"{file}: a day is missing before it"
            assert header["previous"] == {"day": before["day"], "sha256": before["sha256"]}, f"{file}: names another day before"
            assert header["first_leaf"] == before["size"], f"{file}: begins at another leaf"
            assert header["edge"] == before["edge"], f"{file}: begins with another tree"
        tree = Tree(header["first_leaf"], [bytes.fromhex(hash) for hash in header["edge"]])
        lost = []
        for number, line in enumerate(lines[1:], header["first_leaf"]):
            row = json.loads(line)
            if set(row) == {"entry"}:
                lost.append(number)
                tree.add(bytes.fromhex(row["entry"]))
            else:
                assert row["recorded_at"][:10] <= header["day"], f"{file}: has a row of a later day"
                tree.add(sha256(line))
        assert lost == [leaf for first, end in header["lost"] for leaf in range(first, end)], f"{file}: other leaves are lost"
        origin, size, root = header["checkpoint"].split("\n")[:3]
        assert origin == header["register"], f"{file}: the checkpoint is of another register"
        assert int(size) == header["size"] == tree.size(), f"{file}: has {tree.size()} leaves at its end"
        assert base64.b64decode(root) == tree.root(), f"{file}: gives another root"
        before = dict(header, sha256=sha256(data).hex(), edge=[hash.hex() for hash in tree.hashes()])
        print(header["day"], len(lines) - 1)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (AssertionError, ValueError, KeyError, OSError) as trouble:
        sys.exit(str(trouble) or repr(trouble))
