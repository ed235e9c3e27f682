"""What is no certified mail: delivered in a busta di anomalia, or refused (RFC 6109 s. 2.2.2, 3.2.2)."""

import email
import re
import smtplib

import pytest
import verifiers
from network import ALDO, ANNA, BRUNO, CARLA, SERVICE

LETTER = "From: Carla <{}>\r\nTo: {}\r\nCc: {}\r\nSubject: Un caff\u00e8?\r\nMessage-ID: {}\r\nDate: Thu, 19 Nov 2026 10:00:00 +0100\r\n\r\nCi vediamo?\r\n"


def bring(net, raw, recipients, sender=CARLA, host="ALFA"):
    with smtplib.SMTP(*net.deployment.address(host, "SMTP"), timeout=30) as client:
        client.sendmail(sender, recipients, raw)


def ordinary(net, *recipients):
    msgid = net.letter(CARLA, recipients)[1]
    return LETTER.format(CARLA, recipients[0], ", ".join(recipients[1:]) or ALDO, msgid).encode(), msgid


def anomaly(net, address, about, header="Message-ID"):
    return net.deployment.wait_for(address, lambda m: m.kind == "errore" and about in (m.header[header] or ""))


def check(net, message):
    """Signed, with the text and the message alone; gives back the text and the bytes inside."""
    verifiers.verify(message.raw, net.deployment.home / "ca/ca.pem")
    content = message.header.get_payload(0)
    assert [part.get_content_type() for part in content.get_payload()] == ["multipart/alternative", "message/rfc822"]
    assert message.daticert is None
    defects = [d for part in email.message_from_bytes(message.raw).walk() for d in part.defects]
    assert defects == []
    return message.text, message.original


@pytest.mark.both
def test_rfc6109_3_2_2_ordinary_mail(net):
    raw, msgid = ordinary(net, ANNA, ALDO)
    bring(net, raw, [ANNA, ALDO])
    for address in (ANNA, ALDO):
        message = anomaly(net, address, msgid)
        text, inside = check(net, message)
        assert re.sub(rb"^(Received: [^\r]*(\r\n[ \t][^\r]*)*\r\n)*", b"", inside) == raw
        assert message.header["Subject"] == "ANOMALIA MESSAGGIO: Un caff\u00e8?"
        assert message.header["From"] == f'"Per conto di: {CARLA}" <posta-certificata@gestore.alfa.test>'
        assert (message.header["Reply-To"], message.header["Return-Path"]) == (CARLA, f"<{CARLA}>")
        for line in ("Anomalia nel messaggio", f"ed indirizzato a:\n{ANNA}\n{ALDO}\nTali dati non sono stati certificati", "Firma non presente"):
            assert line in text, text
    net.drain("alfa")
    assert [row["event"] for row in net.story("alfa", msgid)] == ["anomalia"]
    assert not any(m.kind in ("avvenuta-consegna", "presa-in-carico") for _, m in net.all_about(msgid))


@pytest.mark.both
def test_ordinary_mail_for_nobody_is_refused_and_never_bounced(net):
    raw, msgid = ordinary(net, ANNA, "nessuno@pec.alfa.test")
    with pytest.raises(smtplib.SMTPDataError) as refused:
        bring(net, raw, [ANNA, "nessuno@pec.alfa.test"])
    assert refused.value.smtp_code == 550 and b"nessuno@pec.alfa.test: no such mailbox" in refused.value.smtp_error
    assert net.story("alfa", msgid) == []


def test_rfc6109_2_2_5_the_service_mailboxes_take_no_letters(net):
    for address in ("posta-certificata@gestore.alfa.test", SERVICE["alfa"]):
        with pytest.raises(smtplib.SMTPDataError) as refused:
            bring(net, ordinary(net, address)[0], [address])
        assert refused.value.smtp_code == 550 and b"nobody reads" in refused.value.smtp_error


def test_rfc6109_2_2_5_who_answers_a_receipt_hears_that_nobody_reads_it(net):
    """At our own provider in the SMTP dialogue, at another one by its signed notice; whoever else is written to gets the message."""
    for address in ("posta-certificata@gestore.alfa.test", SERVICE["alfa"]):
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            net.submit(ANNA, [address])
        code, text = refused.value.recipients[address]
        assert code == 550 and b"5.7.1" in text and b"casella automatica che nessuno legge" in text, text
    msgid, _ = net.submit(ANNA, [BRUNO, SERVICE["beta"]])
    notice = net.expect(ANNA, "errore-consegna", msgid)
    verifiers.verify(notice.raw, net.deployment.home / "ca/ca.pem")
    assert notice.about == [SERVICE["beta"]] and notice.value("errore-esteso").startswith("5.2.1 - Beta Posta S.r.l. - casella disattivata o che")
    net.expect(ANNA, "avvenuta-consegna", msgid, BRUNO)
    net.drain("alfa", "beta")
    assert sorted(m.label for _, m in net.all_about(msgid, [ANNA])) == ["accettazione", f"avvenuta-consegna {BRUNO}", f"errore-consegna {SERVICE['beta']}"]
    assert not net.all_about(msgid, [SERVICE["beta"]])
    for recipient in (BRUNO, SERVICE["beta"]):
        net.expect(SERVICE["alfa"], "presa-in-carico", msgid, recipient)


def test_dm_2_11_2005_art_14_a_mailbox_may_take_certified_mail_only(net):
    now = net.now()
    net.postconf("alfa", "pec_refuse_ordinary_mail=studio.example")
    net.hangup("alfa", "incoming")
    net.wait_for_log("alfa", "incoming", "NOQUEUE: reloaded", since=now)
    try:
        with pytest.raises(smtplib.SMTPDataError) as refused:
            bring(net, ordinary(net, ALDO)[0], [ALDO])
        assert refused.value.smtp_code == 550 and b"certified mail only" in refused.value.smtp_error
        raw, msgid = ordinary(net, ANNA)
        bring(net, raw, [ANNA])
        anomaly(net, ANNA, msgid)
        msgid, _ = net.submit(BRUNO, [ALDO])
        net.expect(ALDO, "posta-certificata", msgid)
    finally:
        net.execute("alfa", "postfix", "postconf", "-X", "pec_refuse_ordinary_mail")
        net.reload_programs("alfa", "incoming")


def test_rfc6109_2_2_2_a_damaged_envelope_goes_on_as_an_anomaly(net):
    msgid, _ = net.submit(ANNA, [BRUNO])
    envelope = net.expect(BRUNO, "posta-certificata", msgid)
    net.drain("alfa", "beta")
    changed = envelope.raw.replace(b"X-Trasporto: posta-certificata", b"X-Trasporto: altro")
    with smtplib.SMTP(*net.deployment.address("BETA", "SMTP"), timeout=30) as client:
        client.sendmail(ANNA, [BRUNO], changed)
    message = net.deployment.wait_for(BRUNO, lambda m: m.kind == "errore" and m.header["Message-ID"] == envelope.header["Message-ID"])
    text, inside = check(net, message)
    assert "neither an envelope nor a receipt" in text and inside.endswith(changed[changed.index(b"X-Trasporto: altro") :])


@pytest.fixture
def refusing(net):
    """The ordinary server refuses a recipient while we talk to it; another one it would take and bounce later."""
    net.postconf("posta", "smtpd_recipient_restrictions=check_recipient_access,inline:{{refused@posta.test=550 5.1.1 no}}")
    net.reload_postfix("posta")
    yield
    net.execute("posta", "postfix", "postconf", "-X", "smtpd_recipient_restrictions")
    net.reload_postfix("posta")


@pytest.mark.both
@pytest.mark.parametrize(("nobody", "says"), [("refused@posta.test", "un avviso del sistema di posta"), ("nobody@posta.test", "Firma non presente")])
def test_what_an_ordinary_server_gives_back_comes_as_an_anomaly(net, refusing, nobody, says):
    """No raw report of a mail system reaches a certified mailbox, whoever's it is."""
    msgid, _ = net.submit(ANNA, [nobody])
    identificativo = net.expect(ANNA, "accettazione", msgid).value("identificativo").encode()
    message = net.deployment.wait_for(ANNA, lambda m: m.kind == "errore" and identificativo in (m.original or b""))
    text, inside = check(net, message)
    assert message.header["Subject"] == "ANOMALIA MESSAGGIO: Undelivered Mail Returned to Sender"
    assert says in text and nobody.encode() in inside
    net.drain("alfa")
    assert [m for m in net.deployment.messages(ANNA) if identificativo in m.raw and m.kind == "ordinario"] == []
