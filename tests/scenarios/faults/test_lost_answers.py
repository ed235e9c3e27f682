"""What is refused, infected or no certified mail: the answer lost on the way, the process that decides killed, the whole SMTP
transaction brought again. One notice for each fact all the same, a repeat only as the same bytes.

The main flow has test_kill_table.py, which stops every process at every step; here are the steps that differ. The notices of
12 and 24 hours are played in milters/clock/tests/conversations.rs.
"""

import re
import smtplib
from collections import defaultdict
from hashlib import sha256

import pytest
from ledger import signed_body
from network import ANNA, BRUNO, CARLA, SERVICE
from test_kill_table import Client, stop_at
from test_viruses import PROVA, attached, restart_clamd

# Story, where, step, who is killed there (None: the connection is torn down, and with it the answer).
CELLS = [
    ("refused", "alfa", "access.accept", None),
    ("refused", "alfa", "db.not_accepted.committed", "access"),
    ("refused", "alfa", "access.edits", "postfix"),
    ("refused", "alfa", "lmtp.non-accettazione.saved", None),
    ("refused", "alfa", "delivery.non-accettazione.answer", None),
    ("infected", "beta", "incoming.accept", None),
    ("infected", "beta", "db.fact.rilevazione-virus.committed", "incoming"),
    ("infected", "beta", "triggers.rilevazione-virus.answer", None),
    ("infected", "beta", "outgoing.rilevazione-virus.queued", None),
    ("infected", "beta", "outgoing.rilevazione-virus.dot", "delivery"),
    ("infected", "alfa", "db.fact.errore-consegna.committed", "incoming"),
    ("infected", "alfa", "triggers.errore-consegna.answer", None),
    ("infected", "alfa", "db.notice.errore-consegna.committed", "delivery"),
    ("ordinary", "beta", "incoming.accept", None),
    ("ordinary", "beta", "incoming.edits", "incoming"),
    ("ordinary", "beta", "lmtp.anomalia.saved", None),
    ("ordinary", "beta", "db.taken.anomalia.committed", "delivery"),
    ("ordinary", "beta", "delivery.anomalia.answer", None),
]
DUE = {
    "refused": {(ANNA, "non-accettazione", "")},
    "infected": {
        (ANNA, "accettazione", ""),
        (ANNA, "errore-consegna", BRUNO),
        (SERVICE["alfa"], "presa-in-carico", BRUNO),
        (SERVICE["alfa"], "rilevazione-virus", BRUNO),
    },
}


class Stranger(Client):
    """An ordinary server that tries again until its message is taken."""

    def bring(self):
        with smtplib.SMTP(*self.net.deployment.address("BETA", "SMTP"), timeout=30) as client:
            client.sendmail(CARLA, self.recipients, self.raw)


def somebody(net, story):
    match story:
        case "refused":
            return Client(net, [BRUNO], extra=f"Bcc: {CARLA}\r\n")
        case "infected":
            return Client(net, [BRUNO], **attached("relazione.txt", PROVA))
        case "ordinary":
            return Stranger(net, [BRUNO], sender=CARLA)


@pytest.fixture(scope="module")
def taps(net):
    """Beta's scanner knows what Alfa's does not."""
    file = net.deployment.home / "beta/clamav/prova.ndb"
    file.write_text(f"Pec.Virus.Di.Prova:0:*:{PROVA.hex()}\n")
    try:
        restart_clamd(net, "beta")
        with net.tapped("alfa", "beta") as taps:
            yield taps
    finally:
        file.unlink()
        restart_clamd(net, "beta")


@pytest.mark.sampled(9, lambda story, host, killed, **_: (story, host, killed is None))
@pytest.mark.parametrize(("story", "host", "step", "killed"), CELLS, ids=lambda value: value or "connection")
def test_a_lost_answer_makes_no_second_notice(net, taps, story, host, step, killed):
    tap, client = taps[host], somebody(net, story)
    stop_at(net, tap, step, client)
    tap.strike(step, killed)
    assert client.accepted.wait(90), "the client was never told that its message is taken"
    net.drain("alfa", "beta")
    check(net, story, client.msgid)


@pytest.mark.parametrize("story", ["refused", "infected", "ordinary"])
def test_a_transaction_that_comes_again_makes_no_second_notice(net, taps, story):
    client = somebody(net, story)
    client.bring()
    client.bring()
    net.drain("alfa", "beta")
    check(net, story, client.msgid)
    if story == "infected":
        # What the other provider sends between the two service mailboxes, once more, by whoever has a copy.
        for _, message in net.all_about(client.msgid, [SERVICE["alfa"]]):
            raw = re.sub(rb"\A(?:Return-Path|Delivered-To):[^\n]*\n(?:[ \t][^\n]*\n)*", b"", message.raw)
            with smtplib.SMTP(*net.deployment.address("ALFA", "SMTP"), timeout=30) as smtp:
                smtp.sendmail("posta-certificata@gestore.beta.test", [SERVICE["alfa"]], raw)
        net.drain("alfa", "beta")
        check(net, story, client.msgid)


def check(net, story, msgid):
    """Mailboxes and tables agree about the message; queues are empty."""
    if story == "ordinary":
        found = [m for m in net.deployment.messages(BRUNO) if m.header["Message-ID"] == msgid]
        assert found and {m.kind for m in found} == {"errore"}
        assert all(net.sql(host, f"SELECT event FROM log WHERE msgid = '{msgid}' AND event <> 'anomalia'") == [] for host in SERVICE)
        return
    by_envelope = defaultdict(lambda: defaultdict(set))
    for address, message in net.all_about(msgid):
        key = (address, message.kind, " ".join(message.about))
        by_envelope[message.value("identificativo")][key].add((message.header["Message-ID"].strip("<>"), sha256(signed_body(message)).hexdigest()))
    assert by_envelope, f"{msgid} was taken and nobody heard of it"
    for identificativo, found in by_envelope.items():
        assert set(found) == DUE[story], f"{identificativo}: {sorted(found)}"
        assert all(len(same) == 1 for same in found.values()), f"{identificativo}: {dict(found)}"
        columns = "message_id || ' ' || encode(notice_sha256, 'hex')"
        facts = [row for host in SERVICE for row in net.sql(host, f"SELECT {columns} FROM fact WHERE identificativo = '{identificativo}'")]
        assert sorted(facts) == sorted(" ".join(notice) for same in found.values() for notice in same)
