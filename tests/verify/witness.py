#!/usr/bin/env python3
"""A witness as C2SP's tlog-witness and tlog-cosignature describe it, with nothing of ours: witness.py NAME LOG DIRECTORY

NAME is the witness's, LOG the log's public key (NAME+ID+KEY). Makes an Ed25519 key in DIRECTORY, prints its own public key and
the port on which it listens on 127.0.0.1, each on a line, and serves until its standard input ends. It cosigns a checkpoint that
the log has signed and that goes on from the one it cosigned last. Signatures are openssl's. Files in DIRECTORY tell it to
misbehave: `lie` (it signs another text), `away` (status 503).
"""

import base64
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time


def sha256(data):
    return hashlib.sha256(data).digest()


def node(left, right):
    return sha256(b"\x01" + left + right)


def goes_on(old, old_root, size, root, proof):
    """RFC 6962 s. 2.1.2, verified as RFC 9162 s. 2.1.4.2 does."""
    if old == 0:
        return not proof
    if old == size:
        return not proof and old_root == root
    if not proof:
        return False
    path = list(proof)
    if old & (old - 1) == 0:
        path.insert(0, old_root)
    fn, sn = old - 1, size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path.pop(0)
    for hash in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node(hash, fr), node(hash, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node(sr, hash)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == old_root and sr == root


def openssl(*arguments):
    return subprocess.run(["openssl", *arguments], capture_output=True, check=False)


class Witness:
    def __init__(self, name, log, directory):
        self.name, self.directory = name, directory
        self.log_name, self.log_id, key = log.split("+", 2)
        self.put("log.der", bytes.fromhex("302a300506032b6570032100") + base64.b64decode(key)[1:])
        openssl("genpkey", "-algorithm", "ed25519", "-out", self.at("key.pem"))
        public = openssl("pkey", "-in", self.at("key.pem"), "-pubout", "-outform", "DER").stdout
        key = b"\x04" + public[-32:]
        self.id = sha256(name.encode() + b"\n" + key)[:4]
        self.public = f"{name}+{self.id.hex()}+{base64.b64encode(key).decode()}"
        self.size, self.root = 0, sha256(b"")
        self.lock = threading.Lock()

    def at(self, name):
        return os.path.join(self.directory, name)

    def put(self, name, content):
        with open(self.at(name), "wb") as file:
            file.write(content)

    def is_by_log(self, text, signatures):
        for line in signatures.splitlines():
            _, name, signature = line.split(" ")
            signature = base64.b64decode(signature)
            if name == self.log_name and signature[:4].hex() == self.log_id:
                self.put("text", text.encode())
                self.put("signature", signature[4:])
                arguments = ["-verify", "-pubin", "-keyform", "DER", "-inkey", self.at("log.der"), "-rawin"]
                return openssl("pkeyutl", *arguments, "-in", self.at("text"), "-sigfile", self.at("signature")).returncode == 0
        return False

    def cosignature(self, text):
        now = int(time.time())
        self.put("text", f"cosignature/v1\ntime {now}\n{text}".encode())
        openssl("pkeyutl", "-sign", "-inkey", self.at("key.pem"), "-rawin", "-in", self.at("text"), "-out", self.at("signature"))
        with open(self.at("signature"), "rb") as file:
            signature = file.read()
        return f"\u2014 {self.name} {base64.b64encode(self.id + now.to_bytes(8, 'big') + signature).decode()}\n"

    def add(self, body):
        if os.path.exists(self.at("away")):
            return 503, ""
        head, note = body.split("\n\n", 1)
        old, *proof = head.split("\n")
        old, proof = int(old.removeprefix("old ")), [base64.b64decode(hash) for hash in proof]
        text, signatures = note.rsplit("\n\n", 1)
        text += "\n"
        origin, size, root = text.split("\n")[:3]
        size, root = int(size), base64.b64decode(root)
        if origin != self.log_name:
            return 404, "another log\n"
        if not self.is_by_log(text, signatures):
            return 403, "not signed by the log\n"
        if old > size:
            return 400, "the old size is larger\n"
        if old != self.size:
            return 409, f"{self.size}\n"
        if old == size and root != self.root:
            return 409, f"{self.size}\n"
        if not goes_on(old, self.root, size, root, proof):
            return 422, "does not go on from the one before\n"
        self.size, self.root = size, root
        return 200, self.cosignature("lie\n" if os.path.exists(self.at("lie")) else text)


def main(name, log, directory):
    witness = Witness(name, log, directory)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            with witness.lock:
                status, answer = witness.add(body) if self.path == "/add-checkpoint" else (404, "")
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer.encode())))
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(witness.public, server.server_port, sep="\n", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
