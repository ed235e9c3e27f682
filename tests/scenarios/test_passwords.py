"""Passwords of mailboxes: which are taken, what is kept of them, and what becomes of whoever guesses."""

import imaplib
import poplib
import re
import smtplib
import time

import pytest
from network import ANNA, HERE, run

pytestmark = pytest.mark.both

ADDRESS = "nuova@pec.alfa.test"
GOOD = "un ravanello legge Tolstoj"
FAIL2BAN = HERE.parent.parent / "dovecot-conf/fail2ban"
FILTER = FAIL2BAN / "filter.d/pec-login.conf"
# The shipped jail reads the journal, of which a container has none, and asks the firewall. What counts and how often is its own.
JAIL_HERE = "[pec-login]\nbackend = polling\nlogpath = /tmp/log\nbanaction = dummy\n"


def pecctl_user(net, verb, address, password, *options):
    script = 'printf "%s\\n" "$0" | pecctl user "$@"'
    return net.execute("alfa", "dovecot", "sh", "-c", script, password, verb, address, *options, check=False)


def imap_login(net, address, password):
    with imaplib.IMAP4_SSL(*net.deployment.address("ALFA", "IMAPS"), ssl_context=net.deployment.tls) as client:
        client.login(address, password)


@pytest.fixture
def account(net):
    """A new account, and away with it."""
    added = pecctl_user(net, "add", ADDRESS, GOOD)
    assert (added.returncode, added.stdout, added.stderr) == (0, "", ""), added
    net.wait_for_mailbox("alfa", ADDRESS)
    yield ADDRESS
    net.execute("alfa", "dovecot", "sed", "-i", f"/^{ADDRESS}:/d", "/etc/dovecot/users")


def test_a_mailbox_is_added_with_a_good_password(net, account):
    imap_login(net, account, GOOD)
    with smtplib.SMTP_SSL(*net.deployment.address("ALFA", "SUBMISSIONS"), context=net.deployment.tls, timeout=30) as client:
        client.login(account, GOOD)
    [line] = re.findall(rf"(?m)^{ADDRESS}:(.*)$", net.execute("alfa", "dovecot", "cat", "/etc/dovecot/users").stdout)
    assert line.startswith("{ARGON2ID}$argon2id$v=19$m=19456,t=2,p=1$")
    again = pecctl_user(net, "add", ADDRESS.upper(), GOOD)
    assert (again.returncode, again.stderr) == (1, f"pecctl: {ADDRESS}: is there already in /etc/dovecot/users\n")


def test_a_password_is_changed(net, account):
    made = pecctl_user(net, "password", account, "", "--generate")
    assert made.returncode == 0 and len(password := made.stdout.strip()) == 20, made
    deadline = time.monotonic() + 60
    while True:  # Dovecot looks at its users file once a second.
        try:
            return imap_login(net, account, password)
        except imaplib.IMAP4.error:
            assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("address", "password", "says"),
    [
        (ADDRESS, "Segreta1!", "the password has 9 characters; 12 to 256 are allowed"),
        (ADDRESS, "password12345", "the password can be guessed within about 10^"),
        (ADDRESS, "nuova.pec.alfa", "the password can be guessed within about 10^"),
        ("x@posta.test", GOOD, "posta.test is no domain of this provider; there are gestore.alfa.test, pec.alfa.test, studio.example"),
        ("nuova", GOOD, '"nuova" is no mail address'),
        ("#nuova@pec.alfa.test", GOOD, "letters, digits, dots, hyphens and underscores"),
    ],
)
def test_what_is_wrong_is_one_line_and_adds_nobody(net, address, password, says):
    refused = pecctl_user(net, "add", address, password)
    assert (refused.returncode, refused.stdout) == (1, "") and says in refused.stderr and refused.stderr.count("\n") == 1, refused
    assert address not in net.execute("alfa", "dovecot", "cat", "/etc/dovecot/users").stdout


def test_who_guesses_is_slowed_and_named_to_fail2ban(net, tmp_path):
    """The filter finds each failure with the guesser's address, and nothing that a user name makes up."""
    since = net.now()
    address, forged = "anna@pec.alfa.test", "a, rip=192.0.2.1, lip=192.0.2.2, TLS, session=<x"
    for user in (address, forged):
        client = imaplib.IMAP4_SSL(*net.deployment.address("ALFA", "IMAPS"), ssl_context=net.deployment.tls)
        begun = time.monotonic()
        with pytest.raises(imaplib.IMAP4.error):
            client.login(f'"{user}"', "sbagliata")
        # Two seconds as Dovecot counts them: it looks at whole ones.
        assert user == forged or time.monotonic() - begun >= 0.9
        client.logout()
    client = poplib.POP3_SSL(*net.deployment.address("ALFA", "POP3S"), context=net.deployment.tls)
    client.user(address)
    with pytest.raises(poplib.error_proto):
        client.pass_("sbagliata")
    client.quit()
    with smtplib.SMTP_SSL(*net.deployment.address("ALFA", "SUBMISSIONS"), context=net.deployment.tls, timeout=60) as client:
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login(address, "sbagliata", initial_response_ok=True)
    imap_login(net, address, net.deployment.passwords[address])

    lines = net.logs("alfa", "dovecot", since) + net.logs("alfa", "postfix", since)
    (tmp_path / "log").write_text(lines)
    container = ("docker", "run", "--rm", "--volume", f"{tmp_path}:/seen:ro", "--volume", f"{FILTER}:/etc/fail2ban/filter.d/pec-login.conf:ro", f"pec-between:{net.base}")
    found = run(*container, "fail2ban-regex", "--print-all-matched", "/seen/log", "pec-login").stdout
    # Postfix does not always wait as long as Dovecot lets who guesses; that is nobody's wrong password.
    wrong = [line for line in lines.splitlines() if "auth failed" in line or "authentication failed" in line]
    failed = [line for line in wrong if "Connection lost to authentication server" not in line]
    assert len(failed) >= 3
    assert f"{len(failed)} matched" in found, found
    hosts = run(*container, "fail2ban-regex", "--out", "ip", "/seen/log", "pec-login").stdout.split()
    assert len(set(hosts)) == 1 and "192.0.2.1" not in hosts, hosts


@pytest.mark.slow
def test_who_goes_on_guessing_waits_longer_and_is_kept_out(net, tmp_path):
    """Dovecot makes each guess slower; the shipped jail lets four pass, and bans with the fifth."""
    since = net.now()
    took = []
    for n in range(5):
        client = imaplib.IMAP4_SSL(*net.deployment.address("ALFA", "IMAPS"), ssl_context=net.deployment.tls)
        begun = time.monotonic()
        with pytest.raises(imaplib.IMAP4.error):
            client.login(ANNA, f"sbagliata {n}")
        took.append(time.monotonic() - begun)
        client.logout()
    # Whoever gives the right one waits this time, and then no longer.
    imap_login(net, ANNA, net.deployment.passwords[ANNA])
    assert took[-1] >= 2 * took[0] >= 1.8 and took[-1] >= 8, took

    failures = [line for line in net.logs("alfa", "dovecot", since).splitlines() if "auth failed" in line]
    assert len(failures) == 5, failures
    # The journal tells when; a file must.
    (tmp_path / "failures").write_text("".join(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} {line}\n" for line in failures))
    (tmp_path / "pec.local").write_text(JAIL_HERE)
    (tmp_path / "run").write_text(
        """set -e
        cp -r /shipped/* /etc/fail2ban/ && cp /seen/pec.local /etc/fail2ban/jail.d/ && rm -f /etc/fail2ban/jail.d/defaults-debian.conf
        mkdir -p /var/run/fail2ban; touch /tmp/log; fail2ban-client start >/dev/null
        until fail2ban-client ping >/dev/null 2>&1; do sleep 0.1; done
        failed() { fail2ban-client status pec-login | sed -n 's/.*Total failed:[^0-9]*//p'; }
        until_failed() { for _ in $(seq 300); do [ "$(failed)" = "$1" ] && return; sleep 0.1; done; fail2ban-client status pec-login; cat /var/log/fail2ban.log; exit 1; }
        head -n 4 /seen/failures >> /tmp/log; until_failed 4
        echo "after four: $(fail2ban-client get pec-login banip)"
        tail -n 1 /seen/failures >> /tmp/log; until_failed 5
        for _ in $(seq 300); do [ -n "$(fail2ban-client get pec-login banip)" ] && break; sleep 0.1; done
        echo "after five: $(fail2ban-client get pec-login banip)"
        """
    )
    volumes = ("--volume", f"{tmp_path}:/seen:ro", "--volume", f"{FAIL2BAN}:/shipped:ro")
    told = run("docker", "run", "--rm", *volumes, f"pec-between:{net.base}", "sh", "/seen/run").stdout
    address = re.search(r"rip=([0-9.]+)", failures[0])[1]
    assert f"after four: \nafter five: {address}\n" in told, told
