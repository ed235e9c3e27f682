"""The deployed test network, from outside: containers, queues, logs, and the taps between processes."""

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "docker"))

from clients import Deployment, Message  # noqa: E402

ANNA, ALDO = "anna@pec.alfa.test", "aldo@studio.example"
BRUNO, PROTOCOLLO = "bruno@pec.beta.test", "protocollo@comune.example"
NESSUNO, CARLA = "nessuno@pec.beta.test", "carla@posta.test"
SERVICE = {"alfa": "ricevute@gestore.alfa.test", "beta": "ricevute@gestore.beta.test"}
PROCESSES = ("access", "incoming", "notices", "postgres", "clamd", "dovecot", "postfix")


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

    def execute(self, host, process, *command, check=True, user="root"):
        return run("docker", "exec", "--user", user, self.container(host, process), *command, check=check)

    def kill(self, host, process):
        run("docker", "kill", self.container(host, process))

    def stop(self, host, process):
        run("docker", "stop", "--time", "30", self.container(host, process))

    def start(self, host, process):
        run("docker", "start", self.container(host, process))

    def hangup(self, host, *processes):
        for process in processes or ("access", "incoming", "notices"):
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
        deadline = time.monotonic() + seconds
        while text not in (found := self.logs(host, process, since)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.container(host, process)} did not log {text!r} in {seconds} s:\n{found[-3000:]}")
            time.sleep(0.1)
        return found

    def wait_until_up(self, host, *processes):
        """Returns when each of the processes serves."""
        probes = {
            "access": ("postfix", "test -S /var/spool/postfix/pec/access"),
            "incoming": ("postfix", "test -S /var/spool/postfix/pec/incoming -a -S /var/spool/postfix/pec/internal"),
            "notices": ("postfix", "test -S /var/spool/postfix/pec/triggers -a -S /var/spool/postfix/pec/reports"),
            "postgres": ("postgres", "pg_isready -q -h 127.0.0.1"),
            "clock": ("clock", "pidof pec-clock"),
            "clamd": ("clamd", "bash -c 'exec 3<>/dev/tcp/127.0.0.1/3310; printf zPING\\\\0 >&3; grep -qa PONG <&3'"),
            "dovecot": ("dovecot", "doveadm service status lmtp"),
            "postfix": ("postfix", "postfix status"),
        }
        deadline = time.monotonic() + 120
        for process in processes:
            container, probe = probes[process]
            while self.execute(host, container, "sh", "-c", probe, check=False).returncode != 0:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{host}'s {process} is not up:\n{self.logs(host, process)[-2000:]}")
                time.sleep(0.1)

    def postconf(self, host, *settings):
        self.execute(host, "postfix", "postconf", "-e", *settings)

    def reload(self, host):
        """Postfix and the milters take up a changed main.cf."""
        self.execute(host, "postfix", "postfix", "reload")
        self.hangup(host)

    def queue(self, host):
        lines = self.execute(host, "postfix", "postqueue", "-j").stdout.splitlines()
        return [json.loads(line) for line in lines]

    def flush(self, host):
        self.execute(host, "postfix", "postqueue", "-f", check=False)

    def drain(self, *hosts, seconds=90):
        """Flushes the queues until nothing is in them, twice in a row: a message on its way between two queues is in none of
        them if the one that it comes to was looked at first."""
        deadline = time.monotonic() + seconds
        with ThreadPoolExecutor() as pool:
            empty = 0
            while empty < 2:
                left = sum(pool.map(self.queue, hosts), [])
                if left and time.monotonic() > deadline:
                    raise TimeoutError("still in the queue: " + json.dumps(left, indent=1))
                if left:
                    list(pool.map(self.flush, hosts))
                empty = 0 if left else empty + 1
                time.sleep(0.1)

    def story(self, host, msgid):
        """pecctl log, as objects."""
        done = self.execute(host, "postfix", "pecctl", "log", "--json", msgid, check=False)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def sql(self, host, query):
        done = self.execute(host, "postgres", "psql", "-h", "/var/run/postgresql", "-U", "postgres", "-At", "-c", query, "pec", user="postgres")
        return done.stdout.splitlines()

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

    def expect(self, address, kind, msgid, about=None, seconds=60):
        """The message of this kind about that original, once the mailbox has it."""
        return self.deployment.wait_for(
            address, lambda m: m.kind == kind and m.value("msgid") == msgid and (about is None or about in m.about), seconds
        )

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
        control = network.deployment.home / f"tap-{host}"
        control.mkdir(exist_ok=True)
        run("docker", "rm", "-f", self.name, check=False)
        run(
            "docker", "run", "--detach", "--name", self.name, "--network", f"container:{network.project}-{host}",
            "--volume", f"{network.project}-{host}-queue:/var/spool/postfix", "--volume", f"{HERE}:/tap:ro", "--volume", f"{control}:/control",
            f"pec-tap:{network.base}", "python3", "/tap/tap.py", "/control/socket", "/var/spool/postfix",
        )  # fmt: skip
        self.control = control / "socket"
        network.execute(host, "postfix", "postconf", "-P", *[f"{service}/smtpd_milters=unix:pec/tap-{name}" for service, name in self.SERVICES])
        database = network.execute(host, "postfix", "postconf", "-h", "pec_database").stdout.strip()
        network.postconf(host, "non_smtpd_milters=unix:pec/tap-reports", f"pec_database={database} port=5433")
        self.through(network, host, "dovecot-lmtp", "tap-lmtp")
        self.connect()
        network.reload(host)
        for process in ("access", "incoming", "notices"):
            network.wait_for_log(host, process, "reloaded", seconds=30)

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
