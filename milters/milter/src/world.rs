//! All that a milter needs besides the message: configuration, clock, key, CAs, directory, database, store.

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
        let store = Store::open(&settings.store)?;
        Ok(Self { settings, clock, signer: Box::new(signer), cas, directory, database, store })
    }

    /// Us, as writers of notices.
    pub fn issuer(&self) -> Issuer<'_> {
        Issuer { provider_name: &self.settings.provider_name, service_domain: &self.settings.service_domain, signer: &*self.signer }
    }

    /// The service address as an SMTP path: MAIL FROM of everything that we write.
    pub fn service_path(&self) -> String {
        format!("<{}>", service_address(&self.settings.service_domain))
    }

    /// Names what makes our notices' bytes: program version and certificate.
    pub fn made_with(&self) -> String {
        format!("{VERSION}/{}", self.signer.identity().fingerprint)
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
