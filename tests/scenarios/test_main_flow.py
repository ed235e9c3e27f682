"""The normal path of RFC 6109, between two providers on stock Postfix and Dovecot."""

import email
import re
from datetime import timedelta

import pytest
import verifiers
from ledger import HEARD_WITHIN
from network import ALDO, ANNA, BRUNO, CARLA, NESSUNO, PROTOCOLLO, SERVICE

pytestmark = pytest.mark.both

FIVE = [BRUNO, PROTOCOLLO, ALDO, NESSUNO, CARLA]


@pytest.fixture(scope="module")
def one(net):
    """One message to one recipient at the other provider, with all that comes of it."""
    msgid, raw = net.submit(ANNA, [BRUNO])
    messages = {
        "accettazione": net.expect(ANNA, "accettazione", msgid),
        "presa-in-carico": net.expect(SERVICE["alfa"], "presa-in-carico", msgid),
        "posta-certificata": net.expect(BRUNO, "posta-certificata", msgid),
        "avvenuta-consegna": net.expect(ANNA, "avvenuta-consegna", msgid, BRUNO),
    }
    return msgid, raw, messages


@pytest.fixture(scope="module")
def five(net):
    """One message to five recipients of every sort."""
    msgid, raw = net.submit(ANNA, FIVE)
    net.expect(ANNA, "errore-consegna", msgid, NESSUNO)
    for address in (ALDO, BRUNO, PROTOCOLLO):
        net.expect(ANNA, "avvenuta-consegna", msgid, address)
    net.expect(CARLA, "posta-certificata", msgid)
    net.expect(SERVICE["alfa"], "presa-in-carico", msgid, ALDO)
    net.expect(SERVICE["alfa"], "presa-in-carico", msgid, BRUNO)
    net.expect(SERVICE["alfa"], "presa-in-carico", msgid, PROTOCOLLO)
    net.drain("alfa", "beta")
    return msgid, raw, net.all_about(msgid)


def test_rfc6109_3_1_4_acceptance(one):
    _, _, messages = one
    receipt = messages["accettazione"]
    assert receipt.header["Subject"].startswith("ACCETTAZIONE: Prova")
    assert (receipt.header["From"], receipt.header["To"]) == ("posta-certificata@gestore.alfa.test", ANNA)
    assert receipt.recipients == {BRUNO: "certificato"}
    assert receipt.header["Return-Path"] == "<posta-certificata@gestore.alfa.test>"


def test_rfc6109_4_1_one_time_reference_for_envelope_and_acceptance(one):
    _, _, messages = one
    envelope, receipt = messages["posta-certificata"], messages["accettazione"]
    for name in ("giorno", "ora", "identificativo"):
        assert envelope.value(name) == receipt.value(name)
    assert envelope.header["Date"] == receipt.header["Date"]
    written = envelope.header["Date"].datetime.strftime("%d/%m/%Y %H:%M:%S")
    assert written == f"{envelope.value('giorno')} {envelope.value('ora')}"


def test_rfc6109_3_1_5_envelope(one):
    msgid, _, messages = one
    header = messages["posta-certificata"].header
    assert header["From"] == f'"Per conto di: {ANNA}" <posta-certificata@gestore.alfa.test>'
    assert (header["Reply-To"], header["To"], header["Return-Path"]) == (ANNA, BRUNO, f"<{ANNA}>")
    assert (header["X-TipoRicevuta"], header["X-Riferimento-Message-ID"]) == ("completa", msgid)
    identificativo = messages["posta-certificata"].value("identificativo")
    assert header["Message-ID"] == f"<{identificativo}>"
    assert re.fullmatch(r"pec\.\d{14}\.[0-9a-z]+@gestore\.alfa\.test", identificativo)
    assert header["Sender"] is None


def test_rfc6109_3_2_1_presa_in_carico(one):
    _, _, messages = one
    receipt = messages["presa-in-carico"]
    assert receipt.header["From"] == "posta-certificata@gestore.beta.test"
    assert receipt.header["Subject"].startswith("PRESA IN CARICO: ")
    assert (receipt.about, receipt.value("gestore-emittente")) == ([BRUNO], "Beta Posta S.r.l.")


def test_rfc6109_3_3_2_1_complete_delivery_receipt(one):
    _, _, messages = one
    receipt, envelope = messages["avvenuta-consegna"], messages["posta-certificata"]
    assert receipt.header["Subject"].startswith("CONSEGNA: ")
    assert receipt.about == [BRUNO]
    assert receipt.original == envelope.original is not None
    assert receipt.value("identificativo") == envelope.value("identificativo")


def test_the_receipts_time_is_the_second_in_which_the_mailbox_said_yes(net, one):
    _, _, messages = one
    uid = messages["posta-certificata"].uid
    heard = messages["avvenuta-consegna"].header["Date"].datetime - net.received(BRUNO, uid)[uid]
    assert timedelta(0) <= heard <= timedelta(seconds=HEARD_WITHIN)


def test_the_original_is_carried_byte_for_byte(one):
    msgid, raw, messages = one
    envelope = messages["posta-certificata"]
    carried = re.sub(rb"\AReceived:.*?\r\n(?![ \t])", b"", envelope.original, count=1, flags=re.DOTALL)
    assert carried.count(f"X-Riferimento-Message-ID: {msgid}\r\n".encode()) == 1
    carried = carried.replace(f"X-Riferimento-Message-ID: {msgid}\r\n".encode(), b"")
    assert carried.replace(f"<{envelope.value('identificativo')}>".encode(), msgid.encode()) == raw


def test_rfc6109_3_2_1_five_recipients_get_exactly_what_is_due(five):
    _, _, found = five
    due = [
        (ANNA, "accettazione", ""),
        *[(address, "posta-certificata", "") for address in (ALDO, BRUNO, PROTOCOLLO, CARLA)],
        *[(ANNA, "avvenuta-consegna", address) for address in (ALDO, BRUNO, PROTOCOLLO)],
        (ANNA, "errore-consegna", NESSUNO),
        (SERVICE["alfa"], "presa-in-carico", ALDO),
        (SERVICE["alfa"], "presa-in-carico", f"{BRUNO} {NESSUNO}"),
        (SERVICE["alfa"], "presa-in-carico", PROTOCOLLO),
    ]
    assert sorted((mailbox, m.kind, " ".join(m.about)) for mailbox, m in found) == sorted(due)


def test_rfc6109_2_2_1_the_acceptance_lists_every_recipient_with_its_type(five):
    _, _, found = five
    receipt = next(m for _, m in found if m.kind == "accettazione")
    assert receipt.recipients == {address: "esterno" if address == CARLA else "certificato" for address in FIVE}
    text = receipt.header.get_payload(0).get_payload(0).get_payload(0).get_content()
    assert f'{CARLA} ("posta ordinaria")' in text and f'{NESSUNO} ("posta certificata")' in text


def test_rfc6109_3_3_3_a_mailbox_that_does_not_exist(five):
    _, _, found = five
    notice = next(m for _, m in found if m.kind == "errore-consegna")
    assert notice.daticert.get("errore") == "no-dest"
    assert notice.value("errore-esteso") == "5.1.1 - Beta Posta S.r.l. - indirizzo non valido"
    assert notice.header["Subject"].startswith("AVVISO DI MANCATA CONSEGNA: ")
    assert notice.original is None


def test_a_certified_mailbox_is_its_address_alone(net):
    """Neither Postfix nor Dovecot cuts an address until it fits somebody."""
    addresses = [f"{local_part}@pec.beta.test" for local_part in ("bruno+x", "bruno-x", "brunox", "bruno01", "bruno.x", "br", "x")]
    msgid, _ = net.submit(ANNA, addresses)
    for address in addresses:
        assert net.expect(ANNA, "errore-consegna", msgid, address).daticert.get("errore") == "no-dest"
    assert [m.kind for _, m in net.all_about(msgid, [BRUNO])] == []


def test_every_signature_is_good_for_every_verifier(net, one, five):
    messages = list(one[2].values()) + [m for _, m in five[2]]
    for message in messages:
        verifiers.verify(message.raw, net.deployment.home / "ca/ca.pem")


def test_rfc6109_4_4_every_daticert_is_valid(one, five):
    for message in list(one[2].values()) + [m for _, m in five[2]]:
        for part in message.header.get_payload(0).get_payload():
            if part.get_filename() == "daticert.xml":
                verifiers.valid_daticert(part.get_payload(decode=True))


def test_rfc6109_4_3_the_tree_of_every_message(one, five):
    for message in list(one[2].values()) + [m for _, m in five[2]]:
        signed = message.header
        content, signature = signed.get_payload()
        assert (signed.get_content_type(), signed.get_param("protocol"), signed.get_param("micalg")) == ("multipart/signed", "application/x-pkcs7-signature", "sha-256")
        assert (signature.get_content_type(), signature.get_filename(), signature["Content-Transfer-Encoding"]) == ("application/x-pkcs7-signature", "smime.p7s", "base64")
        kinds = [part.get_content_type() for part in content.get_payload()]
        with_original = message.kind in ("posta-certificata", "avvenuta-consegna")
        assert kinds == ["multipart/alternative", "application/xml"] + (["message/rfc822"] if with_original else []), message.label
        plain, html = content.get_payload(0).get_payload()
        for part, kind in ((plain, "text/plain"), (html, "text/html")):
            assert (part.get_content_type(), part.get_content_charset(), part["Content-Transfer-Encoding"]) == (kind, "iso-8859-1", "quoted-printable")
        assert all(len(line) <= 998 and line.isascii() for line in message.raw.splitlines())


def test_rfc6109_2_3_the_log_tells_the_story_in_order(net, five):
    msgid, _, _ = five
    story = net.story("alfa", msgid)
    assert [row["event"] for row in story].count("accettazione") == 1
    assert story[0]["event"] == "accesso"
    events = sorted((row["event"], " ".join(row["recipients"])) for row in story)
    assert events == sorted([
        ("accesso", ""), ("accettazione", ""), ("ricezione", ALDO), ("presa-in-carico", ALDO), ("avvenuta-consegna", ALDO),
        ("ricevuta-presa-in-carico", f"{BRUNO} {NESSUNO}"), ("ricevuta-presa-in-carico", PROTOCOLLO),
        ("ricevuta-avvenuta-consegna", BRUNO), ("ricevuta-avvenuta-consegna", PROTOCOLLO), ("ricevuta-errore-consegna", NESSUNO),
    ])  # fmt: skip
    times = [row["happened_at"] for row in story]
    assert times == sorted(times)
    # What people read has the same order, and what leads to something stands before it, also within one second.
    printed = net.execute("alfa", "postfix", "pecctl", "log", msgid).stdout
    order = re.findall(r"^\d\d/\d\d/\d{4} \d\d:\d\d:\d\d \+\d{4}  ([a-z-]+)", printed, re.MULTILINE)
    assert order == [row["event"] for row in story]
    for before, after in (("accesso", "accettazione"), ("ricezione", "presa-in-carico"), ("ricezione", "avvenuta-consegna")):
        assert order.index(before) < order.index(after), order
    assert all(row["message_id"] and row["message_sha256"] and row["queue_id"] for row in story)


def test_the_log_has_the_id_and_the_hash_of_every_notice(net, five):
    from hashlib import sha256

    msgid, _, found = five
    rows = {row["message_id"]: row for host in ("alfa", "beta") for row in net.story(host, msgid)}
    for mailbox, message in found:
        row = rows[message.header["Message-ID"].strip("<>")]
        body = re.sub(rb"\r?\n", b"\r\n", message.raw).split(b"\r\n\r\n", 1)[1]
        assert row["message_sha256"] == sha256(body).hexdigest(), (mailbox, message.label)


def test_a_reply_reaches_the_author(one):
    _, _, messages = one
    addresses = messages["posta-certificata"].header["Reply-To"].addresses
    assert [a.addr_spec for a in addresses] == [ANNA]


def test_delivery_follows_acceptance_within_a_minute(one):
    _, _, messages = one
    between = messages["avvenuta-consegna"].header["Date"].datetime - messages["accettazione"].header["Date"].datetime
    assert timedelta(0) <= between < timedelta(seconds=60)


def test_no_receipt_travels_with_what_the_original_brought_along(one):
    _, _, messages = one
    for kind in ("accettazione", "avvenuta-consegna", "presa-in-carico"):
        received = messages[kind].header.get_all("Received")
        assert not any("ESMTPSA" in line for line in received), received


def test_messages_are_read_by_python_without_defects(one, five):
    for message in list(one[2].values()) + [m for _, m in five[2]]:
        defects = [d for part in email.message_from_bytes(message.raw).walk() for d in part.defects]
        assert defects == [], message.label
