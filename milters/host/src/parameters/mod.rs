//! The `pec_` parameters, which stand in Postfix's own main.cf.
//!
//! Promise: each parameter is one entry of the [`table()`]: name, type, what holds if it is not set, what it
//! may be, what it means. [`Settings`] has a field for each entry, under its name without `pec_`, and
//! docs/configuration.md is printed from the same entries. An unknown `pec_` parameter, a missing one or a
//! value that is not allowed is one line with name, value and what is allowed. What Postfix knows already
//! (`virtual_mailbox_domains`, `message_size_limit` ...) is asked of Postfix, never set twice.
//!
//! Each file knows those before it alone:
//! - `values.rs`: what a value may be: the grammar of each kind.
//! - `postfix.rs`: main.cf, read by Postfix's own `postconf` and `postmap`.
//! - `table.rs`: the entries, and the [`Settings`] that are made of them.

mod postfix;
mod table;
mod values;

pub use table::{
    DirectorySource, ENVELOPE_ALLOWANCE, GUARANTEED_SIZE, Parameter, Settings, Timestamps,
    WRAPPING_ALLOWANCE, markdown, names_set, table,
};
pub use values::{OrdinaryMail, Pkcs11, SigningKey, Socket, Token, Witness, split_list};

/// What is wrong with the configuration, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ParameterError {
    /// `postconf` does not run or fails.
    #[error("postconf: {0}")]
    Postconf(String),
    /// `pec_...` that is none of ours.
    #[error("{0}: unknown parameter; see docs/configuration.md for those that exist")]
    Unknown(String),
    /// A required one is missing.
    #[error("{name} is not set in {main_cf}; it must be {allowed}")]
    Missing {
        /// The parameter.
        name: &'static str,
        /// The file.
        main_cf: String,
        /// What it may be.
        allowed: String,
    },
    /// A value that is not allowed.
    #[error("{name} = {value}: not allowed; it must be {allowed}")]
    Value {
        /// The parameter.
        name: String,
        /// What it is.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// A file that a parameter names cannot be read.
    #[error("{name} = {path}: {trouble}")]
    File {
        /// The parameter.
        name: &'static str,
        /// Its value.
        path: String,
        /// What happened.
        trouble: String,
    },
}
