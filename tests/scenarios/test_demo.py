"""What docker/demo plays, on this network: the correspondence, the export, and what it says when a message does not arrive."""

import threading
import zipfile
from contextlib import contextmanager

import pytest
from network import ANNA, BRUNO, NESSUNO, SERVICE
from story import Story, export


@contextmanager
def impatient(net, host):
    """A minute until this host's Postfix tries again is too long for a test."""
    enough = threading.Event()

    def flush():
        while not enough.wait(1):
            net.flush(host)

    flushing = threading.Thread(target=flush)
    flushing.start()
    try:
        yield
    finally:
        enough.set()
        flushing.join()


def test_the_correspondence_is_told_and_exported(net, capsys):
    home = net.deployment.home
    with impatient(net, "beta"):
        Story(net.deployment).play(net.container("alfa", "postfix"))
    told = capsys.readouterr().out
    for words in (
        f"accettazione for {ANNA}", f"presa-in-carico for {SERVICE['alfa']}", f"posta-certificata for {BRUNO}",
        f"the message is in the mailbox of {BRUNO}", f"the message cannot be delivered to {NESSUNO}", "carla@posta.test: esterno", "checkpoint is signed by", "Prova TSA 1 has seen it by",
    ):  # fmt: skip
        assert words in told, told
    assert zipfile.is_zipfile(home / "evidence/evidence.zip")
    count = export(net.deployment)
    written = sorted((home / "mailboxes").glob("*/*.eml"))
    assert len(written) == count and {path.parent.name for path in written} <= set(net.deployment.passwords)
    original = (home / "originals/01.eml").read_bytes()
    msgid = next(line for line in original.decode().splitlines() if line.startswith("Message-ID:"))[12:]
    for address, kind in ((ANNA, "accettazione"), (SERVICE["alfa"], "presa-in-carico"), (BRUNO, "posta-certificata"), (ANNA, "avvenuta-consegna")):
        assert any(msgid.encode() in path.read_bytes() for path in written if path.parent.name == address and path.name.endswith(f"-{kind}.eml"))


@pytest.mark.parametrize(("kind", "about"), [("accettazione", None), ("avvenuta-consegna", BRUNO)])
def test_what_does_not_arrive_is_named_and_the_demo_fails(net, kind, about):
    with pytest.raises(SystemExit) as ended:
        Story(net.deployment, patience=0).expect(ANNA, kind, "<never.sent@pec.alfa.test>", about)
    # A text and no number: Python prints it and exits with status 1.
    assert ended.value.code.startswith(f"demo: missing: {kind}{' about ' + about if about else ''} for {ANNA}\n"), ended.value.code
