"""The network on which is measured: variants of Alfa's submission service, and the counters around a run."""

import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from measured import AS_A_HOST, Measured, messages, run
from network import PROCESSES, PROGRAMS

# How a message that was accepted stays where it is, so that nothing else is in the figures: on hold, where the queue manager
# does not see it; or, where it is to see the triggers, all else that leaves waits in line for a server that says nothing.
# (Deferring instead would cost each message a millisecond of the queue manager's and others' time.)
HOLD = "check_client_access,static:HOLD"
SILENT = 2526
STANDS_IN_LINE = (f"relayhost=[127.0.0.1]:{SILENT}", "smtp_destination_concurrency_limit=1", "smtp_helo_timeout=1h")
LEAVES = ("relayhost=", "smtp_destination_concurrency_limit=20", "smtp_helo_timeout=300s")


@dataclass(frozen=True)
class Variant:
    """A submission service like that on 587, on a port of its own, with other milters."""

    key: str
    name: str
    port: int
    milter: str
    flowing: bool = False  # the queue manager sends triggers round, so acceptance receipts are made and delivered
    signs: bool = False


VARIANTS = (
    Variant("a", "no milter", 5871, ""),
    Variant("b", "no-op milter on libmilter", 5872, "unix:pec/noop"),
    Variant("b'", "body given back on libmilter", 5877, "unix:pec/giveback"),
    Variant("c", "OpenDKIM, RSA-2048", 5873, "unix:pec/opendkim", signs=True),
    Variant("d", "ours, receipts parked", 5874, "$pec_access_milter", signs=True),
    Variant("e", "ours, receipts flowing", 5875, "$pec_access_milter", flowing=True, signs=True),
)
STOPWATCH = Variant("stopwatch", "whatever the stopwatch stands before", 5876, "unix:pec/stopwatch")


class Bed(Measured):
    """Alfa as the measured host; Beta only receives, in the part about memory."""

    COMPARISONS = ("noop", "giveback", "opendkim")
    MEASURED = ("postfix", *PROGRAMS, "postgres", "dovecot", *COMPARISONS)

    def __init__(self, home, project, base):
        super().__init__(home, project, base)
        self.queue_directory = self.volume("alfa-queue")
        self.mail_directory = self.volume("alfa-mail")

    # ---- The containers beside those of compose.yaml

    def member(self, process, *command):
        """Starts a process in Alfa's pod, with Alfa's queue, from the benchmark's image, as the milters' user."""
        run("docker", "rm", "-f", self.container("alfa", process), check=False)
        run(
            "docker", "run", "--detach", "--init", "--name", self.container("alfa", process), "--network", f"container:{self.project}-alfa",
            "--volume", f"{self.project}-alfa-queue:/var/spool/postfix", f"pec-bench:{self.base}",
            "sh", "-c", 'umask 007; exec setpriv --reuid=pec --regid=pec --init-groups "$@"', "sh", *command,
        )  # fmt: skip

    def start_comparisons(self):
        silent = f"import socket, time; server = socket.create_server(('127.0.0.1', {SILENT})); time.sleep(86400)"
        self.member("silent", "python3", "-c", silent)
        self.member("noop", "/opt/bench/noop", "unix:/var/spool/postfix/pec/noop")
        self.member("giveback", "/opt/bench/noop", "unix:/var/spool/postfix/pec/giveback", "giveback")
        self.member("opendkim", "opendkim", "-f", "-x", "/opt/bench/opendkim.conf")
        self.wait_for_socket("noop")
        self.wait_for_socket("giveback")
        self.wait_for_socket("opendkim")

    def wait_for_socket(self, name):
        self.wait_for(lambda: self.listens("alfa", name), f"nothing listens on pec/{name}")

    # ---- Postfix and Dovecot

    def prepare(self):
        """Everything runs, whatever an earlier run that was broken off left; the variants have their services; and what is
        nobody's cost is out of the figures."""
        for host in ("alfa", "beta"):
            for process in PROCESSES:
                self.start(host, process)
            self.as_deployed(host)
        self.wait_until_up("alfa", *PROCESSES)
        self.set_dovecot("alfa")
        entry = self.execute("alfa", "postfix", "postconf", "-M", "submission/inet").stdout.strip()
        for variant in (*VARIANTS, STOPWATCH):
            service = f"{variant.port}/inet"
            self.execute("alfa", "postfix", "postconf", "-M", f"{service}={variant.port}{entry.removeprefix('submission')}")
            options = (f"{service}/smtpd_milters={variant.milter}", f"{service}/smtpd_data_restrictions={'' if variant.flowing else HOLD}")
            self.execute("alfa", "postfix", "postconf", "-P", *options)
        # What a message carries is looked at by nobody: OpenDKIM does not either, and a scanner's cost is its own.
        unscanned = ("pec_clamd=none", "pec_blocked_attachments=")
        self.set_postfix(*AS_A_HOST, *STANDS_IN_LINE, *unscanned)
        self.close_database_sessions()
        self.deployment.wait_until_up()

    def set_postfix(self, *settings):
        """Sets parameters and starts Postfix afresh."""
        self.set_("alfa", *settings)
        self.restart_postfix("alfa")

    def clear(self):
        """Empties Alfa's queue and mailboxes. What is small is put aside rather than deleted: an ext4 without a journal passes
        over what was deleted in the last minutes for each new file, and one variant would pay for another."""
        aside = self.queue_directory / "aside"
        aside.mkdir(exist_ok=True)
        received = [Path(file) for file in self.receipts("*")]
        for file in (*self.files(self.queue_directory / "hold"), *received):
            if file.stat().st_size < 1_000_000:
                file.rename(aside / str(time.time_ns()))
        self.execute("alfa", "postfix", "postsuper", "-d", "ALL")
        self.execute("alfa", "dovecot", "sh", "-c", "rm -rf /var/mail/pec/*/*/*")
        # Mailboxes that are there: the first two messages at once into a new sdbox would be put off.
        self.put("alfa", [address for address, server in self.deployment.servers.items() if server == "ALFA"])
        self.execute("alfa", "dovecot", "doveadm", "expunge", "-A", "mailbox", "INBOX", "all")
        os.sync()

    def close_database_sessions(self):
        """A PostgreSQL session tells its statistics when it ends at the latest; at a reload the milters begin new ones."""
        for process in ("access", "delivery"):
            self.until_it_says("alfa", process, ": reloaded", partial(self.hangup, "alfa", process))
        time.sleep(0.2)

    # ---- Counters

    def cpu(self):
        """Seconds of CPU of each container since its start."""
        return {process: self.container_cpu("alfa", process) for process in self.MEASURED}

    def transactions(self):
        """Of PostgreSQL: those that wrote (each has an id and waits for the disk), and all, those that only read included."""
        [row] = self.sql(
            "alfa", "SELECT pg_snapshot_xmax(pg_current_snapshot()), xact_commit FROM pg_stat_database WHERE datname = current_database()"
        )
        return tuple(int(number) for number in row.split("|"))

    def receipts(self, user):
        """The messages in the mailboxes of Alfa's `user`; * for all."""
        return messages(self.mail_directory, f"*/{user}")

    def wait_for_receipts(self, number, user="*"):
        self.wait_for(lambda: len(self.receipts(user)) >= number, f"{number} receipts for {user} did not come")

    @staticmethod
    def files(directory):
        return [Path(path) / name for path, _, names in os.walk(directory) for name in names]

    def parked(self):
        return [*self.files(self.queue_directory / "hold"), *self.files(self.queue_directory / "active")]

    def wait_until_parked(self, number):
        self.wait_for(lambda: len(self.parked()) >= number, f"{number} messages were not parked")

    def signatures(self):
        """How many lie in the queue and the mailboxes."""
        marks = (b"DKIM-Signature: ", b'filename="smime.p7s"')
        contents = (file.read_bytes() for file in [*self.parked(), *self.files(self.mail_directory)])
        return sum(content.count(mark) for content in contents for mark in marks)

    # ---- Memory

    def memory(self, host, process):
        """The most that the milter's process held at any time, in bytes."""
        program = process if process in ("noop", "opendkim") else f"pec-{process}"
        line = self.execute(host, process, "sh", "-c", f"grep VmHWM /proc/$(pgrep -o -x {program})/status").stdout
        return int(line.split()[1]) * 1024

    def restart(self, *milters):
        """Starts (host, process) pairs afresh, so that their peak is the idle one."""
        for milter in milters:
            again = partial(run, "docker", "restart", "--time", "30", self.container(*milter))
            if milter[1] in ("noop", "opendkim"):
                again()
                self.wait_for_socket(milter[1])
            else:
                self.until_it_says(*milter, "started", again)
