"""The database alone is not enough to have something signed: whoever has the password of the programs' role writes rows of messages
that never were, and all that comes of it is an alarm."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from network import ALDO, ANNA, BRUNO, SERVICE

PROVIDER = "Alfa PEC S.p.A."
DATICERT = """<?xml version="1.0" encoding="UTF-8"?>
<postacert tipo="posta-certificata" errore="nessuno"><intestazione><mittente>{anna}</mittente><destinatari tipo="certificato">{to}</destinatari>
<risposte>{anna}</risposte><oggetto>Mai scritto</oggetto></intestazione><dati><gestore-emittente>{provider}</gestore-emittente>
<data zona="+0100"><giorno>01/01/2020</giorno><ora>10:00:00</ora></data><identificativo>{identificativo}</identificativo>
<ricevuta tipo="completa" /></dati></postacert>"""


def as_programs(net, sql):
    """By the role of the programs, with its password."""
    script = 'PGPASSWORD=$(cat /etc/pec/database.password) psql -v ON_ERROR_STOP=1 -h 127.0.0.1 -U pec -At -c "$0" pec'
    return net.execute("alfa", "postgres", "sh", "-c", script, sql).stdout.splitlines()


def column(body):
    """The SHA-256 of a body as a column has it."""
    return "\\x" + sha256(body).hexdigest()


def literal(value):
    return "'" + str(value).replace("'", "''") + "'"


class Forger:
    """Rows as the programs write them, with MACs of his own, or taken from other rows."""

    def __init__(self, net, macs):
        self.net, self.macs, self.identificativo = net, macs, f"pec.falso.{net.letter(ANNA, [])[1].strip('<>').replace('.', '')}@gestore.alfa.test"
        self.id = f"{abs(hash(self.identificativo)):032x}"
        self.daticert = DATICERT.format(anna=ANNA, to=BRUNO, provider=PROVIDER, identificativo=self.identificativo)

    def sent(self, at):
        self.insert("sent", id=self.id, envid=f"e{self.id}", provider=PROVIDER, identificativo=self.identificativo, daticert=self.daticert, body_sha256=r"\x00", signed_at=at, mac=self.macs["sent"])

    def custody(self, at, body_sha256=r"\x00", recipient=BRUNO):
        self.insert(
            "custody", id=self.id, envid=f"e{self.id}", provider=PROVIDER, mail_receipt=SERVICE["alfa"], identificativo=self.identificativo, daticert=self.daticert,
            recipients=f"{{{recipient}}}", body_sha256=body_sha256, content_sha256=r"\x00", taken_at=at, mac=self.macs["custody"],
        )  # fmt: skip

    def fact(self, kind, recipient, at, source_mac):
        self.insert(
            "fact", id=f"f{self.id}", provider=PROVIDER, identificativo=self.identificativo, kind=kind, recipient=recipient, source=self.id, source_mac=source_mac,
            happened_at=at, time_source="clock", status="5.1.1" if kind == "errore-consegna" else "", message_id=self.identificativo, mac=self.macs["fact"],
        )  # fmt: skip

    def insert(self, table, **row):
        as_programs(self.net, f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(map(literal, row.values()))})")


@pytest.fixture(params=["made up", "of another row"])
def forger(net, request):
    if request.param == "made up":
        macs = dict.fromkeys(("sent", "custody", "fact", "passed"), "\\x" + "ab" * 36)
    else:
        msgid, _ = net.submit(ANNA, [ALDO])
        net.expect(ANNA, "avvenuta-consegna", msgid)
        net.drain("alfa")
        macs = {table: as_programs(net, f"SELECT mac FROM {table} LIMIT 1")[0] for table in ("sent", "custody", "fact")}
        macs["passed"] = macs["custody"]
    forger = Forger(net, macs)
    yield forger
    for table in ("fact", "custody", "sent", "passed", "trigger_body"):
        key = {"trigger_body": "trigger_name", "passed": "envid"}.get(table, "id")
        net.sql("alfa", f"DELETE FROM {table} WHERE {key} LIKE '%{forger.id}'")


def everything(net):
    """Mailboxes, and what the retained log has of such messages besides that rules were broken."""
    net.drain("alfa", "beta")
    log = net.sql("alfa", "SELECT event FROM log WHERE identificativo LIKE 'pec.falso%' AND event <> 'violazione'")
    return {address: len(net.deployment.messages(address)) for address in net.deployment.passwords}, log


def test_a_receipt_about_a_message_that_never_was(net, forger):
    """A fact of a year ago whose notice nobody has handed over: pec-clock starts such notices."""
    before, since, year_ago = everything(net), net.now(), datetime.now(UTC) - timedelta(days=365)
    forger.custody(year_ago)
    x = column(b"x\r\n")
    forger.fact("errore-consegna", BRUNO, year_ago, forger.macs["custody"])
    net.hangup("alfa", "clock")
    net.wait_for_log("alfa", "clock", f"error: alarm: a row was not written by these programs, or was changed: table=fact key=f{forger.id}", since)
    # Whoever reaches the triggers' socket besides is told to wait.
    for kind, row in (("errore-consegna", f"f{forger.id}"), ("presa-in-carico", forger.id), ("avvenuta-consegna", f"f{forger.id}")):
        as_programs(net, f"INSERT INTO trigger_body VALUES ('{kind}+{row}', '{x}')")
        code, text = net.give("alfa", "pec/triggers", "posta-certificata@gestore.alfa.test", f"{kind}+{row}@notices.pec.internal", b"Subject: x\r\n\r\nx\r\n")
        assert code // 100 == 4, (kind, code, text)
    assert everything(net) == before


def test_a_deadline_of_a_message_that_never_was(net, forger):
    before, since, accepted = everything(net), net.now(), datetime.now(UTC) - timedelta(hours=13)
    forger.sent(accepted)
    forger.fact("accettazione", "", accepted, forger.macs["sent"])
    net.hangup("alfa", "clock")
    log = net.wait_for_log("alfa", "clock", "error: alarm: a row was not written by these programs, or was changed: table=", since)
    assert forger.id in log.splitlines()[-1], log
    assert everything(net) == before
    assert as_programs(net, f"SELECT kind FROM fact WHERE identificativo = '{forger.identificativo}'") == ["accettazione"]


def test_a_message_that_no_milter_let_in(net, forger):
    """Custody and a row that lets it pass, with the right hash: the mailbox gets nothing."""
    before, body_sha256 = everything(net), column(b"Mai\r\n")
    message = f"From: {ANNA}\r\nTo: {ALDO}\r\nSubject: x\r\n\r\nMai\r\n".encode()
    forger.custody(datetime.now(UTC), body_sha256, ALDO)
    as_programs(net, f"INSERT INTO passed (envid, kind, body_sha256, recipients, mac) VALUES ('p{forger.id}', 'ricevuta', '{body_sha256}', '{{{ALDO}}}', '{forger.macs['passed']}')")
    for table, envid, key in (("custody", f"e{forger.id}", forger.id), ("passed", f"p{forger.id}", f"p{forger.id}")):
        since = net.now()
        code, text = net.give("alfa", "pec/delivery", ANNA, ALDO, message, envid)
        assert code == 451, (table, code, text)
        assert f"alarm: a row was not written by these programs, or was changed: table={table} key={key};" in net.logs("alfa", "delivery", since)
    assert everything(net) == before
