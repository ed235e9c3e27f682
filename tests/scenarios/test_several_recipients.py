"""One message to six mailboxes of another provider, with all that can happen to one at the same time: each has exactly its own
outcome, with its own second."""

import time

import pytest
from ledger import Ledger
from network import ANNA, BRUNO, NESSUNO, SERVICE
from test_delivery_point import over_quota

FULL, SLOW, ONCE, KILLED = (f"{name}@pec.beta.test" for name in ("piena", "lenta", "rinviata", "interrotta"))
SECONDS = 4


@pytest.fixture(scope="module")
def taps(net):
    with net.mailboxes("beta", FULL, SLOW, ONCE, KILLED), net.tapped("beta") as taps:
        yield taps


def home(address):
    local_part, domain = address.split("@")
    return f"/var/mail/pec/{domain}/{local_part}"


@pytest.mark.both
def test_each_recipient_has_his_own_outcome(net, taps):
    tap, held = taps["beta"], {SLOW: f"lmtp.busta.dot {SLOW}", KILLED: f"lmtp.busta.saved {KILLED}"}
    first, _ = net.submit(ANNA, [FULL, SLOW, ONCE, KILLED])
    for address in (FULL, SLOW, ONCE, KILLED):
        net.expect(ANNA, "avvenuta-consegna", first, address)
    ledger = Ledger(net)
    with over_quota(net, FULL):
        net.execute("beta", "dovecot", "chmod", "0", home(ONCE))
        for step in held.values():
            tap.hold(step)
        msgid, _ = net.submit(ANNA, [BRUNO, NESSUNO, FULL, SLOW, ONCE, KILLED])
        for step in held.values():
            tap.wait(step)
        # Nobody of them waits for another one.
        net.expect(ANNA, "avvenuta-consegna", msgid, BRUNO)
        assert net.expect(ANNA, "errore-consegna", msgid, FULL).value("errore-esteso") == "5.2.2 - Beta Posta S.r.l. - casella piena"
        deadline = time.monotonic() + 30
        while not any("delay_reason" in r for entry in net.queue("beta") for r in entry["recipients"] if r["address"] == ONCE):
            assert time.monotonic() < deadline, net.queue("beta")
            time.sleep(0.1)
        net.execute("beta", "dovecot", "chmod", "700", home(ONCE))
        # One has said yes and the other one is about to get it when everything ends.
        for process in ("delivery", "postgres", "dovecot", "postfix"):
            net.kill("beta", process)
        tap.clear()
        tap.hold(held[SLOW])
        for process in ("postgres", "dovecot", "postfix", "delivery"):
            net.start("beta", process)
        net.wait_until_up("beta", "postgres", "dovecot", "postfix", "delivery")
        net.flush("beta")
        for address in (KILLED, ONCE):
            net.expect(ANNA, "avvenuta-consegna", msgid, address)
        tap.wait(held[SLOW])
        time.sleep(SECONDS)
        tap.release(held[SLOW])
        assert net.expect(ANNA, "errore-consegna", msgid, NESSUNO).daticert.get("errore") == "no-dest"
        net.drain("alfa", "beta")
    ledger.refresh()
    repeats = ledger.check(msgid, ANNA, [BRUNO, SLOW, ONCE, KILLED], failed=[NESSUNO, FULL], most=2)
    found = sorted((mailbox, m.label) for mailbox, m in net.all_about(msgid) if mailbox not in (ANNA, SERVICE["alfa"]))
    assert found == sorted((address, "posta-certificata") for address in (BRUNO, SLOW, ONCE, KILLED, KILLED)), found
    assert repeats == 1, "a second copy for him alone whose mailbox had said yes when it was not heard"
    rows = {row["recipients"][0]: row for row in net.story("beta", msgid) if row["event"] in ("avvenuta-consegna", "errore-consegna")}
    # Of both that were cut off nobody can know how that ended.
    assert {address: row["time_source"] for address, row in rows.items()} == {
        BRUNO: "mailbox", SLOW: "mailbox-again", ONCE: "mailbox", KILLED: "mailbox-again", NESSUNO: "mailbox", FULL: "mailbox",
    }  # fmt: skip
    assert rows[BRUNO]["happened_at"] < min(rows[ONCE]["happened_at"], rows[KILLED]["happened_at"]), rows
    assert max(rows[ONCE]["happened_at"], rows[KILLED]["happened_at"]) < rows[SLOW]["happened_at"], rows


def test_a_second_copy_that_is_refused_certifies_nothing(net, taps):
    """The answer to the first is lost, and now the mailbox is full, maybe of that very message: nobody says yes or no for it."""
    tap, step = taps["beta"], f"lmtp.busta.saved {ONCE}"
    tap.hold(step)
    msgid, _ = net.submit(ANNA, [ONCE])
    tap.wait(step)
    with over_quota(net, ONCE):
        tap.drop(step)
        deadline = time.monotonic() + 30
        while not (said := [r["delay_reason"] for entry in net.queue("beta") for r in entry["recipients"] if "Nothing is certified" in r.get("delay_reason", "")]):
            assert time.monotonic() < deadline, net.queue("beta")
            net.flush("beta")
            time.sleep(0.3)
        assert f"the mailbox of {ONCE} was handed this before" in said[0] and "552 5.2.2" in said[0], said
        assert [m.kind for _, m in net.all_about(msgid, [ANNA])] == ["accettazione"]
    net.drain("alfa", "beta")
    ledger = Ledger(net)
    ledger.refresh()
    assert ledger.check(msgid, ANNA, [ONCE], most=2) == 1
    [row] = [row for row in net.story("beta", msgid) if row["event"] == "avvenuta-consegna"]
    assert row["time_source"] == "mailbox-again"
