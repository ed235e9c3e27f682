"""RFC 6109 s. 3.1.6 with real programs: nobody at the other provider answers, and the clock of the sender's is moved."""

import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import verifiers
from network import ALDO, ANNA, BRUNO, CARLA, NESSUNO, PROTOCOLLO, SERVICE
from shifted import Shifted
from test_viruses import PROVA, attached, beta_knows_more  # noqa: F401

PREAVVISO = "preavviso-errore-consegna"
SUBJECT = "AVVISO DI MANCATA CONSEGNA PER SUP. TEMPO MASSIMO: "
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)



def saturday(year, month):
    """The evening before the last Sunday of a month."""
    last = datetime(year, month, 31, 18, 0, tzinfo=UTC)
    return last - timedelta(days=last.isoweekday() % 7 + 1)


def coming(moment):
    """The first such moment after the days that the cases before it take, this year or later."""
    year = datetime.now(UTC).year
    return next(at for at in map(moment, (year, year + 1)) if at > datetime.now(UTC) + timedelta(days=3))


# When the message is sent: now, and so that the twelve hours lie across a New Year's night and both changes of legal time.
# In order: the clock of a mail system does not go back but at the end.
LATER = {
    "across the New Year": coming(lambda year: datetime(year, 12, 31, 17, 0, tzinfo=UTC)),
    "across the beginning of summer time": coming(lambda year: saturday(year, 3)),
    "across the end of summer time": coming(lambda year: saturday(year, 10)),
}
WHEN = {"now": None, **dict(sorted(LATER.items(), key=lambda case: case[1]))}


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
    deadline = time.monotonic() + 150  # two rounds of pec-clock
    while len(found := preavvisi(net, msgid)) < count:
        assert time.monotonic() < deadline, [m.label for m in found]
        time.sleep(0.2)
    return found


def text_of(message):
    plain, html = message.header.get_payload(0).get_payload(0).get_payload()
    return " ".join(plain.get_content().split()), " ".join(html.get_content().split())


@pytest.mark.sampled(2)
@pytest.mark.parametrize("when", WHEN)
def test_rfc6109_3_1_6_both_notices_come_and_what_comes_later_passes(net, alfa, when):
    with nobody_answers_at_beta(net):
        alfa.move_to(WHEN[when] or alfa.now())
        msgid, _ = net.submit(ANNA, [BRUNO, ALDO, CARLA])
        accepted = net.expect(ANNA, "accettazione", msgid).header["Date"].datetime
        assert abs(accepted - alfa.now()) < MINUTE
        net.expect(ANNA, "avvenuta-consegna", msgid, ALDO)

        alfa.move_to(accepted + 12 * HOUR - 30 * MINUTE)
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
        late = [line for line in net.logs("alfa", "clock").splitlines() if "audit violation" in line]
        assert not any(first.value("identificativo") in line for line in late), late
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


@contextmanager
def no_delivery_at_beta(net):
    """Beta takes mail for comune.example in charge and cannot deliver it. Mail for pec.beta.test does not leave Alfa, which wants a
    certificate there that it can verify, and has no CA for that."""
    net.stop("beta", "dovecot")
    net.postconf("alfa", "smtp_tls_policy_maps=inline:{ { pec.beta.test = secure } }")
    net.reload_postfix("alfa")
    try:
        yield
    finally:
        net.execute("alfa", "postfix", "postconf", "-X", "smtp_tls_policy_maps")
        net.reload_postfix("alfa")
        net.start("beta", "dovecot")
        net.wait_until_up("beta", "dovecot")


def test_rfc6109_3_1_6_what_is_certified_decides_also_late_and_the_end_of_the_queue_is_a_failure_besides(net, alfa, beta_knows_more):
    # The wait is over for whom these are about.
    ended = {}
    for recipient, letter in ((NESSUNO, {}), (BRUNO, attached("relazione.txt", PROVA))):
        ended[recipient], _ = net.submit(ANNA, [recipient], **letter)
        net.expect(ANNA, "errore-consegna", ended[recipient], recipient)
    net.drain("alfa", "beta")
    with no_delivery_at_beta(net):
        msgid, _ = net.submit(ANNA, [BRUNO, PROTOCOLLO])
        accettazione = net.expect(ANNA, "accettazione", msgid)
        accepted = accettazione.header["Date"].datetime
        net.expect(SERVICE["alfa"], "presa-in-carico", msgid, PROTOCOLLO)

        # A stop of ours: nobody has looked for almost a day. With nothing both notices leave, with a presa in carico the second.
        alfa.move_to(accepted + 23 * HOUR + 30 * MINUTE)
        found = {(m.about[0], m.value("errore-esteso").startswith("5.4.1")) for m in expect(net, msgid, 3)}
        assert found == {(BRUNO, False), (BRUNO, True), (PROTOCOLLO, True)}
        net.wait_for_log("alfa", "clock", f"error: audit violation: preavviso-12 is late: identificativo={accettazione.value('identificativo')}")
        # The notices are there, so whatever was said when they were raised has been said.
        assert f"audit violation: preavviso-24 is late: identificativo={accettazione.value('identificativo')}" not in net.logs("alfa", "clock")

        # Postfix forgets the reason while it tries again.
        deadline = time.monotonic() + 30
        while not (reasons := [r["delay_reason"] for entry in net.queue("alfa") for r in entry["recipients"] if r["address"] == BRUNO and "delay_reason" in r]):
            assert time.monotonic() < deadline, net.queue("alfa")
            time.sleep(0.1)
        assert len(reasons) == 1 and reasons[0].startswith("Server certificate not "), reasons

        # The envelope's day in Alfa's queue is over. That is another fact, and both are true.
        alfa.move_to(accepted + 24 * HOUR + 20 * MINUTE)
        net.flush("alfa")
        failed = net.expect(ANNA, "errore-consegna", msgid, BRUNO)
        assert failed.value("errore-esteso") == "5.4.1 - Alfa PEC S.p.A. - il messaggio non è stato consegnato nelle prime ventiquattro ore dal suo invio"
    net.drain("alfa", "beta")
    net.expect(ANNA, "avvenuta-consegna", msgid, PROTOCOLLO)
    labels = sorted(m.label for _, m in net.all_about(msgid, [ANNA, BRUNO]))
    assert labels == sorted([
        "accettazione", f"{PREAVVISO} {BRUNO}", f"{PREAVVISO} {BRUNO}", f"{PREAVVISO} {PROTOCOLLO}",
        f"errore-consegna {BRUNO}", f"avvenuta-consegna {PROTOCOLLO}",
    ])  # fmt: skip
    assert [m.label for other in ended.values() for m in preavvisi(net, other)] == []
