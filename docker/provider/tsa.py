"""A timestamping authority (RFC 3161) for trying out: what is posted to port 80 is given to `openssl ts -reply`.

/etc/tsa has its certificate, its key and ts.cnf (docker/pki). One question at a time, since openssl counts in a file.
"""

import subprocess
import tempfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Desk(BaseHTTPRequestHandler):
    timeout = 10

    def do_POST(self):
        question = self.rfile.read(min(int(self.headers.get("Content-Length", 0)), 65536))
        with tempfile.TemporaryDirectory() as directory:
            asked, answer = Path(directory, "question"), Path(directory, "answer")
            asked.write_bytes(question)
            done = subprocess.run(
                ["openssl", "ts", "-reply", "-config", "/etc/tsa/ts.cnf", "-queryfile", asked, "-signer", "/etc/tsa/tsa.pem", "-inkey", "/etc/tsa/tsa.key", "-out", answer],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if not answer.exists():
                print(done.stderr, flush=True)
                self.send_error(500)
                return
            content = answer.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "application/timestamp-reply")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


HTTPServer(("", 80), Desk).serve_forever()
