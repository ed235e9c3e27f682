"""A stock Rspamd before pec-incoming, set up as postfix-conf/rspamd says: ordinary mail is judged, certified mail is not."""

import smtplib

import pytest
from network import ANNA, BRUNO, CARLA, HERE, run, shipped_milter

pytestmark = pytest.mark.both

# What Rspamd takes for spam here, by a rule of this test's, and the text that it would otherwise refuse whatever it is told.
WARES = "offerta imperdibile"
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
RULE = f"config['regexp']['WARES'] = {{ re = '/{WARES}/{{body}}', score = 50 }}"

# Rspamd begins by compiling what it knows of all top-level domains, ten seconds of work and a minute on a busy machine: one will do.
ONE_SUFFIX = """echo test > /etc/rspamd/suffixes; echo 'url_tld = "/etc/rspamd/suffixes";' >> /etc/rspamd/local.d/options.inc"""

CONFIGURATION = HERE.parent.parent / "postfix-conf/rspamd"
RSPAMD = "rspamd_milter={ inet:127.0.0.1:11332, default_action=accept }"


@pytest.fixture(scope="module")
def rspamd(net):
    """Alfa's Rspamd: the container's name."""
    name = net.container("alfa", "rspamd")
    script = f'cp -r /shipped/* /etc/rspamd/; echo "{RULE}" >> /etc/rspamd/rspamd.local.lua; {ONE_SUFFIX}; exec rspamd -f -u _rspamd -g _rspamd'
    run("docker", "rm", "-f", name, check=False)
    run(
        "docker", "run", "--detach", "--init", "--name", name, "--network", f"container:{net.project}-alfa",
        "--volume", f"{CONFIGURATION}:/shipped:ro", f"pec-between:{net.base}", "sh", "-c", script,
    )  # fmt: skip
    probe = "until exec 3<>/dev/tcp/127.0.0.1/11332; do sleep 0.1; done"
    listening = net.execute("alfa", "postfix", "timeout", "60", "bash", "-c", f"{{ {probe}; }} 2>/dev/null", check=False)
    assert listening.returncode == 0, run("docker", "exec", name, "tail", "/var/log/rspamd/rspamd.log", check=False).stdout
    net.postconf("alfa", RSPAMD)
    net.execute("alfa", "postfix", "postconf", "-P", f"smtp/inet/smtpd_milters=$rspamd_milter,{shipped_milter('incoming')}")
    net.reload_postfix("alfa")
    yield name
    net.execute("alfa", "postfix", "postconf", "-P", f"smtp/inet/smtpd_milters={shipped_milter('incoming')}")
    net.execute("alfa", "postfix", "postconf", "-X", "rspamd_milter")
    net.reload_postfix("alfa")
    run("docker", "rm", "-f", name)


def bring(net, text, extra=""):
    raw, msgid = net.letter(CARLA, [ANNA], text=f"{text}\r\n", extra=extra)
    with smtplib.SMTP(*net.deployment.address("ALFA", "SMTP"), timeout=60) as client:
        client.sendmail(CARLA, [ANNA], raw)
    return net.deployment.wait_for(ANNA, lambda m: m.header["Message-ID"] == msgid)


def was_judged_spam(msgid, rspamd):
    log = run("docker", "exec", rspamd, "cat", "/var/log/rspamd/rspamd.log").stdout
    return any(f"id: <{msgid}>" in line and "WARES" in line for line in log.splitlines())


def test_spam_is_refused_and_ordinary_mail_comes_as_ever(net, rspamd):
    with pytest.raises(smtplib.SMTPDataError) as refused:
        bring(net, WARES)
    assert refused.value.smtp_code == 550 and b"looks like spam" in refused.value.smtp_error
    message = bring(net, "Ci vediamo?")
    assert message.kind == "errore" and b"X-Pec-Spam" not in message.raw


def test_certified_mail_is_delivered_without_a_mark(net, rspamd):
    msgid, _ = net.submit(BRUNO, [ANNA], text=f"{WARES}\r\n")
    envelope = net.expect(ANNA, "posta-certificata", msgid)
    receipt = net.expect(BRUNO, "avvenuta-consegna", msgid, ANNA)
    for message in (envelope, receipt):
        assert b"x-pec-spam" not in message.raw.lower() and b"x-spam" not in message.raw.lower()
    assert was_judged_spam(envelope.value("identificativo"), rspamd)


def test_certified_mail_may_quote_the_text_that_rspamd_refuses(net, rspamd):
    msgid, _ = net.submit(BRUNO, [ANNA], text=f"{GTUBE}\r\n")
    if net.base == "bookworm":
        # Rspamd 3.4 cannot be told, as postfix-conf/rspamd/README.md says.
        net.expect(BRUNO, "errore-consegna", msgid, ANNA)
    else:
        net.expect(ANNA, "posta-certificata", msgid)


def test_without_rspamd_nothing_waits(net, rspamd):
    run("docker", "stop", "--time", "5", rspamd)
    try:
        msgid, _ = net.submit(BRUNO, [ANNA])
        net.expect(ANNA, "posta-certificata", msgid)
        assert bring(net, WARES).kind == "errore"
    finally:
        run("docker", "start", rspamd)


def test_pecctl_check_finds_nothing_wrong_with_it(net, rspamd):
    found = net.execute("alfa", "postfix", "pecctl", "check", check=False).stdout
    assert "smtpd_milters" not in found, found
