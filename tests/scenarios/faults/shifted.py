"""Another time for one provider: every process of all its containers sees a date of ours, through libfaketime.

The image has the library (docker/Dockerfile), which does nothing until /etc/ld.so.preload names it. The clock is moved by so
many seconds and goes on at its own pace; processes are started anew for it, so that none goes by two times.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from network import PROCESSES, run

CONTAINERS = (*PROCESSES, "clock")


class Shifted:
    def __init__(self, net, host):
        self.net, self.host, self.seconds = net, host, 0

    def now(self):
        return datetime.now(UTC) + timedelta(seconds=self.seconds)

    def move_to(self, moment):
        """All processes go on from that moment."""
        self.seconds = round((moment - datetime.now(UTC)).total_seconds())
        self.restart(f"echo +{self.seconds} > /etc/faketimerc; echo /usr/lib/*/faketime/libfaketimeMT.so.1 > /etc/ld.so.preload")

    def back(self):
        """All processes go on at the time that it is."""
        self.seconds = 0
        self.restart("rm -f /etc/ld.so.preload /etc/faketimerc")

    def restart(self, prepare):
        net, host = self.net, self.host
        # A row that waits for its seal is hours old at the next start, and an audit that comes first says so.
        net.wait_until_sealed(host)

        # Before, not State.StartedAt: on a busy machine Docker notes that after the program's first lines.
        before = net.now()

        def restart(process):
            net.execute(host, process, "sh", "-c", prepare)
            run("docker", "restart", "--time", "20", net.container(host, process))

        with ThreadPoolExecutor(len(CONTAINERS)) as pool:
            list(pool.map(restart, CONTAINERS))
        net.wait_until_up(host, *PROCESSES)
        for program in ("access", "incoming", "delivery", "clock"):
            net.wait_for_log(host, program, "started: program=", since=before)
        net.deployment.wait_until_up(server=host.upper())
        self.check()
        self.look()

    def look(self):
        """pec-clock looks now. Its round at the start may have found Postfix not yet up."""
        now = self.net.now()
        self.net.hangup(self.host, "clock")
        self.net.wait_for_log(self.host, "clock", "reloaded", since=now)

    def check(self):
        """Every container shows the same date, and so does PostgreSQL, which was started before any of them asked."""
        shown = {process: int(self.net.execute(self.host, process, "date", "+%s").stdout) for process in CONTAINERS}
        shown["SQL"] = int(self.net.sql(self.host, "SELECT extract(epoch FROM now())::int8")[0])
        expected = time.time() + self.seconds
        assert all(abs(seconds - expected) < 30 for seconds in shown.values()), (expected, shown)
