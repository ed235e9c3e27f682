//! Two providers, Alfa and Beta, as worlds for the programs: keys, directory, mailboxes, and a database each.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::pkey::PKey;
use openssl::sha::sha256;
use openssl::x509::X509Extension;
use pec_core::clock::{Moment, SettableClock};
use pec_core::daticert::{Daticert, Destinatario, Errore, Tipo, TipoDestinatario, TipoRicevuta};
use pec_core::header::{Field, Header};
use pec_core::identifier::{fresh, hex, pec_identifier};
use pec_core::message::Body;
use pec_core::notices::busta::busta;
use pec_core::notices::{Issuer, Notice};
use pec_core::smime::pem::PemSigner;
use pec_host::parameters::{Settings, SigningKey};
use pec_program::life::Process;
use pec_program::world::World;
use pec_state::database::Database;
use pec_state::log::Entry;
use pec_state::pool::MIGRATIONS;
use pec_state::rows::{Passed, PassedKind, Ricevuta, Sent};
use tempfile::TempDir;
use tokio_postgres::NoTls;

use crate::mail_server::MailServer;
use crate::pki::{Keys, NOW, Pki};
use crate::postfix::Mail;

/// What Anna writes to Bruno, with LF for line ends.
pub const LETTER: &str = "From: anna@pec.alfa.test\nTo: bruno@pec.beta.test\nSubject: Prova\nMessage-ID: \
    <1@client.test>\n\nCiao\n";

/// Both providers and what they share.
pub struct Network {
    /// Everything lies in here; removed at the end.
    pub directory: TempDir,
    /// The certification authority of both.
    pub pki: Pki,
    /// Alfa: gestore.alfa.test, pec.alfa.test, studio.example.
    pub alfa: Host,
    /// Beta: gestore.beta.test, pec.beta.test, comune.example.
    pub beta: Host,
    /// The time for both.
    pub clock: Arc<SettableClock>,
}

/// One provider.
#[derive(Clone)]
pub struct Host {
    /// Its parameters.
    pub settings: Settings,
    /// Its keys.
    pub keys: Keys,
    /// Its mailbox server: every mailbox exists and takes everything.
    pub mailboxes: MailServer,
    /// The same server's listener that knows no quota.
    pub mailboxes_no_quota: MailServer,
    /// Postfix's smtpd for notices to other providers.
    pub outgoing: MailServer,
}

impl Network {
    /// A fresh network at [`NOW`], with a database for each provider.
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::new(directory.path());
        let alfa = host(
            &pki,
            directory.path(),
            "Alfa PEC S.p.A.",
            "gestore.alfa.test",
            &["pec.alfa.test", "studio.example"],
        )
        .await;
        let beta = host(
            &pki,
            directory.path(),
            "Beta Posta S.r.l.",
            "gestore.beta.test",
            &["pec.beta.test", "comune.example"],
        )
        .await;
        let network =
            Self { pki, alfa, beta, clock: Arc::new(SettableClock::new(Moment::from_unix(NOW))), directory };
        network.write_directory(&[&network.alfa, &network.beta]);
        network
    }

    /// Alfa has another key, and a certificate of it with these extensions besides.
    pub fn certify_alfa(&mut self, extensions: &[X509Extension]) {
        let alfa = &mut self.alfa;
        let address = format!("posta-certificata@{}", alfa.settings.service_domain);
        alfa.keys = self.pki.issuing.provider(
            self.directory.path(),
            &alfa.settings.provider_name,
            &address,
            extensions,
        );
        alfa.settings.certificate_file = alfa.keys.certificate_file.clone();
        alfa.settings.signing_key = SigningKey::File(alfa.keys.key_file.clone());
    }

    /// Writes the directory of providers with these records.
    pub fn write_directory(&self, hosts: &[&Host]) {
        fs::write(self.directory.path().join("igpec.ldif"), self.directory_of(hosts)).unwrap();
    }

    /// The directory of providers with these records.
    pub fn directory_of(&self, hosts: &[&Host]) -> String {
        let mut ldif = String::from("version: 1\n\ndn: o=postacert\nobjectclass: top\no: postacert\n");
        for host in hosts {
            let (settings, mut domains) =
                (&host.settings, host.settings.local_domains.iter().collect::<Vec<_>>());
            domains.sort();
            ldif += &format!(
                "\ndn: providerName={0},o=postacert\nobjectclass: provider\nproviderName: \
                {0}\nproviderCertificateHash: {1}\nmailReceipt: ricevute@{2}\n",
                settings.provider_name, host.keys.sha1, settings.service_domain
            );
            domains.iter().for_each(|domain| ldif += &format!("managedDomains: {domain}\n"));
        }
        ldif
    }

    /// The world of a provider, as a milter has it.
    pub async fn world(&self, host: &Host) -> World {
        let database = Database::connect(&host.settings, "test").await.unwrap();
        World::new(host.settings.clone(), Process::quiet(self.clock.clone()), database).unwrap()
    }

    /// A provider's signer.
    pub fn signer(&self, host: &Host) -> PemSigner {
        let address = pec_core::notices::service_address(&host.settings.service_domain);
        host.keys.signer(&address, NOW).unwrap()
    }
}

async fn host(pki: &Pki, directory: &Path, name: &str, service_domain: &str, domains: &[&str]) -> Host {
    let keys = pki.provider(name, &format!("posta-certificata@{service_domain}"));
    let infected_store = directory.join(format!("infected-{service_domain}"));
    fs::create_dir(&infected_store).unwrap();
    let register = directory.join(format!("register-{service_domain}"));
    fs::create_dir(&register).unwrap();
    let log_key = directory.join(format!("log-{service_domain}.pem"));
    let log = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&log_key);
    log.unwrap().write_all(&PKey::generate_ed25519().unwrap().private_key_to_pem_pkcs8().unwrap()).unwrap();
    let database = new_database().await;
    let row_keys_file = directory.join(format!("row-{service_domain}.keys"));
    fs::write(&row_keys_file, format!("{}\n", hex(&sha256(service_domain.as_bytes())))).unwrap();
    let server = |name: &str| MailServer::start(directory, &format!("{name}-{service_domain}"));
    let (mailboxes, mailboxes_no_quota, outgoing) =
        (server("lmtp"), server("lmtp-no-quota"), server("outgoing"));
    let hostname = format!("mail.{service_domain}");
    // What nothing in these tests listens at.
    let unused = "inet:127.0.0.1:1";
    let lines = [
        ("pec_service_domain", service_domain.to_owned()),
        ("pec_provider_name", name.to_owned()),
        ("pec_certificate_file", shown(&keys.certificate_file)),
        ("pec_signing_key", shown(&keys.key_file)),
        ("pec_ca_file", shown(&pki.ca_file())),
        ("pec_crl_directory", shown(&directory.join(format!("crl-{service_domain}")))),
        ("pec_directory_file", shown(&directory.join("igpec.ldif"))),
        ("pec_database", database.clone()),
        ("pec_register", shown(&register)),
        ("pec_register_key", shown(&log_key)),
        ("pec_register_database", database),
        ("pec_access_milter", unused.to_owned()),
        ("pec_incoming_milter", unused.to_owned()),
        ("pec_local_milter", unused.to_owned()),
        ("pec_reports_milter", unused.to_owned()),
        ("pec_delivery_lmtp", "unix:unused".to_owned()),
        ("pec_triggers_lmtp", "unix:unused".to_owned()),
        ("pec_mailbox_lmtp", mailboxes.socket().to_string()),
        ("pec_mailbox_lmtp_no_quota", mailboxes_no_quota.socket().to_string()),
        ("pec_outgoing_smtpd", outgoing.socket().to_string()),
        ("pec_row_keys_file", shown(&row_keys_file)),
        ("pec_delivery_memory_limit", (64 * 1024 * 1024).to_string()),
        ("pec_clamd", "none".to_owned()),
        ("pec_infected_store", shown(&infected_store)),
        ("pec_infected_certificate_file", shown(&pki.auditor_file())),
        ("myhostname", hostname),
        ("queue_directory", shown(directory)),
        ("virtual_mailbox_domains", format!("{service_domain} {}", domains.join(" "))),
        ("message_size_limit", "0".to_owned()),
        ("smtpd_recipient_limit", "1000".to_owned()),
    ];
    let lines: String = lines.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
    let mut settings = Settings::of_lines(&directory.join("main.cf"), &lines).unwrap();
    // Smaller than Postfix could have it, so that tests of large messages are quick.
    settings.envelope_size_limit = 20 * 1024 * 1024;
    settings.values = [("pec_service_domain".to_owned(), service_domain.to_owned())].into();
    Host { settings, keys, mailboxes, mailboxes_no_quota, outgoing }
}

/// A new database with our tables on the test server; gives back its connection string.
pub async fn new_database() -> String {
    let server = std::env::var("PEC_TEST_DATABASE").expect(
        "PEC_TEST_DATABASE says how to reach a PostgreSQL on which databases may be made; tests/run \
            starts one and sets it",
    );
    let named = |name: &str| {
        server
            .split(' ')
            .filter(|part| !part.starts_with("dbname="))
            .chain([format!("dbname={name}").as_str()])
            .collect::<Vec<_>>()
            .join(" ")
    };
    let name = format!("pec_test_{}", fresh().unwrap());
    let tables = MIGRATIONS.concat();
    // Copied from one that is made once: the tables take twice as long as the copy.
    let template = format!("pec_test_tables_{}", &hex(&sha256(tables.as_bytes()))[..16]);
    let (client, connection) = tokio_postgres::connect(&server, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    // One test makes it, the others wait.
    client.batch_execute("SELECT pg_advisory_lock(1)").await.unwrap();
    if client.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&template]).await.unwrap().is_none() {
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {template}_new")).await.unwrap();
        client.batch_execute(&format!("CREATE DATABASE {template}_new")).await.unwrap();
        run(&named(&format!("{template}_new")), &tables).await;
        client.batch_execute(&format!("ALTER DATABASE {template}_new RENAME TO {template}")).await.unwrap();
    }
    client.batch_execute("SELECT pg_advisory_unlock(1)").await.unwrap();
    client.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}")).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
    named(&name)
}

/// Runs SQL on a database.
pub async fn run(database: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(database, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
}

/// What `open` gives once it gives something: a lock, for one, that PostgreSQL takes from a session that has
/// ended when it sees that it has.
pub async fn eventually<T>(open: impl AsyncFn() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(opened) = open().await {
            return opened;
        }
        assert!(Instant::now() < until, "it never came");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The rows that a query gives, each as its first column's text.
pub async fn column(database: &str, sql: &str) -> Vec<String> {
    let (client, connection) = tokio_postgres::connect(database, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let rows = client.query(sql, &[]).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
    rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_default()).collect()
}

/// An envelope from Anna at Alfa to these recipients, signed by `host`'s key and in its name, as it leaves
/// the Access Point.
pub fn envelope(network: &Network, host: &Host, recipients: &[&str], original: &str) -> Mail {
    let signer = network.signer(host);
    let issuer = Issuer {
        provider_name: &host.settings.provider_name,
        service_domain: &host.settings.service_domain,
        signer: &signer,
    };
    let submitted = Mail::submitted("anna@pec.alfa.test", recipients, original.as_bytes());
    let daticert = daticert_of(host, recipients, &submitted.header);
    let received = Field::written(
        "Received",
        "from client.test by mail.gestore.alfa.test (Postfix) with ESMTPSA id 4jX;\r\n\tThu, 19 Nov 2026 \
        00:00:00 +0100",
    );
    let notice =
        busta(issuer, &daticert, &submitted.header, Body::from_bytes(submitted.body.clone()), received)
            .unwrap();
    Mail { account: None, header: notice.header, body: notice.body.into_bytes().to_vec(), ..submitted }
}

/// The certification data of an envelope from Anna at Alfa.
pub fn daticert_of(host: &Host, recipients: &[&str], original: &Header) -> Daticert {
    let data = Moment::from_unix(NOW - 60);
    Daticert {
        tipo: Tipo::PostaCertificata,
        errore: Errore::Nessuno,
        mittente: "anna@pec.alfa.test".to_owned(),
        destinatari: recipients
            .iter()
            .map(|r| Destinatario { indirizzo: (*r).to_owned(), tipo: TipoDestinatario::Certificato })
            .collect(),
        risposte: "anna@pec.alfa.test".to_owned(),
        oggetto: original.subject(),
        gestore_emittente: host.settings.provider_name.clone(),
        data,
        identificativo: pec_identifier(data, &fresh().unwrap(), &host.settings.service_domain),
        msgid: original.text("Message-ID"),
        ricevuta: Some(TipoRicevuta::Completa),
        consegna: None,
        ricezione: Vec::new(),
        errore_esteso: None,
    }
}

/// The row of an envelope with these data that its provider has signed, for nobody of its own.
pub fn sent(id: &str, envid: &str, daticert: &Daticert, body_sha256: &[u8]) -> Sent {
    Sent {
        id: id.to_owned(),
        envid: envid.to_owned(),
        provider: daticert.gestore_emittente.clone(),
        identificativo: daticert.identificativo.clone(),
        daticert: daticert.to_xml(),
        body_sha256: body_sha256.to_vec(),
        signed_at: daticert.data,
        served: Some(String::new()),
    }
}

/// A notice as the other provider's Postfix brings it to port 25.
pub fn arriving(notice: Notice, from: &str, recipients: &[&str]) -> Mail {
    Mail {
        queue_id: "4jTESTarriving".to_owned(),
        account: None,
        tls: true,
        sender: format!("<{from}>"),
        recipients: recipients.iter().map(|r| format!("<{r}>")).collect(),
        header: notice.header,
        body: notice.body.into_bytes().to_vec(),
    }
}

/// A receipt of another provider came and was let pass, to nobody in particular; whether it was new.
pub async fn insert_ricevuta(database: &Database, ricevuta: &Ricevuta, log: &Entry) -> bool {
    let envid = fresh().unwrap();
    let passed = |kind| {
        database
            .authentic(Passed {
                envid: envid.clone(),
                kind,
                body_sha256: vec![0; 32],
                recipients: Vec::new(),
            })
            .unwrap()
    };
    database
        .insert_ricevuta(ricevuta, log, (&passed(PassedKind::RicevutaDovuta), &passed(PassedKind::Ricevuta)))
        .await
        .unwrap()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
