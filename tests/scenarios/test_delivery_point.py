"""The Delivery Point: full mailboxes, mailboxes that went away, recipients named twice (RFC 6109 s. 3.3)."""

import time
from contextlib import contextmanager

import pytest
import verifiers
from network import ALDO, ANNA, BRUNO, NESSUNO, SERVICE

pytestmark = pytest.mark.both

NOBODY = "nessuno@pec.alfa.test"


def edit_users(net, host, script):
    net.execute(host, "dovecot", "sed", "-i", "-E", script, "/etc/dovecot/users")


def wait_for_quota(net, host, address, field, there):
    """Dovecot looks at its users file once a second."""
    deadline = time.monotonic() + 30
    while (field in net.execute(host, "dovecot", "doveadm", "user", address).stdout) != there:
        assert time.monotonic() < deadline, f"{address}: {field} should {'' if there else 'not '}be there"
        time.sleep(0.1)


@contextmanager
def over_quota(net, address):
    """The mailbox may hold less than a message."""
    host = net.deployment.servers[address].lower()
    field, value = {"trixie": ("quota_storage_size", "1K"), "bookworm": ("quota_rule", "*:storage=1K")}[net.base]
    edit_users(net, host, f"s/^{address}:.*$/&userdb_{field}={value}/")
    try:
        wait_for_quota(net, host, address, field, True)
        yield
    finally:
        edit_users(net, host, f"s/^({address}:.*)userdb_.*$/\\1/")
        wait_for_quota(net, host, address, field, False)


@contextmanager
def full(net, address):
    """The mailbox holds more than it may."""
    net.expect(address, "posta-certificata", net.submit(ANNA, [address])[0])
    with over_quota(net, address):
        yield


def check_failure(net, msgid, address, errore, errore_esteso):
    notice = net.expect(ANNA, "errore-consegna", msgid, address)
    assert (notice.daticert.get("errore"), notice.value("errore-esteso")) == (errore, errore_esteso)
    assert errore_esteso in notice.header.get_payload(0).get_payload(0).get_payload(0).get_content().replace("\n", " ")
    verifiers.verify(notice.raw, net.deployment.home / "ca/ca.pem")
    net.drain("alfa", "beta")
    assert [m.kind for _, m in net.all_about(msgid, [address])] == []
    assert [m.kind for m in about(net, ANNA, msgid, address)] == ["errore-consegna"]


def about(net, mailbox, msgid, address):
    """Receipts and notices in `mailbox` about this recipient."""
    return [m for _, m in net.all_about(msgid, [mailbox]) if address in m.about]


@pytest.mark.parametrize(("address", "gestore"), [(ALDO, "Alfa PEC S.p.A."), (BRUNO, "Beta Posta S.r.l.")])
def test_rfc6109_3_3_3_a_full_mailbox(net, address, gestore):
    with full(net, address):
        msgid, _ = net.submit(ANNA, [address])
        check_failure(net, msgid, address, "altro", f"5.2.2 - {gestore} - casella piena")
    msgid, _ = net.submit(ANNA, [address])
    net.expect(address, "posta-certificata", msgid)


def test_the_owner_of_a_full_mailbox_gets_every_receipt(net):
    """Those that are made here and those that come from another provider; from a report alone and from one about several."""
    with full(net, ALDO):
        alone, _ = net.submit(ALDO, [ANNA])
        several, _ = net.submit(ALDO, [ANNA, NOBODY, BRUNO, NESSUNO])
        net.expect(ALDO, "accettazione", alone)
        net.expect(ALDO, "accettazione", several)
        for msgid, kind, recipient in (
            (alone, "avvenuta-consegna", ANNA),
            (several, "avvenuta-consegna", ANNA),
            (several, "errore-consegna", NOBODY),
            (several, "avvenuta-consegna", BRUNO),
            (several, "errore-consegna", NESSUNO),
        ):
            verifiers.verify(net.expect(ALDO, kind, msgid, recipient).raw, net.deployment.home / "ca/ca.pem")
        net.drain("alfa", "beta")
        assert len(net.all_about(several, [ALDO])) == 5
        assert len(net.all_about(several, [SERVICE["alfa"]])) == 2


@pytest.mark.parametrize("recipients", [[BRUNO, BRUNO], [BRUNO, "Bruno@PEC.Beta.test"], [ALDO, ALDO.upper(), ALDO]], ids=["same", "case", "local"])
def test_a_recipient_named_twice_gets_one_envelope_and_one_receipt(net, recipients):
    address = recipients[0]
    msgid, _ = net.submit(ANNA, recipients)
    net.expect(ANNA, "avvenuta-consegna", msgid, address)
    net.drain("alfa", "beta")
    assert [m.kind for _, m in net.all_about(msgid, [address])] == ["posta-certificata"]
    assert sorted(m.kind for _, m in net.all_about(msgid, [ANNA])) == ["accettazione", "avvenuta-consegna"]
    [(_, presa)] = net.all_about(msgid, [SERVICE["alfa"]])
    assert [a.lower() for a in presa.about] == [address]


def test_rfc6109_3_3_3_a_mailbox_that_is_gone_at_delivery(net):
    """It was there when the envelope was taken in charge; Dovecot was away, and so was the mailbox afterwards."""
    address = "partente@pec.beta.test"
    password = net.execute("beta", "dovecot", "doveadm", "pw", "-s", "BLF-CRYPT", "-p", "segreta").stdout.strip()
    net.execute("beta", "dovecot", "sh", "-c", f"echo '{address}:{password}::::::' >> /etc/dovecot/users")
    net.wait_for_mailbox("beta", address)
    there, _ = net.submit(ANNA, [address])
    net.expect(ANNA, "avvenuta-consegna", there, address)
    net.stop("beta", "dovecot")
    try:
        gone, _ = net.submit(ANNA, [address])
        net.expect(SERVICE["alfa"], "presa-in-carico", gone, address)
    finally:
        net.start("beta", "dovecot")
        net.wait_until_up("beta", "dovecot")
        edit_users(net, "beta", f"/^{address}:/d")
        net.wait_for_mailbox("beta", address, there=False)
    net.drain("alfa", "beta")
    notice = net.expect(ANNA, "errore-consegna", gone, address)
    assert (notice.daticert.get("errore"), notice.value("errore-esteso")) == ("no-dest", "5.1.1 - Beta Posta S.r.l. - indirizzo non valido")
    assert [m.kind for m in about(net, ANNA, gone, address)] == ["errore-consegna"]
