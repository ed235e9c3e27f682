"""How long an honest submission takes beside the worst stranger: 14 anonymous mails at once, sent again as they are answered, for a
while; beside a quiet network first.

What the stranger sends is, by turns: mails of 3,000 MIME parts (220 kB), which are counted and refused; the same with as many parts
as are scanned; the same as it claims to be certified. The submission is a small letter to a user of the same provider.
"""

import argparse
import json
import smtplib
import statistics
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scenarios"))

from network import ANNA, CARLA, Network  # noqa: E402

AT_ONCE = 14
PART = "--b\r\nContent-Type: text/plain; name=a.txt\r\n\r\n" + "x" * 20 + "\r\n\r\n"
STRANGERS = {
    "3,000 parts": (3_000, "multipart/mixed; boundary=b"),
    "1,000 parts": (1_000, "multipart/mixed; boundary=b"),
    "1,000 parts, said to be signed": (1_000, "multipart/signed; boundary=b; protocol=x"),
}


def stranger(net, parts, content_type, ended, answers):
    """Sends until `ended`; counts what is answered."""
    body = f"From: {CARLA}\r\nTo: {ANNA}\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: {content_type}\r\n\r\n{PART * parts}--b--\r\n"
    while not ended.is_set():
        try:
            with smtplib.SMTP(*net.deployment.address("ALFA", "SMTP"), timeout=300) as client:
                client.sendmail(CARLA, [ANNA], body.encode())
            answer = 250
        except smtplib.SMTPResponseException as refused:
            answer = refused.smtp_code
        except (smtplib.SMTPException, OSError):
            answer = 0
        answers[answer] = answers.get(answer, 0) + 1


def submissions(net, seconds):
    """How long each submission took, in seconds: from the end of the message to its answer, and with connection, TLS and login."""
    took, end = [], time.monotonic() + seconds
    host, port = net.deployment.address("ALFA", "SUBMISSION")
    while time.monotonic() < end:
        raw, _ = net.letter(ANNA, [ANNA])
        begin = time.monotonic()
        with smtplib.SMTP(host, port, timeout=300) as client:
            client.starttls(context=net.deployment.tls)
            client.login(ANNA, net.deployment.passwords[ANNA])
            client.mail(ANNA)
            client.rcpt(ANNA)
            sent = time.monotonic()
            code, answer = client.data(raw)
            if code != 250:
                raise RuntimeError(f"{code} {answer}")
            took.append((time.monotonic() - sent, time.monotonic() - begin))
    return took


def main():
    arguments = argparse.ArgumentParser(prog="tests/bench/run beside", description="An honest submission beside the worst stranger.")
    for name in ("home", "project", "base"):
        arguments.add_argument(name, help=argparse.SUPPRESS)
    arguments.add_argument("--seconds", type=int, default=60, help="how long each turn lasts (60)")
    options = arguments.parse_args()
    net = Network(options.home, options.project, options.base)
    net.deployment.wait_until_up()
    print("| beside | submissions | message to answer, s: median | longest | with login: median | longest | the stranger's answers |\n| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for beside, (parts, content_type) in {"nobody": (0, ""), **STRANGERS}.items():
        ended, answers = threading.Event(), {}
        threads = [threading.Thread(target=stranger, args=(net, parts, content_type, ended, answers)) for _ in range(AT_ONCE if parts else 0)]
        for thread in threads:
            thread.start()
        took = submissions(net, options.seconds)
        ended.set()
        for thread in threads:
            thread.join()
        figures = " | ".join(f"{statistics.median(part):.2f} | {max(part):.2f}" for part in zip(*took, strict=True))
        print(f"| {beside} | {len(took)} | {figures} | {json.dumps(answers)} |", flush=True)


if __name__ == "__main__":
    main()
