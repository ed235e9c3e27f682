//! What a PEC message is: how it is read, written, signed and verified.
//!
//! Promise: bytes come in, messages and judgements go out. Nothing here knows milters, databases, files,
//! processes or the network.
//!
//! Where to find what:
//! - [`notices`]: one file for each message that a provider writes (wording, headers, daticert.xml).
//! - [`daticert`]: the certification data, `daticert.xml` (RFC 6109 s. 4.4).
//! - [`message`], [`mime`], [`header`]: a message as slices of the bytes that arrived; nothing is ever
//!   re-serialised.
//! - [`attachments`]: what is attached, of kinds that are not carried.
//! - [`breve`]: the original as a brief delivery receipt carries it.
//! - [`envelope`]: reading a signed PEC message of another provider.
//! - [`smime`]: signatures, made and checked.
//! - [`directory`]: the index of the providers (RFC 6109 s. 4.5).
//! - [`dsn`]: Postfix's delivery reports.

pub mod address;
pub mod attachments;
pub mod breve;
pub mod clock;
pub mod daticert;
pub mod directory;
pub mod dsn;
pub mod envelope;
pub mod header;
pub mod identifier;
pub mod literal;
pub mod message;
pub mod mime;
pub mod notices;
pub mod showable;
pub mod smime;
