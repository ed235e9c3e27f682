"""What an administrator meets in main.cf: errors in one line, reloads, an orderly end (see docs/configuration.md)."""

import smtplib
import threading
import time

import pytest
from network import ALDO, ANNA, BRUNO, run

PROGRAMS = ("access", "incoming", "delivery", "clock")


def check(net, program, *settings, prepare=""):
    """Runs `pec-PROGRAM --check` with a changed copy of Alfa's configuration."""
    script = f"""set -e; rm -rf /tmp/check; cp -r /etc/postfix /tmp/check; chmod 755 /tmp/check; {prepare}
        for setting; do postconf -c /tmp/check -e "$setting" 2>/dev/null; done
        exec setpriv --reuid=pec --regid=pec --init-groups pec-{program} -c /tmp/check --check"""
    return net.execute("alfa", "postfix", "sh", "-c", script, "sh", *settings, check=False)


@pytest.mark.both
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_shipped_configuration_is_good(net, program):
    done = check(net, program)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


# What a value may be, alone and beside others, is asserted in milters/host (parameters/table.rs); here, what a host is needed for.
WRONG = {
    "a missing file": (["pec_certificate_file=/etc/pec/none.pem"], "", "pec_certificate_file = /etc/pec/none.pem: No such file"),
    "a key that cannot be read": (["pec_signing_key=/tmp/key.pem"], "cp /etc/pec/key.pem /tmp/key.pem; chmod 0 /tmp/key.pem;", "pec_signing_key = /tmp/key.pem: Permission denied"),
    "a key that is another certificate's": (["pec_signing_key=/tmp/key.pem"], "cp /etc/pec/tls.key /tmp/key.pem; chown pec /tmp/key.pem; chmod 600 /tmp/key.pem;", "pec_signing_key = /tmp/key.pem: is not the key of the certificate in /etc/pec/cert.pem"),
    "a certificate for other things": (["pec_certificate_file=/etc/pec/tls.pem"], "", "pec_certificate_file = /etc/pec/tls.pem: "),
    "a certificate of another provider": (["pec_provider_name=Beta Posta S.r.l."], "", "for pec_provider_name = Beta Posta S.r.l.: neither CN nor O of its subject is the provider's name (Beta Posta S.r.l.), but Posta Certificata, Alfa PEC S.p.A."),
    "a certificate that is not in the directory": (["pec_directory_file=/tmp/igpec.ldif"], "sed '/^providerCertificateHash/s/: ......../: 00000000/' /etc/pec/igpec.ldif > /tmp/igpec.ldif;", "is not in our record of pec_directory_file (/tmp/igpec.ldif)"),
    "no certificate in the file": (["pec_certificate_file=/etc/hosts"], "", "pec_certificate_file = /etc/hosts: "),
    "an unknown parameter": (["pec_certificat_file=/x"], "", "pec_certificat_file: unknown parameter"),
    "a parameter that is not set": (["pec_row_keys_file="], "", "pec_row_keys_file is not set in /tmp/check/main.cf; it must be an absolute path"),
    "no keys for the database's rows": (["pec_row_keys_file=/etc/hosts"], "", "pec_row_keys_file = /etc/hosts: line 1 is not 64 hexadecimal digits"),
    "a directory without our record": (["pec_directory_file=/etc/hosts"], "", "pec_directory_file = /etc/hosts: "),
    "no CA": (["pec_ca_file=/etc/hosts"], "", "pec_ca_file = /etc/hosts: "),
    "a database that does not answer": (["pec_database=host=127.0.0.1 port=9 dbname=pec user=pec"], "", "pec_database"),
    "a database that is not there": (["pec_database=host=127.0.0.1 dbname=nowhere user=pec"], "", '"nowhere"'),
    "a wrong database password": (["pec_database_password_file=/etc/hostname"], "", "password authentication failed"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_one_line_and_a_failure(net, what):
    settings, prepare, says = WRONG[what]
    done = check(net, "access", *settings, prepare=prepare)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("pec-access: ") and says in lines[0], done.stderr


@pytest.mark.both
def test_a_key_and_the_request_for_its_certificate(net):
    ask = "pecctl key request --bits 2048 --state Ancona /tmp/new.key"
    done = net.execute("alfa", "postfix", "sh", "-c", f"rm -f /tmp/new.key; {ask} > /tmp/new.csr; stat -c %a /tmp/new.key; openssl req -in /tmp/new.csr -verify -noout -text 2>&1")
    assert done.stdout.startswith("600\n") and "verify OK" in done.stdout
    for part in ("C = IT, ST = Ancona, O = Alfa PEC S.p.A., CN = Posta Certificata", "email:posta-certificata@gestore.alfa.test", "Digital Signature"):
        assert part.replace(" = ", "=") in done.stdout.replace(" = ", "="), done.stdout
    again = net.execute("alfa", "postfix", "sh", "-c", f"cp /tmp/new.key /tmp/before; {ask}; echo $?; cmp /tmp/new.key /tmp/before")
    assert again.stdout == "1\n" and "pecctl: /tmp/new.key: File exists" in again.stderr
    # One made elsewhere has its request, unless nobody could start with it.
    made = "openssl genrsa -out /tmp/made.key {bits} 2>/dev/null && pecctl key request --existing /tmp/made.key"
    assert "BEGIN CERTIFICATE REQUEST" in net.execute("alfa", "postfix", "sh", "-c", made.format(bits=2048)).stdout
    short = net.execute("alfa", "postfix", "sh", "-c", made.format(bits=1024), check=False)
    assert (short.returncode, short.stdout) == (1, "") and short.stderr == "pecctl: /tmp/made.key: the key has 1024 bits; RSA of 2048 to 4096 bits is needed\n", short


def test_a_store_that_cannot_be_written(net):
    done = check(net, "incoming", "pec_infected_store=/proc")
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("pec-incoming: pec_infected_store = /proc: cannot be written to: "), done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_database_that_comes_later_is_waited_for(net, program):
    net.stop("alfa", "postgres")
    net.stop("alfa", program)
    now = net.now()
    net.start("alfa", program)
    net.wait_for_log("alfa", program, "waiting for the database", since=now)
    net.start("alfa", "postgres")
    net.wait_until_up("alfa", "postgres")
    net.wait_for_log("alfa", program, "started: ", since=now)


def test_sighup_keeps_the_old_configuration_when_the_new_one_is_wrong(net):
    now = net.now()
    net.postconf("alfa", "pec_total_size_limit=12")
    net.hangup("alfa", *PROGRAMS)
    try:
        for program in PROGRAMS:
            found = net.wait_for_log("alfa", program, "not reloaded", since=now)
            assert "pec_total_size_limit = 12: not allowed" in found
        msgid, _ = net.submit(ANNA, [BRUNO])
        net.expect(ANNA, "avvenuta-consegna", msgid)
    finally:
        net.execute("alfa", "postfix", "postconf", "-X", "pec_total_size_limit")
        net.reload_programs("alfa", *PROGRAMS)


def test_sighup_takes_a_new_limit(net):
    net.postconf("alfa", "pec_recipient_limit=50")
    net.reload_programs("alfa", "access")
    try:
        msgid, _ = net.submit(ANNA, [f"r{n}@pec.beta.test" for n in range(51)])
        assert "(51) superiore al massimo di 50" in net.expect(ANNA, "non-accettazione", msgid).value("errore-esteso")
    finally:
        net.execute("alfa", "postfix", "postconf", "-X", "pec_recipient_limit")
        net.reload_programs("alfa", "access")


@pytest.mark.both
def test_certified_domains_are_added_by_one_line_or_map_entry_and_a_reload(net):
    by_line, by_entry = new = ["dora@nuovo.example", "elio@mappa.example"]
    domains = net.execute("alfa", "postfix", "postconf", "-h", "virtual_mailbox_domains").stdout.strip()
    kind = net.execute("alfa", "postfix", "postconf", "-h", "default_database_type").stdout.strip()
    table = f"{kind}:/etc/postfix/certified"
    password = net.execute("alfa", "dovecot", "doveadm", "pw", "-s", "BLF-CRYPT", "-p", "segreta").stdout.strip()

    def set_domains(setting, entries):
        net.execute("alfa", "postfix", "sh", "-c", f"printf '%s' '{entries}' > /etc/postfix/certified && postmap {table}")
        net.postconf("alfa", f"virtual_mailbox_domains={setting}")
        net.reload_programs("alfa", "clock")
        net.reload("alfa")

    # A provider that keeps its domains in a map already.
    set_domains(f"{domains} {table}", "prima.example x\n")
    for address in new:
        net.execute("alfa", "dovecot", "sh", "-c", f"echo '{address}:{password}::::::' >> /etc/dovecot/users")
        net.wait_for_mailbox("alfa", address)
    try:
        set_domains(f"{domains} {table} nuovo.example", "prima.example x\nmappa.example x\n")
        msgid, _ = net.submit(ANNA, new)
        assert net.expect(ANNA, "accettazione", msgid).recipients == {by_line: "certificato", by_entry: "certificato"}
        for address in new:
            net.expect(ANNA, "avvenuta-consegna", msgid, address)
    finally:
        net.execute("alfa", "dovecot", "sed", "-i", "-E", f"/^({by_line}|{by_entry}):/d", "/etc/dovecot/users")
        set_domains(domains, "")


# What each program is in the middle of when it is told to end, what says that it brought that to its end, and who writes.
IN_HAND = [
    ("access", "db.sent.statement", "access.accept", ANNA),
    ("incoming", "db.custody.statement", "incoming.accept", BRUNO),
    ("delivery", "db.fact.accettazione.statement", "triggers.accettazione.answer", ANNA),
    ("delivery", "lmtp.busta.saved", "delivery.busta.answer", ANNA),
]


def test_sigterm_lets_the_message_in_hand_finish(net):
    with net.tapped("alfa") as taps:
        tap = taps["alfa"]
        for program, step, end, sender in IN_HAND:
            tap.clear()
            tap.hold(step)
            raw, msgid = net.letter(sender, [ALDO])
            done = threading.Thread(target=net.deployment.submit, args=(sender, [ALDO], raw))
            done.start()
            tap.wait(step)
            now = net.now()
            deadline = time.monotonic() + 8  # the statement is waited for ten seconds
            run("docker", "kill", "--signal", "TERM", net.container("alfa", program))
            if program == "access":
                while net.listens("alfa", "access"):
                    assert time.monotonic() < deadline, "it goes on listening"
                # Nobody new is served meanwhile.
                with pytest.raises(smtplib.SMTPResponseException) as refused:
                    net.submit(ANNA, [ALDO])
                assert 400 <= refused.value.smtp_code < 500
            tap.release(step)
            net.wait_for_log("alfa", program, f"stopped: program=pec-{program}", since=now)
            assert run("docker", "wait", net.container("alfa", program)).stdout.strip() == "0"
            assert end in tap.reached(), f"pec-{program} ended before its message: {tap.reached()}"
            net.start("alfa", program)
            net.wait_until_up("alfa", program)
            done.join(30)
            net.drain("alfa", "beta")
            net.expect(sender, "avvenuta-consegna", msgid, ALDO)
            assert len(net.all_about(msgid, [ALDO])) == 1
