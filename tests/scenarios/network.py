"""The deployed test network, from outside: containers, queues, logs, and the taps between processes."""

import json
import os
import smtplib
import socket
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager
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
MILTERS = ("access", "incoming", "notices")
PROCESSES = (*MILTERS, "postgres", "clamd", "dovecot", "postfix")
# What the image gives to its processes (docker/Dockerfile). Not read from a process: one that has just been started may not
# have it yet.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "FAKETIME_DISABLE_SHM": "1"}


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
        for process in processes or MILTERS:
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
            "incoming": lambda: self.listens(host, "incoming") and self.listens(host, "internal"),
            "notices": lambda: self.listens(host, "triggers") and self.listens(host, "reports"),
            "postgres": lambda: self.succeeds(host, "postgres", "pg_isready -q -h 127.0.0.1"),
            "clock": lambda: self.succeeds(host, "clock", "pidof pec-clock"),
            "clamd": lambda: self.succeeds(host, "clamd", "exec 3<>/dev/tcp/127.0.0.1/3310; printf 'zPING\\0' >&3; grep -qa PONG <&3"),
            "dovecot": lambda: self.succeeds(host, "dovecot", "doveadm service status lmtp"),
            "postfix": lambda: self.succeeds(host, "postfix", "postfix status"),
        }
        deadline = time.monotonic() + 120
        for process in processes:
            while not probes[process]():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{host}'s {process} is not up:\n{self.logs(host, process)[-2000:]}")
                time.sleep(0.1)

    def listens(self, host, milter):
        """Whether somebody answers on the milter's socket; what was killed leaves the file behind."""
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.volume(f"{host}-queue") / "pec" / milter))
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
        """Programs of ours have taken up a changed main.cf; the milters, where none is named."""
        programs, now = programs or MILTERS, self.now()
        self.hangup(host, *programs)
        for program in programs:
            self.wait_for_log(host, program, "NOQUEUE: reloaded", since=now)

    def reload(self, host):
        """Postfix and the milters have taken up a changed main.cf."""
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
        told among pytest's warnings: on a machine that is not too busy nothing should."""
        deadline = time.monotonic() + seconds

        def wanted(message):
            return message.kind == kind and message.value("msgid") == msgid and (about is None or about in message.about)

        while True:
            left = deadline - time.monotonic()
            try:
                return self.deployment.wait_for(address, wanted, min(left, 15))
            except TimeoutError:
                if left <= 15:
                    raise
            for host in ("alfa", "beta"):
                warnings.warn(f"no {kind} after 15 s; {host}'s queue is tried again: {json.dumps(self.queue(host))[:2000]}")
                self.flush(host)

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


class Tap:
    """See tap.py."""

    SERVICES = (
        ("smtp/inet", "incoming"),
        ("submission/inet", "access"),
        ("submissions/inet", "access"),
        ("127.0.0.1:10025/inet", "triggers"),
        ("127.0.0.1:10026/inet", "internal"),
    )

    def __init__(self, network, host):
        self.network, self.host = network, host
        self.name = network.container(host, "tap")
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
        network.execute(host, "postfix", "postconf", "-P", *[f"{service}/smtpd_milters=unix:pec/tap-{name}" for service, name in self.SERVICES])
        database = network.execute(host, "postfix", "postconf", "-h", "pec_database").stdout.strip()
        network.postconf(host, "non_smtpd_milters=unix:pec/tap-reports", f"pec_database={database} port=5433")
        self.through(network, host, "dovecot-lmtp", "tap-lmtp")
        self.connect()
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

    def release(self, step):
        self.ask(do="release", step=step)

    def drop(self, step):
        self.ask(do="drop", step=step)

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
        network.execute(host, "postfix", "postconf", "-P", *[f"{service}/smtpd_milters=$pec_{name}_milter" for service, name in Tap.SERVICES])
        database = network.execute(host, "postfix", "postconf", "-h", "pec_database").stdout.strip().removesuffix(" port=5433")
        network.postconf(host, "non_smtpd_milters=$pec_reports_milter", f"pec_database={database}")
        Tap.through(network, host, "tap-lmtp", "dovecot-lmtp")
        network.reload(host)

    @staticmethod
    def through(network, host, before, after):
        """Both of Dovecot's listeners, as Postfix names them."""
        for name in ("virtual_transport", "milter_header_checks"):
            value = network.execute(host, "postfix", "postconf", "-h", name).stdout.strip()
            network.postconf(host, f"{name}={value.replace(before, after)}")
