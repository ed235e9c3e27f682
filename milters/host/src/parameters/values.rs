//! What a value may be: one type for each kind, with what is allowed in words, and how it is read.
//!
//! Promise: what a kind reads is of the kind's own Rust type; nothing else in the programs looks at a value's
//! text again.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path as FilePath, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use pec_core::address::{Address, is_domain};
use pec_core::smime::pkcs11::Pkcs11Uri;
use pec_core::smime::verify::TooOld;

use super::ParameterError;

/// What the value of a parameter may be.
pub(super) trait Kind {
    /// What it is in the programs.
    type Value;

    /// What is allowed, in words that follow "it must be".
    fn allowed(&self) -> String;

    /// The value, where `text` is allowed.
    fn read(&self, text: &str, queue_directory: &FilePath) -> Option<Self::Value>;

    /// The value, or an error that names the parameter and says what is allowed.
    fn value(
        &self,
        name: &'static str,
        text: &str,
        queue_directory: &FilePath,
    ) -> Result<Self::Value, ParameterError> {
        self.read(text, queue_directory).ok_or_else(|| ParameterError::Value {
            name: name.to_owned(),
            value: text.to_owned(),
            allowed: self.allowed(),
        })
    }
}

/// What holds where a parameter is not set.
pub(super) trait Unset: Copy {
    /// The field of a value of this type.
    type Field<T>;

    /// The value that holds then, if there is one.
    fn default(self) -> Option<&'static str>;

    /// The field; nothing where it must be set and is not.
    fn field<T>(self, value: Option<T>) -> Option<Self::Field<T>>;

    /// Whether it must be set.
    fn is_required(self) -> bool;
}

/// The programs do not start.
#[derive(Clone, Copy)]
pub(super) struct Required;
pub(super) const REQUIRED: Required = Required;

/// Nothing: the thing is not used.
#[derive(Clone, Copy)]
pub(super) struct Optional;
pub(super) const OPTIONAL: Optional = Optional;

/// This value; an empty one is an empty list.
#[derive(Clone, Copy)]
pub(super) struct Or(pub(super) &'static str);

impl Unset for Required {
    type Field<T> = T;

    fn default(self) -> Option<&'static str> {
        None
    }

    fn field<T>(self, value: Option<T>) -> Option<T> {
        value
    }

    fn is_required(self) -> bool {
        true
    }
}

impl Unset for Optional {
    type Field<T> = Option<T>;

    fn default(self) -> Option<&'static str> {
        None
    }

    fn field<T>(self, value: Option<T>) -> Option<Option<T>> {
        Some(value)
    }

    fn is_required(self) -> bool {
        false
    }
}

impl Unset for Or {
    type Field<T> = T;

    fn default(self) -> Option<&'static str> {
        Some(self.0)
    }

    fn field<T>(self, value: Option<T>) -> Option<T> {
        value
    }

    fn is_required(self) -> bool {
        false
    }
}

/// Defines kinds that have no values of their own: name, Rust type, words, reading.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident: $type:ty = $allowed:literal, $read:expr;)*) => {$(
        $(#[$doc])*
        pub(super) struct $kind;

        impl Kind for $kind {
            type Value = $type;

            fn allowed(&self) -> String {
                $allowed.to_owned()
            }

            fn read(&self, text: &str, queue_directory: &FilePath) -> Option<$type> {
                let read: fn(&str, &FilePath) -> Option<$type> = $read;
                read(text, queue_directory)
            }
        }
    )*};
}

kinds! {
    /// A mail domain, in lower case.
    Domain: String = "a mail domain", |text, _| {
        (is_domain(text) && text.contains('.')).then(|| text.to_ascii_lowercase())
    };
    /// Any text.
    Text: String = "a text that is not empty", |text, _| (!text.is_empty()).then(|| text.to_owned());
    /// An absolute path.
    Path: PathBuf = "an absolute path", |text, _| text.starts_with('/').then(|| text.into());
    /// Where a milter listens: `unix:path` (below Postfix's queue_directory unless absolute) or
    /// `inet:host:port`.
    ListenAt: Socket = "unix:path or inet:host:port", Socket::parse;
    /// A socket that the file system guards.
    UnixSocket: Socket = "unix:path", |text, queue_directory| {
        Socket::parse(text, queue_directory).filter(|socket| matches!(socket, Socket::Unix(_)))
    };
    /// Where another program listens; nothing for `none`.
    Peer: Option<Socket> = "unix:path, inet:host:port or none", |text, queue_directory| {
        if text == "none" { Some(None) } else { Socket::parse(text, queue_directory).map(Some) }
    };
    /// Mail domains and mail addresses, separated by blanks or commas, or the word `all`.
    Addresses: OrdinaryMail = "mail domains and addresses, or all", |text, _| OrdinaryMail::parse(text);
    /// Names of hosts or domains, separated by blanks or commas, in lower case.
    Domains: HashSet<String> = "a list of host names", |text, _| {
        split_list(text).into_iter().map(|e| is_domain(&e).then(|| e.to_ascii_lowercase())).collect()
    };
    /// An `https://` address.
    HttpsUrl: String = "an https:// address", |text, _| {
        (text.starts_with("https://") && is_web_url(text)).then(|| text.to_owned())
    };
    /// An `http://` or `https://` address.
    WebUrl: String = "an http:// or https:// address", |text, _| is_web_url(text).then(|| text.to_owned());
    /// Mail addresses, and `http://` or `https://` addresses with a public key behind `#`, separated by
    /// blanks or commas.
    Witnesses: Vec<Witness> = "a list of mail addresses and of http:// or https:// addresses, each of these \
        with #NAME+ID+KEY behind it", |text, _| split_list(text).iter().map(|e| Witness::parse(e)).collect();
    /// A time as Postfix writes it: a number and a unit.
    Time: Duration = "a time such as 45s, 30m, 6h or 2d", |text, _| seconds(text).map(Duration::from_secs);
    /// File name extensions, in lower case, without the dots that some write.
    Extensions: HashSet<String> = "a list of file name extensions such as exe, js", |text, _| {
        let extension = |e: &String| {
            let e = e.trim_start_matches('.').to_ascii_lowercase();
            (!e.is_empty() && e.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(e)
        };
        split_list(text).iter().map(extension).collect()
    };
    /// `yes` or `no`.
    YesNo: bool = "yes or no", |text, _| match text {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    };
    /// What becomes of mail whose CA's list is too old.
    WaitOrBelieve: TooOld = "wait or believe", |text, _| match text {
        "wait" => Some(TooOld::Wait),
        "believe" => Some(TooOld::Believe),
        _ => None,
    };
}

/// A number of bytes, at least the first and at most the second.
pub(super) struct Bytes(pub(super) u64, pub(super) u64);

impl Kind for Bytes {
    type Value = u64;

    fn allowed(&self) -> String {
        format!("a number of bytes from {} to {}", self.0, self.1)
    }

    fn read(&self, text: &str, _: &FilePath) -> Option<u64> {
        text.parse().ok().filter(|n| (self.0..=self.1).contains(n))
    }
}

/// A number, at least the first and at most the second.
pub(super) struct Count<T>(pub(super) T, pub(super) T);

impl<T: FromStr + fmt::Display + PartialOrd> Kind for Count<T> {
    type Value = T;

    fn allowed(&self) -> String {
        format!("a number from {} to {}", self.0, self.1)
    }

    fn read(&self, text: &str, _: &FilePath) -> Option<T> {
        text.parse().ok().filter(|n| (&self.0..=&self.1).contains(&n))
    }
}

/// A private key: an absolute path, or a `pkcs11:` URI.
pub(super) struct Key;

impl Kind for Key {
    type Value = SigningKey;

    fn allowed(&self) -> String {
        "an absolute path or a pkcs11: URI".to_owned()
    }

    fn read(&self, text: &str, _: &FilePath) -> Option<SigningKey> {
        SigningKey::parse("", text).ok()
    }

    fn value(&self, name: &'static str, text: &str, _: &FilePath) -> Result<SigningKey, ParameterError> {
        SigningKey::parse(name, text)
    }
}

/// Where something listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Socket {
    /// A unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Inet(String),
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Inet(address) => write!(f, "inet:{address}"),
        }
    }
}

impl Socket {
    /// Reads Postfix's spelling; a relative path is one below `queue_directory`, as Postfix's own processes
    /// see it.
    fn parse(text: &str, queue_directory: &FilePath) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return (!path.is_empty()).then(|| Self::Unix(queue_directory.join(path)));
        }
        let address = text.strip_prefix("inet:")?;
        let (host, port) = address.rsplit_once(':')?;
        let is_address = !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0);
        is_address.then(|| Self::Inet(address.to_owned()))
    }
}

/// Where a private key of ours is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SigningKey {
    /// In a PEM file.
    File(PathBuf),
    /// On a token, which [`Pkcs11::token`] says how to reach.
    Token(Pkcs11Uri),
}

impl SigningKey {
    /// Reads `text`, spelled as `pec_signing_key`; `name` is the parameter that an error names.
    pub fn parse(name: &str, text: &str) -> Result<Self, ParameterError> {
        if text.starts_with('/') {
            return Ok(Self::File(text.into()));
        }
        let refused = |shown: &str, allowed: String| ParameterError::Value {
            name: name.to_owned(),
            value: shown.to_owned(),
            allowed,
        };
        match text.parse() {
            Ok(uri) => Ok(Self::Token(uri)),
            Err(why) if text.starts_with("pkcs11:") => {
                // Whoever writes a PIN into the URI shall not find it in the log besides.
                let shown = text.find("pin").map_or(text.to_owned(), |pin| format!("{}...", &text[..pin]));
                Err(refused(&shown, format!("{} (RFC 7512), and {why}", Key.allowed())))
            }
            Err(_) => Err(refused(text, Key.allowed())),
        }
    }
}

/// How tokens are reached, whichever key of theirs is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pkcs11 {
    /// `pec_pkcs11_module`.
    pub module: Option<PathBuf>,
    /// `pec_pkcs11_pin_file`.
    pub pin_file: Option<PathBuf>,
    /// `pec_pkcs11_time_limit`.
    pub time_limit: Duration,
    /// See [`Token::program`].
    pub program: PathBuf,
    /// Where this is set.
    pub main_cf: String,
}

/// A token with a key of ours, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Which token, which key.
    pub uri: Pkcs11Uri,
    /// The vendor's library.
    pub module: PathBuf,
    /// The file with the PIN.
    pub pin_file: PathBuf,
    /// How long opening or one signature may take.
    pub time_limit: Duration,
    /// The program that talks to the library: pec-token, which lies beside the others.
    pub program: PathBuf,
}

impl Pkcs11 {
    /// The token with the key that `uri` names. The error names the parameter that it needs.
    pub fn token(&self, uri: &Pkcs11Uri) -> Result<Token, ParameterError> {
        let needed = |name: &'static str, path: &Option<PathBuf>| {
            let allowed = format!("{}, since the key is on a token", Path.allowed());
            path.clone().ok_or_else(|| ParameterError::Missing {
                name,
                main_cf: self.main_cf.clone(),
                allowed,
            })
        };
        Ok(Token {
            uri: uri.clone(),
            module: needed("pec_pkcs11_module", &self.module)?,
            pin_file: needed("pec_pkcs11_pin_file", &self.pin_file)?,
            time_limit: self.time_limit,
            program: self.program.clone(),
        })
    }
}

/// Who takes no ordinary mail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrdinaryMail {
    all: bool,
    /// Domains and addresses in lower case.
    entries: HashSet<String>,
}

impl OrdinaryMail {
    /// Reads the value of `pec_refuse_ordinary_mail`.
    pub fn parse(value: &str) -> Option<Self> {
        if value == "all" {
            return Some(Self { all: true, entries: HashSet::new() });
        }
        let entry =
            |e: String| (is_domain(&e) || Address::parse(&e).is_some()).then(|| e.to_ascii_lowercase());
        let entries = split_list(value).into_iter().map(entry).collect::<Option<_>>()?;
        Some(Self { all: false, entries })
    }

    /// Whether ordinary mail to `recipient` is refused.
    pub fn is_refused(&self, recipient: &Address) -> bool {
        self.all || self.entries.contains(&recipient.domain()) || self.entries.contains(&recipient.key())
    }
}

/// Somebody to whom checkpoints are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Witness {
    /// By mail.
    Mail(Address),
    /// A program that speaks C2SP tlog-witness.
    Web {
        /// Where, without what comes behind `#`, and without `/` at its end.
        url: String,
        /// Its public key (C2SP signed-note: `NAME+ID+KEY`).
        key: String,
    },
}

impl Witness {
    /// Reads an entry of `pec_witnesses`.
    pub fn parse(text: &str) -> Option<Self> {
        if !text.contains("://") {
            return Address::parse(text).map(Self::Mail);
        }
        let (url, key) = text.split_once('#')?;
        let [name, id, bytes] = key.splitn(3, '+').collect::<Vec<_>>()[..] else { return None };
        let is_id = id.len() == 8 && id.bytes().all(|b| b.is_ascii_hexdigit());
        let is_key = !name.is_empty() && is_id && !bytes.is_empty();
        let web = || Self::Web { url: url.trim_end_matches('/').to_owned(), key: key.to_owned() };
        (is_web_url(url) && is_key).then(web)
    }
}

/// A Postfix list: separated by commas and blanks, `{...}` kept together.
pub fn split_list(text: &str) -> Vec<String> {
    let (mut entries, mut current, mut depth) = (Vec::new(), String::new(), 0_usize);
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && (c == ',' || c.is_whitespace()) {
            entries.push(std::mem::take(&mut current));
        } else {
            current.push(c);
        }
    }
    entries.push(current);
    entries.retain(|e| !e.is_empty());
    entries
}

fn is_web_url(value: &str) -> bool {
    let rest = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(' '))
}

/// A time in seconds.
fn seconds(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit).filter(|&s| s > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dm_2_11_2005_art_14_mailboxes_may_take_certified_mail_only() {
        let refused = |value: &str, recipient: &str| {
            OrdinaryMail::parse(value).unwrap().is_refused(&Address::parse(recipient).unwrap())
        };
        assert!(
            refused("all", "a@x.test")
                && refused("y.test, X.test", "a@x.TEST")
                && refused("A@x.test", "a@X.test")
        );
        assert!(
            !refused("", "a@x.test") && !refused("x.test", "a@y.test") && !refused("a@x.test", "b@x.test")
        );
    }
}
