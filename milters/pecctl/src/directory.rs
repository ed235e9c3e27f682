//! `pecctl directory`: the directory of providers (RFC 6109 s. 4.5): what is in force, who answers for what,
//! what changes, our own record for it, and Postfix's TLS policy towards its domains.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use openssl::hash::MessageDigest;
use openssl::x509::X509;
use pec_core::address::{Address, is_domain};
use pec_core::clock::{Clock as _, SystemClock};
use pec_core::directory::changes::{Change, changes};
use pec_core::directory::{Directory, MOST_CERTIFICATES, Provider, ldif, signed};
use pec_core::identifier::unhex;
use pec_core::smime::sign::enclosing;
use pec_core::smime::{certificate_hash, certificates_from_pem};
use pec_host::files::replace;
use pec_host::outages::Outages;
use pec_host::parameters::Settings;
use pec_host::read;
use pec_program::directories::{Directories, Refreshed};
use pec_program::world::own_signer;
use pec_state::database::Database;
use serde_json::{Value, json};

use crate::status::Status;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,

    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// `--json` behind the verb that prints something.
#[derive(Debug, clap::Args)]
struct Json {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Fetch it now. Exit status 1 if what came is not taken.
    Refresh {
        /// Take it also if it has suddenly much fewer records, certificates or domains; after somebody has
        /// looked.
        #[arg(long)]
        accept_smaller: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Print what is different: between what is in force and what can be fetched, or between two files.
    Diff {
        /// An LDIF file, or a signed one (.p7m).
        #[arg(requires = "new")]
        old: Option<PathBuf>,
        /// Another one.
        new: Option<PathBuf>,
        #[command(flatten)]
        json: Json,
    },
    /// Tell who answers for something, and why. Exit status 1: nobody.
    Lookup {
        /// A domain, a mail address, a certificate's hash (SHA-1 or SHA-256) or a file with a certificate.
        what: String,
        #[command(flatten)]
        json: Json,
    },
    /// Write our own record, signed, ready to be handed in: this operating environment, and the others that
    /// are in force.
    Record(Record),
    /// Print the TLS policy of Postfix (smtp_tls_policy_maps) towards the other providers' domains.
    TlsPolicy {
        /// Write it there instead, as a whole or not at all, and have postmap index it.
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct Record {
    /// The file to write (.p7m).
    file: PathBuf,

    /// Write the LDIF alone, unsigned.
    #[arg(long)]
    ldif: bool,

    /// A PEM file with a certificate of ours that signs later on, or did so before, besides
    /// pec_certificate_file; may be repeated.
    #[arg(long, value_name = "FILE")]
    certificate: Vec<PathBuf>,

    /// The service mailbox (mailReceipt), where it is not the one of our record that is in force.
    #[arg(long, value_name = "ADDRESS")]
    mail_receipt: Option<String>,

    /// Where the file will be (LDIFLocationURL), where that is not the one of our record that is in force.
    #[arg(long, value_name = "URL")]
    location: Option<String>,
}

pub(crate) fn run(config_directory: &Path, arguments: &Arguments) -> anyhow::Result<Status> {
    let settings = Settings::read(config_directory)?;
    match &arguments.verb {
        None => show(&read::directory(&settings.directory_file)?, arguments.json),
        Some(Verb::Refresh { accept_smaller, json }) => {
            return refresh(&settings, *accept_smaller, arguments.json || json.json);
        }
        Some(Verb::Diff { old, new, json }) => {
            let json = arguments.json || json.json;
            let (old, new) = match (old, new) {
                (Some(old), Some(new)) => (read(&settings, old)?, read(&settings, new)?),
                _ => {
                    let runtime = runtime()?;
                    let database = runtime.block_on(Database::connect(&settings, "pecctl"))?;
                    let new = directories(&settings, database)?.fetch(SystemClock.now())?;
                    (read::directory(&settings.directory_file)?, new)
                }
            };
            changes(&old, &new, usize::MAX).iter().for_each(|change| print_change(change, json));
        }
        Some(Verb::Lookup { what, json }) => {
            let directory = read::directory(&settings.directory_file)?;
            let found = lookup(&directory, &settings, what)?;
            println!("{}", if arguments.json || json.json { found.json().to_string() } else { found.line() });
            return Ok(if found.answers.is_empty() && !found.is_ours { Status::Bad } else { Status::Good });
        }
        Some(Verb::Record(record)) => write_record(&settings, record)?,
        Some(Verb::TlsPolicy { write }) => {
            let domains = policy_domains(&read::directory(&settings.directory_file)?, &settings);
            match write {
                None => write_policy(&domains, io::stdout().lock())?,
                Some(file) => install_policy(&domains, config_directory, file)?,
            }
        }
    }
    Ok(Status::Good)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().context("starting")
}

fn directories(settings: &Settings, database: Database) -> anyhow::Result<Directories> {
    Directories::new(settings, database)?
        .context("pec_directory_url is not set; it must be an https:// address, to fetch the directory")
}

/// An LDIF file, or a signed one.
fn read(settings: &Settings, file: &Path) -> anyhow::Result<Directory> {
    let name = || file.display().to_string();
    let bytes = fs::read(file).with_context(name)?;
    if file.extension().is_none_or(|extension| extension != "p7m") {
        return Directory::parse(&bytes).map_err(anyhow::Error::msg).with_context(name);
    }
    let source = settings
        .directory_source
        .as_ref()
        .context("pec_directory_url is not set, so nobody is named who may sign a directory")?;
    let pem = fs::read(&source.signer_file).with_context(|| source.signer_file.display().to_string())?;
    let signers = certificates_from_pem(&pem)
        .map_err(anyhow::Error::msg)
        .with_context(|| source.signer_file.display().to_string())?;
    let opened =
        signed::open(bytes, &signers, SystemClock.now()).map_err(anyhow::Error::msg).with_context(name)?;
    Directory::parse(&opened.ldif).map_err(anyhow::Error::msg).with_context(name)
}

fn refresh(settings: &Settings, accept_smaller: bool, json: bool) -> anyhow::Result<Status> {
    let runtime = runtime()?;
    let database = runtime.block_on(Database::connect(settings, "pecctl"))?;
    let directories = directories(settings, database)?;
    match runtime.block_on(directories.refresh(accept_smaller, SystemClock.now())) {
        Ok(Refreshed::New { changes, .. }) if json => {
            changes.iter().for_each(|change| print_change(change, true))
        }
        Ok(Refreshed::New { size: (records, domains), changes }) => {
            println!("new        {records} records, {domains} domains, changes: {}", changes.len());
            changes.iter().for_each(|change| print_change(change, false));
        }
        Ok(Refreshed::Same) if json => {}
        Ok(Refreshed::Same) => println!("unchanged"),
        Err(why) => {
            println!(
                "{}",
                if json { json!({"not_taken": why}).to_string() } else { format!("not taken  {why}") }
            );
            return Ok(Status::Bad);
        }
    }
    Ok(Status::Good)
}

fn print_change(change: &Change, json: bool) {
    println!("{}", if json { json_of_change(change).to_string() } else { change.to_string() });
}

fn json_of_change(change: &Change) -> Value {
    match change {
        Change::ProviderNew { record } => json!({"change": "provider-new", "record": record}),
        Change::ProviderGone { record } => json!({"change": "provider-gone", "record": record}),
        Change::MailReceipt { record, before, after } => {
            json!({"change": "mail-receipt", "record": record, "before": before, "after": after})
        }
        Change::CertificateNew { record, hash } => {
            json!({"change": "certificate-new", "record": record, "hash": hash})
        }
        Change::CertificateGone { record, hash } => {
            json!({"change": "certificate-gone", "record": record, "hash": hash})
        }
        Change::Spoiled { what } => json!({"change": "bad-value", "what": what}),
        Change::DomainsNew { record, domains } => json!({
            "change": "domains-new",
            "record": record,
            "count": domains.count,
            "domains": domains.first,
        }),
        Change::DomainsGone { record, domains } => json!({
            "change": "domains-gone",
            "record": record,
            "count": domains.count,
            "domains": domains.first,
        }),
    }
}

/// Each record, with how much it has.
fn show(directory: &Directory, json: bool) {
    // By where the record lies: there may be a million domains.
    let mut domains = HashMap::<*const Provider, usize>::new();
    directory.domains().for_each(|(_, p)| *domains.entry(std::ptr::from_ref(p)).or_default() += 1);
    for provider in directory.providers() {
        let domains = domains.get(&std::ptr::from_ref(provider)).copied().unwrap_or(0);
        if json {
            let record = json!({
                "name": provider.name,
                "unit": provider.unit,
                "mail_receipt": provider.mail_receipt.as_ref().map(Address::as_str),
                "location": provider.location,
                "certificates": provider.certificates.len(),
                "domains": domains,
                "bad": provider.spoiled.iter().map(|s| &s.why).collect::<Vec<_>>(),
            });
            println!("{record}");
        } else {
            println!(
                "{}: certificates: {}, domains: {domains}, mailReceipt: {}",
                provider.title(),
                provider.certificates.len(),
                provider.mail_receipt_text()
            );
            provider.spoiled.iter().for_each(|s| println!("  bad value: {}", s.why));
        }
    }
}

/// What the directory says of something.
#[derive(Debug)]
struct Found<'a> {
    what: String,
    /// Why, and which record.
    answers: Vec<(String, &'a Provider)>,
    /// A domain of ours counts as certified whatever the directory says.
    is_ours: bool,
    /// What it means that nobody answers.
    nobody: &'static str,
}

fn lookup<'a>(directory: &'a Directory, settings: &Settings, what: &str) -> anyhow::Result<Found<'a>> {
    let mut found = Found {
        what: what.to_owned(),
        answers: Vec::new(),
        is_ours: false,
        nobody: "no record has it: what it signs is an anomaly",
    };
    if unhex(what).is_some_and(|bytes| matches!(bytes.len(), 20 | 32)) {
        let form = if what.len() == 40 { "SHA-1" } else { "SHA-256" };
        let records = directory.records_of_certificate(what).into_iter();
        found.answers.extend(records.map(|p| (format!("providerCertificateHash ({form})"), p)));
        return Ok(found);
    }
    let address = Address::parse(what);
    let domain =
        address.as_ref().map(Address::domain).or_else(|| is_domain(what).then(|| what.to_ascii_lowercase()));
    match domain {
        Some(domain) if address.is_some() || !Path::new(what).is_file() => {
            found.nobody = "no record has the domain: it counts as ordinary (esterno)";
            found.is_ours = settings.local_domains.contains(&domain);
            let records = directory.records_of_domain(&domain).into_iter();
            found.answers.extend(records.map(|p| (format!("managedDomains has {domain}"), p)));
            let receipts =
                directory.providers().iter().filter(|p| address.is_some() && p.mail_receipt == address);
            found.answers.extend(receipts.map(|p| ("mailReceipt".to_owned(), p)));
        }
        _ => {
            let certificate = read_certificate(Path::new(what))?;
            for (form, digest) in [("SHA-1", MessageDigest::sha1()), ("SHA-256", MessageDigest::sha256())] {
                let hash = certificate_hash(&certificate, digest);
                let records = directory.records_of_certificate(&hash).into_iter();
                let why = format!("providerCertificateHash {hash} ({form})");
                found.answers.extend(records.map(|p| (why.clone(), p)));
            }
        }
    }
    Ok(found)
}

fn read_certificate(file: &Path) -> anyhow::Result<X509> {
    let name = || file.display().to_string();
    let bytes = fs::read(file)
        .with_context(|| format!("{}: neither a domain, an address, a hash nor a file", file.display()))?;
    X509::from_pem(&bytes)
        .or_else(|_| X509::from_der(&bytes))
        .context("holds no readable certificate")
        .with_context(name)
}

impl Found<'_> {
    fn line(&self) -> String {
        let ours = self.is_ours.then(|| "ours (virtual_mailbox_domains)".to_owned());
        let answers = self
            .answers
            .iter()
            .map(|(why, p)| format!("{}: {why}; mailReceipt {}", p.title(), p.mail_receipt_text()));
        let words: Vec<String> = ours.into_iter().chain(answers).collect();
        format!("{}: {}", self.what, if words.is_empty() { self.nobody.to_owned() } else { words.join("; ") })
    }

    fn json(&self) -> Value {
        let answer = |(why, p): &(String, &Provider)| {
            json!({
                "why": why,
                "name": p.name,
                "unit": p.unit,
                "mail_receipt": p.mail_receipt.as_ref().map(Address::as_str),
            })
        };
        let answers: Vec<Value> = self.answers.iter().map(answer).collect();
        json!({"what": self.what, "ours": self.is_ours, "answers": answers})
    }
}

/// Towards each domain TLS 1.2 or later with today's suites, or no mail.
fn write_policy(domains: &BTreeSet<String>, to: impl io::Write) -> io::Result<()> {
    let mut out = BufWriter::new(to);
    for domain in domains {
        writeln!(out, "{domain} encrypt protocols=>=TLSv1.2 ciphers=high")?;
    }
    out.flush()
}

/// Writes the table, and has Postfix index it, in the form that it uses for tables (`default_database_type`).
fn install_policy(domains: &BTreeSet<String>, config_directory: &Path, file: &Path) -> anyhow::Result<()> {
    let name = || file.display().to_string();
    let written = replace(file, |new| {
        new.set_permissions(fs::Permissions::from_mode(0o644))?;
        write_policy(domains, new)
    });
    written.with_context(name)?;
    let indexed =
        Command::new("postmap").arg("-c").arg(config_directory).arg(file).status().context("postmap")?;
    anyhow::ensure!(indexed.success(), "postmap {}: {indexed}", name());
    Ok(())
}

/// The domains of the other providers: those that they manage, and those of their service mailboxes.
pub(crate) fn policy_domains(directory: &Directory, settings: &Settings) -> BTreeSet<String> {
    let others = directory
        .domains()
        .filter(|(_, p)| p.name != settings.provider_name)
        .map(|(domain, _)| domain.to_owned());
    let receipts = directory
        .providers()
        .iter()
        .filter(|p| p.name != settings.provider_name)
        .filter_map(|p| p.mail_receipt.as_ref().map(Address::domain));
    others.chain(receipts).filter(|domain| !settings.local_domains.contains(domain)).collect()
}

fn write_record(settings: &Settings, record: &Record) -> anyhow::Result<()> {
    let now = SystemClock.now();
    let in_force = fs::read_to_string(&settings.directory_file).unwrap_or_default();
    let (own, others) = our_records(&in_force, settings);
    let mut certificates = vec![read_certificate(&settings.certificate_file)?];
    for file in &record.certificate {
        certificates.push(read_certificate(file)?);
    }
    anyhow::ensure!(
        certificates.len() <= MOST_CERTIFICATES,
        "--certificate: the record would have {} certificates; at most {MOST_CERTIFICATES} are allowed",
        certificates.len()
    );
    let receipt = match (&record.mail_receipt, &own) {
        (Some(given), _) => Address::parse(given)
            .with_context(|| format!("--mail-receipt = {given}: not allowed; it must be a mail address"))?,
        (None, own) => own.as_ref().and_then(|own| own.mail_receipt.clone()).context(
            "--mail-receipt is needed: pec_directory_file has no record of ours yet, or one without it",
        )?,
    };
    let location = record.location.clone().or_else(|| own.as_ref().and_then(|own| own.location.clone()));
    if location.is_none() && settings.provider_unit.is_none() {
        eprintln!("pecctl: the record has no LDIFLocationURL; --location says where the file will be");
    }
    for hash in own.iter().flat_map(|own| &own.certificates) {
        if !certificates.iter().any(|c| {
            [MessageDigest::sha1(), MessageDigest::sha256()].iter().any(|d| certificate_hash(c, *d) == *hash)
        }) {
            eprintln!(
                "pecctl: the certificate {hash}, which is in force, is left out; --certificate FILE keeps \
                it"
            );
        }
    }
    let ldif = our_ldif(settings, &certificates, &receipt, location.as_deref(), &others)?;
    let bytes = if record.ldif {
        ldif.into_bytes()
    } else {
        enclosing(&*own_signer(settings, now, &Outages::default())?, ldif.as_bytes(), now)?
    };
    fs::write(&record.file, bytes).with_context(|| record.file.display().to_string())
}

/// What is in force of ours: this environment's record and the others'
/// records as they stand in the file.
fn our_records(in_force: &str, settings: &Settings) -> (Option<Provider>, Vec<String>) {
    let (mut own, mut others) = (None, Vec::new());
    for text in in_force.replace("\r\n", "\n").split("\n\n") {
        let Ok(directory) = Directory::parse(text) else { continue };
        let Some(provider) = directory.providers().first().filter(|p| p.name == settings.provider_name)
        else {
            continue;
        };
        if provider.unit == settings.provider_unit {
            own = Some(provider.clone());
        } else if provider.unit.is_none() {
            // The main environment's comes first.
            others.insert(0, text.trim_matches('\n').to_owned());
        } else {
            others.push(text.trim_matches('\n').to_owned());
        }
    }
    (own, others)
}

/// Our file: the record of this environment and `others`, that of the main one first (RFC 6109 s. 4.5.7,
/// 4.5.9).
fn our_ldif(
    settings: &Settings,
    certificates: &[X509],
    mail_receipt: &Address,
    location: Option<&str>,
    others: &[String],
) -> anyhow::Result<String> {
    let (name, unit) = (&settings.provider_name, settings.provider_unit.as_deref());
    let mut own = String::new();
    let unit_part = unit.map_or_else(String::new, |unit| format!("providerUnit={},", escaped(unit)));
    ldif::write(&mut own, "dn", &format!("{unit_part}providerName={},o=postacert", escaped(name)));
    ldif::write(&mut own, "objectclass", "top");
    ldif::write(&mut own, "objectclass", "provider");
    // A secondary environment has none.
    let location = location.filter(|_| unit.is_none());
    if let Some(location) = location {
        ldif::write(&mut own, "objectclass", "LDIFLocationURLObject");
        ldif::write(&mut own, "LDIFLocationURL", location);
    }
    ldif::write(&mut own, "providerName", name);
    if let Some(unit) = unit {
        ldif::write(&mut own, "providerUnit", unit);
    }
    for certificate in certificates {
        ldif::write(
            &mut own,
            "providerCertificateHash",
            &certificate_hash(certificate, MessageDigest::sha1()).to_ascii_uppercase(),
        );
        ldif::write_binary(&mut own, "providerCertificate;binary", &certificate.to_der()?);
    }
    ldif::write(&mut own, "mailReceipt", mail_receipt.as_str());
    for domain in settings.local_domains.iter().collect::<BTreeSet<_>>() {
        ldif::write(&mut own, "managedDomains", domain);
    }
    let mut records: Vec<&str> = others.iter().map(String::as_str).collect();
    // The first of the others is the main environment's where this one is not.
    records.insert(usize::from(unit.is_some()).min(records.len()), own.trim_end());
    Ok(format!("version: 1\n\n{}\n", records.join("\n\n")))
}

/// A value in a distinguished name (RFC 4514 s. 2.4).
fn escaped(value: &str) -> String {
    let mut text = String::new();
    for (place, c) in value.char_indices() {
        let at_edge = (place == 0 && matches!(c, ' ' | '#')) || (place + 1 == value.len() && c == ' ');
        if at_edge || matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use pec_core::clock::Moment;

    use super::*;
    use pec_test_support::network::{Network, new_database};
    use pec_test_support::pki::NOW;

    fn settings(network: &Network) -> Settings {
        network.alfa.settings.clone()
    }

    /// Alfa and Beta, and a second environment of Alfa's, whose record has a certificate.
    async fn network() -> (Network, String) {
        assert!(!new_database().await.is_empty());
        let network = Network::new().await;
        let second = "\ndn: providerUnit=Due,providerName=Alfa PEC S.p.A.,o=postacert\nobjectclass: \
            provider\nproviderName: Alfa PEC S.p.A.\n\
            providerUnit: Due\nproviderCertificateHash: \
            0123456789abcdef0123456789abcdef01234567\nproviderCertificate;binary:: MIID\n Bjcc\n\
            mailReceipt: ricevute@due.alfa.test\nmanagedDomains: pec.due.test\n";
        let text = network.directory_of(&[&network.alfa, &network.beta]) + second;
        (network, text)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_answers_for_a_domain_an_address_a_certificate_or_a_hash_and_why() {
        let (network, text) = network().await;
        let (directory, settings) = (Directory::parse(&text).unwrap(), settings(&network));
        let said = |what: &str| lookup(&directory, &settings, what).unwrap().line();
        let beta = "Beta Posta S.r.l.";
        assert_eq!(
            said("PEC.beta.test"),
            format!(
                "PEC.beta.test: {beta}: managedDomains has pec.beta.test; mailReceipt \
                ricevute@gestore.beta.test"
            )
        );
        assert!(said("ricevute@gestore.beta.test").contains("; Beta Posta S.r.l.: mailReceipt;"));
        assert_eq!(
            said("elsewhere.example"),
            "elsewhere.example: no record has the domain: it counts as ordinary (esterno)"
        );
        assert!(
            said("studio.example")
                .contains("ours (virtual_mailbox_domains); Alfa PEC S.p.A.: managedDomains")
        );
        let sha1 = network.beta.keys.sha1.to_ascii_uppercase();
        assert!(said(&sha1).contains("Beta Posta S.r.l.: providerCertificateHash (SHA-1)"));
        let file = network.beta.keys.certificate_file.display().to_string();
        assert!(said(&file).contains(&format!(
            "Beta Posta S.r.l.: providerCertificateHash {} (SHA-1)",
            network.beta.keys.sha1
        )));
        assert!(said(&"0".repeat(64)).ends_with("no record has it: what it signs is an anomaly"));
        assert!(said("0123456789abcdef0123456789abcdef01234567").contains("Alfa PEC S.p.A., Due: "));
        assert!(
            lookup(&directory, &settings, "/nothing")
                .unwrap_err()
                .to_string()
                .contains("neither a domain, an address, a hash nor a file")
        );
        let json = lookup(&directory, &settings, "pec.beta.test").unwrap().json();
        assert_eq!((json["answers"][0]["name"].as_str(), json["ours"].as_bool()), (Some(beta), Some(false)));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rfc6109_4_5_9_our_record_has_all_environments_and_is_signed() {
        let (network, text) = network().await;
        let mut settings = settings(&network);
        let certificate = network.alfa.keys.certificate();
        let receipt = Address::parse("ricevute@gestore.alfa.test").unwrap();
        let (own, others) = our_records(&text.replace('\n', "\r\n"), &settings);
        assert_eq!(
            own.as_ref().map(|own| (own.mail_receipt.clone(), own.certificates.clone())),
            Some((Some(receipt.clone()), vec![network.alfa.keys.sha1.clone()]))
        );
        let location = Some("https://gestore.alfa.test/alfa.ldif.p7m");
        let ldif =
            our_ldif(&settings, std::slice::from_ref(&certificate), &receipt, location, &others).unwrap();
        assert!(
            ldif.contains("\nproviderCertificate;binary:: MIID\n Bjcc\n"),
            "what is in force of the other environment stays as it is: {ldif}"
        );
        assert!(ldif.lines().all(|line| line.len() <= 76), "{ldif}");
        let directory = Directory::parse(&ldif).unwrap();
        assert_eq!(
            directory.providers().iter().map(Provider::title).collect::<Vec<_>>(),
            ["Alfa PEC S.p.A.", "Alfa PEC S.p.A., Due"]
        );
        assert_eq!((directory.size(), directory.conflicts().len()), ((2, 4), 0));
        assert_eq!(directory.providers()[0].location.as_deref(), location);
        assert_eq!(
            directory.records_of_domain("gestore.alfa.test"),
            directory.records_of_certificate(&network.alfa.keys.sha1)
        );
        let binary = ldif.replace("\n ", "");
        let line =
            binary.lines().find_map(|line| line.strip_prefix("providerCertificate;binary:: ")).unwrap();
        let der = openssl::base64::decode_block(line).unwrap();
        assert_eq!(
            certificate_hash(&X509::from_der(&der).unwrap(), MessageDigest::sha1()),
            network.alfa.keys.sha1
        );
        // Signed with the key that signs everything else.
        let now = Moment::from_unix(NOW);
        let p7m = enclosing(&*own_signer(&settings, now, &Outages::default()).unwrap(), ldif.as_bytes(), now)
            .unwrap();
        let opened = signed::open(p7m, std::slice::from_ref(&certificate), now).unwrap();
        assert_eq!((String::from_utf8(opened.ldif).unwrap(), opened.at), (ldif, Some(now)));
        // From the second environment: the main one's record stands first all the same, and a name is written
        // as LDIF wants it.
        settings.provider_unit = Some("Due".into());
        let (_, others) = our_records(&text, &settings);
        let ldif =
            our_ldif(&settings, std::slice::from_ref(&certificate), &receipt, location, &others).unwrap();
        assert_eq!(Directory::parse(&ldif).unwrap().providers()[1].title(), "Alfa PEC S.p.A., Due");
        assert!(!ldif.contains("LDIFLocationURL"), "secondary environments have none");
        (settings.provider_unit, settings.provider_name) = (None, "Società, Roma".into());
        let ldif = our_ldif(&settings, &[certificate], &receipt, None, &[]).unwrap();
        assert!(
            ldif.contains("\ndn:: ")
                && Directory::parse(&ldif).unwrap().record("Società, Roma", None).is_some()
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_record_has_ten_certificates_at_most() {
        let (network, _) = network().await;
        let file = network.directory.path().join("ours.ldif");
        let other =
            network.pki.provider("Alfa PEC S.p.A.", "posta-certificata@gestore.alfa.test").certificate_file;
        let write = |besides: usize| {
            let record = Record {
                file: file.clone(),
                ldif: true,
                certificate: vec![other.clone(); besides],
                mail_receipt: None,
                location: None,
            };
            write_record(&settings(&network), &record)
        };
        write(9).unwrap();
        assert!(read::directory(&file).unwrap().conflicts().is_empty());
        assert_eq!(
            write(10).unwrap_err().to_string(),
            "--certificate: the record would have 11 certificates; at most 10 are allowed"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rfc6109_5_3_the_tls_policy_names_the_other_providers_domains_and_service_mailboxes() {
        let (network, text) = network().await;
        let text = text
            .replace("mailReceipt: ricevute@gestore.beta.test", "mailReceipt: ricevute@servizio.beta.test");
        let domains = policy_domains(&Directory::parse(&text).unwrap(), &settings(&network));
        assert_eq!(
            domains.into_iter().collect::<Vec<_>>(),
            ["comune.example", "gestore.beta.test", "pec.beta.test", "servizio.beta.test"]
        );
    }
}
