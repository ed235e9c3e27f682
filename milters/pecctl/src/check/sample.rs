//! For tests: a provider with which everything is well, and changes to it.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::time::Duration;

use pec_core::clock::Moment;
use pec_core::directory::Directory;
use pec_host::kernel_clock::KernelClock;
use pec_host::parameters::Socket;
use pec_program::scanner::Examination;

use crate::check::finding::Finding;
use crate::check::judge::shipped::{self, FILES};
use crate::check::look::Seen;
use crate::check::look::dovecot::Dovecot;
use crate::check::look::files::{Certificate, Disk, PrivateFile};
use crate::check::look::ours::Ours;
use crate::check::look::postfix::Postfix;
use crate::check::look::sockets::{Answer, Endpoint, Group, Listener, Permissions, Process};

/// `postconf -x` of a Postfix on which postfix-conf/apply was run, as far as it matters here.
pub(crate) fn shipped_postfix() -> Postfix {
    let mut main = "pec_access_milter = unix:pec/access\npec_incoming_milter = \
        unix:pec/incoming\npec_reports_milter = unix:pec/reports\n\
        pec_local_milter = unix:pec/local\npec_delivery_lmtp = unix:pec/delivery\npec_triggers_lmtp = \
        unix:pec/triggers\n\
        pec_outgoing_smtpd = unix:public/pecoutgoing\nmyorigin = \
        mail.gestore.alfa.test\nqueue_directory = /var/spool/postfix\n\
        default_process_limit = 100\npec_service_domain = gestore.alfa.test\nconfig_directory = \
        /etc/postfix\nqueue_run_delay = 300s\n\
        minimal_backoff_time = 300s\nmilter_content_timeout = 300s\nmilter_connect_timeout = \
        30s\nmilter_command_timeout = 30s\n\
        header_size_limit = 102400\nvirtual_mailbox_domains = gestore.alfa.test \
        pec.alfa.test\nmyhostname = mail.gestore.alfa.test\n\
        smtpd_tls_wrappermode = no\nsmtpd_milters =\n"
        .to_owned();
    let empty = Postfix::parse(&main, "", "");
    for parameter in shipped::parameters() {
        main += &format!("{} = {}\n", parameter.name, empty.expanded(&parameter.value));
    }
    let (mut fields, mut options) = (String::from("smtp/unix/command = smtp\n"), String::new());
    for service in shipped::services() {
        let (id, processes) = (service.id(), service.processes.map_or("-".to_owned(), |n| n.to_string()));
        fields += &format!("{id}/command = {} -o x=y\n{id}/process_limit = {processes}\n", service.program);
        for (name, value) in service.options {
            options += &format!("{id}/{name} = {}\n", empty.expanded(&value));
        }
    }
    Postfix::parse(&main, &fields, &options)
}

const LMTP_24: &str = "auth_allow_cleartext = no\nauth_username_format = %{user | lower}\nlmtp_proxy = \
    no\nlmtp_rcpt_check_quota = no\n\
    lmtp_save_to_detail_mailbox = no\nmail_driver = sdbox\nmail_fsync = always\nmail_path = \
    ~/sdbox\nmail_plugins {\n  quota = yes\n}\n\
    recipient_delimiter = \nssl = required\n";
const LMTP_23: &str = "auth_username_format = %Lu\ndirector_servers = \ndisable_plaintext_auth = \
    yes\nlmtp_proxy = no\n\
    lmtp_rcpt_check_quota = no\nlmtp_save_to_detail_mailbox = no\nmail_fsync = always\nmail_location = \
    sdbox:~/sdbox\n\
    mail_plugins = \" quota\"\nrecipient_delimiter = \nssl = required\n";
/// What is written, which `doveconf -n` tells in the same form.
const WRITTEN_24: &str = include_str!("../../../../dovecot-conf/2.4/dovecot.conf");
const WRITTEN_23: &str = include_str!("../../../../dovecot-conf/2.3/dovecot.conf");

/// A Dovecot with dovecot-conf, quota included, as far as it matters here.
pub(crate) fn shipped_dovecot(version: &str) -> Dovecot {
    changed(version, |_, _, _| {})
}

/// The same with changes to what delivery and what IMAP go by, and to what is written.
pub(crate) fn changed(version: &str, change: impl FnOnce(&mut String, &mut String, &mut String)) -> Dovecot {
    let (lmtp, written) = if version == "2.3" { (LMTP_23, WRITTEN_23) } else { (LMTP_24, WRITTEN_24) };
    let (mut lmtp, mut imap, mut written) = (lmtp.to_owned(), lmtp.to_owned(), written.to_owned());
    change(&mut lmtp, &mut imap, &mut written);
    Dovecot::parse(&lmtp, &imap, &written)
}

/// A Dovecot in which nothing but this is written.
pub(crate) fn with_written(written: &str) -> Dovecot {
    Dovecot::parse("", "", written)
}

/// `from` becomes `to`, which must be there.
pub(crate) fn put(text: &mut String, from: &str, to: &str) {
    assert!(text.contains(from), "{from} is not in {text}");
    *text = text.replacen(from, to, 1);
}

/// A provider with which everything is well.
pub(crate) fn seen(postfix: Postfix) -> Seen {
    let ldif = "dn: providerName=Alfa,o=postacert\nobjectclass: provider\nproviderName: \
        Alfa\nmailReceipt: ricevute@gestore.alfa.test\n\
        providerCertificateHash: 7E7AEF1059AE0F454F2643A95F69EC3556009239\nmanagedDomains: \
        gestore.alfa.test\nmanagedDomains: pec.alfa.test\n\n\
        dn: providerName=Beta,o=postacert\nobjectclass: provider\nproviderName: Beta\nmailReceipt: \
        ricevute@gestore.beta.test\n\
        providerCertificateHash: 0123456789ABCDEF0123456789ABCDEF01234567\nmanagedDomains: \
        pec.beta.test\n";
    let domains: HashSet<String> = ["gestore.alfa.test", "pec.alfa.test"].map(str::to_owned).into();
    let routes = [("notices.pec.internal", "pectriggers:unix:pec/triggers")];
    let pair = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let in_queue = |path: &str| Socket::Unix(Path::new("/var/spool/postfix").join(path));
    let permissions = |mode, uid, gid| Permissions { mode, uid, gid };
    let pec = permissions(0o42_750, 100, 103);
    let endpoint = |parameter, listener, path: &str, permissions, greeting: &str| {
        let answer = Answer {
            greeting: greeting.to_owned(),
            lhlo: if greeting.is_empty() { String::new() } else { "250-mail".to_owned() },
        };
        Endpoint {
            parameter,
            listener,
            socket: in_queue(path),
            permissions: Some(permissions),
            answer: Ok(answer),
        }
    };
    let ours_ = |parameter, path: &str, greeting| {
        endpoint(parameter, Listener::OurProgram, path, (pec, permissions(0o140_660, 100, 103)), greeting)
    };
    let mailbox = |parameter, path: &str| {
        endpoint(
            parameter,
            Listener::MailboxServer,
            path,
            (pec, permissions(0o140_600, 100, 0)),
            "220 mail Dovecot (Debian) ready.",
        )
    };
    let outgoing = (permissions(0o42_710, 101, 104), permissions(0o140_666, 101, 101));
    Seen {
        now: Moment::from_unix(1_800_000_000),
        files: FILES.iter().map(|(name, text)| (*name, Ok((*text).to_owned()))).collect(),
        tables: [
            (postfix.main("transport_maps").to_owned(), Ok(routes.map(pair).to_vec())),
            (
                postfix.main("virtual_alias_maps").to_owned(),
                Ok(vec![pair(("root", "posta-certificata@gestore.alfa.test"))]),
            ),
        ]
        .into(),
        dovecot: Err("doveconf: not here".to_owned()),
        ours: Ok(Ours {
            service_domain: "gestore.alfa.test".into(),
            provider_name: "Alfa".into(),
            mx_hosts: ["mail.gestore.alfa.test".to_owned()].into(),
            mailbox_lmtp: in_queue("pec/dovecot-lmtp"),
            mailbox_lmtp_no_quota: in_queue("pec/dovecot-lmtp-no-quota"),
            clamd: Some(in_queue("clamav/clamd.ctl")),
            clamd_max_age: Duration::from_secs(6 * 3600),
            local_domains: domains.clone(),
        }),
        directory: Directory::parse(ldif),
        mailboxes: vec![("posta-certificata@gestore.alfa.test".into(), Ok(true))],
        nobody: Some(("1a2b@gestore.alfa.test".into(), Ok(false))),
        endpoints: vec![
            ours_("pec_access_milter", "pec/access", ""),
            ours_("pec_incoming_milter", "pec/incoming", ""),
            ours_("pec_local_milter", "pec/local", ""),
            ours_("pec_reports_milter", "pec/reports", ""),
            ours_("pec_delivery_lmtp", "pec/delivery", "220 mail LMTP"),
            ours_("pec_triggers_lmtp", "pec/triggers", "220 mail LMTP"),
            mailbox("pec_mailbox_lmtp", "pec/dovecot-lmtp"),
            mailbox("pec_mailbox_lmtp_no_quota", "pec/dovecot-lmtp-no-quota"),
            endpoint(
                "pec_outgoing_smtpd",
                Listener::OutgoingSmtpd,
                "public/pecoutgoing",
                outgoing,
                "220 mail ESMTP Postfix",
            ),
        ],
        outgoing_group: Some(Ok(Group { name: "postdrop".into(), members: Vec::new() })),
        delivery: Some(Ok(Process { uid: 100, groups: vec![100, 103, 104] })),
        private_files: vec![
            PrivateFile {
                parameter: "pec_signing_key",
                path: "/etc/pec/key.pem".into(),
                state: Ok((0o100_600, 100)),
            },
            PrivateFile {
                parameter: "pec_row_keys_file",
                path: "/etc/pec/row.keys".into(),
                state: Ok((0o100_600, 100)),
            },
            PrivateFile {
                parameter: "pec_infected_store",
                path: "/var/lib/pec/infected".into(),
                state: Ok((0o40_700, 100)),
            },
        ],
        row_keys: Ok(()),
        database: Ok(()),
        world: Ok(()),
        scanner_socket: Some((
            Permissions { mode: 0o42_750, uid: 101, gid: 100 },
            Permissions { mode: 0o140_660, uid: 101, gid: 100 },
        )),
        scanner: Some(Ok(Examination {
            version: "ClamAV".into(),
            signatures: Some(Moment::from_unix(1_799_990_000)),
            blind: None,
        })),
        certificates: vec![Certificate {
            parameter: "pec_certificate_file".into(),
            whose: "cert.pem (Alfa)".into(),
            end: Moment::from_unix(1_900_000_000),
        }],
        crls: Ok(vec![("http://ca.test/crl".into(), Some(Moment::from_unix(1_900_000_000)))]),
        disks: vec![Disk {
            parameter: "pec_infected_store",
            path: "/var/lib/pec/infected".into(),
            free: Ok(50_000_000_000),
        }],
        tls_levels: Ok(BTreeMap::new()),
        clock: Ok(KernelClock { synchronised: true, estimated_error: 2000 }),
        mx: domains.into_iter().map(|domain| (domain, Ok(vec!["mail.gestore.alfa.test".into()]))).collect(),
        postfix,
    }
}

/// What a check finds once `change` has changed what was seen.
pub(crate) fn found(check: fn(&Seen) -> Vec<Finding>, change: impl FnOnce(&mut Seen)) -> Vec<String> {
    let mut seen = seen(shipped_postfix());
    change(&mut seen);
    lines(check(&seen))
}

/// Findings as they are printed.
pub(crate) fn lines(findings: Vec<Finding>) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}
