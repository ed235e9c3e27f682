//! The grammar: what a server reads of a command line, what a client reads of a reply, and the parts both are
//! made of.
//!
//! Promise: everything here is a function of the bytes that it gets, allocates in proportion to them and
//! refuses what it does not know. A verb begins its line: white space, VT, FF or CR before it make another,
//! unknown verb. A parameter that comes twice, that is not announced or whose value is not as its RFC has it
//! is an error, never read over.
//!
//! The crate `smtp-proto` (0.2.5) was tried instead and is made to be generous: it skips blanks and CR before
//! and within a verb, reads `MAIL FROM:<postmaster>` as the null sender and `<"a b"@x.test>` as `a b@x.test`,
//! takes the second of two `ORCPT=` or `SIZE=`, knows no XFORWARD, and reads the reply `250-` followed by
//! `550` as 250.

use memchr::memchr;

use crate::Reply;

/// The longest line of a reply that is read. RFC 5321 s. 4.5.3.1.5 has 512; Postfix reads 2048.
pub const MOST_REPLY_LINE: usize = 4096;

/// The most lines of a reply that are read.
pub const MOST_REPLY_LINES: usize = 100;

/// The longest ENVID, decoded (RFC 3461 s. 4.4).
pub const MOST_ENVID: usize = 100;

/// The attributes of Postfix's XFORWARD.
const XFORWARD: [&str; 7] = ["NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE"];

/// The verbs that the server knows.
const VERBS: [&str; 9] = ["LHLO", "MAIL", "RCPT", "DATA", "XFORWARD", "RSET", "NOOP", "QUIT", "VRFY"];

/// Why bytes are no line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unframed {
    /// No end within the limit.
    #[error("a line is too long")]
    TooLong,
    /// It ends in LF alone, or has CR or NUL in it.
    #[error("a line has a bare CR, a bare LF or NUL in it")]
    Bare,
}

/// The length of the line, without its CRLF, with which `input` begins. `None`: it is not whole yet.
pub fn line(input: &[u8], limit: usize) -> Result<Option<usize>, Unframed> {
    let Some(end) = memchr(b'\n', input) else {
        return if input.len() >= limit { Err(Unframed::TooLong) } else { Ok(None) };
    };
    if end >= limit {
        return Err(Unframed::TooLong);
    }
    match input[..end].split_last() {
        Some((b'\r', line)) if memchr::memchr2(b'\r', 0, line).is_none() => Ok(Some(line.len())),
        _ => Err(Unframed::Bare),
    }
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `LHLO name`.
    Lhlo,
    /// `MAIL FROM:<..>`.
    Mail(Mail),
    /// `RCPT TO:<..>`.
    Rcpt(Recipient),
    /// `DATA`.
    Data,
    /// `XFORWARD`, with what it says of IDENT: nothing, or that there is none, or which.
    Xforward(Option<Option<String>>),
    /// `RSET`.
    Rset,
    /// `NOOP`.
    Noop,
    /// `QUIT`.
    Quit,
    /// `VRFY`.
    Vrfy,
}

/// What `MAIL FROM` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The path without its brackets; empty for the null sender.
    pub sender: String,
    /// `SIZE=` (RFC 1870).
    pub size: Option<u64>,
    /// `ENVID=`, decoded (RFC 3461).
    pub envid: Option<String>,
    /// `RET=`: `FULL` or `HDRS`.
    pub ret: Option<String>,
}

/// What `RCPT TO` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The path without its brackets.
    pub path: String,
    /// The address of `ORCPT=rfc822;`, decoded. Of other kinds of address: none.
    pub original: Option<String>,
    /// `NOTIFY=`, in capitals: `NEVER`, or words separated by commas.
    pub notify: Option<String>,
}

/// Reads a command line without its CRLF. The error is what the server answers.
pub fn command(line: &[u8]) -> Result<Command, Reply> {
    let text = std::str::from_utf8(line).ok().filter(|t| is_printable(t));
    let text = text.ok_or_else(|| Reply::new(500, "5.5.2", "Commands are printable ASCII"))?;
    let (verb, rest) = text.split_once(' ').map_or((text, None), |(verb, rest)| (verb, Some(rest)));
    match (verb.to_ascii_uppercase().as_str(), rest) {
        ("LHLO", Some(name)) if is_word(name) => Ok(Command::Lhlo),
        ("MAIL", Some(rest)) => mail(rest),
        ("RCPT", Some(rest)) => rcpt(rest),
        ("XFORWARD", Some(rest)) => xforward(rest),
        ("DATA", None) => Ok(Command::Data),
        ("RSET", None) => Ok(Command::Rset),
        ("QUIT", None) => Ok(Command::Quit),
        ("NOOP", _) => Ok(Command::Noop),
        ("VRFY", Some(_)) => Ok(Command::Vrfy),
        ("HELO" | "EHLO", _) => Err(Reply::new(500, "5.5.1", "This is LMTP: say LHLO")),
        (verb, _) if VERBS.contains(&verb) => Err(no_syntax(verb)),
        _ => Err(Reply::new(500, "5.5.1", "Unknown command")),
    }
}

fn no_syntax(what: &str) -> Reply {
    Reply::new(501, "5.5.4", format!("Syntax of {what}"))
}

fn mail(rest: &str) -> Result<Command, Reply> {
    let (sender, parameters) = path_and_parameters(rest, "FROM:<").ok_or_else(|| no_syntax("MAIL FROM"))?;
    let (mut size, mut body, mut envid, mut ret) = (None, None, None, None);
    for (key, value) in parameters {
        match key.as_str() {
            "SIZE" => set(&mut size, "SIZE", number(value))?,
            "BODY" => set(&mut body, "BODY", one_of(value, &["7BIT", "8BITMIME"]))?,
            "ENVID" => {
                set(&mut envid, "ENVID", unxtext(value).filter(|e| (1..=MOST_ENVID).contains(&e.len())))?
            }
            "RET" => set(&mut ret, "RET", one_of(value, &["FULL", "HDRS"]))?,
            _ => return Err(Reply::new(555, "5.5.4", format!("Unknown parameter of MAIL FROM: {key}"))),
        }
    }
    Ok(Command::Mail(Mail { sender: sender.to_owned(), size, envid, ret }))
}

fn rcpt(rest: &str) -> Result<Command, Reply> {
    let (path, parameters) = path_and_parameters(rest, "TO:<")
        .filter(|(p, _)| !p.is_empty())
        .ok_or_else(|| no_syntax("RCPT TO"))?;
    let (mut original, mut notify) = (None, None);
    for (key, value) in parameters {
        match key.as_str() {
            "ORCPT" => set(&mut original, "ORCPT", orcpt(value))?,
            "NOTIFY" => set(&mut notify, "NOTIFY", is_notify(value).then(|| value.to_ascii_uppercase()))?,
            _ => return Err(Reply::new(555, "5.5.4", format!("Unknown parameter of RCPT TO: {key}"))),
        }
    }
    Ok(Command::Rcpt(Recipient { path: path.to_owned(), original: original.flatten(), notify }))
}

fn xforward(rest: &str) -> Result<Command, Reply> {
    let mut ident = None;
    for word in rest.split(' ') {
        let (key, value) = word.split_once('=').ok_or_else(|| no_syntax("XFORWARD"))?;
        let value = unxtext(value).filter(|v| !v.is_empty()).ok_or_else(|| no_syntax("XFORWARD"))?;
        match key.to_ascii_uppercase().as_str() {
            "IDENT" => ident = Some(Some(value).filter(|v| v != "[UNAVAILABLE]")),
            key if XFORWARD.contains(&key) => {}
            _ => return Err(no_syntax("XFORWARD")),
        }
    }
    Ok(Command::Xforward(ident))
}

/// What stands between `keyword` and its `>`, and the parameters behind it, their names in capitals.
fn path_and_parameters<'a>(rest: &'a str, keyword: &str) -> Option<(&'a str, Vec<(String, &'a str)>)> {
    let (said, path) = rest.split_at_checked(keyword.len())?;
    let end = path_end(path)?;
    let parameters = path.get(end..)?.strip_prefix('>')?;
    if !said.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let words = match parameters.strip_prefix(' ') {
        Some(words) => words.split(' ').map(|w| w.split_once('=').unwrap_or((w, ""))).collect(),
        None if parameters.is_empty() => Vec::new(),
        None => return None,
    };
    words.iter().all(|(key, _)| !key.is_empty()).then_some(())?;
    Some((&path[..end], words.into_iter().map(|(key, value)| (key.to_ascii_uppercase(), value)).collect()))
}

/// Where a path ends: before the first `>` outside quotes, or at the end. `None`: it has what no path has.
fn path_end(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (i, b) in text.bytes().enumerate() {
        match b {
            _ if !(b' '..=b'~').contains(&b) => return None,
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some(i),
            b' ' | b'<' if !quoted => return None,
            _ => {}
        }
    }
    (!quoted).then_some(text.len())
}

/// Whether `text`, put into brackets, is that one path and nothing else: printable ASCII, blanks and brackets
/// only in quotes.
pub fn is_path(text: &str) -> bool {
    path_end(text) == Some(text.len())
}

/// Whether `value` is one of NOTIFY (RFC 3461 s. 4.1).
pub fn is_notify(value: &str) -> bool {
    value.eq_ignore_ascii_case("NEVER")
        || value.split(',').all(|word| one_of(word, &["SUCCESS", "FAILURE", "DELAY"]).is_some())
}

/// Whether `text` is one word of printable ASCII.
pub fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Whether `text` is of printable ASCII, blanks among them.
pub fn is_printable(text: &str) -> bool {
    text.bytes().all(|b| (b' '..=b'~').contains(&b))
}

/// The address of an ORCPT; `Some(None)` if it is of another kind than rfc822.
fn orcpt(value: &str) -> Option<Option<String>> {
    let (kind, address) = value.split_once(';')?;
    let address = unxtext(address).filter(|a| !a.is_empty() && is_word(kind))?;
    Some(kind.eq_ignore_ascii_case("rfc822").then_some(address))
}

fn number(value: &str) -> Option<u64> {
    ((1..=20).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit()))
        .then(|| value.parse().ok())?
}

fn one_of(value: &str, words: &[&str]) -> Option<String> {
    words.iter().find(|word| value.eq_ignore_ascii_case(word)).map(|word| (*word).to_owned())
}

/// A parameter's value comes once.
fn set<T>(place: &mut Option<T>, key: &str, value: Option<T>) -> Result<(), Reply> {
    match value {
        Some(value) if place.is_none() => *place = Some(value),
        _ => return Err(no_syntax(key)),
    }
    Ok(())
}

/// Encodes printable ASCII as xtext (RFC 3461 s. 4).
pub fn xtext(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'+' | b'=' => encoded.push_str(&format!("+{b:02X}")),
            b'!'..=b'~' => encoded.push(char::from(b)),
            _ => encoded.push_str(&format!("+{b:02X}")),
        }
    }
    encoded
}

/// Decodes xtext that stands for printable ASCII; of anything else: none.
pub fn unxtext(encoded: &str) -> Option<String> {
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'A'..=b'F').then(|| char::from(b).to_digit(16)).flatten();
    let mut text = String::with_capacity(encoded.len());
    let mut bytes = encoded.bytes();
    while let Some(b) = bytes.next() {
        text.push(match b {
            b'+' => char::from_u32(hex(bytes.next()?)? * 16 + hex(bytes.next()?)?)?,
            b'!'..=b'~' if b != b'=' => char::from(b),
            _ => return None,
        });
    }
    is_printable(&text).then_some(text)
}

/// The lines of a reply, without their code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The code of every line.
    pub code: u16,
    /// What stands behind it in each.
    pub lines: Vec<String>,
}

/// Why bytes are no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A line is none.
    #[error("{0}")]
    Line(#[from] Unframed),
    /// More than [`MOST_REPLY_LINES`].
    #[error("a reply has more than {MOST_REPLY_LINES} lines")]
    TooManyLines,
    /// A line does not begin with a code, or with another one than the line before.
    #[error("{0:?} is no line of a reply")]
    Code(String),
}

/// Reads the reply with which `input` begins, and how many bytes it is. `None`: it is not whole yet.
pub fn reply(input: &[u8]) -> Result<Option<(Said, usize)>, Malformed> {
    let mut said = Said { code: 0, lines: Vec::new() };
    let mut at = 0;
    while let Some(length) = line(&input[at..], MOST_REPLY_LINE)? {
        let text = String::from_utf8_lossy(&input[at..at + length]);
        at += length + 2;
        let (code, goes_on, text) = reply_line(&text)
            .filter(|(code, ..)| said.lines.is_empty() || *code == said.code)
            .ok_or_else(|| no_code(&text))?;
        said.code = code;
        said.lines.push(text.chars().map(|c| if c.is_control() { '?' } else { c }).collect());
        match goes_on {
            false => return Ok(Some((said, at))),
            true if said.lines.len() == MOST_REPLY_LINES => return Err(Malformed::TooManyLines),
            true => {}
        }
    }
    Ok(None)
}

fn no_code(line: &str) -> Malformed {
    Malformed::Code(line.chars().take(80).collect())
}

fn reply_line(line: &str) -> Option<(u16, bool, &str)> {
    let (code, rest) = line.split_at_checked(3)?;
    if !matches!(code.as_bytes(), [b'2'..=b'5', b, c] if b.is_ascii_digit() && c.is_ascii_digit()) {
        return None;
    }
    let goes_on = rest.starts_with('-');
    let text = if rest.is_empty() { rest } else { rest.strip_prefix([' ', '-'])? };
    Some((code.parse().ok()?, goes_on, text))
}

impl From<Said> for Reply {
    fn from(said: Said) -> Self {
        let status = said.lines.first().and_then(|line| status(line, said.code)).map(str::to_owned);
        let text = |line: &String| {
            let rest = status.as_ref().and_then(|s| line.strip_prefix(s.as_str()));
            rest.filter(|r| r.is_empty() || r.starts_with(' ')).unwrap_or(line).trim().to_owned()
        };
        Self {
            code: said.code,
            text: said.lines.iter().map(text).filter(|t| !t.is_empty()).collect::<Vec<_>>().join(" "),
            status,
        }
    }
}

/// The enhanced status code with which a line begins, if it is of the code's class (RFC 2034 s. 4).
fn status(line: &str, code: u16) -> Option<&str> {
    let word = line.split(' ').next()?;
    let mut parts = word.split('.');
    let is_number = |p: &str| (1..=3).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit());
    let class = parts.next()?;
    let is = class.len() == 1
        && class.parse() == Ok(code / 100)
        && parts.next().is_some_and(is_number)
        && parts.next().is_some_and(is_number);
    (is && parts.next().is_none()).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn code(line: &str) -> u16 {
        command(line.as_bytes()).map_or_else(|reply| reply.code, |command| panic!("{line:?} is {command:?}"))
    }

    fn said(input: &str) -> Reply {
        let (said, length) = reply(input.as_bytes()).unwrap().unwrap();
        assert_eq!(length, input.len());
        said.into()
    }

    #[test]
    fn only_crlf_ends_a_line() {
        assert_eq!(line(b"NOOP\r\nQUIT", 100), Ok(Some(4)));
        assert_eq!(line(b"\r\n", 100), Ok(Some(0)));
        assert_eq!(line(b"NOOP\r", 100), Ok(None));
        for bare in ["NOOP\n", "NO\rOP\r\n", "NOOP\r\r\n", "\rNOOP\r\n", "NOOP\n\r\n", "NO\0OP\r\n"] {
            assert_eq!(line(bare.as_bytes(), 100), Err(Unframed::Bare), "{bare:?}");
        }
        assert_eq!(line(b"12345678\r\n", 10), Ok(Some(8)));
        assert_eq!(line(b"123456789\r\n", 10), Err(Unframed::TooLong));
        assert_eq!(line(b"1234567890", 10), Err(Unframed::TooLong));
    }

    #[test]
    fn a_verb_begins_its_line_and_case_does_not_matter() {
        assert_eq!(command(b"DATA"), Ok(Command::Data));
        assert_eq!(command(b"dAtA"), Ok(Command::Data));
        for white in ["\x0b", "\x0c", "\r", "\t", " ", "\0", "\u{a0}"] {
            assert_eq!(code(&format!("{white}DATA")), 500, "{white:?}");
            assert_eq!(code(&format!("{white}RCPT TO:<a@b.test>")), 500, "{white:?}");
            assert!(command(format!("DATA{white}").as_bytes()).is_err(), "{white:?}");
        }
        for unknown in
            ["", "X", "DATAX", "HELP", "EXPN a", "BDAT 3 LAST", "STARTTLS", "AUTH PLAIN", "EHLO a", "HELO a"]
        {
            assert_eq!(code(unknown), 500, "{unknown:?}");
        }
        for syntax in
            ["DATA x", "RSET x", "QUIT ", "LHLO", "LHLO ", "LHLO a b", "VRFY", "MAIL", "RCPT", "XFORWARD"]
        {
            assert_eq!(code(syntax), 501, "{syntax:?}");
        }
    }

    #[test]
    fn rfc5321_paths() {
        let path = |path: &str| match command(format!("RCPT TO:<{path}>").as_bytes()) {
            Ok(Command::Rcpt(recipient)) => Some(recipient.path),
            _ => None,
        };
        for good in [
            "a@b.test",
            "postmaster",
            "\"a b\"@c.test",
            "\"a>b\"@c.test",
            "\"a\\\"> <b\"@c.test",
            "a+b=c@d.test",
        ] {
            assert_eq!(path(good).as_deref(), Some(good));
            assert!(is_path(good));
        }
        for bad in ["", "a b@c.test", "a<b@c.test", "\"a@b.test", "è@b.test", "a@b.test> <c@d.test"] {
            assert_eq!(path(bad), None, "{bad}");
        }
        for bad in ["a b", "a>b", "a<b", "a\r\nDATA", "a\0b", "è", "\"a"] {
            assert!(!is_path(bad), "{bad:?}");
        }
        for bad in [
            "RCPT TO: <a@b.test>",
            "RCPT TO <a@b.test>",
            "RCPT TO:a@b.test",
            "RCPT  TO:<a@b.test>",
            "RCPT FROM:<a@b.test>",
            "MAIL TO:<>",
        ] {
            assert_eq!(code(bad), 501, "{bad}");
        }
        for bad in [
            "RCPT TO:<a@b.test> ",
            "RCPT TO:<a@b.test>x",
            "RCPT TO:<a@b.test>  NOTIFY=NEVER",
            "RCPT TO:<a@b.test> =x",
        ] {
            assert_eq!(code(bad), 501, "{bad}");
        }
    }

    #[test]
    fn mail_and_its_parameters() {
        let all = command(b"mail from:<> size=1234 body=8bitmime ret=hdrs envid=a+2Bb+3D+20c");
        let (envid, ret) = (Some("a+b= c".to_owned()), Some("HDRS".to_owned()));
        assert_eq!(all, Ok(Command::Mail(Mail { sender: String::new(), size: Some(1234), envid, ret })));
        let none = Mail { sender: "a@b.test".to_owned(), size: None, envid: None, ret: None };
        assert_eq!(command(b"MAIL FROM:<a@b.test>"), Ok(Command::Mail(none)));
        for bad in [
            "SIZE=",
            "SIZE=-1",
            "SIZE=+1",
            "SIZE=99999999999999999999999",
            "SIZE=1 SIZE=1",
            "BODY=BINARYMIME",
            "RET=",
            "RET=BODY",
            "ENVID=",
            "ENVID=a+2bb",
            "ENVID=a+0D+0Ab",
            "ENVID=a+E8",
            "ENVID=a=b",
            "ENVID=a+2",
            "ENVID=a ENVID=b",
            &format!("ENVID={}", "x".repeat(101)),
        ] {
            assert_eq!(code(&format!("MAIL FROM:<a@b.test> {bad}")), 501, "{bad}");
        }
        for unknown in ["SMTPUTF8", "AUTH=<>", "REQUIRETLS", "X=1", "NOTIFY=NEVER"] {
            assert_eq!(code(&format!("MAIL FROM:<a@b.test> {unknown}")), 555, "{unknown}");
        }
    }

    #[test]
    fn rcpt_and_its_parameters() {
        let recipient = |original: Option<&str>, notify: Option<&str>| {
            let owned = |word: Option<&str>| word.map(str::to_owned);
            Ok(Command::Rcpt(Recipient {
                path: "a@b.test".to_owned(),
                original: owned(original),
                notify: owned(notify),
            }))
        };
        assert_eq!(command(b"RCPT TO:<a@b.test>"), recipient(None, None));
        assert_eq!(
            command(b"RCPT TO:<a@b.test> NOTIFY=failure,Delay ORCPT=rfc822;c+2Bd@e.test"),
            recipient(Some("c+d@e.test"), Some("FAILURE,DELAY"))
        );
        assert_eq!(
            command(b"RCPT TO:<a@b.test> NOTIFY=NEVER ORCPT=RFC822;c@d.test"),
            recipient(Some("c@d.test"), Some("NEVER"))
        );
        // Another kind of address is not taken for one of mail.
        assert_eq!(command(b"RCPT TO:<a@b.test> ORCPT=x400;c@d.test"), recipient(None, None));
        for bad in [
            "NOTIFY=",
            "NOTIFY=NEVER,FAILURE",
            "NOTIFY=ALWAYS",
            "NOTIFY=FAILURE,",
            "NOTIFY",
            "ORCPT=c@d.test",
            "ORCPT=rfc822;",
            "ORCPT=;c@d.test",
            "ORCPT=rfc822;c+0A@d.test",
            "ORCPT=rfc822;c@d.test ORCPT=rfc822;e@f.test",
            "NOTIFY=NEVER NOTIFY=NEVER",
        ] {
            assert_eq!(code(&format!("RCPT TO:<a@b.test> {bad}")), 501, "{bad}");
        }
        assert_eq!(code("RCPT TO:<a@b.test> ENVID=x"), 555);
    }

    #[test]
    fn of_xforward_only_ident_is_kept() {
        let ident = |line: &str| command(format!("XFORWARD {line}").as_bytes());
        assert_eq!(
            ident("NAME=a.test ADDR=192.0.2.1 PORT=25 HELO=b PROTO=ESMTP SOURCE=REMOTE"),
            Ok(Command::Xforward(None))
        );
        assert_eq!(
            ident("name=[UNAVAILABLE] ident=4gW+2BxY"),
            Ok(Command::Xforward(Some(Some("4gW+xY".to_owned()))))
        );
        assert_eq!(ident("IDENT=[UNAVAILABLE]"), Ok(Command::Xforward(Some(None))));
        for bad in ["IDENT", "IDENT=", "IDENT=+0A", "IDENT=a  NAME=b", "COLOUR=red"] {
            assert_eq!(code(&format!("XFORWARD {bad}")), 501, "{bad}");
        }
    }

    #[test]
    fn rfc5321_4_2_replies() {
        assert_eq!(said("250 Ok\r\n"), Reply::new(250, None, "Ok"));
        assert_eq!(said("250\r\n"), Reply::new(250, None, ""));
        assert_eq!(
            said("550 5.1.1 <a@b.test> User doesn't exist\r\n"),
            Reply::new(550, "5.1.1", "<a@b.test> User doesn't exist")
        );
        assert_eq!(
            said("451-4.3.0 one\r\n451-4.3.0 two\r\n451 4.3.0\r\n"),
            Reply::new(451, "4.3.0", "one two")
        );
        assert_eq!(said("550-5.1.1 one\r\n550 two\r\n"), Reply::new(550, "5.1.1", "one two"));
        // What only looks like a status code of this reply.
        for text in ["2.0.0 x", "5.1 x", "5.1.1.1 x", "5.1234.1 x", "5.a.1 x", "192.0.2.1 x"] {
            assert_eq!(said(&format!("550 {text}\r\n")), Reply::new(550, None, text));
        }
        assert_eq!(said("250 a\x1bb\tc\r\n").text, "a?b?c");
        for part in ["", "2", "250", "250 Ok", "250 Ok\r", "250-Ok\r\n", "250-Ok\r\n250"] {
            assert_eq!(reply(part.as_bytes()), Ok(None), "{part:?}");
        }
        assert_eq!(reply(b"250 a\r\n250 b\r\n").unwrap().unwrap().1, 7);
    }

    #[test]
    fn what_is_no_reply_is_never_taken_for_one() {
        for bad in [
            "250 a\n",
            "25 a\r\n",
            "2500 a\r\n",
            "250_a\r\n",
            "150 a\r\n",
            "650 a\r\n",
            " 250 a\r\n",
            "\r\n",
            "Ok\r\n",
            "2é0 a\r\n",
            "+250\r\n",
            "25\u{663} a\r\n",
        ] {
            assert!(reply(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert_eq!(reply(b"250-a\r\n550 b\r\n"), Err(Malformed::Code("550 b".to_owned())));
        let long = |n: usize| format!("250 {}\r\n", "x".repeat(n - 6));
        assert!(reply(long(MOST_REPLY_LINE).as_bytes()).unwrap().is_some());
        assert!(reply(long(MOST_REPLY_LINE + 1).as_bytes()).is_err());
        let lines = |n: usize| "250-x\r\n".repeat(n - 1) + "250 x\r\n";
        assert!(reply(lines(MOST_REPLY_LINES).as_bytes()).unwrap().is_some());
        assert_eq!(reply(lines(MOST_REPLY_LINES + 1).as_bytes()), Err(Malformed::TooManyLines));
    }

    proptest! {
        #[test]
        fn xtext_comes_back(text in "[ -~]{0,80}") {
            prop_assert!(xtext(&text).bytes().all(|b| b.is_ascii_graphic() && b != b'='));
            prop_assert_eq!(unxtext(&xtext(&text)), Some(text));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (line(&bytes, 200), reply(&bytes));
            if let Err(reply) = command(&bytes) {
                prop_assert!(reply.is_final_no());
            }
        }

        #[test]
        fn what_comes_near_a_command_is_read_or_refused(line in "(?i)(MAIL FROM:|RCPT TO:|XFORWARD )<?[ \
            -~]{0,12}>?( (SIZE|ENVID|RET|ORCPT|NOTIFY|BODY|IDENT)=[ -~]{0,9}){0,3}") {
            if let Ok(Command::Rcpt(recipient)) = command(line.as_bytes()) {
                prop_assert!(is_path(&recipient.path));
            }
        }
    }
}
