//! Who looks at the host, and what is seen there.
//!
//! Promise: looking changes nothing, takes seconds, and judges nothing. It never fails as a whole: what
//! cannot be looked at is kept as the reason why.

pub(crate) mod ask;
mod dns;
pub(crate) mod dovecot;
pub(crate) mod files;
mod mailboxes;
pub(crate) mod ours;
pub(crate) mod postfix;
pub(crate) mod sockets;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use pec_core::clock::{Moment, SystemClock};
use pec_core::directory::Directory;
use pec_host::crl_directory::CrlDirectory;
use pec_host::kernel_clock::{KernelClock, kernel_clock};
use pec_host::parameters::{Settings, Socket};
use pec_host::read;
use pec_program::life;
use pec_program::scanner::{Examination, Scanner};
use pec_program::world::World;
use pec_state::authentic::RowKeys;
use pec_state::database::Database;

use crate::check::look::ask::{Known, reason};
use crate::check::look::dovecot::Dovecot;
use crate::check::look::files::{Certificate, Disk, PrivateFile};
use crate::check::look::ours::Ours;
use crate::check::look::postfix::{Postfix, Table};
use crate::check::look::sockets::{Endpoint, Group, Listener, Permissions, Process};
use crate::directory::policy_domains;

/// Everything that the checks go by.
pub(crate) struct Seen {
    pub(crate) now: Moment,
    pub(crate) postfix: Postfix,
    /// Files beside main.cf, by name.
    pub(crate) files: HashMap<&'static str, Known<String>>,
    /// Postfix's lookup tables, by `type:name`.
    pub(crate) tables: HashMap<String, Known<Table>>,
    /// For each domain of another provider the TLS levels that `smtp_tls_policy_maps` says.
    pub(crate) tls_levels: Known<BTreeMap<String, Vec<String>>>,
    pub(crate) dovecot: Known<Dovecot>,
    pub(crate) ours: Known<Ours>,
    pub(crate) directory: Known<Directory>,
    /// Mailboxes that must exist, and whether they do.
    pub(crate) mailboxes: Vec<(String, Known<bool>)>,
    /// An address that nobody has, and whether mail for it is taken.
    pub(crate) nobody: Option<(String, Known<bool>)>,
    /// The sockets by which mail passes.
    pub(crate) endpoints: Vec<Endpoint>,
    /// The group of the directory that the socket of `pec_outgoing_smtpd` lies in.
    pub(crate) outgoing_group: Option<Known<Group>>,
    /// The process of pec-delivery, where it answers.
    pub(crate) delivery: Option<Known<Process>>,
    pub(crate) private_files: Vec<PrivateFile>,
    /// Whether the keys of the database's rows can be read.
    pub(crate) row_keys: Known<()>,
    /// Whether PostgreSQL answers, with the schema of this version.
    pub(crate) database: Known<()>,
    /// Whether the milters could start: key, certificates, directory, stores.
    pub(crate) world: Known<()>,
    /// None where there is none: `pec_clamd = none`.
    pub(crate) scanner: Option<Known<Examination>>,
    /// Of the directory that clamd's socket lies in, and its own; of a port, nothing.
    pub(crate) scanner_socket: Option<(Permissions, Permissions)>,
    pub(crate) certificates: Vec<Certificate>,
    /// Revocation lists that are known: where from, until when they are good.
    pub(crate) crls: Known<Vec<(String, Option<Moment>)>>,
    pub(crate) disks: Vec<Disk>,
    pub(crate) clock: Known<KernelClock>,
    /// The MX hosts of each domain of ours.
    pub(crate) mx: Vec<(String, Known<Vec<String>>)>,
}

impl Seen {
    /// Looks at everything. Fails only where there is no Postfix to ask.
    pub(crate) async fn look(config_directory: &Path, now: Moment) -> anyhow::Result<Self> {
        let postfix = postfix::read(config_directory).map_err(anyhow::Error::msg)?;
        let settings = Settings::read(config_directory).map_err(|e| e.to_string());
        let mut seen = Self {
            now,
            files: postfix::read_files(config_directory),
            tables: postfix::read_tables(config_directory, &postfix),
            tls_levels: Ok(BTreeMap::new()),
            dovecot: Dovecot::read(),
            ours: settings.as_ref().map(Ours::of).map_err(Clone::clone),
            directory: Err(String::new()),
            mailboxes: Vec::new(),
            nobody: None,
            endpoints: Vec::new(),
            outgoing_group: None,
            delivery: None,
            private_files: Vec::new(),
            row_keys: Ok(()),
            database: Err(String::new()),
            world: Err(String::new()),
            scanner: None,
            scanner_socket: None,
            certificates: files::certificates(
                "smtpd_tls_cert_file",
                Path::new(postfix.main("smtpd_tls_cert_file")),
            ),
            crls: Ok(Vec::new()),
            disks: vec![files::disk("queue_directory", Path::new(postfix.main("queue_directory")))],
            clock: kernel_clock(),
            mx: Vec::new(),
            postfix,
        };
        if let Ok(settings) = &settings {
            seen.follow(settings).await;
        }
        Ok(seen)
    }

    /// Looks at what our own parameters lead to.
    async fn follow(&mut self, settings: &Settings) {
        self.directory = read::directory(&settings.directory_file).map_err(reason);
        if let Ok(directory) = &self.directory {
            self.tls_levels = postfix::read_tls_levels(&self.postfix, policy_domains(directory, settings));
        }
        self.private_files = files::private(settings);
        self.row_keys = RowKeys::read(&settings.row_keys_file).map(|_| ()).map_err(reason);
        self.look_at_sockets(settings);
        if self.endpoints.iter().any(Endpoint::is_mailbox_server) {
            let directory = self.directory.as_ref().ok();
            (self.mailboxes, self.nobody) = mailboxes::read(settings, directory).await;
        }
        self.disks.push(files::disk("pec_infected_store", &settings.infected_store));
        self.certificates.extend(files::certificates("pec_certificate_file", &settings.certificate_file));
        self.certificates.extend(files::certificates("pec_ca_file", &settings.ca_file));

        let of = |known: pec_core::smime::crl::Known| (known.place.url, known.crl.map(|crl| crl.next_update));
        let lists = CrlDirectory::new(&settings.crl_directory).lists();
        self.crls = lists.map(|lists| lists.all().into_iter().map(of).collect()).map_err(reason);

        if let Some(Socket::Unix(path)) = &settings.clamd {
            self.scanner_socket = path.parent().and_then(Permissions::of).zip(Permissions::of(path));
        }
        if settings.clamd.is_some() {
            let scanner = Scanner::new(settings.clamd.clone());
            let largest = settings.envelope_size_limit.max(settings.message_size_limit);
            self.scanner = Some(scanner.examine(largest).await.map_err(reason));
        }
        let database = Database::connect(settings, "pecctl").await;
        self.database = database.as_ref().map(|_| ()).map_err(reason);
        if let Ok(database) = database {
            self.world = World::new(settings.clone(), life::Process::quiet(Arc::new(SystemClock)), database)
                .map(|_| ())
                .map_err(|e| format!("{e:#}"));
        }
        if self.postfix.asks_dns() {
            self.mx = dns::mx(settings.local_domains.iter().cloned().collect(), &dns::servers()).await;
        }
    }

    /// Looks who listens, and who may connect.
    fn look_at_sockets(&mut self, settings: &Settings) {
        self.endpoints = sockets::read(settings);
        let of_outgoing = self.endpoints.iter().find(|e| e.listener == Listener::OutgoingSmtpd);
        self.outgoing_group = of_outgoing
            .and_then(|endpoint| endpoint.permissions)
            .map(|(directory, _)| sockets::group(directory.gid));
        let answers = |e: &Endpoint| e.parameter == "pec_delivery_lmtp" && e.answer.is_ok();
        self.delivery =
            self.endpoints.iter().any(answers).then(|| sockets::process_behind(&settings.delivery_lmtp));
    }

    /// The user of the milters: who owns what only they write.
    pub(crate) fn milters_user(&self) -> Option<u32> {
        self.private_files
            .iter()
            .find(|file| file.parameter == "pec_infected_store")
            .and_then(|file| file.state.as_ref().ok())
            .map(|(_, uid)| *uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_can_be_read() {
        // Synchronised or not; in a container that forbids it, an error with its reason.
        if let Err(why) = kernel_clock() {
            assert!(!why.is_empty());
        }
    }
}
