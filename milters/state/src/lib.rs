//! What the provider remembers between messages: facts, custody and the retained log in PostgreSQL
//! ([`database`], and a file for each table), infected messages in a directory ([`store`]).
//!
//! Promise: what a function here says is written is on disk. An error means "not known": the caller lets the
//! mail wait (451), and whatever it does again finds what the first attempt may have left.

pub mod authentic;
mod certified;
mod custody;
pub mod database;
pub mod deadlines;
mod envelopes;
pub mod event;
mod fact;
mod fact_kind;
mod formerly;
pub mod handover;
pub mod log;
pub mod names;
mod not_accepted;
mod passed;
pub mod pool;
mod ricevuta;
mod sent;
mod sql;
pub mod store;
pub mod trigger;

/// The rows of the tables, as the programs use them.
pub mod rows {
    pub use crate::custody::{Custody, InCustody};
    pub use crate::fact::{About, Fact, Known, MadeNotice, TimeSource};
    pub use crate::fact_kind::FactKind;
    pub use crate::not_accepted::NotAccepted;
    pub use crate::passed::{Passed, PassedKind};
    pub use crate::ricevuta::Ricevuta;
    pub use crate::sent::Sent;
}
