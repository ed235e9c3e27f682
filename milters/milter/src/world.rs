//! All that a milter needs besides the message: configuration, clock, key, CAs, directory, database, stores, mailboxes,
//! virus scanner.

use std::fmt;
use std::sync::Arc;

use pec_core::clock::Clock;
use pec_core::directory::Directory;
use pec_core::maillog;
use pec_core::notices::{Issuer, service_address};
use pec_core::parameters::Settings;
use pec_core::smime::pem::PemSigner;
use pec_core::smime::sign::Signer;
use pec_core::smime::verify::TrustedCas;
use pec_state::database::Database;
use pec_state::store::Store;

use crate::clamd::Scanner;
use crate::mailbox::Mailboxes;
use crate::signatures::ScannerWatch;

/// Names the bytes that this program makes: with another version or certificate a notice may come out differently.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The milters' world, exchanged as a whole at reload.
pub struct World {
    /// The parameters.
    pub settings: Settings,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Our key.
    pub signer: Box<dyn Signer>,
    /// Who may vouch for other providers.
    pub cas: TrustedCas,
    /// The providers.
    pub directory: Directory,
    /// Facts, custody, log.
    pub database: Database,
    /// Originals.
    pub store: Store,
    /// Messages with viruses.
    pub infected: Store,
    /// The virus scanner.
    pub scanner: Scanner,
    /// The mailboxes.
    pub mailboxes: Mailboxes,
    in_force: Arc<()>,
}

impl World {
    /// Reads all that the settings name and makes sure that it fits together. Errors are one line.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>, database: Database) -> anyhow::Result<Self> {
        let address = service_address(&settings.service_domain);
        let signer = PemSigner::read(&settings.certificate_file, &settings.key_file, &address, clock.now())?;
        let cas = TrustedCas::read(&settings.ca_file)?;
        let directory = Directory::read(&settings.directory_file)?;
        let (providers, domains) = directory.size();
        maillog::directory(providers, domains);
        directory.conflicts().iter().for_each(|conflict| maillog::directory_conflict(conflict));
        if directory.provider_named(&settings.provider_name).is_none() {
            anyhow::bail!(
                "pec_provider_name = {}: not allowed; it must be the providerName of a record in pec_directory_file ({})",
                settings.provider_name,
                settings.directory_file.display(),
            );
        }
        let store = Store::open("pec_store", &settings.store)?;
        let infected = Store::open("pec_infected_store", &settings.infected_store)?;
        let scanner = Scanner::new(settings.clamd.clone());
        let doveadm_key = Settings::secret("pec_doveadm_key_file", &settings.doveadm_key_file)?;
        let mailboxes = Mailboxes::new(&settings.doveadm_url, &doveadm_key);
        Ok(Self {
            settings,
            clock,
            signer: Box::new(signer),
            cas,
            directory,
            database,
            store,
            infected,
            scanner,
            mailboxes,
            in_force: Arc::default(),
        })
    }

    /// Has the virus scanner looked at in the background, with messages of up to `largest` bytes. Without it mail waits; that
    /// is no reason not to start.
    pub fn check_scanner(&self, largest: u64) {
        tokio::spawn(self.scanner_watch().keep_looking(largest, Arc::downgrade(&self.in_force)));
    }

    /// Who looks at the virus scanner.
    pub fn scanner_watch(&self) -> ScannerWatch {
        ScannerWatch {
            scanner: self.scanner.clone(),
            max_age: self.settings.clamd_max_age,
            clock: Arc::clone(&self.clock),
            database: self.database.clone(),
            provider_name: self.settings.provider_name.clone(),
        }
    }

    /// Us, as writers of notices.
    pub fn issuer(&self) -> Issuer<'_> {
        Issuer { provider_name: &self.settings.provider_name, service_domain: &self.settings.service_domain, signer: &*self.signer }
    }

    /// The service address as an SMTP path: MAIL FROM of everything that we write.
    pub fn service_path(&self) -> String {
        format!("<{}>", service_address(&self.settings.service_domain))
    }

    /// Names what makes our notices' bytes: program version, certificates, our name.
    pub fn made_with(&self) -> String {
        format!("{VERSION}/{}/{}", self.signer.identity().fingerprint, self.settings.provider_name)
    }

    /// Whether `domain` (lower case) is one of ours.
    pub fn is_local(&self, domain: &str) -> bool {
        self.settings.local_domains.contains(domain)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("settings", &self.settings).finish_non_exhaustive()
    }
}
