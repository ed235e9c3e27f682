//! Everything that the checks go by, read once.
//!
//! Promise: reading changes nothing, takes seconds, and never fails as a whole: what cannot be read is kept as the reason why.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use openssl::asn1::Asn1Time;
use openssl::x509::X509;
use pec_core::clock::{Moment, SystemClock};
use pec_core::directory::Directory;
use pec_core::notices::service_address;
use pec_core::parameters::{Settings, SigningKey, Socket, TABLE, split_list};
use pec_core::smime::crl::CrlDirectory;
use pec_milter::clamd::{Examination, Scanner};
use pec_milter::kernel_clock::{KernelClock, kernel_clock};
use pec_milter::mailbox::Mailboxes;
use pec_milter::world::World;
use pec_state::database::Database;

use super::dns;
use super::dovecot::Dovecot;
use super::postfix::Postfix;
use super::shipped;
use crate::directory::policy_domains;

/// How long a neighbour may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a thing is, or why it could not be looked at.
pub(super) type Known<T> = Result<T, String>;

/// A lookup table's keys and values.
pub(super) type Table = Vec<(String, String)>;

/// Of our parameters, those that the checks compare.
#[derive(Debug, Clone, Default)]
pub(super) struct Ours {
    pub(super) service_domain: String,
    pub(super) local_domains: HashSet<String>,
    pub(super) provider_name: String,
    /// Names under which the DNS may send mail here.
    pub(super) mx_hosts: HashSet<String>,
    pub(super) notices_smtpd: String,
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
    /// What Dovecot's LMTP listeners say first: (where, what).
    pub(super) lmtp: Vec<(String, Known<String>)>,
    /// Mailboxes that must exist.
    pub(super) mailboxes: Vec<(String, Known<bool>)>,
    /// The milters' sockets: parameter, socket, mode of the directory it lies in, whether somebody answers.
    pub(super) sockets: Vec<(&'static str, Socket, Option<u32>, Known<()>)>,
    pub(super) owned: Vec<Owned>,
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
            files: shipped::FILES.iter().map(|(name, _)| (*name, std::fs::read_to_string(config_directory.join(name)).map_err(words))).collect(),
            tables: read_tables(config_directory, &postfix),
            dovecot: Dovecot::read(),
            ours: settings.as_ref().map(ours).map_err(Clone::clone),
            directory: Err(String::new()),
            lmtp: lmtp_servers(&postfix).into_iter().map(|(name, socket)| (name, greeting(&socket))).collect(),
            mailboxes: Vec::new(),
            sockets: Vec::new(),
            owned: Vec::new(),
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
        self.directory = Directory::read(&settings.directory_file).map_err(words);
        if let Ok(directory) = &self.directory {
            self.in_clear = in_clear(&self.postfix, policy_domains(directory, settings));
        }
        for (parameter, socket) in [
            ("pec_access_milter", &settings.access_milter),
            ("pec_incoming_milter", &settings.incoming_milter),
            ("pec_internal_milter", &settings.internal_milter),
            ("pec_local_milter", &settings.local_milter),
            ("pec_triggers_milter", &settings.triggers_milter),
            ("pec_reports_milter", &settings.reports_milter),
        ] {
            let directory = match socket {
                Socket::Unix(path) => path.parent().and_then(|d| std::fs::metadata(d).ok()).map(|m| m.mode()),
                Socket::Inet(_) => None,
            };
            self.sockets.push((parameter, socket.clone(), directory, connect(socket).map(|_| ())));
        }
        let secret = settings.database_password_file.as_ref().map(|f| ("pec_database_password_file", f));
        // The PIN is as good as the key; the token guards itself.
        let key = match &settings.signing_key {
            SigningKey::File(file) => ("pec_signing_key", file),
            SigningKey::Token(token) => ("pec_pkcs11_pin_file", &token.pin_file),
        };
        let owned = [
            key,
            ("pec_doveadm_key_file", &settings.doveadm_key_file),
            ("pec_store", &settings.store),
            ("pec_infected_store", &settings.infected_store),
        ];
        for (parameter, path) in owned.into_iter().chain(secret) {
            let state = std::fs::metadata(path).map(|m| (m.mode(), m.uid())).map_err(words);
            self.owned.push(Owned { parameter, path: path.clone(), state });
        }
        self.disks.extend([disk("pec_store", &settings.store), disk("pec_infected_store", &settings.infected_store)]);
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
            self.world = World::new(settings.clone(), Arc::new(SystemClock), database).map(|_| ()).map_err(|e| format!("{e:#}"));
        }
        let mut needed = vec![service_address(&settings.service_domain)];
        needed.extend(
            self.directory
                .as_ref()
                .ok()
                .and_then(|d| d.record(&settings.provider_name, settings.provider_unit.as_deref()))
                .map(|p| p.mail_receipt.to_string()),
        );
        if let Ok(key) = Settings::secret("pec_doveadm_key_file", &settings.doveadm_key_file) {
            let mailboxes = Mailboxes::new(&settings.doveadm_url, &key);
            for address in needed {
                let there = mailboxes.exists(&address).await.map_err(words);
                self.mailboxes.push((address, there));
            }
        }
        if asks_dns(&self.postfix) {
            self.mx = dns::mx(settings.local_domains.iter().cloned().collect(), &dns::servers()).await;
        }
    }
}

/// Which of these domains have no policy that wants TLS, as Postfix's own tables say. Nothing where there are none.
fn in_clear(postfix: &Postfix, mut domains: BTreeSet<String>) -> Known<Vec<String>> {
    let maps = split_list(postfix.main("smtp_tls_policy_maps"));
    if maps.is_empty() {
        return Ok(Vec::new());
    }
    for map in maps {
        let keys: String = domains.iter().map(|domain| format!("{domain}\n")).collect();
        let found = asked(Command::new("postmap").args(["-c", postfix.main("config_directory"), "-q", "-", &map]), &keys)?;
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
            // It answers while it reads: what waits for the one must not wait for the other. One that ends early has said why.
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
        notices_smtpd: settings.notices_smtpd.to_string(),
        clamd_max_age: settings.clamd_max_age,
    }
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn output(command: &mut Command) -> Known<String> {
    let output = command.output().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned())
}

fn read_postfix(config_directory: &Path) -> anyhow::Result<Postfix> {
    // Ours are known to postconf only where another parameter names them.
    let named: String = TABLE.iter().map(|p| format!("${{{}?}}", p.name)).collect();
    let postconf = |arguments: &[&str]| {
        let mut command = Command::new("postconf");
        command.arg("-c").arg(config_directory).args(["-o", &format!("milter_macro_defaults={named}"), "-x"]).args(arguments);
        output(&mut command).map_err(anyhow::Error::msg).context("postconf")
    };
    let postfix = Postfix::parse(&postconf(&[])?, &postconf(&["-F", "*/*/command"])?, &postconf(&["-P"])?);
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
    word.split_once(':').is_some_and(|(kind, name)| !name.is_empty() && !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_lowercase()))
        && !["inet", "unix", "smtp", "lmtp", "error"].iter().any(|kind| word.starts_with(&format!("{kind}:")))
}

fn table_of(config_directory: &Path, table: &str) -> Known<Table> {
    let (kind, name) = table.split_once(':').unwrap_or_default();
    if matches!(kind, "regexp" | "pcre" | "cidr") {
        let text = if name.starts_with('{') { name.replace(['{', '}'], "\n") } else { std::fs::read_to_string(name).map_err(words)? };
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        return Ok(lines.map(|line| line.split_once(char::is_whitespace).unwrap_or((line, ""))).map(pair).collect());
    }
    let text = output(Command::new("postmap").arg("-c").arg(config_directory).args(["-s", table]))?;
    Ok(text.lines().filter_map(|line| line.split_once('\t')).map(pair).collect())
}

fn pair((key, value): (&str, &str)) -> (String, String) {
    (key.trim().to_owned(), value.trim().to_owned())
}

/// Where Postfix delivers: what main.cf calls it, and where it listens.
pub(super) fn lmtp_servers(postfix: &Postfix) -> Vec<(String, Socket)> {
    let filter = postfix.main("milter_header_checks").split_once("FILTER ").map_or("", |(_, rest)| rest.trim_end_matches(['}', ' ']));
    [("virtual_transport", postfix.main("virtual_transport")), ("milter_header_checks", filter)]
        .into_iter()
        .filter_map(|(name, transport)| {
            let server = transport.strip_prefix("lmtp:")?;
            let socket = match server.strip_prefix("unix:") {
                Some(path) => Socket::Unix(Path::new(postfix.main("queue_directory")).join(path)),
                None => Socket::Inet(server.trim_start_matches("inet:").replace(['[', ']'], "")),
            };
            Some((format!("{name} ({transport})"), socket))
        })
        .collect()
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn connect(socket: &Socket) -> Known<Box<dyn Stream>> {
    match socket {
        Socket::Unix(path) => {
            let stream = UnixStream::connect(path).map_err(words)?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(words)?;
            Ok(Box::new(stream))
        }
        Socket::Inet(address) => {
            let address: SocketAddr = address.to_socket_addrs().map_err(words)?.next().ok_or("no address")?;
            let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(words)?;
            stream.set_read_timeout(Some(PATIENCE)).map_err(words)?;
            Ok(Box::new(stream))
        }
    }
}

/// The first line that a server says.
fn greeting(socket: &Socket) -> Known<String> {
    let mut stream = connect(socket)?;
    let mut line = String::new();
    BufReader::new(&mut stream).take(1000).read_line(&mut line).map_err(words)?;
    let _ = stream.write_all(b"QUIT\r\n");
    Ok(line.trim().to_owned())
}

/// Whose certificates lie in the file, and when they end. A file that is not readable is found when the milters' world is made.
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
    use super::*;

    /// A provider with which everything is well.
    pub(in super::super) fn seen(postfix: Postfix) -> Seen {
        let ldif = "dn: providerName=Alfa,o=postacert\nobjectclass: provider\nproviderName: Alfa\nmailReceipt: ricevute@gestore.alfa.test\n\
            providerCertificateHash: 7E7AEF1059AE0F454F2643A95F69EC3556009239\nmanagedDomains: gestore.alfa.test\nmanagedDomains: pec.alfa.test\n\n\
            dn: providerName=Beta,o=postacert\nobjectclass: provider\nproviderName: Beta\nmailReceipt: ricevute@gestore.beta.test\n\
            providerCertificateHash: 0123456789ABCDEF0123456789ABCDEF01234567\nmanagedDomains: pec.beta.test\n";
        let domains: HashSet<String> = ["gestore.alfa.test", "pec.alfa.test"].map(str::to_owned).into();
        let routes =
            [("notices.pec.internal", "pecnotices:[127.0.0.1]:10025"), ("ricezione.pec.internal", "pecricezione:[127.0.0.1]:10026")].map(pair);
        Seen {
            now: Moment::from_unix(1_800_000_000),
            files: shipped::FILES.iter().map(|(name, text)| (*name, Ok((*text).to_owned()))).collect(),
            tables: [
                (postfix.main("transport_maps").to_owned(), Ok(routes.to_vec())),
                (postfix.main("virtual_alias_maps").to_owned(), Ok(vec![pair(("root", "posta-certificata@gestore.alfa.test"))])),
            ]
            .into(),
            dovecot: Err("doveconf: not here".to_owned()),
            ours: Ok(Ours {
                service_domain: "gestore.alfa.test".into(),
                provider_name: "Alfa".into(),
                mx_hosts: ["mail.gestore.alfa.test".to_owned()].into(),
                notices_smtpd: "127.0.0.1:10025".into(),
                clamd_max_age: Duration::from_secs(6 * 3600),
                local_domains: domains.clone(),
            }),
            directory: Directory::parse(ldif),
            lmtp: vec![("virtual_transport".into(), Ok("220 mail Dovecot ready.".into()))],
            mailboxes: vec![("posta-certificata@gestore.alfa.test".into(), Ok(true))],
            sockets: vec![("pec_access_milter", Socket::Unix("/q/pec/access".into()), Some(0o42750), Ok(()))],
            owned: vec![
                Owned { parameter: "pec_signing_key", path: "/etc/pec/key.pem".into(), state: Ok((0o100_600, 100)) },
                Owned { parameter: "pec_store", path: "/var/lib/pec/store".into(), state: Ok((0o40_700, 100)) },
            ],
            database: Ok(()),
            world: Ok(()),
            scanner: Some(Ok(Examination { version: "ClamAV".into(), signatures: Some(Moment::from_unix(1_799_990_000)), blind: None })),
            certificates: vec![("pec_certificate_file".into(), "cert.pem (Alfa)".into(), Moment::from_unix(1_900_000_000))],
            crls: Ok(vec![("http://ca.test/crl".into(), Some(Moment::from_unix(1_900_000_000)))]),
            disks: vec![("pec_store", "/var/lib/pec/store".into(), Ok(50_000_000_000))],
            in_clear: Ok(Vec::new()),
            clock: Ok(KernelClock { synchronised: true, estimated_error: 2000 }),
            mx: domains.into_iter().map(|domain| (domain, Ok(vec!["mail.gestore.alfa.test".into()]))).collect(),
            postfix,
        }
    }

    #[test]
    fn tables_are_told_from_domains_and_transports() {
        for table in ["hash:/etc/postfix/x", "inline:{a=b}", "regexp:/x", "texthash:/x", "proxy:mysql:/x"] {
            assert!(is_table(table), "{table}");
        }
        for word in ["pec.alfa.test", "check_recipient_access", "inet:127.0.0.1:10031", "[::1]:25", "reject"] {
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
