//! What the provider remembers between messages: facts, custody and the retained log in PostgreSQL
//! ([`database`]), infected messages in a directory ([`store`]).
//!
//! Promise: what a function here says is written is on disk. An error means "not known": the caller lets the
//! mail wait (451), and whatever it does again finds what the first attempt may have left.

pub mod authentic;
pub mod database;
pub mod deadlines;
mod envelopes;
pub mod event;
pub mod handover;
pub mod log;
pub mod pool;
pub mod rows;
pub mod sql;
pub mod store;
pub mod trigger;
