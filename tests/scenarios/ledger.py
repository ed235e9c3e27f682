"""Compares mailboxes, queues and logs, from outside the code under test.

What must hold for every message that a client was told is accepted:
- the sender has its acceptance, each recipient at a provider has the envelope (or the sender a notice of failure), the sender
  has one delivery receipt for each delivered recipient, the service mailbox one presa in carico for each copy;
- nothing else is there, and a repeat is the same bytes under the same Message-ID;
- every notice has its row in the log, with its hash, and every row its notice;
- no queue holds anything.
"""

import re
from collections import defaultdict
from hashlib import sha256

from network import SERVICE

NOTICES = {"accettazione", "presa-in-carico", "avvenuta-consegna", "errore-consegna"}


def signed_body(message):
    return re.sub(rb"\r?\n", b"\r\n", message.raw).split(b"\r\n\r\n", 1)[1]


class Ledger:
    """All mailboxes and logs, read on as they grow."""

    def __init__(self, net):
        self.net = net
        self.seen = defaultdict(int)
        self.found = defaultdict(list)
        self.log = defaultdict(list)
        self.last_row = dict.fromkeys(SERVICE, 0)

    def refresh(self):
        for address in self.net.deployment.passwords:
            messages = self.net.deployment.messages(address)
            for message in messages[self.seen[address] :]:
                self.found[message.value("msgid")].append((address, message))
            self.seen[address] = len(messages)
        for host in SERVICE:
            columns = "seq, identificativo, event, message_id, encode(message_sha256, 'hex')"
            for line in self.net.sql(host, f"SELECT {columns} FROM log WHERE seq > {self.last_row[host]} ORDER BY seq"):
                row, identificativo, *rest = line.split("|")
                self.last_row[host] = int(row)
                self.log[identificativo].append(rest)

    def check_queues(self):
        for host in SERVICE:
            assert self.net.queue(host) == [], f"in {host}'s queue"

    def envelopes(self, msgid):
        """{identificativo: [(mailbox, Message)]} of everything about that original."""
        groups = defaultdict(list)
        for address, message in self.found[msgid]:
            groups[message.value("identificativo")].append((address, message))
        return groups

    def check(self, msgid, sender, delivered, failed=(), external=()):
        """Everything about that original, as of the last refresh, queues empty. Gives back how many repeats there are.
        AssertionError names what is wrong."""
        groups = self.envelopes(msgid)
        assert groups, f"{msgid} was accepted and is nowhere"
        repeats = 0
        for identificativo, found in groups.items():
            repeats += self.check_envelope(identificativo, found, sender, delivered, failed, external)
            self.check_log(identificativo, found)
        return repeats

    def check_envelope(self, identificativo, found, sender, delivered, failed, external):
        by_key = defaultdict(list)
        for address, message in found:
            by_key[(address, message.kind, " ".join(message.about))].append(message)
        due = {(sender, "accettazione", "")}
        due |= {(r, "posta-certificata", "") for r in (*delivered, *external)}
        due |= {(sender, "avvenuta-consegna", r) for r in delivered} | {(sender, "errore-consegna", r) for r in failed}
        without_presa = {key for key in by_key if key[1] != "presa-in-carico"}
        assert without_presa == due, f"{identificativo}: missing {sorted(due - without_presa)}, too much {sorted(without_presa - due)}"
        taken = sorted(r for (address, kind, about), _ in by_key.items() if kind == "presa-in-carico" for r in about.split())
        assert taken == sorted((*delivered, *failed)), f"{identificativo}: taken in charge were {taken}"
        assert all(address in SERVICE.values() for (address, kind, _) in by_key if kind == "presa-in-carico")
        repeats = 0
        for key, messages in by_key.items():
            same = {(m.header["Message-ID"], signed_body(m)) for m in messages}
            assert len(same) == 1, f"{identificativo}: {key} came {len(messages)} times and not as the same message"
            repeats += len(messages) - 1
        return repeats

    def check_log(self, identificativo, found):
        notices = {m.header["Message-ID"].strip("<>"): sha256(signed_body(m)).hexdigest() for _, m in found if m.kind in NOTICES}
        made, noted = {}, set()
        for event, message_id, message_sha256 in self.log[identificativo]:
            if event in NOTICES:
                assert message_id not in made, f"{identificativo}: {event} is in the log twice"
                made[message_id] = message_sha256
            elif event.startswith("ricevuta-"):
                noted.add(message_id)
        assert made == notices, f"{identificativo}: log {made}, mailboxes {notices}"
        foreign = {m.header["Message-ID"].strip("<>") for _, m in found if m.kind in NOTICES and m.header["From"] != "posta-certificata@gestore.alfa.test"}
        assert noted >= foreign, f"{identificativo}: not in the sender's log: {foreign - noted}"
