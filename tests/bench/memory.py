"""Peak memory of the milters, by the kernel's own record (VmHWM): under load, and for single large messages of every build.

The bound: 16 MB above idle plus three times the message.
"""

import random
import time

from bed import LEAVES
from load import Client
from network import ALDO, BRUNO

ALLOWANCE, TIMES = 16_000_000, 3

# The milters of the comparison, and ours on Alfa.
UNDER_LOAD = (("alfa", "noop"), ("alfa", "opendkim"), ("alfa", "access"), ("alfa", "delivery"))

# To whom a large message goes, and which milters it then meets, as what. One message, one meeting: a milter that two large
# messages meet at once may hold both.
WAYS = (
    (ALDO, {("alfa", "access"): "pec-access", ("alfa", "delivery"): "pec-delivery"}),
    (BRUNO, {("beta", "incoming"): "pec-incoming, port 25, envelope", ("alfa", "incoming"): "pec-incoming, port 25, receipt"}),
)

# A message that is not accepted meets pec-access alone.
REFUSED = ((ALDO, {("alfa", "access"): "pec-access"}),)

SENDER = "utente-a@pec.alfa.test"


def idle(bed, milters=UNDER_LOAD):
    bed.restart(*milters)
    return {milter: bed.memory(*milter) for milter in milters}


def peaks(bed, idle):
    """What each held at most since `idle`."""
    return [{"host": host, "milter": process, "idle": held, "peak": bed.memory(host, process)} for (host, process), held in idle.items()]


# ---- Messages, from Content-Type: on


def lines(content, length):
    return b"".join(content[at : at + length] + b"\r\n" for at in range(0, len(content), length))


def base64(size):
    """An attachment in base64, as most large messages are."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    content = random.Random(1).randbytes(size).translate(bytes(alphabet[b % 64] for b in range(256)))
    return b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n" + lines(content[: size * 76 // 78], 76)


def eight_bit(size):
    """Text of which every byte is above 127."""
    content = random.Random(2).randbytes(size).translate(bytes(0xA0 + b % 0x60 for b in range(256)))
    return b"Content-Type: text/html; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + lines(content[: size * 900 // 902], 900)


def tiny_parts(number):
    """A multipart of so many parts of one letter."""
    return parts(number, b"x\r\n")


def parts(number, content):
    return b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n' + (b"--b\r\n\r\n" + content) * number + b"--b--\r\n"


CASES = (
    ("5 MB in base64", lambda: base64(5_000_000), WAYS),
    ("5 MB of 8-bit text", lambda: eight_bit(5_000_000), WAYS),
    ("10,000 parts", lambda: parts(10_000, b"x" * 500 + b"\r\n"), WAYS),
    ("1.4 million tiny parts", lambda: tiny_parts(1_400_000), REFUSED),
    ("20 MB in base64", lambda: base64(20_000_000), WAYS),
)


def one_by_one(bed, say):
    """For each case and way: the milters afresh, one message, until its last receipt is in the sender's mailbox."""
    bed.set_postfix(*LEAVES)
    bed.clear()
    found = []
    for name, build, ways in CASES:
        content, milters = build(), []
        for recipient, met in ways:
            before = idle(bed, met)
            message = letter(recipient, content)
            client = Client((bed.address["alfa"], 587), bed.deployment.tls, SENDER, bed.deployment.passwords[SENDER])
            client.submit([recipient], message)
            client.quit()
            # Acceptance and delivery, or that it was not accepted.
            bed.wait_for_receipts(2 if ways is WAYS else 1, SENDER.split("@")[0])
            bed.drain("alfa", "beta")
            milters += [{"met": met[peak["host"], peak["milter"]]} | within(peak, len(message)) for peak in peaks(bed, before)]
            bed.clear()
        found.append({"case": name, "size": len(message), "milters": milters})
        say(f"memory: {name}")
    return found


def letter(recipient, content):
    header = f"From: {SENDER}\r\nTo: {recipient}\r\nSubject: Prova\r\nMessage-ID: <{time.time_ns()}@client.test>\r\nMIME-Version: 1.0\r\n"
    return header.encode() + content


def within(peak, size):
    above, allowed = peak["peak"] - peak["idle"], ALLOWANCE + TIMES * size
    return peak | {"above_idle": above, "times_message": above / size, "allowed": allowed, "holds": above <= allowed}
