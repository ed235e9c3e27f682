"""A receipt for a provider that cannot be reached comes back to ours when Postfix's day for it is over, and goes out again for
five days: the same bytes, however large, out of what came back."""

import re
import time
from contextlib import contextmanager
from datetime import timedelta

import pytest
from ledger import Ledger
from network import ANNA, BRUNO
from shifted import Shifted
from test_large import MB, raised, remove_large  # noqa: F401

SERVICE_ADDRESS = "posta-certificata@gestore.beta.test"
LARGE = 50 * MB
# Postfix gives a message up at the first attempt after a day.
DAY = timedelta(days=1, minutes=20)


@pytest.fixture(scope="module")
def beta(net):
    """Beta's clock; at the end it shows the time that it is, nothing waits, everybody runs."""
    net.drain("alfa", "beta")
    shifted = Shifted(net, "beta")
    try:
        yield shifted
    finally:
        shifted.back()
        net.drain("alfa", "beta")
        for address in (ANNA, BRUNO):
            remove_large(net, address)


@contextmanager
def nobody_listens_at_alfa(net):
    """Its port 25 is closed; its users write, and what they write leaves."""
    service = net.execute("alfa", "postfix", "postconf", "-M", "smtp/inet").stdout.strip()
    net.execute("alfa", "postfix", "postconf", "-MX", "smtp/inet")
    net.reload_postfix("alfa")
    try:
        yield
    finally:
        net.execute("alfa", "postfix", "postconf", "-M", f"smtp/inet={service}")
        net.reload_postfix("alfa")
        net.deployment.wait_until_up(server="ALFA")


def delivered(net, **options):
    """A letter of Anna's that Bruno has, and the Message-IDs of what Beta has to say about it, which waits in its queue."""
    msgid, _ = net.submit(ANNA, [BRUNO], **options)
    net.expect(BRUNO, "posta-certificata", msgid)
    identificativo = net.sql("beta", f"SELECT identificativo FROM log WHERE msgid = '{msgid}' LIMIT 1")[0]
    deadline = time.monotonic() + 60
    while len(notices := net.sql("beta", f"SELECT message_id FROM fact WHERE identificativo = '{identificativo}' AND handed_over")) < 2:
        assert time.monotonic() < deadline, net.queue("beta")
        time.sleep(0.1)
    return msgid, notices


def come_back(net, beta, notices, what, after=DAY):
    """A day passes, or more, and each of the notices comes back. Returns the seconds of Beta's clock when it had been moved."""
    since = net.now()
    beta.move_to(moved := beta.now() + after)
    net.flush("beta")
    for message_id in notices:
        net.wait_for_log("beta", "delivery", f"error: a notice could not be delivered, {what}: message-id={message_id} ", since)
    return moved.timestamp()


def on_their_way(net, number, since):
    """The sizes, in order, of so many messages that have come into the queue since and wait for Alfa alone. What was sent before, and
    what comes back, are large too."""
    deadline = time.monotonic() + 60
    while True:
        new = [entry for entry in net.queue("beta") if entry["arrival_time"] >= since]
        waiting = [entry for entry in new if all("delay_reason" in r and r["address"].endswith("alfa.test") for r in entry["recipients"])]
        if len(waiting) == number:
            return sorted(entry["message_size"] for entry in waiting)
        assert time.monotonic() < deadline, new
        time.sleep(0.1)


def test_a_notice_goes_out_again_until_it_arrives(net, raised, beta):  # noqa: F811
    line = "QUJD" * 19 + "\r\n"
    with nobody_listens_at_alfa(net):
        small, about_small = delivered(net)
        large, about_large = delivered(net, text=line * (LARGE // len(line)))
        notices = [*about_small, *about_large]
        for _ in range(2):
            moved = come_back(net, beta, notices, "it is sent again")
            # Each is on its way again, and large as it was.
            assert on_their_way(net, len(notices), moved)[-1] > LARGE
        assert [m.kind for _, m in net.all_about(small, [ANNA])] == ["accettazione"]
    net.drain("alfa", "beta")
    ledger = Ledger(net)
    ledger.refresh()
    for msgid in (small, large):
        assert ledger.check(msgid, ANNA, [BRUNO]) == 0
        for _, message in net.all_about(msgid, [ANNA]):
            # Of its way there is what the last one left.
            assert len(message.header.get_all("Received")) <= 4 and len(message.header.get_all("Return-Path")) == 1
    assert net.expect(ANNA, "avvenuta-consegna", large).original == net.expect(BRUNO, "posta-certificata", large).original


def test_after_five_days_the_report_lies_in_the_service_mailbox(net, beta):
    with nobody_listens_at_alfa(net):
        msgid, notices = delivered(net)
        on_their_way(net, len(notices), come_back(net, beta, notices, "it is sent again"))
        come_back(net, beta, notices, "it is given up; the report is in the service mailbox", after=4 * DAY)
        for message_id in notices:
            report = net.deployment.wait_for(SERVICE_ADDRESS, lambda m, message_id=message_id: m.kind == "ordinario" and message_id.encode() in m.raw)
            # All of it, for whoever has to send it by hand.
            assert re.search(rb"(?m)^Content-Type: message/rfc822", report.raw) and b"smime.p7s" in report.raw
    net.drain("alfa", "beta")
    assert [m.kind for _, m in net.all_about(msgid, [ANNA])] == ["accettazione"]
