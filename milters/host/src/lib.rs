//! What a host is to the programs that run on it.
//!
//! Promise: who needs something of the host finds it here in one form, checked, and an error is one line that
//! names the parameter or the file. Nothing here knows a database or a protocol by which mail comes.
//!
//! Where to find what:
//! - [`parameters`]: the `pec_` parameters, one table for the programs and for docs/configuration.md, read by
//!   Postfix's own `postconf`.
//! - [`read`]: the keys, certificates and the directory of providers, from the files that parameters name.
//! - [`crl_directory`]: `pec_crl_directory`, the CAs' revocation lists that all programs of a host share.
//! - [`files`]: files that one writes while others read.
//! - [`maillog`]: every line that an administrator reads.
//! - [`outages`]: what mail hangs on beside Postfix, and whether it answers.
//! - [`http`]: how servers are asked over HTTP.
//! - [`kernel_clock`]: whether the clock is right.

pub mod crl_directory;
pub mod files;
pub mod http;
pub mod kernel_clock;
pub mod maillog;
pub mod outages;
pub mod parameters;
pub mod postfix;
pub mod read;

/// The word that an administrator reads beside a queue id that is not known yet, as Postfix writes it.
pub const NO_QUEUE_ID: &str = "NOQUEUE";
