"""Mail of programs of this host: cron, sendmail. None of it reaches a certified mailbox as it is, none is lost."""

import pytest
import verifiers
from network import ALDO, ANNA, CARLA

pytestmark = pytest.mark.both

SERVICE_ADDRESS = "posta-certificata@gestore.alfa.test"


def sendmail(net, *recipients, text="La copia di riserva non riesce.", sender=()):
    """What root's cron does; gives back the Message-ID."""
    raw, msgid = net.letter("root", recipients, text=text)
    script = 'printf "%s" "$0" | sendmail -oi "$@"'
    net.execute("alfa", "postfix", "sh", "-c", script, raw.decode().replace("\r\n", "\n"), *sender, *recipients)
    return msgid


def with_msgid(msgid):
    return lambda message: message.header["Message-ID"] == msgid


def test_a_certified_mailbox_gets_it_in_a_busta_di_anomalia(net):
    msgid = sendmail(net, ANNA, ALDO)
    for address in (ANNA, ALDO):
        message = net.deployment.wait_for(address, with_msgid(msgid))
        assert message.kind == "errore" and message.daticert is None
        verifiers.verify(message.raw, net.deployment.home / "ca/ca.pem")
        assert "immesso da un programma del sistema" in message.text
        assert b"La copia di riserva non riesce." in message.original
    net.drain("alfa")
    assert [row["event"] for row in net.story("alfa", msgid)] == ["anomalia"]


def test_what_the_host_tells_root_lies_in_the_service_mailbox(net):
    msgid = sendmail(net, "root")
    message = net.deployment.wait_for(SERVICE_ADDRESS, with_msgid(msgid))
    assert message.kind == "ordinario" and "La copia di riserva non riesce." in message.text


def test_an_ordinary_address_elsewhere_gets_it_as_it_is(net):
    msgid = sendmail(net, CARLA)
    assert net.deployment.wait_for(CARLA, with_msgid(msgid)).kind == "ordinario"


@pytest.mark.parametrize(
    ("recipients", "says"), [((ANNA, CARLA), "send it to each kind apart"), (("nessuno@pec.alfa.test",), "no such mailbox")]
)
def test_what_is_refused_comes_back_to_root_with_the_reason(net, recipients, says):
    msgid = sendmail(net, *recipients)
    report = net.deployment.wait_for(SERVICE_ADDRESS, lambda m: msgid.encode() in m.raw)
    assert says in " ".join(report.text.split()), report.text
    net.drain("alfa")
    assert not any(msgid.encode() in m.raw for address in (ANNA, CARLA) for m in net.deployment.messages(address))


def test_nobody_of_ours_is_written_for_by_a_program(net):
    msgid = sendmail(net, ALDO, sender=("-f", ANNA))
    report = net.deployment.wait_for(ANNA, lambda m: msgid.encode() in m.raw)
    assert report.kind == "errore" and b"submission service only" in b" ".join(report.original.split())
    net.drain("alfa")
    assert not any(msgid.encode() in m.raw for m in net.deployment.messages(ALDO))


def test_while_pec_incoming_is_down_it_waits(net):
    net.kill("alfa", "incoming")
    try:
        waiting = sendmail(net, ANNA)
    finally:
        since = net.now()
        net.start("alfa", "incoming")
        net.wait_for_log("alfa", "incoming", "/pec/local", since)
    # A new message has Postfix look at the old one too.
    sendmail(net, "root")
    assert net.deployment.wait_for(ANNA, with_msgid(waiting)).kind == "errore"
