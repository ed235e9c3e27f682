"""Viruses and attachments that are not carried, with a real clamd (RFC 6109 s. 2.2.2, 2.2.4, 3.1.3, 3.2.3, 3.2.4)."""

import base64
import io
import smtplib
import subprocess
import zipfile
from contextlib import contextmanager

import pytest
import verifiers
from network import ANNA, BRUNO, CARLA, PROTOCOLLO, SERVICE, run

# Never as it stands: the scanners on the way of this very file would find it.
EICAR = "-".join(("X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD", "ANTIVIRUS-TEST-FILE!$H+H*")).encode()
# What Beta's scanner knows and Alfa's does not, once beta_knows_more.
PROVA = b"pec-virus-di-prova"
PROGRAM = b"MZ" + bytes(58) + b"\x80\0\0\0" + bytes(200)


def attached(name, content, kind="application/octet-stream"):
    """What makes a letter one with an attachment."""
    text = f'--b\r\nContent-Type: text/plain\r\n\r\nCiao\r\n--b\r\nContent-Type: {kind}; name="{name}"\r\n'
    text += f"Content-Transfer-Encoding: base64\r\n\r\n{base64.encodebytes(content).decode()}".replace("\r\n", "\n").replace("\n", "\r\n")
    return {"text": text + "--b--\r\n", "extra": "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n"}


def zipped(**files):
    """A zip archive; in the names `_` stands for a dot."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
    return out.getvalue()


def infected_store(net, host):
    """All that is kept there, as the auditor reads it."""
    kept = net.execute(host, "access", "sh", "-c", "for f in /var/lib/pec/infected/*/*.p7m; do base64 -w0 $f; echo; done 2>/dev/null", check=False).stdout
    key = net.deployment.home / "ca/auditor.key"
    opened = [
        subprocess.run(["openssl", "cms", "-decrypt", "-inform", "DER", "-inkey", key], input=base64.b64decode(line), capture_output=True, check=True).stdout
        for line in kept.split()
    ]
    return b"".join(opened).decode()


def now():
    return run("date", "--utc", "+%Y-%m-%dT%H:%M:%S.%NZ").stdout.strip()


def restart_clamd(net, host):
    net.stop(host, "clamd")
    net.start(host, "clamd")
    net.wait_until_up(host, "clamd")


@pytest.fixture
def beta_knows_more(net):
    file = net.deployment.home / "beta/clamav/prova.ndb"
    file.write_text(f"Pec.Virus.Di.Prova:0:*:{PROVA.hex()}\n")
    restart_clamd(net, "beta")
    yield
    file.unlink()
    restart_clamd(net, "beta")


@contextmanager
def limit(net, host, setting):
    """clamd with this setting in place of the one that it has."""
    file = net.deployment.home / host / "clamd.conf"
    before = file.read_text()
    file.write_text("".join(line for line in before.splitlines(True) if line.split()[0] != setting.split()[0]) + setting + "\n")
    restart_clamd(net, host)
    try:
        yield
    finally:
        file.write_text(before)
        restart_clamd(net, host)


@pytest.mark.both
def test_rfc6109_3_1_3_a_virus_in_a_submission_becomes_the_notice_to_its_sender(net):
    since = now()
    msgid, _ = net.submit(ANNA, [BRUNO, CARLA], **attached("relazione.txt", EICAR))
    notice = net.expect(ANNA, "non-accettazione", msgid)
    verifiers.verify(notice.raw, net.deployment.home / "ca/ca.pem")
    assert notice.header["Subject"].startswith("AVVISO DI NON ACCETTAZIONE PER VIRUS: Prova ")
    assert notice.header["X-VerificaSicurezza"] == "errore"
    assert notice.daticert.get("errore") == "virus" and "Eicar-Test-Signature" in notice.value("errore-esteso")
    assert "problema di sicurezza Eicar-Test-Signature" in notice.header.get_body(("plain",)).get_content()
    assert notice.original is None
    net.drain("alfa", "beta")
    assert [address for address, _ in net.all_about(msgid)] == [ANNA], "delivered to nobody, no other receipt"
    assert [row["event"] for row in net.story("alfa", msgid)] == ["non-accettazione"]
    assert "virus=Eicar-Test-Signature" in net.logs("alfa", "access", since)


def test_rfc6109_2_2_4_a_message_with_a_virus_is_kept_whole(net):
    msgid, raw = net.submit(ANNA, [BRUNO], **attached("relazione.txt", EICAR))
    net.expect(ANNA, "non-accettazione", msgid)
    kept = infected_store(net, "alfa")
    assert msgid in kept and raw.decode().replace("\r\n", "\n").split("\n\n", 1)[1] in kept.replace("\r\n", "\n")


# clamd tells mail by its first bytes; a message that does not begin like one would be a text, in which base64 hides everything.
FILLER = "X-A:" + "\r\n riempitivo" * 200 + "\r\n"


def disguised(net, sender, recipient):
    """A letter whose first field is of no known name and long, with a virus attached."""
    raw, msgid = net.letter(sender, [recipient], **attached("relazione.txt", EICAR))
    return FILLER.encode() + raw, msgid


def test_a_header_that_begins_like_no_mail_hides_no_virus_in_a_submission(net):
    raw, msgid = disguised(net, ANNA, BRUNO)
    net.deployment.submit(ANNA, [BRUNO], raw)
    assert "Eicar-Test-Signature" in net.expect(ANNA, "non-accettazione", msgid).value("errore-esteso")
    assert [row["event"] for row in net.story("alfa", msgid)] == ["non-accettazione"]


def test_a_header_that_begins_like_no_mail_hides_no_virus_in_ordinary_mail(net):
    raw, msgid = disguised(net, CARLA, BRUNO)
    with smtplib.SMTP(*net.deployment.address("BETA", "SMTP"), timeout=30) as client, pytest.raises(smtplib.SMTPDataError) as refused:
        client.sendmail(CARLA, [BRUNO], raw)
    assert refused.value.smtp_code == 554 and b"Eicar-Test-Signature" in refused.value.smtp_error, refused.value
    assert net.story("beta", msgid) == []


def test_rfc6109_3_2_3_a_virus_in_an_envelope_and_rfc6109_3_2_4_the_sender_hears_of_it(net, beta_knows_more):
    since = now()
    msgid, _ = net.submit(ANNA, [BRUNO, PROTOCOLLO], **attached("relazione.txt", PROVA))
    net.expect(ANNA, "accettazione", msgid)
    for recipient in (BRUNO, PROTOCOLLO):
        notice = net.expect(ANNA, "errore-consegna", msgid, recipient)
        verifiers.verify(notice.raw, net.deployment.home / "ca/ca.pem")
        assert notice.header["Subject"].startswith("AVVISO DI MANCATA CONSEGNA PER VIRUS: Prova ")
        assert notice.header["X-VerificaSicurezza"] == "errore"
        assert notice.daticert.get("errore") == "virus"
        assert notice.value("errore-esteso") == "5.5.1 - Alfa PEC S.p.A. - presenza di un virus nel messaggio"

        between = net.expect(SERVICE["alfa"], "rilevazione-virus", msgid, recipient)
        verifiers.verify(between.raw, net.deployment.home / "ca/ca.pem")
        assert between.header["Subject"].startswith("PROBLEMA DI SICUREZZA: Prova ")
        assert between.header["X-Mittente"] == ANNA and between.about == [recipient]
        assert between.daticert.get("errore") == "virus" and "Pec.Virus.Di.Prova" in between.value("errore-esteso")
        assert between.original is None
    net.expect(SERVICE["alfa"], "presa-in-carico", msgid)
    net.drain("alfa", "beta")
    assert not net.all_about(msgid, [BRUNO, PROTOCOLLO]), "delivered to nobody"
    kinds = sorted(m.kind for _, m in net.all_about(msgid, [ANNA]))
    assert kinds == ["accettazione", "errore-consegna", "errore-consegna"]
    assert msgid in infected_store(net, "beta") and msgid not in infected_store(net, "alfa")
    assert "error: our virus scanner let a virus pass that another provider found" in net.logs("alfa", "incoming", since)
    assert "virus in an envelope, not delivered" in net.logs("beta", "incoming", since)


@pytest.mark.both
def test_rfc6109_2_2_2_ordinary_mail_with_a_virus_is_refused(net):
    raw, msgid = net.letter(CARLA, [BRUNO], **attached("relazione.txt", EICAR))
    with smtplib.SMTP(*net.deployment.address("BETA", "SMTP"), timeout=30) as client, pytest.raises(smtplib.SMTPDataError) as refused:
        client.sendmail(CARLA, [BRUNO], raw)
    assert refused.value.smtp_code == 554 and b"Eicar-Test-Signature" in refused.value.smtp_error, refused.value
    assert net.story("beta", msgid) == []


@pytest.mark.both
def test_what_clamd_will_never_scan_is_refused_clearly(net):
    """At the default of a fresh clamd, messages that Postfix takes would be refused at every attempt, or count as clean."""
    letter = net.letter(ANNA, [BRUNO], text="una riga di testo\r\n" * 100_000)
    with limit(net, "alfa", "StreamMaxLength 1M"):
        with pytest.raises(smtplib.SMTPDataError) as refused:
            net.deployment.submit(ANNA, [BRUNO], letter[0])
        assert refused.value.smtp_code == 552 and b"scanned for viruses" in refused.value.smtp_error, refused.value
        since = now()
        net.hangup("alfa", "access", "incoming")
        for program in ("access", "incoming"):
            net.wait_for_log("alfa", program, "which is allowed, it does not scan: larger than its StreamMaxLength", since)
    net.deployment.submit(ANNA, [BRUNO], letter[0])
    net.expect(BRUNO, "posta-certificata", letter[1])


def test_with_debians_limits_a_submission_that_is_too_large_for_clamd_is_answered(net):
    """clamd resets the connection after its answer, over whatever it has not read of the message: 27 MB against 25."""
    letter = net.letter(ANNA, [BRUNO], text="una riga di testo che non dice nulla di particolare\r\n" * 510_000)
    assert len(letter[0]) > 26_000_000
    with limit(net, "alfa", "StreamMaxLength 25M"), limit(net, "alfa", "MaxScanSize 100M"):
        for _ in range(3):
            with pytest.raises(smtplib.SMTPDataError) as refused:
                net.deployment.submit(ANNA, [BRUNO], letter[0])
            assert refused.value.smtp_code == 552 and b"scanned for viruses" in refused.value.smtp_error, refused.value
    assert net.story("alfa", letter[1]) == []


@pytest.mark.both
def test_limits_that_let_a_virus_pass_are_noticed_at_the_start(net):
    """`MaxFileSize` without `AlertExceedsMax`, as Debian ships it: what is larger counts as clean."""
    with limit(net, "alfa", "MaxFileSize 1M"), limit(net, "alfa", "AlertExceedsMax no"):
        since = now()
        net.hangup("alfa", "access")
        net.wait_for_log("alfa", "access", "which is allowed, it finds no virus: the EICAR test file passes", since)


@pytest.mark.both
def test_the_scanner_as_it_is_set_up_finds_a_virus_in_the_largest_message(net):
    since = now()
    net.hangup("alfa", "access", "incoming")
    for program in ("access", "incoming"):
        # The last of what it says at its start, after what the scanner does not find.
        found = net.wait_for_log("alfa", program, "warning: virus scanner: its signatures are of no known date", since)
        assert "virus scanner: ClamAV" in found and "which is allowed" not in found


BLOCKED = {
    "by its name": ("programma.exe", PROGRAM, "programma.exe"),
    "by its name in capitals": ("PROGRAMMA.JS", b"x", "PROGRAMMA.JS"),
    "renamed": ("foto.png", PROGRAM, "foto.png"),
    "zipped": ("d.zip", zipped(leggimi_txt=b"x", programma_scr=b"x"), "d.zip/programma.scr"),
    "zipped and renamed": ("d.dat", zipped(foto_png=PROGRAM), "d.dat/foto.png"),
    "zipped twice": ("d.zip", zipped(e_zip=zipped(programma_vbs=b"x")), "d.zip/e.zip/programma.vbs"),
    "in an attached message": ("m.eml", b'Subject: x\r\nContent-Type: a/b; name="programma.hta"\r\n\r\nx\r\n', "programma.hta"),
}


@pytest.mark.parametrize("how", BLOCKED)
def test_agid_attachments_that_run_are_not_accepted(net, how):
    name, content, says = BLOCKED[how]
    msgid, _ = net.submit(ANNA, [BRUNO], **attached(name, content))
    notice = net.expect(ANNA, "non-accettazione", msgid)
    assert notice.daticert.get("errore") == "altro" and says in notice.value("errore-esteso"), notice.value("errore-esteso")
    assert notice.header["Subject"].startswith("AVVISO DI NON ACCETTAZIONE: Prova ")
    net.drain("alfa", "beta")
    assert [address for address, _ in net.all_about(msgid)] == [ANNA]
    assert msgid not in infected_store(net, "alfa"), "no virus"


def test_attachments_that_do_not_run_are_carried(net):
    msgid, _ = net.submit(ANNA, [BRUNO], **attached("d.zip", zipped(leggimi_txt=b"x", documento_pdf=b"%PDF-1.7")))
    net.expect(BRUNO, "posta-certificata", msgid)
