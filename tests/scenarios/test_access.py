"""The Access Point's door: who may submit, as whom, and how what is wrong is said (RFC 6109 s. 3.1)."""

import smtplib
import ssl

import pytest
import verifiers
from network import ALDO, ANNA, BRUNO, CARLA

pytestmark = pytest.mark.both

SERVICE_ADDRESS = "posta-certificata@gestore.alfa.test"


@pytest.fixture
def submission(net):
    """A client on 587, behind STARTTLS, not logged in."""
    with smtplib.SMTP(*net.deployment.address("ALFA", "SUBMISSION"), timeout=30) as client:
        client.starttls(context=net.deployment.tls)
        client.ehlo()
        yield client


@pytest.fixture
def port25(net):
    with smtplib.SMTP(*net.deployment.address("ALFA", "SMTP"), timeout=30) as client:
        client.ehlo()
        yield client


def login(net, client, address=ANNA):
    client.login(address, net.deployment.passwords[address])


def test_rfc6109_3_1_port_25_submits_nothing(net, port25):
    assert not port25.has_extn("auth")
    port25.starttls(context=net.deployment.tls)
    port25.ehlo()
    assert not port25.has_extn("auth")
    port25.mail(ANNA)
    code, text = port25.rcpt(CARLA)
    assert (code, b"Relay access denied" in text) == (554, True), (code, text)


def test_port_25_takes_no_message_of_a_user_for_another_user(net, port25):
    raw, msgid = net.letter(ANNA, [ALDO])
    with pytest.raises(smtplib.SMTPDataError) as refused:
        port25.sendmail(ANNA, [ALDO], raw)
    assert 500 <= refused.value.smtp_code < 600
    assert net.story("alfa", msgid) == []


def test_no_password_travels_without_tls(net):
    with smtplib.SMTP(*net.deployment.address("ALFA", "SUBMISSION"), timeout=30) as client:
        client.ehlo()
        assert not client.has_extn("auth")
        code, _ = client.docmd("AUTH", "PLAIN AGEAYg==")
        assert code in (503, 530, 538)
        assert client.mail(ANNA)[0] == 530


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rfc6109_5_3_tls_older_than_1_2_is_refused(net, version):
    context = ssl.create_default_context(cafile=net.deployment.home / "ca/ca.pem")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = version, version
    with pytest.raises(ssl.SSLError) as refused:
        smtplib.SMTP_SSL(*net.deployment.address("ALFA", "SUBMISSIONS"), context=context, timeout=30)
    assert "alert protocol version" in str(refused.value).replace("_", " ").lower(), refused.value


def test_rfc6109_5_2_without_a_password_nothing_is_submitted(submission):
    submission.mail(ANNA)
    code, text = submission.rcpt(BRUNO)
    assert (code // 100) == 5, (code, text)


def test_a_wrong_password_is_refused(submission):
    with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
        submission.login(ANNA, "sbagliata")
    assert refused.value.smtp_code == 535


@pytest.mark.parametrize("sender", [ALDO, "posta-certificata@gestore.alfa.test", "anna@elsewhere.test", ""])
def test_mail_from_must_be_the_accounts(net, submission, sender):
    login(net, submission)
    code, text = submission.mail(sender)
    if code == 250:
        code, text = submission.rcpt(BRUNO)
    assert code == 553 and ANNA.encode() in text, (code, text)


def test_the_case_of_an_address_does_not_matter(net):
    raw, msgid = net.letter("Anna@PEC.alfa.test", [BRUNO.upper()])
    with smtplib.SMTP_SSL(*net.deployment.address("ALFA", "SUBMISSIONS"), context=net.deployment.tls, timeout=30) as client:
        login(net, client)
        client.sendmail("ANNA@pec.alfa.test", [BRUNO.upper()], raw)
    net.expect(ANNA, "accettazione", msgid)
    assert [about.lower() for about in net.expect(ANNA, "avvenuta-consegna", msgid).about] == [BRUNO]


WRONG = {
    "diverso da quello del mittente": (f"From: {ALDO}\r\nTo: {BRUNO}\r\n", [BRUNO]),
    "campo From assente": (f"To: {BRUNO}\r\n", [BRUNO]),
    "campo To privo di indirizzi": (f"From: {ANNA}\r\n", [BRUNO]),
    "indirizzo non valido nel campo To": (f"From: {ANNA}\r\nTo: bruno\r\n", [BRUNO]),
    "copia nascosta": (f"From: {ANNA}\r\nTo: {BRUNO}\r\nBcc: {ALDO}\r\n", [BRUNO, ALDO]),
    "non presente nei campi To o Cc": (f"From: {ANNA}\r\nTo: {BRUNO}\r\n", [BRUNO, ALDO]),
    "ma non tra i destinatari": (f"From: {ANNA}\r\nTo: {BRUNO}, {ALDO}\r\n", [BRUNO]),
    "riservato ai gestori": (f"From: {ANNA}\r\nTo: {BRUNO}\r\nX-Trasporto: posta-certificata\r\n", [BRUNO]),
}


@pytest.mark.parametrize("cause", WRONG)
def test_rfc6109_3_1_2_a_failed_check_is_a_signed_notice_to_the_sender(net, cause):
    header, recipients = WRONG[cause]
    msgid = net.letter(ANNA, recipients)[1]
    raw = f"{header}Message-ID: {msgid}\r\nSubject: Perch=?iso-8859-1?Q?=E9?=\r\n\r\nCiao\r\n".encode()
    net.deployment.submit(ANNA, recipients, raw)
    notice = net.expect(ANNA, "non-accettazione", msgid)
    assert notice.header["Subject"].startswith("AVVISO DI NON ACCETTAZIONE: Perch")
    assert (notice.header["From"], notice.header["To"], notice.header["Return-Path"]) == (SERVICE_ADDRESS, ANNA, f"<{SERVICE_ADDRESS}>")
    assert (notice.header["X-Riferimento-Message-ID"], notice.header["X-VerificaSicurezza"]) == (msgid, None)
    assert cause in notice.value("errore-esteso") and sorted(notice.recipients) == sorted(recipients)
    assert (notice.daticert.get("tipo"), notice.daticert.get("errore"), notice.original) == ("non-accettazione", "altro", None)
    assert "Errore nell'accettazione del messaggio\n" in notice.text and f"a causa di {notice.value('errore-esteso')}.\n" in notice.text
    verifiers.verify(notice.raw, net.deployment.home / "ca/ca.pem")
    verifiers.valid_daticert(daticert_bytes(notice))
    net.drain("alfa", "beta")
    assert [(address, message.kind) for address, message in net.all_about(msgid)] == [(ANNA, "non-accettazione")]
    assert [row["event"] for row in net.story("alfa", msgid)] == ["non-accettazione"]


def daticert_bytes(message):
    return next(part for part in message.header.walk() if part.get_filename() == "daticert.xml").get_payload(decode=True)


def test_an_empty_bcc_is_no_blind_copy(net):
    msgid, _ = net.submit(ANNA, [BRUNO], extra="Bcc:\r\n")
    assert b"\r\nBcc:\r\n" in net.expect(BRUNO, "posta-certificata", msgid).original


def test_what_is_too_large_is_refused_before_it_is_sent(net, submission):
    login(net, submission)
    code, text = submission.mail(ANNA, ["SIZE=40000000"])
    assert code == 552, (code, text)
