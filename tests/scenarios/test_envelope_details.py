"""What an envelope and its receipts make of odd header fields (RFC 6109 s. 3.1.5), as Python's email package reads them."""

import email
import email.policy

import pytest
from network import ANNA, BRUNO

LONG = " ".join(["La disdetta del contratto di fornitura, perché è scaduto"] * 12)
# The field as it is submitted, and what it says.
SUBJECTS = {
    "encoded words": (b"=?iso-8859-1?Q?Perch=E9_no=3F?=", "Perché no?"),
    "two charsets, folded": (b"=?utf-8?b?UGVyY2jDqQ==?=\r\n =?windows-1252?q?_=801?=\r\n\tinsieme", "Perché €1 insieme"),
    "UTF-8 as it is": ("Perché no?".encode(), "Perché no?"),
    "Latin-1 as it is": ("Perché no?".encode("latin-1"), "Perché no?"),
    "long": (LONG.replace("perché è", "=?utf-8?q?perch=C3=A9_=C3=A8?=").replace(" La", "\r\n La").encode(), LONG),
    "something like markup": (b"a < b & \"c\" > d", 'a < b & "c" > d'),
}
TITLES = {"posta-certificata": (BRUNO, "POSTA CERTIFICATA: "), "accettazione": (ANNA, "ACCETTAZIONE: "), "avvenuta-consegna": (ANNA, "CONSEGNA: ")}


@pytest.mark.parametrize("form", SUBJECTS)
def test_rfc6109_3_1_5_a_subject_reads_the_same_wherever_it_is_repeated(net, form):
    field, text = SUBJECTS[form]
    raw, msgid = net.letter(ANNA, [BRUNO])
    head, body = raw.split(b"\r\n\r\n", 1)
    lines = [line if not line.startswith(b"Subject:") else b"Subject: " + field for line in head.split(b"\r\n")]
    net.deployment.submit(ANNA, [BRUNO], b"\r\n".join(lines) + b"\r\n\r\n" + body)
    for kind, (address, title) in TITLES.items():
        message = net.expect(address, kind, msgid)
        assert message.header["Subject"] == title + text
        assert message.value("oggetto") == text
        head = message.raw.split(b"\r\n\r\n", 1)[0]
        assert head.isascii() and max(map(len, head.split(b"\r\n"))) <= 998
        if kind == "posta-certificata":
            assert b"\r\nSubject: " + field + b"\r\n" in message.original


def test_rfc6109_3_1_5_reply_to_and_recipients_stay_as_they_were_written(net):
    """Names, comments, folds; the form that the user chose is the form that the recipient sees."""
    to = f'"Bianchi, Bruno" <{BRUNO}>,\r\n\t=?utf-8?q?Niccol=C3=B2?= <{ANNA}>'
    replies = "Ufficio (protocollo) <ufficio@studio.example>,\r\n altri@studio.example"
    msgid = net.letter(ANNA, [])[1]
    raw = f"From: Anna <{ANNA}>\r\nTo: {to}\r\nReply-To: {replies}\r\nSubject: Prova\r\nMessage-ID: {msgid}\r\n\r\nCiao\r\n".encode()
    net.deployment.submit(ANNA, [BRUNO, ANNA], raw)
    envelope = net.expect(BRUNO, "posta-certificata", msgid)
    for name, value in (("To", to), ("Reply-To", replies)):
        assert f"\r\n{name}: {value}\r\n".encode() in envelope.raw.split(b"\r\n\r\n", 1)[0] + b"\r\n"
    assert envelope.value("risposte") == "ufficio@studio.example, altri@studio.example"
    assert [a.addr_spec for a in envelope.header["To"].addresses] == [BRUNO, ANNA]


def test_an_internationalised_domain_is_its_a_label(net):
    """Nobody answers there, so the envelope waits; what it says is in the acceptance."""
    elsewhere = "ufficio@xn--citt-4na.example"
    msgid, _ = net.submit(ANNA, [elsewhere])
    try:
        accepted = net.expect(ANNA, "accettazione", msgid)
        assert accepted.recipients == {elsewhere: "esterno"}
    finally:
        for entry in net.queue("alfa"):
            if any(r["address"] == elsewhere for r in entry["recipients"]):
                net.execute("alfa", "postfix", "postsuper", "-d", entry["queue_id"])
    raw, msgid = net.letter(ANNA, ["ufficio@città.example"])
    net.deployment.submit(ANNA, [BRUNO], raw)
    assert "indirizzo non valido nel campo To" in net.expect(ANNA, "non-accettazione", msgid).value("errore-esteso")


def test_a_long_list_of_recipients_is_certified_whole(net):
    """Forty mailboxes that do not exist: each is named in the acceptance, each has its notice."""
    recipients = [f"nessuno-con-un-nome-piuttosto-lungo-{n:03}@pec.beta.test" for n in range(40)]
    msgid = net.letter(ANNA, [])[1]
    to = ",\r\n ".join(recipients)
    net.deployment.submit(ANNA, recipients, f"From: {ANNA}\r\nTo: {to}\r\nSubject: A molti\r\nMessage-ID: {msgid}\r\n\r\nCiao\r\n".encode())
    accepted = net.expect(ANNA, "accettazione", msgid)
    assert accepted.recipients == dict.fromkeys(recipients, "certificato")
    parsed = email.message_from_bytes(accepted.raw, policy=email.policy.SMTP)
    assert all(recipient in parsed.get_payload(0).get_payload(0).get_payload(0).get_content() for recipient in recipients)
    net.drain("alfa", "beta")
    failed = [m.about for _, m in net.all_about(msgid, [ANNA]) if m.kind == "errore-consegna"]
    assert sorted(failed) == sorted([r] for r in recipients)
