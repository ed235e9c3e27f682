"""Compares mailboxes, queues and logs, from outside the code under test.

What must hold for every message that a client was told is accepted:
- the sender has its acceptance, each recipient at a provider has the envelope (or the sender a notice of failure), the sender
  has one delivery receipt for each delivered recipient, the service mailbox one presa in carico for each copy;
- nothing else is there, and a repeat is the same bytes under the same Message-ID;
- the second that a delivery receipt certifies is that in which the mailbox received a copy: the first one, or the row of the
  receipt says that the mailbox may have had one before;
- every notice has its row in the log, with its hash, and every row its notice;
- no queue holds anything.
"""

import re
from collections import defaultdict
from hashlib import sha256

from network import SERVICE

NOTICES = {"accettazione", "presa-in-carico", "avvenuta-consegna", "errore-consegna"}
# Between the mailbox's own date and the moment in which its answer was heard, in seconds: another one may have begun.
HEARD_WITHIN = 1


def signed_body(message):
    return re.sub(rb"\r?\n", b"\r\n", message.raw).split(b"\r\n\r\n", 1)[1]


class Ledger:
    """All mailboxes and logs, read on as they grow."""

    def __init__(self, net):
        self.net = net
        self.seen = defaultdict(int)
        self.found = defaultdict(list)
        self.received = {}
        self.log = defaultdict(list)
        self.time_source = {}
        self.last_row = dict.fromkeys(SERVICE, 0)

    def refresh(self):
        for address in self.net.deployment.passwords:
            messages = self.net.deployment.messages(address)
            new = messages[self.seen[address] :]
            for message in new:
                self.found[message.value("msgid")].append((address, message))
            if new:
                self.received |= {(address, uid): at for uid, at in self.net.received(address, new[0].uid).items()}
            self.seen[address] = len(messages)
        for host in SERVICE:
            columns = "seq, identificativo, event, message_id, encode(message_sha256, 'hex'), time_source"
            for line in self.net.sql(host, f"SELECT {columns} FROM log WHERE seq > {self.last_row[host]} ORDER BY seq"):
                row, identificativo, event, message_id, message_sha256, time_source = line.split("|")
                self.last_row[host] = int(row)
                self.log[identificativo].append((event, message_id, message_sha256))
                if event in NOTICES:
                    self.time_source[message_id] = time_source

    def check_queues(self):
        for host in SERVICE:
            assert self.net.queue(host) == [], f"in {host}'s queue"

    def envelopes(self, msgid):
        """{identificativo: [(mailbox, Message)]} of everything about that original."""
        groups = defaultdict(list)
        for address, message in self.found[msgid]:
            groups[message.value("identificativo")].append((address, message))
        return groups

    def check(self, msgid, sender, delivered, failed=(), external=(), unsent=(), most=None, late=0):
        """Everything about that original, as of the last refresh, queues empty. Gives back how many repeats there are.
        `unsent`: whom another provider refused while we talked to it. `most`: so often may each thing be there. `late`: for so
        many seconds a mailbox's answer was kept from pec-delivery; None: nobody knows, the machine had more to do than it can.
        AssertionError names what is wrong."""
        groups = self.envelopes(msgid)
        assert groups, f"{msgid} was accepted and is nowhere"
        repeats = 0
        for identificativo, found in groups.items():
            by_key = self.check_envelope(identificativo, found, sender, delivered, failed, external, unsent)
            for key, messages in by_key.items():
                same = {(m.header["Message-ID"], signed_body(m)) for m in messages}
                assert len(same) == 1, f"{identificativo}: {key} came {len(messages)} times and not as the same message"
                assert most is None or len(messages) <= most, f"{identificativo}: {key} came {len(messages)} times"
                repeats += len(messages) - 1
            for recipient in delivered:
                envelopes, receipts = by_key[recipient, "posta-certificata", ""], by_key[sender, "avvenuta-consegna", recipient]
                self.check_time(identificativo, sender, recipient, envelopes, receipts, late)
            self.check_log(identificativo, found)
        return repeats

    def check_envelope(self, identificativo, found, sender, delivered, failed, external, unsent):
        by_key = defaultdict(list)
        for address, message in found:
            by_key[(address, message.kind, " ".join(message.about))].append(message)
        due = {(sender, "accettazione", "")}
        due |= {(r, "posta-certificata", "") for r in (*delivered, *external)}
        due |= {(sender, "avvenuta-consegna", r) for r in delivered} | {(sender, "errore-consegna", r) for r in (*failed, *unsent)}
        without_presa = {key for key in by_key if key[1] != "presa-in-carico"}
        assert without_presa == due, f"{identificativo}: missing {sorted(due - without_presa)}, too much {sorted(without_presa - due)}"
        taken = sorted(r for (address, kind, about), _ in by_key.items() if kind == "presa-in-carico" for r in about.split())
        assert taken == sorted((*delivered, *failed)), f"{identificativo}: taken in charge were {taken}"
        assert all(address in SERVICE.values() for (address, kind, _) in by_key if kind == "presa-in-carico")
        return by_key

    def check_time(self, identificativo, sender, recipient, envelopes, receipts, late):
        """The receipt's second is a copy's; if it is not the first one's, its row says so. Whenever pec-delivery had its turn to
        hear the mailbox: the receipt was made after that."""
        certified = receipts[0].header["Date"].datetime
        copies = sorted(self.received[recipient, envelope.uid] for envelope in envelopes)
        source = self.time_source[receipts[0].header["Message-ID"].strip("<>")]
        assert source in ("mailbox", "mailbox-again"), f"{identificativo}: the time of {recipient}'s receipt is from {source}"
        may = copies if source == "mailbox-again" else copies[:1]
        made = min(self.received[sender, receipt.uid] for receipt in receipts)
        heard = [(certified - copy).total_seconds() for copy in may]
        assert certified <= made, f"{identificativo}: {recipient}'s receipt of {certified} was there at {made}"
        within = float("inf") if late is None else HEARD_WITHIN + late
        assert any(0 <= seconds <= within for seconds in heard), f"{identificativo}: {recipient} received {copies}, certified is {certified} ({source})"

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
