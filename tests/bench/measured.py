"""A network that is measured: put back to how it was deployed, its mailboxes, and the counters around a run."""

import os
import smtplib
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scenarios"))

from network import Network, run  # noqa: E402

# What the parts here change, and put back before they begin: one that was broken off may have left anything.
CHANGED = ("/etc/postfix/main.cf", "/etc/postfix/master.cf", "/etc/dovecot/dovecot.conf")

# A host logs to a file, as our programs do here (PEC_LOG); Docker's own logging takes a tenth of the CPU. in_flow_delay stops a
# client for a second now and then when messages come in faster than the queue manager takes them: the less something costs, the
# more often.
AS_A_HOST = ("maillog_file=/var/spool/postfix/mail.log", "in_flow_delay=0")

# A listener of Dovecot's for Postfix's own user; those for ours are for ours alone.
LISTENER = "private/bench-lmtp"
DOVECOT = f"""
service lmtp {{
  unix_listener /var/spool/postfix/{LISTENER} {{
    mode = 0600
    user = postfix
    group = postfix
  }}
}}
"""
# How Dovecot stores messages, in the words of either version.
STORED_AS = {
    "2.3": {"maildir": "mail_location = maildir:~/Maildir", "sdbox": "mail_location = sdbox:~/sdbox"},
    "2.4": {"maildir": "mail_driver = maildir\nmail_path = ~/Maildir", "sdbox": "mail_driver = sdbox\nmail_path = ~/sdbox"},
}
# Where the messages of a mailbox lie in its home, whichever format it has; beside them Dovecot's own files and unfinished ones.
LIE_IN = ("*/new", "*/cur", "*/mailboxes/INBOX/dbox-Mails")


class Measured(Network):
    """See tests/scenarios/network.py."""

    def __init__(self, home, project, base):
        super().__init__(home, project, base)
        # Straight to the container: Docker's proxy for published ports would be measured too.
        self.address = {host: self.of_network(host, "IPAddress") for host in ("alfa", "beta")}
        self.gateway = self.of_network("alfa", "Gateway")

    def of_network(self, host, what):
        template = f"{{{{range .NetworkSettings.Networks}}}}{{{{.{what}}}}} {{{{end}}}}"
        return run("docker", "inspect", "--format", template, f"{self.project}-{host}").stdout.split()[0]

    @staticmethod
    def wait_for(condition, otherwise, seconds=120):
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{otherwise} in {seconds} s")
            time.sleep(0.02)

    # ---- Configuration

    def as_deployed(self, host):
        """The files that the parts here change, as they were before the first of them."""
        for file in CHANGED:
            self.execute(host, "postfix", "sh", "-c", f"[ -e {file}.deployed ] || cp -p {file} {file}.deployed; cp -p {file}.deployed {file}")

    def set_dovecot(self, host, stored_as=None):
        """Starts Dovecot with a listener for Postfix; with the mailboxes in another format, if one is named."""
        version = ".".join(self.execute(host, "dovecot", "dovecot", "--version").stdout.split(".")[:2])
        settings = DOVECOT + (STORED_AS[version][stored_as] + "\n" if stored_as else "")
        with open(self.volume(f"{host}-etc-dovecot") / "dovecot.conf", "a") as file:
            file.write(settings)
        run("docker", "restart", self.container(host, "dovecot"))
        self.wait_until_up(host, "dovecot")

    def stored_as(self, host):
        """Which format the mailboxes have."""
        settings = self.execute(host, "dovecot", "doveconf").stdout.splitlines()
        [value] = [line.split(" = ")[1] for line in settings if line.startswith(("mail_location = ", "mail_driver = "))]
        return value.partition(":")[0]

    def set_(self, host, *settings):
        """Sets parameters of main.cf, or SERVICE/TYPE of master.cf, or SERVICE/TYPE/PARAMETER."""
        for setting in settings:
            name = setting.partition("=")[0]
            self.execute(host, "postfix", "postconf", ("-e", "-M", "-P")[name.count("/")], setting)

    def restart_postfix(self, host):
        run("docker", "restart", self.container(host, "postfix"))
        self.wait_until_up(host, "postfix")

    def until_it_says(self, host, process, text, act):
        """Does something to a program of ours and returns when it has logged the text since."""
        log = self.volume(f"{host}-queue") / f"pec-{process}.log"
        before = log.stat().st_size
        act()
        self.wait_for(lambda: text.encode() in log.read_bytes()[before:], f"{host}'s pec-{process} did not log {text!r}")

    # ---- Mailboxes

    def home(self, host, address):
        user, domain = address.split("@")
        return self.volume(f"{host}-mail") / domain / user

    def messages(self, host, address):
        """The files of a mailbox's messages."""
        return messages(self.home(host, address))

    def put(self, host, addresses, number=1):
        """Delivers so many small messages to each mailbox, without Postfix."""
        message = b"From: bench@client.test\r\nSubject: Prova\r\n\r\n" + b"x" * 70 + b"\r\n"
        with smtplib.LMTP(str(self.volume(f"{host}-queue") / LISTENER)) as lmtp:
            # One recipient each: of several answers smtplib reads the first.
            for address in addresses * number:
                lmtp.sendmail("bench@client.test", [address], message)

    # ---- Counters

    def container_cpu(self, host, process):
        """Seconds of CPU of a container since its start, by its cgroup: version 1 has a controller for it, in version 2 all is
        in one place."""
        cgroups = [line.split(":", 2) for line in Path(f"/proc/{self.inside(self.container(host, process))}/cgroup").read_text().splitlines()]
        for _, controllers, path in cgroups:
            if "cpuacct" in controllers.split(","):
                return int(Path(f"/sys/fs/cgroup/cpuacct{path}/cpuacct.usage").read_text()) / 1e9
        [path] = [path for number, _, path in cgroups if number == "0"]
        return int(Path(f"/sys/fs/cgroup{path}/cpu.stat").read_text().split()[1]) / 1e6

    def log(self, host):
        return self.volume(f"{host}-queue") / "mail.log"

    def log_size(self, host):
        return self.log(host).stat().st_size

    def log_since(self, host, size):
        """What Postfix has logged since its log was so long."""
        with open(self.log(host), "rb") as log:
            log.seek(size)
            return log.read()

    @staticmethod
    def queue_passes(log):
        """How many messages Postfix's cleanup took."""
        return log.count(b": message-id=")


def messages(homes, pattern="."):
    """The files of the messages in the homes that are at `pattern`."""
    directories = (directory for place in LIE_IN for directory in homes.glob(f"{pattern}/{place}"))
    return [f"{directory}/{name}" for directory in directories for name in os.listdir(directory) if not name.startswith((".", "dovecot"))]


def of(values):
    """Median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def busy():
    """Seconds of CPU that this machine has spent, whoever on."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _, _, irq, softirq = fields[:7]
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
