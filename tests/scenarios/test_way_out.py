"""Failures at our own Postfix, on the way out: what another server refuses, what has no server (RFC 6109 s. 3.3.3).

That a queue's day is over, and TLS that another provider cannot give, take a day: faults/test_deadlines.py.
"""

import pytest
import verifiers
from network import ANNA, BRUNO, CARLA, PROTOCOLLO

pytestmark = pytest.mark.both

NOWHERE = "dora@nowhere.invalid"

# Alfa knows these hosts by a file and asks nobody: "no such host" must not hang on the name servers of the machine that tests.
HOSTS = """
cp /etc/hosts /tmp/hosts; cp /etc/nsswitch.conf /tmp/nsswitch.conf
for name in pec.beta.test posta.test; do echo "$(getent ahostsv4 $name | head -1 | cut -d' ' -f1) $name" >> /etc/hosts; done
sed -i 's/^hosts:.*/hosts: files/' /etc/nsswitch.conf
"""
HOSTS_AGAIN = "cat /tmp/hosts > /etc/hosts; cp /tmp/nsswitch.conf /etc/nsswitch.conf"


@pytest.fixture
def refusals(net):
    """Beta and the ordinary server refuse a recipient each; of the domain of another one of Beta's nobody has heard."""
    transport = net.execute("alfa", "postfix", "postconf", "-h", "transport_maps").stdout.strip()
    for host, address, reply in (("beta", BRUNO, "550 5.7.1 not from you"), ("posta", CARLA, "554 5.7.9 not from you either")):
        net.postconf(host, f"smtpd_sender_restrictions=check_recipient_access inline:{{ {{ {address} = {reply} }} }}")
    net.postconf("alfa", f"transport_maps={transport} inline:{{ {{ comune.example = smtp:[nowhere.invalid] }} }}")
    net.execute("alfa", "postfix", "sh", "-ec", HOSTS)
    for host in ("alfa", "beta", "posta"):
        net.reload_postfix(host)
    yield
    net.execute("alfa", "postfix", "sh", "-c", HOSTS_AGAIN)
    for host in ("beta", "posta"):
        net.execute(host, "postfix", "postconf", "-X", "smtpd_sender_restrictions")
    net.postconf("alfa", f"transport_maps={transport}")
    for host in ("alfa", "beta", "posta"):
        net.reload_postfix(host)


def test_rfc6109_3_3_3_what_does_not_leave_is_a_mancata_consegna_or_an_anomaly(net, refusals):
    msgid, _ = net.submit(ANNA, [BRUNO, PROTOCOLLO, CARLA, NOWHERE])
    tipi = {BRUNO: "certificato", PROTOCOLLO: "certificato", CARLA: "esterno", NOWHERE: "esterno"}
    assert net.expect(ANNA, "accettazione", msgid).recipients == tipi
    # Certified recipients: a mancata consegna of our own.
    for recipient, errore, errore_esteso in (
        (BRUNO, "altro", "5.7.1 - Alfa PEC S.p.A. - si sono verificati dei problemi consegnando il messaggio"),
        (PROTOCOLLO, "no-dominio", "5.1.2 - Alfa PEC S.p.A. - dominio non valido"),
    ):
        notice = net.expect(ANNA, "errore-consegna", msgid, recipient)
        assert (notice.daticert.get("errore"), notice.value("errore-esteso"), notice.about) == (errore, errore_esteso, [recipient])
        assert notice.header["From"] == "posta-certificata@gestore.alfa.test"
        verifiers.verify(notice.raw, net.deployment.home / "ca/ca.pem")
    # Ordinary ones: Postfix's own words in a busta di anomalia.
    about = msgid.encode()
    for recipient, words in ((CARLA, b"not from you either"), (NOWHERE, b"nowhere.invalid")):
        report = net.deployment.wait_for(ANNA, lambda m: m.kind == "errore" and about in m.raw and recipient.encode() in m.original and words in m.original)
        assert report.header["Subject"].startswith("ANOMALIA MESSAGGIO: ") and report.daticert is None
        assert b"message/delivery-status" in report.original
        verifiers.verify(report.raw, net.deployment.home / "ca/ca.pem")
    net.drain("alfa", "beta")
    # And nothing besides: no second failure, no raw report.
    assert sorted(m.label for _, m in net.all_about(msgid)) == ["accettazione", f"errore-consegna {BRUNO}", f"errore-consegna {PROTOCOLLO}"]
    assert not any(about in m.raw for m in net.deployment.messages(ANNA) if m.kind == "ordinario")
