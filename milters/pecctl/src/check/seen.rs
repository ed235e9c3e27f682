//! Everything that the checks go by, read once.
//!
//! Promise: reading changes nothing, takes seconds, and never fails as a whole: what cannot be read is kept
//! as the reason why.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use openssl::asn1::Asn1Time;
use openssl::x509::X509;
use pec_core::address::Address;
use pec_core::clock::{Moment, SystemClock};
use pec_core::directory::Directory;
use pec_core::identifier::fresh;
use pec_core::notices::service_address;
use pec_host::crl_directory::CrlDirectory;
use pec_host::kernel_clock::{KernelClock, kernel_clock};
use pec_host::parameters::{Settings, SigningKey, Socket, split_list, table};
use pec_host::read;
use pec_program::life;
use pec_program::mailbox::Mailboxes;
use pec_program::scanner::{Examination, Scanner};
use pec_program::world::World;
use pec_state::authentic::RowKeys;
use pec_state::database::Database;

use crate::directory::policy_domains;
use super::dovecot::Dovecot;
use super::postfix::Postfix;
use super::sockets::{Door, Group, Process, Side};
use super::{dns, leftovers, shipped, sockets};

/// What a thing is, or why it could not be looked at.
pub(super) type Known<T> = Result<T, String>;

/// A lookup table's keys and values.
pub(super) type Table = Vec<(String, String)>;

/// Of our parameters, those that the checks compare.
#[derive(Debug, Clone)]
pub(super) struct Ours {
    pub(super) service_domain: String,
    pub(super) local_domains: HashSet<String>,
    pub(super) provider_name: String,
    /// Names under which the DNS may send mail here.
    pub(super) mx_hosts: HashSet<String>,
    pub(super) mailbox_lmtp: Socket,
    pub(super) mailbox_lmtp_no_quota: Socket,
    pub(super) clamd_max_age: Duration,
}

/// A file or directory that the milters' user needs for himself.
#[derive(Debug, Clone)]
pub(super) struct Owned {
    pub(super) parameter: &'static str,
    pub(super) path: PathBuf,
    /// Mode and owner.
    pub(super) state: Known<(u32, u32)>,
}

/// See the module.
pub(super) struct Seen {
    pub(super) now: Moment,
    pub(super) postfix: Postfix,
    /// The tables of postfix-conf beside main.cf.
    pub(super) files: HashMap<&'static str, Known<String>>,
    pub(super) tables: HashMap<String, Known<Table>>,
    pub(super) dovecot: Known<Dovecot>,
    pub(super) ours: Known<Ours>,
    pub(super) directory: Known<Directory>,
    /// Mailboxes that must exist, and whether they do.
    pub(super) mailboxes: Vec<(String, Known<bool>)>,
    /// A mailbox that nobody has, and whether mail for it is taken.
    pub(super) nobody: Option<(String, Known<bool>)>,
    pub(super) doors: Vec<Door>,
    /// Who enters the directory of `pec_outgoing_smtpd` by its group.
    pub(super) outgoing_group: Option<Known<Group>>,
    /// pec-delivery, where it answers.
    pub(super) delivery: Option<Known<Process>>,
    pub(super) owned: Vec<Owned>,
    /// Whether the keys of the database's rows can be read.
    pub(super) row_keys: Known<()>,
    pub(super) database: Known<()>,
    /// Key, certificates, directory, stores, as the milters read them at their start.
    pub(super) world: Known<()>,
    /// None where there is none: `pec_clamd = none`.
    pub(super) scanner: Option<Known<Examination>>,
    /// Certificates: parameter, whose, end.
    pub(super) certificates: Vec<(String, String, Moment)>,
    /// Revocation lists that are known: where from, until when they are good.
    pub(super) crls: Known<Vec<(String, Option<Moment>)>>,
    /// Parameter, path, bytes free.
    pub(super) disks: Vec<(&'static str, PathBuf, Known<u64>)>,
    /// Domains of other providers to which `smtp_tls_policy_maps` lets mail go in clear text.
    pub(super) in_clear: Known<Vec<String>>,
    pub(super) clock: Known<KernelClock>,
    pub(super) mx: Vec<(String, Known<Vec<String>>)>,
}

impl Seen {
    /// Reads everything. Fails only where there is no Postfix to ask.
    pub(super) async fn read(config_directory: &Path, now: Moment) -> anyhow::Result<Self> {
        let postfix = read_postfix(config_directory)?;
        let settings = Settings::read(config_directory).map_err(|e| e.to_string());
        let mut seen = Self {
            now,
            files: shipped::FILES
                .iter()
                .map(|(name, _)| (*name, std::fs::read_to_string(config_directory.join(name)).map_err(words)))
                .collect(),
            tables: read_tables(config_directory, &postfix),
            dovecot: Dovecot::read(),
            ours: settings.as_ref().map(ours).map_err(Clone::clone),
            directory: Err(String::new()),
            mailboxes: Vec::new(),
            nobody: None,
            doors: Vec::new(),
            outgoing_group: None,
            delivery: None,
            owned: Vec::new(),
            row_keys: Ok(()),
            database: Err(String::new()),
            world: Err(String::new()),
            scanner: None,
            certificates: certificates("smtpd_tls_cert_file", Path::new(postfix.main("smtpd_tls_cert_file"))),
            crls: Ok(Vec::new()),
            disks: vec![disk("queue_directory", Path::new(postfix.main("queue_directory")))],
            in_clear: Ok(Vec::new()),
            clock: kernel_clock(),
            mx: Vec::new(),
            postfix,
        };
        if let Ok(settings) = &settings {
            seen.read_ours(settings).await;
        }
        Ok(seen)
    }

    /// What our own parameters lead to.
    async fn read_ours(&mut self, settings: &Settings) {
        self.directory = read::directory(&settings.directory_file).map_err(words);
        if let Ok(directory) = &self.directory {
            self.in_clear = in_clear(&self.postfix, policy_domains(directory, settings));
        }
        self.read_owned(settings);
        self.read_doors(settings);
        self.read_mailboxes(settings).await;
        self.disks.push(disk("pec_infected_store", &settings.infected_store));
        self.certificates.extend(certificates("pec_certificate_file", &settings.certificate_file));
        self.certificates.extend(certificates("pec_ca_file", &settings.ca_file));

        let of = |known: pec_core::smime::crl::Known| (known.place.url, known.crl.map(|crl| crl.next_update));
        let lists = CrlDirectory::new(&settings.crl_directory).lists();
        self.crls = lists.map(|lists| lists.all().into_iter().map(of).collect()).map_err(words);

        if settings.clamd.is_some() {
            let scanner = Scanner::new(settings.clamd.clone());
            let largest = settings.envelope_size_limit.max(settings.message_size_limit);
            self.scanner = Some(scanner.examine(largest).await.map_err(words));
        }
        let database = Database::connect(settings, "pecctl").await;
        self.database = database.as_ref().map(|_| ()).map_err(words);
        if let Ok(database) = database {
            self.world = World::new(settings.clone(), life::Process::quiet(Arc::new(SystemClock)), database)
                .map(|_| ())
                .map_err(|e| format!("{e:#}"));
        }
        if asks_dns(&self.postfix) {
            self.mx = dns::mx(settings.local_domains.iter().cloned().collect(), &dns::servers()).await;
        }
    }

    /// Files for the milters' user alone.
    fn read_owned(&mut self, settings: &Settings) {
        let secret = settings.database_password_file.as_ref().map(|f| ("pec_database_password_file", f));
        // The PIN is as good as the key; the token guards itself.
        let key = match &settings.signing_key {
            SigningKey::File(file) => Some(("pec_signing_key", file)),
            SigningKey::Token(_) => settings.pkcs11_pin_file.as_ref().map(|f| ("pec_pkcs11_pin_file", f)),
        };
        let owned = [
            ("pec_row_keys_file", &settings.row_keys_file),
            ("pec_infected_store", &settings.infected_store),
        ];
        for (parameter, path) in key.into_iter().chain(owned).chain(secret) {
            let state = std::fs::metadata(path).map(|m| (m.mode(), m.uid())).map_err(words);
            self.owned.push(Owned { parameter, path: path.clone(), state });
        }
        self.row_keys = RowKeys::read(&settings.row_keys_file).map(|_| ()).map_err(words);
    }

    /// Who listens, and who may connect.
    fn read_doors(&mut self, settings: &Settings) {
        self.doors = sockets::read(settings);
        let door = |side| self.doors.iter().find(|door| door.side == side);
        let directory = door(Side::Outgoing).and_then(|door| door.rights).map(|(directory, _)| directory);
        let may_enter = [0].into_iter().chain(self.milters_user()).collect::<Vec<_>>();
        let postfix = self.postfix.main("mail_owner").to_owned();
        let is_there =
            self.doors.iter().any(|door| door.parameter == "pec_delivery_lmtp" && door.said.is_ok());
        self.delivery = is_there.then(|| sockets::listener(&settings.delivery_lmtp));
        self.outgoing_group = directory.map(|directory| sockets::group(directory.gid, &may_enter, &postfix));
    }

    /// Which mailboxes there are, of those that the rules want, and one that nobody has.
    async fn read_mailboxes(&mut self, settings: &Settings) {
        // That nobody answers, or not as a mailbox server does, is said by itself.
        let speaks_lmtp = |door: &Door| {
            door.parameter == "pec_mailbox_lmtp"
                && door.said.as_ref().is_ok_and(|said| said.lhlo.starts_with("250"))
        };
        if !self.doors.iter().any(speaks_lmtp) {
            return;
        }
        let mailboxes = Mailboxes::new(settings);
        let exists = async |address: &str| match Address::parse(address) {
            Some(address) => mailboxes.exists(&address).await.map_err(words),
            None => Err("no mail address".to_owned()),
        };
        let record = |d: &Directory| {
            d.record(&settings.provider_name, settings.provider_unit.as_deref())
                .map(|p| p.mail_receipt.to_string())
        };
        let needed =
            [Some(service_address(&settings.service_domain)), self.directory.as_ref().ok().and_then(record)];
        for address in needed.into_iter().flatten() {
            let there = exists(&address).await;
            self.mailboxes.push((address, there));
        }
        if let Ok(name) = fresh() {
            let nobodys = format!("{name}@{}", settings.service_domain);
            let taken = exists(&nobodys).await;
            self.nobody = Some((nobodys, taken));
        }
    }

    /// The user of the milters: who owns what only they write.
    pub(super) fn milters_user(&self) -> Option<u32> {
        self.owned
            .iter()
            .find(|o| o.parameter == "pec_infected_store")
            .and_then(|o| o.state.as_ref().ok())
            .map(|(_, uid)| *uid)
    }
}

/// Which of these domains have no policy that wants TLS, as Postfix's own tables say. Nothing where there are
/// none.
fn in_clear(postfix: &Postfix, mut domains: BTreeSet<String>) -> Known<Vec<String>> {
    let maps = split_list(postfix.main("smtp_tls_policy_maps"));
    if maps.is_empty() {
        return Ok(Vec::new());
    }
    for map in maps {
        let keys: String = domains.iter().map(|domain| format!("{domain}\n")).collect();
        let found = asked(
            Command::new("postmap").args(["-c", postfix.main("config_directory"), "-q", "-", &map]),
            &keys,
        )?;
        for (domain, policy) in found.lines().filter_map(|line| line.split_once(char::is_whitespace)) {
            let level = policy.split_whitespace().next().unwrap_or_default();
            if matches!(level, "encrypt" | "dane-only" | "fingerprint" | "verify" | "secure") {
                domains.remove(domain);
            }
        }
    }
    Ok(domains.into_iter().collect())
}

/// What a command says to many keys, which it reads from its standard input.
fn asked(command: &mut Command, keys: &str) -> Known<String> {
    let mut run = || -> std::io::Result<String> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut stdin = child.stdin.take();
        let output = std::thread::scope(|scope| {
            // It answers while it reads: what waits for the one must not wait for the other. One that ends
            // early has said why.
            scope.spawn(|| stdin.take().map(|mut stdin| stdin.write_all(keys.as_bytes())));
            child.wait_with_output()
        })?;
        // 1: it knows none of them, or there is no such table, which is the same.
        match output.status.code() {
            Some(0 | 1) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            _ => Err(std::io::Error::other(output.status.to_string())),
        }
    };
    run().map_err(|e| format!("{}: {e}", command.get_program().display()))
}

/// Whether this Postfix finds other servers by the DNS.
pub(super) fn asks_dns(postfix: &Postfix) -> bool {
    postfix.main("smtp_dns_support_level") != "disabled"
}

fn ours(settings: &Settings) -> Ours {
    Ours {
        service_domain: settings.service_domain.clone(),
        local_domains: settings.local_domains.clone(),
        provider_name: settings.provider_name.clone(),
        mx_hosts: settings.mx_hosts.iter().cloned().chain([settings.hostname.to_ascii_lowercase()]).collect(),
        mailbox_lmtp: settings.mailbox_lmtp.clone(),
        mailbox_lmtp_no_quota: settings.mailbox_lmtp_no_quota.clone(),
        clamd_max_age: settings.clamd_max_age,
    }
}

pub(super) fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

pub(super) fn output(command: &mut Command) -> Known<String> {
    let output = command.output().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned())
}

fn read_postfix(config_directory: &Path) -> anyhow::Result<Postfix> {
    // Ours are known to postconf only where another parameter names them.
    let named: String = table()
        .iter()
        .map(|p| p.name)
        .chain(leftovers::parameters())
        .map(|name| format!("${{{name}?}}"))
        .collect();
    let postconf = |arguments: &[&str]| {
        let mut command = Command::new("postconf");
        command
            .arg("-c")
            .arg(config_directory)
            .args(["-o", &format!("milter_macro_defaults={named}"), "-x"])
            .args(arguments);
        output(&mut command).map_err(anyhow::Error::msg).context("postconf")
    };
    let postfix = Postfix::parse(
        &postconf(&[])?,
        &postconf(&["-F", "*/*/command", "*/*/process_limit"])?,
        &postconf(&["-P"])?,
    );
    // Just after a change postconf may tell the default.
    Ok(postfix.with("config_directory", &config_directory.display().to_string()))
}

/// The tables in routes, lists of domains and restrictions.
fn read_tables(config_directory: &Path, postfix: &Postfix) -> HashMap<String, Known<Table>> {
    super::mail::PLACES
        .iter()
        .flat_map(|name| postfix.everywhere(name))
        .flat_map(|(value, _)| split_list(value))
        .filter(|word| is_table(word))
        .map(|table| (table.clone(), table_of(config_directory, &table)))
        .collect()
}

/// Whether a word of a list is a lookup table: `type:name`.
pub(super) fn is_table(word: &str) -> bool {
    word.split_once(':').is_some_and(|(kind, name)| {
        !name.is_empty() && !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_lowercase())
    }) && !["inet", "unix", "smtp", "lmtp", "error"].iter().any(|kind| word.starts_with(&format!("{kind}:")))
}

fn table_of(config_directory: &Path, table: &str) -> Known<Table> {
    let (kind, name) = table.split_once(':').unwrap_or_default();
    if matches!(kind, "regexp" | "pcre" | "cidr") {
        let text = if name.starts_with('{') {
            name.replace(['{', '}'], "\n")
        } else {
            std::fs::read_to_string(name).map_err(words)?
        };
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        return Ok(lines
            .map(|line| line.split_once(char::is_whitespace).unwrap_or((line, "")))
            .map(pair)
            .collect());
    }
    let text = output(Command::new("postmap").arg("-c").arg(config_directory).args(["-s", table]))?;
    Ok(text.lines().filter_map(|line| line.split_once('\t')).map(pair).collect())
}

fn pair((key, value): (&str, &str)) -> (String, String) {
    (key.trim().to_owned(), value.trim().to_owned())
}

/// Whose certificates lie in the file, and when they end. A file that is not readable is found when the
/// milters' world is made.
fn certificates(parameter: &str, file: &Path) -> Vec<(String, String, Moment)> {
    let read = std::fs::read(file).ok().and_then(|pem| X509::stack_from_pem(&pem).ok()).unwrap_or_default();
    read.iter()
        .filter_map(|certificate| {
            let names = certificate.subject_name().entries().filter_map(|e| e.data().to_string().ok());
            let name = names.last().unwrap_or_default();
            let since = Asn1Time::from_unix(0).ok()?.diff(certificate.not_after()).ok()?;
            let end = i64::from(since.days) * 86_400 + i64::from(since.secs);
            Some((parameter.to_owned(), format!("{} ({name})", file.display()), Moment::from_unix(end)))
        })
        .collect()
}

fn disk(parameter: &'static str, path: &Path) -> (&'static str, PathBuf, Known<u64>) {
    let free = rustix::fs::statvfs(path).map(|s| s.f_bavail.saturating_mul(s.f_frsize)).map_err(words);
    (parameter, path.to_owned(), free)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::sockets::{Rights, Said};
    use super::*;

    /// A provider with which everything is well.
    pub(in super::super) fn seen(postfix: Postfix) -> Seen {
        let ldif = "dn: providerName=Alfa,o=postacert\nobjectclass: provider\nproviderName: \
            Alfa\nmailReceipt: ricevute@gestore.alfa.test\n\
            providerCertificateHash: 7E7AEF1059AE0F454F2643A95F69EC3556009239\nmanagedDomains: \
            gestore.alfa.test\nmanagedDomains: pec.alfa.test\n\n\
            dn: providerName=Beta,o=postacert\nobjectclass: provider\nproviderName: Beta\nmailReceipt: \
            ricevute@gestore.beta.test\n\
            providerCertificateHash: 0123456789ABCDEF0123456789ABCDEF01234567\nmanagedDomains: \
            pec.beta.test\n";
        let domains: HashSet<String> = ["gestore.alfa.test", "pec.alfa.test"].map(str::to_owned).into();
        let routes = [("notices.pec.internal", "pectriggers:unix:pec/triggers")].map(pair);
        let in_queue = |path: &str| Socket::Unix(Path::new("/var/spool/postfix").join(path));
        let rights = |mode, uid, gid| Rights { mode, uid, gid };
        let pec = rights(0o42_750, 100, 103);
        let door = |parameter, side, path: &str, rights, greeting: &str| {
            let said = Said {
                greeting: greeting.to_owned(),
                lhlo: if greeting.is_empty() { String::new() } else { "250-mail".to_owned() },
            };
            Door { parameter, side, socket: in_queue(path), rights: Some(rights), said: Ok(said) }
        };
        let ours_ = |parameter, path: &str, greeting| {
            door(parameter, Side::Ours, path, (pec, rights(0o140_660, 100, 103)), greeting)
        };
        let mailbox = |parameter, path: &str| {
            door(
                parameter,
                Side::Mailboxes,
                path,
                (pec, rights(0o140_600, 100, 0)),
                "220 mail Dovecot (Debian) ready.",
            )
        };
        let outgoing = (rights(0o42_710, 101, 104), rights(0o140_666, 101, 101));
        Seen {
            now: Moment::from_unix(1_800_000_000),
            files: shipped::FILES.iter().map(|(name, text)| (*name, Ok((*text).to_owned()))).collect(),
            tables: [
                (postfix.main("transport_maps").to_owned(), Ok(routes.to_vec())),
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
                clamd_max_age: Duration::from_secs(6 * 3600),
                local_domains: domains.clone(),
            }),
            directory: Directory::parse(ldif),
            mailboxes: vec![("posta-certificata@gestore.alfa.test".into(), Ok(true))],
            nobody: Some(("1a2b@gestore.alfa.test".into(), Ok(false))),
            doors: vec![
                ours_("pec_access_milter", "pec/access", ""),
                ours_("pec_incoming_milter", "pec/incoming", ""),
                ours_("pec_local_milter", "pec/local", ""),
                ours_("pec_reports_milter", "pec/reports", ""),
                ours_("pec_delivery_lmtp", "pec/delivery", "220 mail LMTP"),
                ours_("pec_triggers_lmtp", "pec/triggers", "220 mail LMTP"),
                mailbox("pec_mailbox_lmtp", "pec/dovecot-lmtp"),
                mailbox("pec_mailbox_lmtp_no_quota", "pec/dovecot-lmtp-no-quota"),
                door(
                    "pec_outgoing_smtpd",
                    Side::Outgoing,
                    "public/pecoutgoing",
                    outgoing,
                    "220 mail ESMTP Postfix",
                ),
            ],
            outgoing_group: Some(Ok(Group { name: "postdrop".into(), users: Vec::new() })),
            delivery: Some(Ok(Process { uid: 100, groups: vec![100, 103, 104] })),
            owned: vec![
                Owned {
                    parameter: "pec_signing_key",
                    path: "/etc/pec/key.pem".into(),
                    state: Ok((0o100_600, 100)),
                },
                Owned {
                    parameter: "pec_row_keys_file",
                    path: "/etc/pec/row.keys".into(),
                    state: Ok((0o100_600, 100)),
                },
                Owned {
                    parameter: "pec_infected_store",
                    path: "/var/lib/pec/infected".into(),
                    state: Ok((0o40_700, 100)),
                },
            ],
            row_keys: Ok(()),
            database: Ok(()),
            world: Ok(()),
            scanner: Some(Ok(Examination {
                version: "ClamAV".into(),
                signatures: Some(Moment::from_unix(1_799_990_000)),
                blind: None,
            })),
            certificates: vec![(
                "pec_certificate_file".into(),
                "cert.pem (Alfa)".into(),
                Moment::from_unix(1_900_000_000),
            )],
            crls: Ok(vec![("http://ca.test/crl".into(), Some(Moment::from_unix(1_900_000_000)))]),
            disks: vec![("pec_infected_store", "/var/lib/pec/infected".into(), Ok(50_000_000_000))],
            in_clear: Ok(Vec::new()),
            clock: Ok(KernelClock { synchronised: true, estimated_error: 2000 }),
            mx: domains
                .into_iter()
                .map(|domain| (domain, Ok(vec!["mail.gestore.alfa.test".into()])))
                .collect(),
            postfix,
        }
    }

    #[test]
    fn tables_are_told_from_domains_and_transports() {
        for table in ["hash:/etc/postfix/x", "inline:{a=b}", "regexp:/x", "texthash:/x", "proxy:mysql:/x"] {
            assert!(is_table(table), "{table}");
        }
        for word in ["pec.alfa.test", "check_recipient_access", "inet:127.0.0.1:10031", "[::1]:25", "reject"]
        {
            assert!(!is_table(word), "{word}");
        }
    }

    #[test]
    fn the_clock_can_be_read() {
        // Synchronised or not; in a container that forbids it, an error with its reason.
        if let Err(why) = kernel_clock() {
            assert!(!why.is_empty());
        }
    }
}
