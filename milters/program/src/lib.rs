//! A program that runs: its [`life`] from start to end, the [`world`] that it goes by, and whom it asks.
//!
//! Promise: nothing here knows a protocol by which mail comes. What a program asks of others (database,
//! token, virus scanner, mailbox server, CAs, directory) either is known or is an error, and then mail waits;
//! what happens besides messages is written into the retained log ([`program_rows`]).

pub mod crls;
pub mod directories;
pub mod infected;
pub mod life;
pub mod mailbox;
pub mod program_rows;
pub mod scanner;
pub mod scanner_watch;
pub mod world;

/// From this size on (bytes), hashing, signing and verifying are work for a thread of their own.
pub const LARGE: usize = 1024 * 1024;
