//! LMTP (RFC 2033) and SMTP (RFC 5321), as little as the Delivery Point needs: a server on a unix socket and
//! a client.
//!
//! Promise: no answer is lost and none is invented. The server says yes about a recipient only if the
//! [`Receiver`] did, and a message whose last line did not come is not shown to it. The client gives back the
//! other server's word, or says that there was none and whether the message may be there all the same. Lines,
//! replies, messages, connections and waits are bounded, each by a figure that the user gives or the file
//! names.
//!
//! Nothing here knows what a message is about.

use std::fmt;
use std::path::PathBuf;

pub mod client;
mod connection;
pub mod dots;
pub mod grammar;
mod io;
pub mod server;

pub use client::{Accepted, Answer, Failure, Offered, Options, Outgoing, Pool, Protocol, Step};
pub use grammar::Recipient;
pub use server::{Limits, Received, Receiver, serve};

/// The longest text of a reply that is written: a reply is a line of 512 bytes (RFC 5321 s. 4.5.3.1.5).
const MOST_TEXT: usize = 490;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Inet(String),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Inet(address) => write!(f, "inet:{address}"),
        }
    }
}

/// What a server says to a command. Displayed as `550 5.1.1 No such user`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Three digits, the first of them 2 to 5.
    pub code: u16,
    /// The enhanced status code (RFC 3463), if it has one that goes with the code: `5.1.1`.
    pub status: Option<String>,
    /// The text of all lines, joined by blanks.
    pub text: String,
}

impl Reply {
    /// A reply of one line; `status` is an enhanced status code or `None`.
    pub fn new<'a>(code: u16, status: impl Into<Option<&'a str>>, text: impl Into<String>) -> Self {
        Self { code, status: status.into().map(str::to_owned), text: text.into() }
    }

    /// Whether it says yes (2xx).
    pub fn is_yes(&self) -> bool {
        self.code / 100 == 2
    }

    /// Whether it says no for now (4xx).
    pub fn is_not_yet(&self) -> bool {
        self.code / 100 == 4
    }

    /// Whether it says no for good (5xx).
    pub fn is_final_no(&self) -> bool {
        self.code / 100 == 5
    }

    /// As a server writes it: one line in printable ASCII, whatever the text is made of.
    fn line(&self) -> String {
        let printable = |c| if matches!(c, ' '..='~') { c } else { '?' };
        let mut line: String = self.to_string().chars().map(printable).take(MOST_TEXT).collect();
        line.push_str("\r\n");
        line
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.status {
            Some(status) => write!(f, "{} {status} {}", self.code, self.text),
            None => write!(f, "{} {}", self.code, self.text),
        }
    }
}
