"""Alfa and Beta, by turns as providers of certified mail and as two plain mail servers in the same containers.

What differs is Postfix's configuration, and nothing else: the plain one has no milter, no filter and no way of its own to the
mailboxes but Dovecot's LMTP, and a door for the messages that plain mail sends in the place of receipts.
"""

import time
from contextlib import contextmanager
from functools import partial

from load import Load
from measured import AS_A_HOST, LISTENER, Measured, run
from network import PROCESSES, PROGRAMS, SERVICE

PLAIN, CERTIFIED, UNSCANNED = "plain", "certified", "unscanned"
HOSTS = ("alfa", "beta")
OURS = (*PROGRAMS, "clock")

# Where plain mail has what is a receipt in certified mail put into the queue: as much as can be saved, no TLS and no login.
DOOR = 2527

# Each provider has so many mailboxes to send to; nobody can log in to them.
RECIPIENTS = 500

# So many mailboxes are made at once.
AT_ONCE = 8


def recipient(number, domain):
    return f"destinatario-{number:03}@{domain}"


class Pair(Measured):
    DOMAIN = {"alfa": "pec.alfa.test", "beta": "pec.beta.test"}
    SERVICE_DOMAIN = {host: SERVICE[host].partition("@")[2] for host in HOSTS}

    def prepare(self, say, stored_as, settings):
        """Everything runs and no queue has mail, whatever an earlier run left; every mailbox is there: the first two messages at once into
        a new sdbox would be put off."""
        for host in HOSTS:
            for process in (*PROCESSES, "clock"):
                self.start(host, process)
            self.wait_until_up(host, *PROCESSES)
            self.execute(host, "postfix", "postsuper", "-d", "ALL")
            self.as_deployed(host)
            self.set_dovecot(host, stored_as)
            self.make_mailboxes(host)
            self.make_configurations(host, settings)
        say("every mailbox is there")
        self.turned = {}

    def make_mailboxes(self, host):
        users = self.volume(f"{host}-etc-dovecot") / "users"
        addresses = [recipient(number, self.DOMAIN[host]) for number in range(1, RECIPIENTS + 1)]
        if addresses[0] not in users.read_text():
            with open(users, "a") as file:
                file.writelines(f"{address}:!::::::\n" for address in addresses)
        self.wait_for_mailbox(host, addresses[-1])
        known = [address for address, server in self.deployment.servers.items() if server == host.upper()]
        everybody = [*addresses, *known]
        Load.together([partial(self.put, host, everybody[n::AT_ONCE]) for n in range(AT_ONCE)])

    # ---- Turns

    def make_configurations(self, host, settings):
        """main.cf and master.cf of each turn. `settings` are for all of them."""
        self.set_(host, *AS_A_HOST, *settings)
        self.keep(host, CERTIFIED)
        self.set_(host, "pec_clamd=none")
        self.keep(host, UNSCANNED)
        self.take(host, CERTIFIED)
        self.set_(host, "non_smtpd_milters=", "internal_mail_filter_classes=", "milter_header_checks=", "transport_maps=")
        self.set_(host, f"virtual_transport=lmtp:unix:{LISTENER}")
        for service in ("smtp/inet", "submission/inet", "submissions/inet"):
            self.set_(host, f"{service}/smtpd_milters=", f"{service}/smtpd_command_filter=")
        door = f"{DOOR}/inet"
        self.set_(host, f"{door}={DOOR} inet n - n - - smtpd")
        self.set_(host, f"{door}/smtpd_relay_restrictions=permit_mynetworks,reject", f"{door}/mynetworks={self.gateway}/32")
        self.set_(host, f"{door}/smtpd_milters=", f"{door}/smtpd_tls_security_level=none", f"{door}/smtpd_client_connection_count_limit=0")
        self.keep(host, PLAIN)

    def keep(self, host, turn):
        self.execute(host, "postfix", "sh", "-c", f"cd /etc/postfix; cp -p main.cf main.cf.{turn}; cp -p master.cf master.cf.{turn}")

    def take(self, host, turn):
        self.execute(host, "postfix", "sh", "-c", f"cd /etc/postfix; cp -p main.cf.{turn} main.cf; cp -p master.cf.{turn} master.cf")

    def turn(self, turn):
        """From now on both are what `turn` says."""
        for host in HOSTS:
            self.take(host, turn)
            if turn != PLAIN and self.turned.get(host) != turn:
                for process in PROGRAMS:
                    self.until_it_says(host, process, ": reloaded", partial(self.hangup, host, process))
                self.turned[host] = turn
            self.restart_postfix(host)
        self.deployment.wait_until_up()

    # ---- Mailboxes with many messages and with none

    def fill(self, number, mailboxes):
        """A second home for each of the mailboxes, with so many messages, which a mail client has seen: maildir moves them then."""
        (host, first), *others = mailboxes
        for mailbox in mailboxes:
            run("rm", "-rf", str(self.large(*mailbox)))
        self.renew(host, first)
        # Copied by Dovecot: twenty thousand deliveries would take minutes.
        while (there := len(self.messages(host, first))) < number:
            self.execute(host, "dovecot", "doveadm", "copy", "-u", first, "INBOX", "mailbox", "INBOX", f"1:{min(there, number - there)}")
        self.execute(host, "dovecot", "sh", "-c", f"printf '1 select INBOX\\r\\n2 logout\\r\\n' | /usr/lib/dovecot/imap -u {first}")
        if len(self.messages(host, first)) != number:
            raise RuntimeError(f"{first} has {len(self.messages(host, first))} messages, not {number}")
        self.home(host, first).rename(self.large(host, first))
        for other in others:
            run("cp", "-a", str(self.large(host, first)), str(self.large(*other)))

    def renew(self, host, address):
        """A mailbox with one message."""
        self.put_aside(self.home(host, address))
        self.put(host, [address])

    @contextmanager
    def filled(self, mailboxes):
        """The homes with many messages stand in the place of the others."""
        for mailbox in mailboxes:
            self.put_aside(self.home(*mailbox))
            self.large(*mailbox).rename(self.home(*mailbox))
        yield
        for mailbox in mailboxes:
            self.home(*mailbox).rename(self.large(*mailbox))
            self.renew(*mailbox)

    @staticmethod
    def put_aside(home):
        """Rather than deleted: see bed.py."""
        if home.exists():
            home.rename(home.with_name(f".{home.name}.{time.time_ns()}"))

    def large(self, host, address):
        home = self.home(host, address)
        return home.with_name(f".{home.name}.large")

    # ---- Counters

    def all_cpu(self):
        return {(host, process): self.container_cpu(host, process) for host in HOSTS for process in (*PROCESSES, "clock")}
