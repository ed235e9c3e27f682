"""`pecctl check` on a real Postfix and Dovecot: it names each thing that is broken, and nothing else."""

import json

import pytest

pytestmark = pytest.mark.both

# What may be found on a network without DNS, public signatures and a clock of its own, with a container for each program.
HERE = {"the system clock", "the age of clamd's signatures", "the MX of our domains", "whether pec-delivery may enter /var/spool/postfix/public"}

# Settings of main.cf, each of which makes something other than a certified mailbox of one.
MAIN_CF = {
    "virtual_alias_maps": "inline:{anna@pec.alfa.test=carla@posta.test}",
    "virtual_alias_domains": "alias.test",
    "canonical_maps": "inline:{anna@pec.alfa.test=x@pec.alfa.test}",
    "recipient_canonical_maps": "/etc/postfix/canonical",
    "sender_canonical_maps": "inline:{a=b}",
    "recipient_delimiter": "+",
    "alias_maps": "hash:/etc/aliases",
    "mydestination": "localhost",
    "local_transport": "local",
    "relayhost": "[relay.test]",
    "relay_domains": "relayed.test",
    "smtp_fallback_relay": "[relay.test]",
    "default_transport": "smtp:[relay.test]",
    "sender_dependent_relayhost_maps": "inline:{anna@pec.alfa.test=[relay.test]}",
    "sender_dependent_default_transport_maps": "inline:{a=b}",
    "always_bcc": "archive@posta.test",
    "sender_bcc_maps": "inline:{a=b}",
    "recipient_bcc_maps": "inline:{a=b}",
    "content_filter": "smtp:[127.0.0.1]:10024",
    "smtpd_proxy_filter": "127.0.0.1:10024",
    "receive_override_options": "no_milters",
    "masquerade_domains": "alfa.test",
    "header_checks": "regexp:{{/^Subject:/ REPLACE Subject: x}}",
    "body_checks": "regexp:{{/x/ REPLACE y}}",
    "smtp_header_checks": "regexp:{{/^Subject:/ IGNORE}}",
    "smtp_generic_maps": "inline:{a=b}",
    "milter_default_action": "accept",
    "non_smtpd_milters": "",
    "internal_mail_filter_classes": "",
    "lmtp_discard_lhlo_keywords": "dsn",
    "smtpd_discard_ehlo_keywords": "",
    "smtpd_command_filter": "regexp:{{/^x/ y}}",
    "milter_header_checks": "regexp:{{/^X-A:/ FILTER lmtp:unix:private/x}}",
    "bounce_size_limit": "50000",
    "pecdelivery_destination_recipient_limit": "50",
    "disable_mime_output_conversion": "no",
    "local_header_rewrite_clients": "permit_inet_interfaces",
    "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
    "maximal_queue_lifetime": "5d",
    "maximal_backoff_time": "4000s",
    "delay_warning_time": "4h",
    "milter_content_timeout": "30s",
    "pec_clamd": "none",
}

# Options of services, and what is said of them.
MASTER_CF = {
    "smtp/inet/smtpd_milters": "",
    "submission/inet/smtpd_tls_security_level": "may",
    "submission/inet/smtpd_sasl_auth_enable": "no",
    "submissions/inet/smtpd_relay_restrictions": "permit_mynetworks,permit_sasl_authenticated,reject",
    "pecoutgoing/unix/smtpd_relay_restrictions": "permit",
    "cleanup-access/unix/message_drop_headers": "bcc",
    "pickup/unix/cleanup_service_name": "cleanup",
    "pectriggers/unix/soft_bounce": "no",
}


def check(net, script, *settings):
    """Runs `pecctl check` with a copy of Alfa's configuration, changed by `postconf -e` and a script."""
    script = f"""set -e; rm -rf /tmp/check /tmp/dovecot.conf; cp -r /etc/postfix /tmp/check; chmod 755 /tmp/check
        sed -i 's|/etc/postfix/pec-|/tmp/check/pec-|g' /tmp/check/master.cf  # apply writes the tables' full names
        [ $# = 0 ] || postconf -c /tmp/check -e "$@" 2>/dev/null
        {script}
        exec pecctl -c /tmp/check check --json"""
    done = net.execute("alfa", "postfix", "sh", "-c", script, "sh", *settings, check=False)
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    return done, {f["what"]: f for f in findings if f["what"] not in HERE}


def named(found, what):
    """The finding about this, which says how to mend it."""
    assert what in found, f"{what} is not among {list(found)}"
    assert found[what]["level"] == "wrong" and found[what]["mend"], found[what]


def test_nothing_is_found_in_the_shipped_configuration(net):
    done, found = check(net, "")
    assert found == {}, done.stdout
    assert done.returncode in (1, 3), "what cannot be looked at here is not called good"


def test_every_setting_of_main_cf_that_breaks_a_certified_mailbox_is_named(net):
    done, found = check(net, "", *[f"{name}={value}" for name, value in MAIN_CF.items()])
    assert done.returncode == 1, done.stderr
    for name in MAIN_CF:
        named(found, "virtual_alias_maps: anna@pec.alfa.test" if name == "virtual_alias_maps" else name)
    # Two that follow from those above: Postfix's default for MIME headers is that for all headers.
    rest = set(found) - set(MAIN_CF) - {"virtual_alias_maps: anna@pec.alfa.test"}
    assert rest <= {"mime_header_checks", "nested_header_checks"}, rest
    assert found["relayhost"]["mend"] == "postconf -e 'relayhost = '"


def test_services_and_maps_that_break_certified_mail_are_named(net):
    routes = "inline:{{notices.pec.internal=pectriggers:unix:pec/triggers}, {ricezione.pec.internal=x:y}, {pec.alfa.test=smtp:[elsewhere.test]}}"
    script = """
        postconf -c /tmp/check -P """ + " ".join(f"'{option}={value}'" for option, value in MASTER_CF.items()) + """
        postconf -c /tmp/check -P smtp/unix/smtp_header_checks=regexp:/x
        postconf -c /tmp/check -M '2525/inet=2525 inet n - y - - smtpd'
        postconf -c /tmp/check -M '0.0.0.0:10027/inet=0.0.0.0:10027 inet n - y - - smtpd -o smtpd_milters=unix:pec/triggers'
        postconf -c /tmp/check -M '628/inet=628 inet n - y - - qmqpd'
        echo >> /tmp/check/pec-internal-domains
        printf 'a.test REDIRECT archive@posta.test\\nb.test REJECT\\n' > /tmp/check/senders"""
    done, found = check(
        net, script, f"transport_maps={routes}", "smtpd_sender_restrictions=check_sender_access texthash:/tmp/check/senders",
        "virtual_mailbox_domains=gestore.alfa.test pec.alfa.test studio.example pec.beta.test nuovo.example", "mydestination=pec.alfa.test", "pec_clamd=none",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    expected = {
        *("master.cf {0}/{1}: {2}".format(*option.rsplit("/", 2)) for option in MASTER_CF),
        "master.cf smtp/unix: -o smtp_header_checks",
        "master.cf 2525/inet: smtpd_milters",
        "master.cf 0.0.0.0:10027/inet: smtpd_milters",
        "master.cf 628/inet",
        "pec-internal-domains",
        "transport_maps",
        "transport_maps: pec.alfa.test",
        "smtpd_sender_restrictions: texthash:/tmp/check/senders: a.test",
        "virtual_mailbox_domains: pec.beta.test",
        "virtual_mailbox_domains: nuovo.example",
        "mydestination",
        "pec.alfa.test",
        "pec_clamd",
    }
    for what in expected:
        named(found, what)
    # The listener with the triggers' milter that nobody shipped lacks all the rest too.
    rest = {what for what in set(found) - expected if not what.startswith("master.cf 0.0.0.0:10027/inet: ")}
    assert rest == set(), rest


def test_what_stands_around_postfix_and_breaks_certified_mail_is_named(net):
    script = r"""
        openssl req -x509 -newkey rsa:2048 -nodes -keyout /tmp/check/key.pem -out /tmp/check/ca.pem -subj /CN=Kurz -days 3 2>/dev/null
        chmod 644 /tmp/check/key.pem
        install -d -o pec -m 755 /tmp/check/infected
        case $(dovecot --version) in 2.3*) plugins='mail_plugins = quota sieve' ;; *) plugins='mail_plugins {\nquota = yes\nsieve = yes\n}' ;; esac
        mkdir -p /tmp/bin
        sed -e 's/^recipient_delimiter =.*/recipient_delimiter = +/' -e 's/mail_fsync = always/mail_fsync = never/' \
            -e 's/^\( *executable = lmtp\) .*/\1/' /etc/dovecot/dovecot.conf > /tmp/dovecot.conf
        printf "protocol lmtp {\n$plugins\n}\n" >> /tmp/dovecot.conf
        printf '#!/bin/sh\nexec /usr/bin/doveconf -c /tmp/dovecot.conf "$@"\n' > /tmp/bin/doveconf
        chmod 755 /tmp/bin/doveconf
        export PATH=/tmp/bin:$PATH"""
    done, found = check(
        net, script, "pec_access_milter=inet:0.0.0.0:9", "pec_database=host=127.0.0.1 port=9 dbname=pec user=pec", "pec_clamd=inet:127.0.0.1:9",
        "pec_ca_file=/tmp/check/ca.pem", "pec_signing_key=/tmp/check/key.pem", "pec_infected_store=/tmp/check/infected", "virtual_transport=lmtp:inet:127.0.0.1:2424", "pec_mailbox_lmtp=unix:public/pecoutgoing",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    expected = {
        "Dovecot: recipient_delimiter",
        "Dovecot: mail_fsync",
        "Dovecot: mail_plugins of protocol lmtp",
        "Dovecot: executable of the service with /var/spool/postfix/pec/dovecot-lmtp-no-quota",
        "virtual_transport",
        "pec_mailbox_lmtp",
        "pec_access_milter",
        "pec_clamd",
        "pec_signing_key",
        "pec_ca_file",
        "pec_infected_store",
    }
    for what in expected:
        named(found, what)
    database = [what for what in set(found) - expected if what.startswith("pec_database = host=127.0.0.1 port=9")]
    assert set(found) - expected == set(database) and len(database) == 1, set(found) - expected


@pytest.mark.parametrize(("setting", "says"), [("message_size_limit=1000000", "message_size_limit = 1000000: not allowed"), ("pec_stor=x", "pec_stor: unknown parameter")])
def test_what_keeps_the_milters_from_starting_is_named(net, setting, says):
    done, found = check(net, "", setting)
    assert done.returncode == 1 and any(what.startswith(says) for what in found), found


def test_a_postfix_that_cannot_be_asked_is_not_called_good(net):
    done = net.execute("alfa", "postfix", "pecctl", "-c", "/nowhere", "check", check=False)
    assert (done.returncode, done.stdout) == (3, "") and done.stderr.startswith("pecctl: "), done
