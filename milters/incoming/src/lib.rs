//! Incoming Point (RFC 6109 s. 3.2): judges what arrives and takes envelopes in charge.
//!
//! Promise: only what a provider of the directory has signed comes in, byte for byte as it was signed. An
//! envelope is taken with a row that says so; its ricevuta di presa in carico is written by pec-delivery, if
//! and only if Postfix has the envelope in its queue. An envelope with a virus is taken too, and delivered to
//! nobody. Receipts go to their mailboxes untouched. On any doubt: 451, the other side keeps the message and
//! tries again.

pub mod decision;
mod session;
mod standing;
mod triggers;
mod virus;

pub use session::{Door, IncomingPoint};
