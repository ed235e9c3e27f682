"""RFC 6109 s. 3.1.6 with real programs: nobody at the other provider answers, and the clock of the sender's is moved."""

import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import verifiers
from network import ALDO, ANNA, BRUNO, CARLA
from shifted import Shifted

PREAVVISO = "preavviso-errore-consegna"
SUBJECT = "AVVISO DI MANCATA CONSEGNA PER SUP. TEMPO MASSIMO: "
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)

# When the message is sent: now, and so that the twelve hours lie across a New Year's night and both changes of legal time.
# In order: the clock of a mail system does not go back but at the end.
WHEN = {
    "now": None,
    "across the New Year": datetime(2026, 12, 31, 17, 0, tzinfo=UTC),
    "across the beginning of summer time": datetime(2027, 3, 27, 18, 0, tzinfo=UTC),
    "across the end of summer time": datetime(2027, 10, 30, 18, 0, tzinfo=UTC),
}


@pytest.fixture(scope="module")
def alfa(net):
    """Alfa's clock; at the end it shows the time that it is, nothing waits, everybody runs."""
    net.drain("alfa", "beta")
    shifted = Shifted(net, "alfa")
    try:
        yield shifted
    finally:
        shifted.back()
        net.drain("alfa", "beta")


@contextmanager
def nobody_answers_at_beta(net):
    net.stop("beta", "postfix")
    try:
        yield
    finally:
        net.start("beta", "postfix")
        net.wait_until_up("beta", "postfix")
        net.deployment.wait_until_up()


def preavvisi(net, msgid):
    return [m for _, m in net.all_about(msgid, [ANNA]) if m.kind == PREAVVISO]


def expect(net, msgid, count):
    """That many notices about the message, and not more."""
    deadline = time.monotonic() + 60
    while len(found := preavvisi(net, msgid)) < count:
        assert time.monotonic() < deadline, [m.label for m in found]
        time.sleep(0.2)
    return found


def text_of(message):
    plain, html = message.header.get_payload(0).get_payload(0).get_payload()
    return " ".join(plain.get_content().split()), " ".join(html.get_content().split())


@pytest.mark.parametrize("when", WHEN)
def test_rfc6109_3_1_6_both_notices_come_and_what_comes_later_passes(net, alfa, when):
    with nobody_answers_at_beta(net):
        alfa.move_to(WHEN[when] or alfa.now())
        msgid, _ = net.submit(ANNA, [BRUNO, ALDO, CARLA])
        accepted = net.expect(ANNA, "accettazione", msgid).header["Date"].datetime
        assert abs(accepted - alfa.now()) < MINUTE
        net.expect(ANNA, "avvenuta-consegna", msgid, ALDO)

        alfa.move_to(accepted + 12 * HOUR - 3 * MINUTE)
        time.sleep(2)  # for what must not come
        assert preavvisi(net, msgid) == []

        alfa.move_to(accepted + 12 * HOUR + MINUTE)
        [first] = expect(net, msgid, 1)
        check(net, alfa, first, msgid, accepted, 12 * HOUR, 13 * HOUR)
        assert first.value("errore-esteso") == "il messaggio non è stato consegnato nelle prime dodici ore dal suo invio"
        plain, html = text_of(first)
        for text in (plain, html.replace("<br>", "").replace("&#233;", "é").replace("&#232;", "è").replace("&#224;", "à")):
            assert "non è stato consegnato nelle prime dodici ore dal suo invio. Non escludendo che questo possa avvenire in seguito" in text, text
            assert "has not been delivered within the first 12 hours following its dispatch." in text

        alfa.move_to(accepted + 23 * HOUR + MINUTE)
        _, second = expect(net, msgid, 2)
        check(net, alfa, second, msgid, accepted, 22 * HOUR, 24 * HOUR)
        assert second.value("errore-esteso") == "5.4.1 - Alfa PEC S.p.A. - il messaggio non è stato consegnato nelle prime ventiquattro ore dal suo invio"
        assert "non è stato consegnato nelle ventiquattro ore successive al suo invio." in text_of(second)[0]
        assert "audit violation" not in net.logs("alfa", "clock")
        assert first.header["Message-ID"] != second.header["Message-ID"]

    # Receipts that come now pass, and nothing follows them.
    net.drain("alfa", "beta")
    net.expect(ANNA, "avvenuta-consegna", msgid, BRUNO)
    alfa.look()
    net.drain("alfa", "beta")
    assert len(preavvisi(net, msgid)) == 2
    events = [(row["event"], row["recipients"]) for row in net.story("alfa", msgid) if row["event"].startswith("preavviso")]
    assert events == [("preavviso-12", [BRUNO]), ("preavviso-24", [BRUNO])]


def check(net, alfa, notice, msgid, accepted, least, most):
    """What both notices have in common."""
    header = notice.header
    assert header["Subject"].startswith(f"{SUBJECT}Prova")
    assert (header["From"], header["To"]) == ("posta-certificata@gestore.alfa.test", ANNA)
    assert (header["X-Riferimento-Message-ID"], notice.original) == (msgid, None)
    made = header["Date"].datetime
    assert least <= made - accepted < most
    assert abs(made - alfa.now()) < 5 * MINUTE
    assert f"{notice.value('giorno')} {notice.value('ora')}" == made.strftime("%d/%m/%Y %H:%M:%S")
    assert notice.daticert.find(".//data").get("zona") == made.strftime("%z") == header["Date"].split()[-1]
    assert (notice.daticert.get("tipo"), notice.daticert.get("errore"), notice.about) == (PREAVVISO, "altro", [BRUNO])
    verifiers.verify(notice.raw, net.deployment.home / "ca/ca.pem")
    for part in header.get_payload(0).get_payload():
        if part.get_filename() == "daticert.xml":
            verifiers.valid_daticert(part.get_payload(decode=True))
    assert not any("127.0.0.1" in line and "pec-clock" in line for line in header.get_all("Received"))


def test_rfc6109_3_1_6_what_a_stop_made_late_leaves_at_once_and_is_an_audit_violation(net, alfa):
    with nobody_answers_at_beta(net):
        msgid, _ = net.submit(ANNA, [BRUNO])
        accepted = net.expect(ANNA, "accettazione", msgid).header["Date"].datetime
        alfa.move_to(accepted + 23 * HOUR + 58 * MINUTE)
        found = expect(net, msgid, 2)
        assert sorted(m.value("errore-esteso").startswith("5.4.1") for m in found) == [False, True]
        line = net.wait_for_log("alfa", "clock", "error: audit violation: preavviso-12 is late")
        assert "audit violation: preavviso-24" not in line
    net.drain("alfa", "beta")
    net.expect(ANNA, "avvenuta-consegna", msgid, BRUNO)

