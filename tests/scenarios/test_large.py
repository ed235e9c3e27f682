"""Large messages: they pass, and the milters' memory stays within its bound however the message is built."""

import time

import pytest
import verifiers
from clients import Message
from network import ALDO, ANNA, BRUNO, PROTOCOLLO
from test_originals import carried

FIVE = [ANNA, ALDO, BRUNO, PROTOCOLLO, "segreteria@comune.example"]
MB = 1024 * 1024
# ClamAV is not asked: it takes longer for each of these than all others together. test_viruses.py has it look at the largest message.
RAISED = {
    "pec_message_size_limit": 60 * MB, "pec_total_size_limit": 1000 * MB, "message_size_limit": 70 * MB, "pec_delivery_memory_limit": 60 * MB,
    "pec_clamd": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def raised(net):
    """Limits for large messages; one receipt with a large original is made at a time."""
    hosts, before = ("alfa", "beta"), {name: net.execute("alfa", "postfix", "postconf", "-h", name).stdout.strip() for name in RAISED}
    for host in hosts:
        net.postconf(host, *[f"{name}={value}" for name, value in RAISED.items()])
        net.reload(host)
    yield
    for host in hosts:
        net.execute(host, "postfix", "postconf", "-X", *[name for name, value in before.items() if not value])
        net.postconf(host, *[f"{name}={value}" for name, value in before.items() if value])
        net.reload(host)
    for address in FIVE:
        remove_large(net, address)


def remove_large(net, address):
    """Other tests read mailboxes from the beginning."""
    client = net.deployment.imap(address)
    client.select("INBOX")
    found = client.uid("SEARCH", "LARGER", str(MB))[1][0].decode().replace(" ", ",")
    if found:
        client.uid("STORE", found, "+FLAGS.SILENT", r"(\Deleted)")
        client.expunge()
    client.logout()


def find(net, address, header, msgid, seconds=300):
    """The UIDs of the messages about `msgid` with this header, once there is one."""
    deadline = time.monotonic() + seconds
    while True:
        client = net.deployment.imap(address)
        client.select("INBOX", readonly=True)
        name, value = header
        uids = client.uid("SEARCH", "HEADER", "X-Riferimento-Message-ID", f'"{msgid}"', "HEADER", name, value)[1][0].split()
        client.logout()
        if uids:
            return uids
        assert time.monotonic() < deadline, f"{address} has no {value} about {msgid}"
        time.sleep(0.3)


def fetch(net, address, uid):
    client = net.deployment.imap(address)
    client.select("INBOX", readonly=True)
    raw = client.uid("FETCH", uid, "(BODY.PEEK[])")[1][0][1]
    client.logout()
    return Message.read(raw)


def restart(net):
    """Fresh milters, whose peak is yet to come."""
    for host in ("alfa", "beta"):
        for process in ("access", "incoming", "delivery"):
            net.stop(host, process)
            net.start(host, process)
        net.wait_until_up(host, "access", "incoming", "delivery")


def memory(net, what):
    """{(host, process): bytes}"""
    found = {}
    for host in ("alfa", "beta"):
        for process in ("access", "incoming", "delivery"):
            script = f"grep {what} /proc/$(pgrep -x pec-{process})/status"
            found[host, process] = int(net.execute(host, process, "sh", "-c", script).stdout.split()[1]) * 1024
    return found


def bodies():
    line = b"%s\r\n" % (b"QUJD" * 19)
    mixed, delivered = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n", "avvenuta-consegna"
    yield "base64 lines", b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n", line * (5 * MB // len(line)), delivered
    yield "8-bit bytes", b"", b"citt\xe0, perch\xe9, citt\xe0\r\n" * (5 * MB // 24), delivered
    yield "ten thousand parts", mixed, (b"--b\r\n\r\n" + line * 7) * 10_000 + b"--b--\r\n", delivered
    # More than any message has: not accepted, before anything is made of them.
    yield "1.4 million tiny parts", mixed, b"--b\r\n\r\n\r\n" * 1_400_000 + b"--b--\r\n", "non-accettazione"
    attachment = b"--b\r\nContent-Type: a/b; name=n\r\n\r\n" + line * 6 + b"\r\n"
    yield "9,000 attachments, brief receipt", mixed + b"X-TipoRicevuta: breve\r\n", attachment * 9_000 + b"--b--\r\n", delivered


@pytest.mark.parametrize(("how", "header", "body", "becomes"), bodies(), ids=lambda value: value if isinstance(value, str) else "")
def test_memory_is_bounded_however_a_message_is_built(net, raised, how, header, body, becomes):
    restart(net)
    idle = memory(net, "VmRSS")
    head, msgid = net.letter(ANNA, [BRUNO], text="", extra=header.decode())
    raw = head + body
    net.deployment.submit(ANNA, [BRUNO], raw, timeout=300)
    find(net, ANNA, ("X-Ricevuta", becomes), msgid)
    net.drain("alfa", "beta")
    peak = memory(net, "VmHWM")
    bound = 16 * MB + 3 * len(raw)
    report = ", ".join(f"{h} {p} {(peak[h, p] - idle[h, p]) / len(raw):.1f}" for h, p in peak)
    print(f"{how}, {len(raw) / MB:.1f} MB: peak above idle, in messages: {report}")
    assert all(peak[key] - idle[key] <= bound for key in peak), report


@pytest.mark.slow
def test_50_mb_to_five_recipients(net, raised):
    restart(net)
    idle = memory(net, "VmRSS")
    line = b"%s\r\n" % (b"QUJD" * 19)
    head, msgid = net.letter(ANNA, FIVE, text="")
    raw = head + line * (50 * MB // len(line))
    net.deployment.submit(ANNA, FIVE, raw, timeout=300)
    for address in FIVE:
        find(net, address, ("X-Trasporto", "posta-certificata"), msgid)
    net.drain("alfa", "beta", seconds=600)
    receipts = find(net, ANNA, ("X-Ricevuta", "avvenuta-consegna"), msgid)
    assert len(receipts) == len(FIVE)
    [uid] = find(net, BRUNO, ("X-Trasporto", "posta-certificata"), msgid)
    for message in (fetch(net, BRUNO, uid), fetch(net, ANNA, receipts[0])):
        assert carried(message.original, message.value("identificativo"), msgid) == raw
        verifiers.verify(message.raw, net.deployment.home / "ca/ca.pem")
    peak = memory(net, "VmHWM")
    print("peak above idle, in messages:", {f"{h} {p}": round((peak[h, p] - idle[h, p]) / len(raw), 1) for h, p in peak})
    for (host, process), value in peak.items():
        # pec-incoming holds as many copies as come at once: Alfa gets its own and the receipts, Beta one for each domain.
        copies = {"alfa": 4, "beta": 3}[host] if process == "incoming" else 1
        assert value - idle[host, process] <= 16 * MB + 3 * copies * len(raw), (host, process)
