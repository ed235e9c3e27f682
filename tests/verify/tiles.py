#!/usr/bin/env python3
"""Reads a register's tree as C2SP's tlog-tiles and tlog-checkpoint have it, with nothing of ours: tiles.py DIRECTORY [PUBLIC]

Computes the root from the lowest tiles alone, and every tile above from those below; compares with `checkpoint`; holds the
entries against the leaves. PUBLIC (NAME+ID+KEY) is the log's public key: openssl verifies the checkpoint's signature by it.
Prints the size and the root; exit status 1 and a line that says why if something does not fit.
"""

import base64
import hashlib
import os
import subprocess
import sys
import tempfile


def sha256(data):
    return hashlib.sha256(data).digest()


def node(left, right):
    return sha256(b"\x01" + left + right)


def root(hashes):
    """RFC 6962 s. 2.1."""
    if not hashes:
        return sha256(b"")
    if len(hashes) == 1:
        return hashes[0]
    half = 1 << (len(hashes) - 1).bit_length() - 1
    return node(root(hashes[:half]), root(hashes[half:]))


def path(n, width):
    name = f"{n % 1000:03}"
    n //= 1000
    while n:
        name = f"x{n % 1000:03}/{name}"
        n //= 1000
    return name if width == 256 else f"{name}.p/{width}"


def read(directory, level, n, width):
    with open(os.path.join(directory, "tile", str(level), path(n, width)), "rb") as file:
        return file.read()


def tiles(directory, level, count):
    """The hashes of a level, from its files, as far as `count`."""
    hashes = []
    for n in range((count + 255) // 256):
        width = min(256, count - 256 * n)
        data = read(directory, level, n, width)
        assert len(data) == 32 * width, f"tile {level}/{path(n, width)} has {len(data)} bytes"
        hashes += [data[at:at + 32] for at in range(0, len(data), 32)]
    return hashes


def entries(directory, count):
    found = []
    for n in range((count + 255) // 256):
        width = min(256, count - 256 * n)
        data = read(directory, "entries", n, width)
        while data:
            length = int.from_bytes(data[:2], "big")
            found.append(data[2:2 + length])
            data = data[2 + length:]
    return found


def verify_signature(note, public):
    name, identifier, key = public.split("+", 2)
    key = base64.b64decode(key)
    assert key[0] == 1 and sha256(name.encode() + b"\n" + key)[:4].hex() == identifier, "the public key is none"
    text, signatures = note.rsplit("\n\n", 1)
    for line in signatures.splitlines():
        dash, signer, signature = line.split(" ")
        signature = base64.b64decode(signature)
        if dash == "\u2014" and signer == name and signature[:4].hex() == identifier:
            break
    else:
        sys.exit("the checkpoint has no signature by that key")
    with tempfile.TemporaryDirectory() as directory:
        at = lambda name: os.path.join(directory, name)
        # SubjectPublicKeyInfo of an Ed25519 key (RFC 8410).
        contents = {"key": bytes.fromhex("302a300506032b6570032100") + key[1:], "text": (text + "\n").encode(), "signature": signature[4:]}
        for file, content in contents.items():
            with open(at(file), "wb") as out:
                out.write(content)
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", at("key"), "-rawin", "-in", at("text")]
        done = subprocess.run(command + ["-sigfile", at("signature")], capture_output=True)
        assert done.returncode == 0, "openssl does not verify the checkpoint's signature"


def main(directory, public=None):
    with open(os.path.join(directory, "checkpoint"), encoding="utf-8", newline="") as file:
        note = file.read()
    _, size, expected = note.split("\n")[:3]
    size, expected = int(size), base64.b64decode(expected)
    leaves = tiles(directory, 0, size)
    assert root(leaves) == expected, "the lowest tiles give another root than the checkpoint"
    assert [sha256(b"\x00" + entry) for entry in entries(directory, size)] == leaves, "the entries give other leaves"
    level, below = 0, leaves
    while len(below) >= 256:
        level += 1
        above = [root(below[at:at + 256]) for at in range(0, len(below) - 255, 256)]
        assert tiles(directory, level, len(above)) == above, f"the tiles of level {level} are not those above level {level - 1}"
        below = above
    if public:
        verify_signature(note, public)
    print(size, expected.hex())


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (AssertionError, ValueError, OSError) as trouble:
        sys.exit(str(trouble) or repr(trouble))
