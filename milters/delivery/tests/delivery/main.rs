//! The Delivery Point between Postfix and the mailbox server, both played here, with a real PostgreSQL behind
//! it.
#![allow(clippy::unwrap_used)]

mod forgery;
mod handing_over;
mod limits;
mod notices;
mod passing;
mod reports;
mod scene;
mod triggers;
