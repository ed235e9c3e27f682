"""Who can connect to which socket (docs/configuration.md): whoever could reach one of ours could have messages signed, and whoever
reached the mailbox server's could put uncertified ones into a mailbox."""

import json

import pytest

pytestmark = pytest.mark.both

OURS = ("access", "incoming", "local", "reports", "delivery", "triggers")
MAY = {
    **{f"pec/{name}": {"root", "pec", "postfix", "pec-delivery"} for name in OURS},
    "pec/dovecot-lmtp": {"root", "pec", "pec-delivery"},
    "pec/dovecot-lmtp-no-quota": {"root", "pec", "pec-delivery"},
    "public/pecoutgoing": {"root", "postfix", "pec-delivery"},
}
# Each with its own groups; pec-delivery has one more than the other programs of its user.
USERS = {user: ("--init-groups",) for user in ("root", "pec", "postfix", "vmail", "dovecot", "dovenull", "clamav", "postgres", "nobody")}
USERS["pec-delivery"] = ("--groups=postfix,postdrop",)
CONNECT = """
import json, socket, sys
found = []
for path in sys.argv[1:]:
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect("/var/spool/postfix/" + path)
        found.append(path)
    except PermissionError:
        pass
print(json.dumps(found))
"""


@pytest.mark.parametrize("user", USERS)
def test_who_can_connect(net, user):
    name = "pec" if user == "pec-delivery" else user
    group = net.execute("alfa", "postfix", "id", "-g", name).stdout.strip()
    become = ("setpriv", f"--reuid={name}", f"--regid={group}", *USERS[user])
    found = json.loads(net.execute("alfa", "postfix", *become, "python3", "-c", CONNECT, *MAY).stdout)
    assert set(found) == {path for path, users in MAY.items() if user in users}


def test_each_program_has_the_groups_that_it_needs(net):
    """Of our programs pec-delivery alone reaches Postfix's smtpd that takes notices unseen."""
    for program, groups in (("access", {"postfix"}), ("incoming", {"postfix"}), ("delivery", {"postfix", "postdrop"}), ("clock", {"postfix"})):
        script = f"id -nu $(awk '/^Uid:/ {{print $2}}' /proc/$(pgrep -x pec-{program})/status); getent group $(awk '/^Groups:/ {{$1=\"\"; print}}' /proc/$(pgrep -x pec-{program})/status) | cut -d: -f1"
        user, *found = net.execute("alfa", program, "sh", "-c", script).stdout.split()
        assert (user, set(found)) == ("pec", groups), program


def test_nothing_of_ours_listens_on_a_port(net):
    """The database and what clients come by are Postfix's, Dovecot's and Debian's own."""
    listening = net.execute("alfa", "postfix", "sh", "-c", "cat /proc/net/tcp").stdout.splitlines()
    ports = {int(fields[1].rsplit(":", 1)[1], 16) for fields in map(str.split, listening) if len(fields) > 3 and fields[3] == "0A"}
    # Docker's name service takes one of its own.
    named = {port for port in ports if port < 10_000}
    assert named == {25, 465, 587, 993, 995, 5432}, ports


def test_who_is_not_a_program_of_ours_cannot_end_clamd(net):
    """clamd obeys whoever connects, also `SHUTDOWN`."""
    script = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/var/spool/postfix/clamav/clamd.ctl'); s.sendall(b'zVERSION\\0'); print(s.recv(99))"
    for user, may in (("vmail", False), ("dovecot", False), ("pec", True)):
        asked = net.execute("alfa", "clamd", "python3", "-c", script, check=False, user=user)
        assert (asked.returncode == 0 and "ClamAV" in asked.stdout) == may, (user, asked)
