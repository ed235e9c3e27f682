"""Passwords of mailboxes: which are taken, what is kept of them, and what becomes of whoever guesses."""

import base64
import imaplib
import poplib
import re
import smtplib
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from network import ALDO, ANNA, HERE, run

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


@pytest.fixture(autouse=True)
def uncounted(net):
    """Dovecot has heard of no guess yet, nor has it in the next scenario."""
    forget = ("truncate", "--size=0", "/var/lib/dovecot/pec-guesses")
    net.execute("alfa", "dovecot", *forget)
    yield
    net.execute("alfa", "dovecot", *forget)


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


def wrong_at_imap(net, user, password):
    client = imaplib.IMAP4_SSL(*net.deployment.address("ALFA", "IMAPS"), ssl_context=net.deployment.tls)
    with pytest.raises(imaplib.IMAP4.error):
        client.login(f'"{user}"', password)
    client.logout()


def wrong_at_pop(net, user, password):
    client = poplib.POP3_SSL(*net.deployment.address("ALFA", "POP3S"), context=net.deployment.tls)
    client.user(user)
    with pytest.raises(poplib.error_proto):
        client.pass_(password)
    client.quit()


def auth_plain(client, user, password):
    """The code of the answer; smtplib's own login would try once more, by another mechanism."""
    return client.docmd("AUTH PLAIN", base64.b64encode(f"\0{user}\0{password}".encode()).decode())[0]


def wrong_at_submissions(net, user, password):
    with smtplib.SMTP_SSL(*net.deployment.address("ALFA", "SUBMISSIONS"), context=net.deployment.tls, timeout=60) as client:
        client.ehlo()
        assert auth_plain(client, user, password) in (454, 535)


def wrong_at_submission(net, user, password):
    with smtplib.SMTP(*net.deployment.address("ALFA", "SUBMISSION"), timeout=60) as client:
        client.starttls(context=net.deployment.tls)
        client.ehlo()
        assert auth_plain(client, user, password) in (454, 535)


DOORS = (wrong_at_imap, wrong_at_pop, wrong_at_submissions, wrong_at_submission)


def all_at_once(guesses):
    """Runs them side by side, and raises what one of them raises."""
    with ThreadPoolExecutor(len(guesses)) as pool:
        for done in [pool.submit(*guess) for guess in guesses]:
            done.result()


def checked(lines):
    """Passwords that Dovecot held against an account, and found wrong."""
    return [line for line in lines.splitlines() if re.search(r"passwd-file\b.*: (Password mismatch|unknown user)", line)]


def not_checked(lines):
    return [line for line in lines.splitlines() if "passdb-lua: not checked: " in line]


def seen_by_fail2ban(net, tmp_path, lines):
    """What fail2ban's filter makes of them: how many guesses, from which addresses."""
    (tmp_path / "log").write_text(lines)
    container = ("docker", "run", "--rm", "--volume", f"{tmp_path}:/seen:ro", "--volume", f"{FILTER}:/etc/fail2ban/filter.d/pec-login.conf:ro", f"pec-between:{net.base}")
    found = run(*container, "fail2ban-regex", "--print-all-matched", "/seen/log", "pec-login").stdout
    hosts = run(*container, "fail2ban-regex", "--out", "ip", "/seen/log", "pec-login").stdout.split()
    return int(re.search(r"(\d+) matched", found)[1]), set(hosts), found


def logs_when(net, since, complete):
    """Both servers' logs, as soon as `complete` holds for them."""
    deadline = time.monotonic() + 60
    while True:
        lines = net.logs("alfa", "dovecot", since) + net.logs("alfa", "postfix", since)
        if complete(lines):
            return lines
        assert time.monotonic() < deadline, lines
        time.sleep(0.2)


def test_of_forty_guesses_at_once_ten_at_most_are_checked_and_fail2ban_counts_them_all(net, tmp_path):
    """All doors together, each guess under the name of an account that nobody has opened from here."""
    imap_login(net, ANNA, net.deployment.passwords[ANNA])
    since = net.now()
    all_at_once([(DOORS[n % 4], net, f"chi{n % 9}@pec.alfa.test", f"sbagliata {n}") for n in range(40)])
    # Whoever reads mail here is let in meanwhile, at every door.
    imap_login(net, ANNA, net.deployment.passwords[ANNA])
    with smtplib.SMTP_SSL(*net.deployment.address("ALFA", "SUBMISSIONS"), context=net.deployment.tls, timeout=30) as client:
        client.login(ANNA, net.deployment.passwords[ANNA])

    # Each guess leaves a line of whoever answered it.
    at_submission = r"smtpd\[\d+\]: warning: .* authentication failed: "
    lines = logs_when(net, since, lambda lines: len(re.findall(at_submission, lines)) == 20 and len(checked(lines) + not_checked(lines)) == 40)
    assert 1 <= len(checked(lines)) <= 10, lines
    count, hosts, found = seen_by_fail2ban(net, tmp_path, lines)
    assert count == 40 and len(hosts) == 1, found


@pytest.mark.slow
def test_who_comes_to_the_address_of_a_guesser_for_the_first_time_waits_a_minute_at_most(net, account):
    """A guess that is not checked does not count; so it is a minute from the last that was."""
    all_at_once([(DOORS[n % 4], net, f"chi{n}@pec.alfa.test", f"sbagliata {n}") for n in range(40)])
    deadline = time.monotonic() + 70
    while True:
        try:
            return imap_login(net, account, GOOD)
        except imaplib.IMAP4.error as refused:
            # A temporary failure, at which no mail client asks for another password.
            assert "UNAVAILABLE" in str(refused) and time.monotonic() < deadline


def auth_test(net, address, user, password):
    """As if somebody came from this address to IMAP."""
    done = net.execute("alfa", "dovecot", "doveadm", "auth", "test", "-x", "service=imap", "-x", f"rip={address}", user, password, check=False)
    return "auth succeeded" in done.stdout


def test_one_wrong_client_leaves_others_behind_its_address_their_share(net):
    since, address = net.now(), "192.0.2.7"

    def of(user):
        lines = [line for line in net.logs("alfa", "dovecot", since).splitlines() if f"{user},{address}" in line]
        return len(checked("\n".join(lines))), len(not_checked("\n".join(lines)))

    assert auth_test(net, address, ANNA, net.deployment.passwords[ANNA])
    # One account has six of the ten.
    all_at_once([(auth_test, net, address, ALDO, f"sbagliata {n}") for n in range(8)])
    assert of(ALDO) == (6, 2)
    # Who was never right from there has two less than all.
    all_at_once([(auth_test, net, address, "chi@pec.alfa.test", f"sbagliata {n}") for n in range(4)])
    assert of("chi@pec.alfa.test") == (2, 2)
    # Right passwords count for nothing, however many.
    for _ in range(12):
        assert auth_test(net, address, ANNA, net.deployment.passwords[ANNA])
    # Wrong ones of her own do.
    all_at_once([(auth_test, net, address, ANNA, f"sbagliata {n}") for n in range(4)])
    assert of(ANNA) == (2, 2)
    assert not auth_test(net, address, ANNA, net.deployment.passwords[ANNA])
    assert auth_test(net, "192.0.2.8", ANNA, net.deployment.passwords[ANNA])


def test_whoever_has_an_ipv6_network_has_no_more_guesses(net):
    since = net.now()
    all_at_once([(auth_test, net, f"2001:db8:0:7::{n:x}", f"chi{n}@pec.alfa.test", "sbagliata") for n in range(1, 13)])
    lines = "\n".join(line for line in net.logs("alfa", "dovecot", since).splitlines() if "2001:db8:0:7::" in line)
    assert (len(checked(lines)), len(not_checked(lines))) == (8, 4), lines


def test_guesses_in_one_connection_that_is_cut_off_count_each(net, tmp_path):
    since = net.now()
    client = imaplib.IMAP4_SSL(*net.deployment.address("ALFA", "IMAPS"), ssl_context=net.deployment.tls)
    for n in range(3):
        with pytest.raises(imaplib.IMAP4.error):
            client.login(ALDO, f"sbagliata {n}")
    # RST in the place of FIN.
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.shutdown()
    lines = logs_when(net, since, lambda lines: re.search(r"imap-login: .*user=<aldo@studio.example>", lines))
    count, _, found = seen_by_fail2ban(net, tmp_path, lines)
    assert count == 3, (found, lines)


def test_a_guess_that_dovecot_leaves_unanswered_counts(net, tmp_path):
    """Postfix waits ten seconds, and calls that a lost connection."""
    since = net.now()
    with smtplib.SMTP_SSL(*net.deployment.address("ALFA", "SUBMISSIONS"), context=net.deployment.tls, timeout=60) as client:
        client.ehlo()
        auth = net.execute("alfa", "dovecot", "pgrep", "--exact", "auth").stdout.split()
        net.execute("alfa", "dovecot", "kill", "-STOP", *auth)
        try:
            assert auth_plain(client, ALDO, "sbagliata") == 454
        finally:
            net.execute("alfa", "dovecot", "kill", "-CONT", *auth)
    lines = logs_when(net, since, lambda lines: "authentication failed: Connection lost to authentication server" in lines)
    count, _, found = seen_by_fail2ban(net, tmp_path, lines)
    assert count == 1, (found, lines)


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
    failed = [line for line in lines.splitlines() if "auth failed" in line or "authentication failed" in line or "wrong before" in line]
    assert len(failed) >= 4
    count, hosts, found = seen_by_fail2ban(net, tmp_path, lines)
    assert count == len(failed), found
    assert len(hosts) == 1 and "192.0.2.1" not in hosts, hosts


@pytest.mark.slow
def test_who_goes_on_guessing_is_kept_out(net, tmp_path):
    """The shipped jail lets four guesses pass, and bans with the fifth."""
    since = net.now()
    for n in range(5):
        wrong_at_imap(net, ANNA, f"sbagliata {n}")
    # Her own right one is taken.
    imap_login(net, ANNA, net.deployment.passwords[ANNA])

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
