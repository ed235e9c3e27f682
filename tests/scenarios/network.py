"""The deployed test network, from outside: containers, queues, logs, and the taps between processes."""

import json
import os
import re
import smtplib
import socket
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "docker"))

from clients import Deployment, Message  # noqa: E402

ANNA, ALDO = "anna@pec.alfa.test", "aldo@studio.example"
BRUNO, PROTOCOLLO = "bruno@pec.beta.test", "protocollo@comune.example"
NESSUNO, CARLA = "nessuno@pec.beta.test", "carla@posta.test"
SERVICE = {"alfa": "ricevute@gestore.alfa.test", "beta": "ricevute@gestore.beta.test"}
# Postfix does not show what it does not use itself. Where pec_register is not set, it is this.
REGISTER_CHECKPOINT = 'at=$(sed -n "s/^pec_register *= *//p" /etc/postfix/main.cf); cat "${at:-/var/lib/pec/register}/checkpoint"'
# Programs of ours that mail passes.
PROGRAMS = ("access", "incoming", "delivery")
# Asks clamd whether it is there.
PING_CLAMD = (
    "python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.connect(\"/var/spool/postfix/clamav/clamd.ctl\"); "
    "s.sendall(b\"zPING\\0\"); assert s.recv(9) == b\"PONG\\0\"'"
)
PROCESSES = (*PROGRAMS, "postgres", "clamd", "dovecot", "postfix")
# What the image gives to its processes (docker/Dockerfile). Not read from a process: one that has just been started may not
# have it yet.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "FAKETIME_DISABLE_SHM": "1"}

# One message to one recipient by LMTP, or by SMTP where Postfix listens; prints the last answer.
GIVE = """
import json, smtplib, socket, sys
class Client(smtplib.SMTP):
    def _get_socket(self, path, port, timeout):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect("/var/spool/postfix/" + path)
        return connection
path, sender, recipient, options, message = json.load(sys.stdin)
with Client(path, timeout=60) as client:
    client.docmd("EHLO client.test" if path.startswith("public/") else "LHLO client.test")
    answer = client.docmd(f"MAIL FROM:<{sender}>{options}")
    if answer[0] == 250:
        answer = client.docmd(f"RCPT TO:<{recipient}>")
    if answer[0] == 250:
        answer = client.data(message.encode("latin-1"))
print(json.dumps([answer[0], answer[1].decode()]))
"""


def run(*command, check=True, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


class Network:
    """Alfa, Beta and the ordinary server, as tests/run brought them up."""

    def __init__(self, home, project, base):
        self.deployment = Deployment(home)
        self.project, self.base = project, base
        self.serial = 0
        self.entered = {}

    def heal(self):
        """Whatever an earlier run left behind: everything runs, nothing is tapped."""
        for host in ("alfa", "beta"):
            for process in (*PROCESSES, "clock"):
                self.start(host, process)
            self.wait_until_up(host, *PROCESSES)
            if run("docker", "ps", "-aq", "--filter", f"name=^{self.container(host, 'tap')}$").stdout:
                run("docker", "rm", "-f", self.container(host, "tap"))
                Tap.untap(self, host)

    def container(self, host, process):
        return f"{self.project}-{host}-{process}"

    @cache
    def volume(self, name):
        """Where this machine has a volume's files."""
        return Path(run("docker", "volume", "inspect", "--format", "{{.Mountpoint}}", f"{self.project}-{name}").stdout.strip())

    def execute(self, host, process, *command, check=True, user="root"):
        """What `docker exec` does, in a thirtieth of its time, and much of a scenario is looking: a command in the namespaces
        of a container that runs."""
        pid = self.inside(self.container(host, process))
        become = () if user == "root" else ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups")
        entered = ("nsenter", f"--target={pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--", *become, *command)
        return run(*entered, check=check, env=ENVIRONMENT)

    def inside(self, container):
        """The container's first process as this machine numbers it; 0: it does not run."""

        def begun(pid):
            # With the number alone it could be another process by now.
            try:
                return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
            except OSError:
                return None

        if container in self.entered:
            pid, since = self.entered[container]
            if begun(pid) == since:
                return pid
        pid = int(run("docker", "inspect", "--format", "{{.State.Pid}}", container).stdout)
        since = begun(pid)
        if since is None:
            return 0
        self.entered[container] = pid, since
        return pid

    def kill(self, host, process):
        run("docker", "kill", self.container(host, process))

    def stop(self, host, process):
        run("docker", "stop", "--time", "30", self.container(host, process))

    def start(self, host, process):
        run("docker", "start", self.container(host, process))

    def hangup(self, host, *processes):
        for process in processes or PROGRAMS:
            run("docker", "kill", "--signal", "HUP", self.container(host, process))

    @staticmethod
    def now():
        """The time, as `since` wants it."""
        return run("date", "--utc", "+%Y-%m-%dT%H:%M:%S.%NZ").stdout.strip()

    def logs(self, host, process, since=None):
        arguments = ["docker", "logs"] + (["--since", since] if since else []) + [self.container(host, process)]
        done = run(*arguments)
        return done.stdout + done.stderr

    def wait_for_log(self, host, process, text, since=None, seconds=60):
        """What the container logs, until the line that has `text`. TimeoutError after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            command = ("docker", "logs", "--follow", *(("--since", since) if since else ()), self.container(host, process))
            found = []
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as following:
                end = threading.Timer(max(0, deadline - time.monotonic()), following.kill)
                end.start()
                for line in following.stdout:
                    found.append(line)
                    if text in line:
                        break
                end.cancel()
                following.kill()
            if found and text in found[-1]:
                return "".join(found)
            # Following ends with the container, which may be started again.
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.container(host, process)} did not log {text!r} in {seconds} s:\n{''.join(found)[-3000:]}")
            time.sleep(0.1)

    def wait_until_up(self, host, *processes):
        """Returns when each of the processes serves."""
        probes = {
            "access": lambda: self.listens(host, "access"),
            "incoming": lambda: self.listens(host, "incoming") and self.listens(host, "local"),
            "delivery": lambda: self.listens(host, "delivery") and self.listens(host, "triggers") and self.listens(host, "reports"),
            "postgres": lambda: self.succeeds(host, "postgres", "pg_isready -q -h 127.0.0.1"),
            "clock": lambda: self.succeeds(host, "clock", "pidof pec-clock"),
            "clamd": lambda: self.succeeds(host, "clamd", PING_CLAMD),
            "dovecot": lambda: self.succeeds(host, "dovecot", "doveadm service status lmtp"),
            "postfix": lambda: self.succeeds(host, "postfix", "postfix status"),
        }
        deadline = time.monotonic() + 120
        for process in processes:
            while not probes[process]():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{host}'s {process} is not up:\n{self.logs(host, process)[-2000:]}")
                time.sleep(0.1)

    def listens(self, host, name):
        """Whether somebody answers on this socket of our programs; what was killed leaves the file behind."""
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.volume(f"{host}-queue") / "pec" / name))
            return True
        except OSError:
            return False

    def succeeds(self, host, process, script):
        return self.execute(host, process, "bash", "-c", script, check=False).returncode == 0

    def postconf(self, host, *settings):
        self.execute(host, "postfix", "postconf", "-e", *settings)

    def reload_postfix(self, host):
        """Postfix has taken up a changed main.cf or master.cf, and no idle process is left that serves as before. The command alone
        returns earlier."""
        before, now = self.servers(host), self.now()
        self.execute(host, "postfix", "postfix", "reload")
        self.wait_for_log(host, "postfix", "reload -- version", since=now)
        # One that is in the middle of something ends after it, however long that takes.
        deadline = time.monotonic() + 10
        while before & self.servers(host) and time.monotonic() < deadline:
            time.sleep(0.05)

    def servers(self, host):
        """Postfix's processes that a change of main.cf is for."""
        return set(self.execute(host, "postfix", "pgrep", "-x", "smtpd|cleanup|smtp|lmtp|trivial-rewrite", check=False).stdout.split())

    def reload_programs(self, host, *programs):
        """Programs of ours have taken up a changed main.cf; those that mail passes, where none is named."""
        programs, now = programs or PROGRAMS, self.now()
        self.hangup(host, *programs)
        for program in programs:
            self.wait_for_log(host, program, "NOQUEUE: reloaded", since=now)

    def reload(self, host):
        """Postfix and our programs have taken up a changed main.cf."""
        self.reload_programs(host)
        self.reload_postfix(host)

    def queue(self, host):
        lines = self.execute(host, "postfix", "postqueue", "-j").stdout.splitlines()
        return [json.loads(line) for line in lines]

    def flush(self, host):
        self.execute(host, "postfix", "postqueue", "-f", check=False)

    def drain(self, *hosts, seconds=300):
        """Flushes the queues until nothing is in them, twice in a row: a message on its way between two queues is in none of
        them if the one that it comes to was looked at first."""
        deadline = time.monotonic() + seconds
        empty = flushed = 0
        while empty < 2:
            left = [host for host in hosts if self.has_mail(host)]
            if left and time.monotonic() > deadline:
                raise TimeoutError("still in the queue: " + json.dumps([self.queue(host) for host in left], indent=1))
            if left and time.monotonic() > flushed + 0.3:
                for host in left:
                    self.flush(host)
                flushed = time.monotonic()
            empty = 0 if left else empty + 1
            time.sleep(0.1)

    def has_mail(self, host):
        """Whether Postfix's queue has a message, by its files: a process for each look would be much of a scenario's work."""
        for name in ("maildrop", "incoming", "active", "deferred", "hold"):
            for directory, _, files in os.walk(self.volume(f"{host}-queue") / name, onerror=self.fail):
                for file in files:
                    try:
                        # Not executable: Postfix is still writing it, or was killed at that and has not accepted it.
                        if os.stat(f"{directory}/{file}").st_mode & 0o100:
                            return True
                    except FileNotFoundError:
                        # It has just gone on.
                        return True
        return False

    @staticmethod
    def fail(error):
        raise error

    def story(self, host, msgid):
        """pecctl log, as objects."""
        done = self.execute(host, "postfix", "pecctl", "log", "--json", msgid, check=False)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def sql(self, host, query):
        done = self.execute(host, "postgres", "psql", "-h", "/var/run/postgresql", "-U", "postgres", "-At", "-c", query, "pec", user="postgres")
        return done.stdout.splitlines()

    def wait_until_sealed(self, host, seconds=30):
        """Returns when no row of this moment waits for its seal, and the seal's files are there, which come after it."""
        high = int(self.sql(host, "SELECT max(seq) FROM log")[0])
        deadline = time.monotonic() + seconds
        size = published = -1
        while size < 0 or published < size:
            assert time.monotonic() < deadline, self.logs(host, "clock")[-2000:]
            sealed = self.sql(host, f"SELECT size FROM seal WHERE high >= {high} ORDER BY number LIMIT 1")
            size = int(sealed[0]) if sealed else -1
            checkpoint = self.execute(host, "clock", "sh", "-c", REGISTER_CHECKPOINT, check=False).stdout.splitlines()
            published = int(checkpoint[1]) if checkpoint else -1
            time.sleep(0.1)

    def wait_for_mailbox(self, host, address, there=True):
        """Dovecot looks at its users file once a second."""
        deadline = time.monotonic() + 30
        while (self.execute(host, "dovecot", "doveadm", "user", address, check=False).returncode == 0) != there:
            assert time.monotonic() < deadline, f"{host}'s Dovecot should {'' if there else 'not '}have {address}"
            time.sleep(0.1)

    @contextmanager
    def mailboxes(self, host, *addresses, there=True):
        """More accounts of this host, for a while; `there`: Dovecot has them."""
        password = self.execute(host, "dovecot", "doveadm", "pw", "-s", "SHA512-CRYPT", "-p", "segreta").stdout.strip()
        deployment = self.deployment
        for address in addresses:
            deployment.passwords[address], deployment.servers[address] = "segreta", host.upper()
            if there:
                self.execute(host, "dovecot", "sh", "-c", 'echo "$0" >> /etc/dovecot/users', f"{address}:{password}::::::")
        try:
            for address in addresses if there else []:
                self.wait_for_mailbox(host, address)
            yield
        finally:
            for address in addresses:
                self.execute(host, "dovecot", "sed", "-i", f"/^{address}:/d", "/etc/dovecot/users")
                local_part, domain = address.split("@")
                self.execute(host, "dovecot", "rm", "-rf", f"/var/mail/pec/{domain}/{local_part}")
                for known in (deployment.passwords, deployment.servers, deployment.known, deployment.reading):
                    known.pop(address, None)

    def give(self, host, socket, sender, recipient, message, envid=None, user="pec", groups="postfix,postdrop"):
        """What a process of this host is told by who listens on a unix socket of Postfix's queue directory, to whom it gives a
        message: (code, text)."""
        given = json.dumps([socket, sender, recipient, f" ENVID={envid}" if envid else "", message.decode("latin-1")])
        pid = self.inside(self.container(host, "postfix"))
        group = self.execute(host, "postfix", "id", "-gn", user).stdout.strip()
        become = ("setpriv", f"--reuid={user}", f"--regid={group}", f"--groups={groups}")
        entered = ("nsenter", f"--target={pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--", *become, "python3", "-c", GIVE)
        return tuple(json.loads(run(*entered, env=ENVIRONMENT, input=given).stdout))

    def letter(self, sender, recipients, text="Ciao\r\n", extra="", msgid=None):
        """A message, and its Message-ID."""
        self.serial += 1
        msgid = msgid or f"<{os.getpid()}.{time.time_ns()}.{self.serial}@client.test>"
        head = f"From: {sender}\r\nTo: {', '.join(recipients)}\r\nSubject: Prova {self.serial}\r\nMessage-ID: {msgid}\r\n{extra}"
        return (head + "\r\n" + text).encode(), msgid

    def submit(self, sender, recipients, **options):
        """Submits a letter; gives back its Message-ID and its bytes."""
        raw, msgid = self.letter(sender, recipients, **options)
        self.deployment.submit(sender, recipients, raw)
        return msgid, raw

    def submit_until_accepted(self, sender, recipients, raw):
        """As a client that tries again does; gives back how often it had to. An smtpd that finds no Dovecot at its start keeps the
        service away for a minute."""
        deadline, refused = time.monotonic() + 150, 0
        while True:
            try:
                self.deployment.submit(sender, recipients, raw)
                return refused
            except (smtplib.SMTPException, OSError):
                refused += 1
                assert time.monotonic() < deadline
                time.sleep(0.2)

    def expect(self, address, kind, msgid, about=None, seconds=60):
        """The message of this kind about that original, once the mailbox has it. What waits in a queue meanwhile is tried again, and
        told among pytest's warnings: on a machine that is not too busy nothing should. A mailbox that is said not to exist is asked
        again at Postfix's next attempt, before that becomes a mancata consegna: nothing to be told."""
        deadline = time.monotonic() + seconds
        patience = 3 if kind == "errore-consegna" else 15

        def wanted(message):
            return message.kind == kind and message.value("msgid") == msgid and (about is None or about in message.about)

        while True:
            left = deadline - time.monotonic()
            try:
                return self.deployment.wait_for(address, wanted, min(left, patience))
            except TimeoutError:
                if left <= patience:
                    raise
            for host in ("alfa", "beta"):
                if kind != "errore-consegna":
                    warnings.warn(f"no {kind} after {patience} s; {host}'s queue is tried again: {json.dumps(self.queue(host))[:2000]}")
                self.flush(host)

    def received(self, address, first=1):
        """When the mailbox received each of its messages from this UID on: {UID: moment}."""
        client = self.deployment.imap(address)
        client.select("INBOX", readonly=True)
        answers = client.uid("FETCH", f"{first}:*", "(INTERNALDATE)")[1]
        client.logout()
        found = [re.search(rb'UID (\d+).*INTERNALDATE "([^"]+)"|INTERNALDATE "([^"]+)".*UID (\d+)', answer) for answer in answers if answer]
        return {int(f[1] or f[4]): datetime.strptime((f[2] or f[3]).decode(), "%d-%b-%Y %H:%M:%S %z") for f in found}

    def all_about(self, msgid, addresses=None):
        """Every message about that original: [(mailbox, Message)]."""
        found = []
        for address in addresses or self.deployment.passwords:
            found += [(address, m) for m in self.deployment.messages(address) if m.value("msgid") == msgid]
        return found

    @contextmanager
    def tapped(self, *hosts):
        """All edges of these hosts go through taps: {host: Tap}."""
        taps = {}
        try:
            for host in hosts:
                taps[host] = Tap(self, host)
            yield taps
        finally:
            for tap in taps.values():
                tap.remove()


def shipped_milter(name):
    """A milter as postfix-conf has it."""
    return f"{{${{pec_{name}_milter?{{$pec_{name}_milter}}:{{unix:pec/{name}}}}},default_action=tempfail}}"


class Tap:
    """See tap.py."""

    # The milter of a service of master.cf.
    MILTERS = {"smtp/inet": "incoming", "submission/inet": "access", "submissions/inet": "access"}
    # A setting of main.cf, with a tap and without.
    SETTINGS = {
        "non_smtpd_milters": ("unix:pec/tap-reports", shipped_milter("reports")),
        "virtual_transport": ("pecdelivery:unix:pec/tap-delivery", "pecdelivery:$pec_delivery_lmtp"),
        "transport_maps": tuple(f"inline:{{ {{ notices.pec.internal = pectriggers:{socket} }} }}" for socket in ("unix:pec/tap-triggers", "$pec_triggers_lmtp")),
        "pec_mailbox_lmtp": ("unix:pec/tap-lmtp", "unix:pec/dovecot-lmtp"),
        "pec_mailbox_lmtp_no_quota": ("unix:pec/tap-lmtp-no-quota", "unix:pec/dovecot-lmtp-no-quota"),
        "pec_outgoing_smtpd": ("unix:pec/tap-outgoing", "unix:public/pecoutgoing"),
    }

    def __init__(self, network, host):
        self.network, self.host = network, host
        self.name = network.container(host, "tap")
        # Since when all stands at a step; for how long it stood, in seconds.
        self.since = self.stood = 0
        try:
            self.insert()
        except BaseException:
            self.untap(network, host)
            raise

    def insert(self):
        network, host = self.network, self.host
        control = network.deployment.home / f"tap-{host}"
        control.mkdir(exist_ok=True)
        run("docker", "rm", "-f", self.name, check=False)
        run(
            "docker", "run", "--detach", "--name", self.name, "--network", f"container:{network.project}-{host}",
            "--volume", f"{network.project}-{host}-queue:/var/spool/postfix", "--volume", f"{HERE}:/tap:ro", "--volume", f"{control}:/control",
            f"pec-between:{network.base}", "python3", "/tap/tap.py", "/control/socket", "/var/spool/postfix",
        )  # fmt: skip
        self.control = control / "socket"
        self.connect()
        network.execute(host, "postfix", "postconf", "-P", *[f"{service}/smtpd_milters=unix:pec/tap-{name}" for service, name in self.MILTERS.items()])
        database = network.execute(host, "postfix", "postconf", "-h", "pec_database").stdout.strip()
        network.postconf(host, f"pec_database={database} port=5433", *[f"{name}={tapped}" for name, (tapped, _) in self.SETTINGS.items()])
        network.reload(host)

    def connect(self):
        deadline = time.monotonic() + 30
        while True:
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.connect(str(self.control))
                self.file = self.socket.makefile("rw")
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def ask(self, **request):
        self.file.write(json.dumps(request) + "\n")
        self.file.flush()
        return json.loads(self.file.readline())

    def hold(self, step):
        self.ask(do="hold", step=step)

    def wait(self, step, seconds=30):
        answer = self.ask(do="wait", step=step, seconds=seconds)
        if answer != "ok":
            raise TimeoutError(f"{self.host}: {step} was not reached; the last that were: {self.reached()[-30:]}")
        self.since = time.monotonic()

    def release(self, step):
        self.ask(do="release", step=step)
        self.stood = time.monotonic() - self.since

    def drop(self, step):
        self.ask(do="drop", step=step)
        self.stood = 0

    def strike(self, step, process):
        """The process is killed while everything stands at the step, and started again; `None`: the connection is torn down."""
        if process is None:
            return self.drop(step)
        self.network.kill(self.host, process)
        self.release(step)
        self.network.start(self.host, process)
        self.network.wait_until_up(self.host, process)

    def clear(self):
        self.ask(do="clear")

    def reached(self):
        return self.ask(do="reached")

    def remove(self):
        self.clear()
        self.socket.close()
        self.untap(self.network, self.host)
        run("docker", "rm", "-f", self.name)

    @staticmethod
    def untap(network, host):
        network.execute(host, "postfix", "postconf", "-P", *[f"{service}/smtpd_milters={shipped_milter(name)}" for service, name in Tap.MILTERS.items()])
        database = network.execute(host, "postfix", "postconf", "-h", "pec_database").stdout.strip().removesuffix(" port=5433")
        network.postconf(host, f"pec_database={database}", *[f"{name}={shipped}" for name, (_, shipped) in Tap.SETTINGS.items()])
        network.reload(host)
