//! All that a program needs besides the message: configuration, clock, key, CAs, directory, database,
//! infected store, mailboxes, virus scanner.
//!
//! Promise: a world fits together, or is not made and says in one line what does not. A reload makes a new
//! one; the old one lives until its last message is done, and keeps nothing open beyond that.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pec_core::clock::{Clock, Moment};
use pec_core::directory::{Directory, Provider};
use pec_core::notices::{Issuer, service_address};
use pec_core::smime::own::OwnCertificate;
use pec_core::smime::sign::Signer;
use pec_core::smime::verify::TrustedCas;
use pec_host::crl_directory::CrlDirectory;
use pec_host::outages::Outages;
use pec_host::parameters::{Settings, SigningKey};
use pec_host::read;
use pec_state::database::Database;
use pec_token::TokenSigner;
use tokio::sync::{Semaphore, watch};

use crate::crls::Crls;
use crate::directories::{Directories, InForce, log_content, own_record};
use crate::infected::InfectedStore;
use crate::life::Process;
use crate::mailbox::Mailboxes;
use crate::scanner::Scanner;
use crate::scanner_watch::ScannerWatch;
use crate::sized;
use crate::turns::Turns;

/// Names the bytes that this program makes: with another version or certificate a notice may come out
/// differently.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How many signatures a token is asked for at the same time, by each program.
const SIGN_AT_ONCE: usize = 4;

/// How long a message waits for its turn at the token before it waits in its client's or our queue instead.
const TURN_WAIT: Duration = Duration::from_secs(30);

/// The milters' world, exchanged as a whole at reload.
pub struct World {
    /// The parameters.
    pub settings: Settings,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Our key.
    pub signer: Box<dyn Signer>,
    /// Turns at the token.
    token_turns: Semaphore,
    /// Turns for a message: at the virus scanner, and for what follows.
    pub turns: Turns,
    /// Who may vouch for other providers.
    pub cas: TrustedCas,
    /// Who fetches what the CAs say of revoked certificates.
    pub crls: Crls,
    /// The providers.
    pub directory: Arc<InForce>,
    /// Who fetches them, if anybody does.
    pub directories: Option<Directories>,
    /// Facts, custody, log.
    pub database: Database,
    /// Messages with viruses.
    pub infected: InfectedStore,
    /// The virus scanner.
    pub scanner: Scanner,
    /// The mailboxes.
    pub mailboxes: Mailboxes,
    /// Closed when this world is no longer in force.
    in_force: watch::Sender<()>,
}

/// The key of `pec_signing_key`, for this certificate; a token that does not answer is one of `outages`.
fn signer(
    settings: &Settings,
    certificate: OwnCertificate,
    outages: &Outages,
) -> anyhow::Result<Box<dyn Signer>> {
    Ok(match &settings.signing_key {
        SigningKey::File(file) => Box::new(read::signer(certificate, file)?),
        SigningKey::Token(uri) => {
            Box::new(TokenSigner::open(certificate, settings.pkcs11.token(uri)?)?.telling(outages))
        }
    })
}

/// The same, for our certificate as its file has it.
pub fn own_signer(settings: &Settings, now: Moment, outages: &Outages) -> anyhow::Result<Box<dyn Signer>> {
    signer(settings, read::own_certificate(settings, now)?, outages)
}

impl World {
    /// Reads all that the settings name and makes sure that it fits together. Errors are one line.
    pub fn new(settings: Settings, process: Process, database: Database) -> anyhow::Result<Self> {
        let Process { clock, rows, outages } = process;
        let certificate = read::own_certificate(&settings, clock.now())?;
        read::warn_of_end(&certificate, clock.now());
        let hashes = certificate.hashes();
        let signer = signer(&settings, certificate, &outages)?;
        let token_turns = Semaphore::new(SIGN_AT_ONCE);
        let crls = Crls::new(Arc::new(CrlDirectory::new(&settings.crl_directory)), rows);
        let cas =
            read::trusted_cas(&settings.ca_file)?.asking(crls.directory().clone(), settings.crl_too_old);
        let directories = Directories::new(&settings, database.clone())?;
        let in_file = Arc::new(InForce::read(&settings, database.clone(), Arc::clone(&clock))?);
        let directory = in_file.now();
        let own = own_record(
            &settings.provider_name,
            settings.provider_unit.as_deref(),
            &settings.directory_file,
            &directory,
        )?;
        if !hashes.iter().any(|hash| directory.records_of_certificate(hash).contains(&own)) {
            anyhow::bail!(
                "pec_certificate_file = {}: the certificate (SHA-1 {}) is not in our record of \
                pec_directory_file ({}), so nobody would believe what it signs",
                settings.certificate_file.display(),
                hashes[1],
                settings.directory_file.display(),
            );
        }
        let infected = InfectedStore::open(&settings)?;
        let scanner = Scanner::new(settings.clamd.clone()).telling(&outages);
        let mailboxes = Mailboxes::new(&settings);
        // Said when everything is in order: an error at the start is one line.
        log_content(&directory, None);
        in_file.keep_looking();
        let (directory, in_force) = (in_file, watch::Sender::default());
        Ok(Self {
            settings,
            clock,
            signer,
            token_turns,
            turns: Turns::default(),
            cas,
            crls,
            directory,
            directories,
            database,
            infected,
            scanner,
            mailboxes,
            in_force,
        })
    }

    /// Has the virus scanner looked at in the background, with messages of up to `largest` bytes. Without it
    /// mail waits; that is no reason not to start.
    pub fn check_scanner(&self, largest: u64) {
        let (watch, mut in_force) = (self.scanner_watch(), self.in_force.subscribe());
        // It holds connections to the database, which an old world must not keep.
        tokio::spawn(async move {
            tokio::select! {
                _ = in_force.changed() => {}
                () = watch.keep_looking(largest) => {}
            }
        });
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

    /// Has a notice around so many `bytes` written and signed by `make`. What has to wait for a token leaves
    /// this thread to others, as what is large does.
    pub async fn write<T>(
        &self,
        bytes: usize,
        make: impl FnOnce(Issuer<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let issuer = Issuer {
            provider_name: &self.settings.provider_name,
            service_domain: &self.settings.service_domain,
            signer: &*self.signer,
        };
        let not_after = self.signer.identity().not_after;
        if self.clock.now() > not_after {
            anyhow::bail!(
                "our certificate has expired on {not_after}: pec_certificate_file = {}",
                self.settings.certificate_file.display()
            );
        }
        if !self.signer.waits() {
            return sized(bytes, || make(issuer));
        }
        let Ok(turn) = tokio::time::timeout(TURN_WAIT, self.token_turns.acquire()).await else {
            anyhow::bail!(
                "the token with the signing key has too much to do: no turn within {} s",
                TURN_WAIT.as_secs()
            );
        };
        let _turn = turn?;
        tokio::task::block_in_place(|| make(issuer))
    }

    /// The service address as an SMTP path: MAIL FROM of everything that we write.
    pub fn service_path(&self) -> String {
        format!("<{}>", service_address(&self.settings.service_domain))
    }

    /// Our own record of the directory: that of this operating environment.
    pub fn own_record(&self) -> anyhow::Result<Provider> {
        let settings = &self.settings;
        let (name, unit) = (&settings.provider_name, settings.provider_unit.as_deref());
        own_record(name, unit, &settings.directory_file, &self.directory.now()).cloned()
    }

    /// Has the directory fetched for a message that is unknown by `before`, unless that was tried just now.
    /// What is in force then, if it is another one.
    pub async fn newer_directory(&self, before: &Arc<Directory>) -> Option<Arc<Directory>> {
        self.directories.as_ref()?.refresh_for_mail(self.clock.now()).await;
        // Also what another program has fetched.
        self.directory.look().await;
        Some(self.directory.now()).filter(|now| !Arc::ptr_eq(now, before))
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
