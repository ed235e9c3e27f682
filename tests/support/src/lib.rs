//! What the tests of the milters share.
//!
//! The database is a real PostgreSQL: `PEC_TEST_DATABASE` says how to reach a server on which databases may
//! be made (`tests/run` starts a throwaway one). Postfix's part of the milter protocol is played by
//! [`postfix`]; the real Postfix has its turn in tests/scenarios.

pub mod clamd;
pub mod file_server;
pub mod judges;
pub mod lmtp;
pub mod log;
pub mod mail_server;
pub mod network;
pub mod pki;
pub mod postfix;
pub mod softhsm;
pub mod tampering;
pub mod tsa;
