//! LMTP and SMTP: `pec_lmtp::grammar` and `pec_lmtp::dots`. The input is what the other side says, read as
//! commands, as a reply and as a message.
//!
//! Promise: what is read of a line stands in it, and said again it is read the same; nothing is read beyond
//! the line or the reply. A message ends at CRLF, dot, CRLF alone, wherever the pieces of it are cut, and
//! what is sent comes out as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pec_fuzz::is_drawn_from;
use pec_lmtp::dots::{Stuff, Unstuff};
use pec_lmtp::grammar::{self, Command, MOST_ENVID, is_path, is_printable, unxtext, xtext};

/// As the server's limits have it.
const LINE: usize = 2048;

fn commands(mut input: &[u8]) {
    while let Ok(Some(length)) = grammar::line(input, LINE) {
        let line = &input[..length];
        assert!(
            length < LINE
                && input[length..].starts_with(b"\r\n")
                && !line.contains(&b'\n')
                && !line.contains(&b'\r')
        );
        match grammar::command(line) {
            Ok(command) => is_sound(&command, line),
            Err(reply) => assert!((500..=599).contains(&reply.code) && is_printable(&reply.text), "{reply}"),
        }
        input = &input[length + 2..];
    }
}

/// The verb begins the line, and all that the command says stands there.
fn is_sound(command: &Command, line: &[u8]) {
    assert!(
        line.first().is_some_and(u8::is_ascii_alphabetic) && line.iter().all(|b| (b' '..=b'~').contains(b))
    );
    let again = match command {
        Command::Mail(mail) => {
            assert!(is_path(&mail.sender) && is_drawn_from(&mail.sender, line));
            assert!(
                mail.envid
                    .as_ref()
                    .is_none_or(|envid| (1..=MOST_ENVID).contains(&envid.len()) && is_printable(envid))
            );
            let word = |name: &str, value: Option<String>| {
                value.map(|value| format!(" {name}={value}")).unwrap_or_default()
            };
            let size = word("SIZE", mail.size.map(|size| size.to_string()));
            let envid = word("ENVID", mail.envid.as_deref().map(xtext));
            format!("mail from:<{}>{size}{envid}{}", mail.sender, word("RET", mail.ret.clone()))
        }
        Command::Rcpt(recipient) => {
            assert!(
                !recipient.path.is_empty()
                    && is_path(&recipient.path)
                    && is_drawn_from(&recipient.path, line)
            );
            let original = recipient
                .original
                .as_deref()
                .map(|o| format!(" orcpt=rfc822;{}", xtext(o)))
                .unwrap_or_default();
            let notify = recipient.notify.as_ref().map(|n| format!(" notify={n}")).unwrap_or_default();
            format!("rcpt to:<{}>{original}{notify}", recipient.path)
        }
        _ => return,
    };
    assert_eq!(grammar::command(again.as_bytes()).ok().as_ref(), Some(command), "{again}");
}

fn reply(input: &[u8]) {
    let Ok(Some((said, length))) = grammar::reply(input) else { return };
    assert!(
        (200..=599).contains(&said.code)
            && !said.lines.is_empty()
            && said.lines.len() <= grammar::MOST_REPLY_LINES
    );
    assert!(length <= input.len() && input[..length].ends_with(b"\r\n"));
    assert_eq!(input[..length].iter().filter(|&&b| b == b'\n').count(), said.lines.len());
    assert!(!said.lines.iter().any(|line| line.contains(char::is_control)));
    // It is whole with its last byte, and not before.
    assert_eq!(grammar::reply(&input[..length]).ok().flatten(), Some((said, length)));
    assert!(matches!(grammar::reply(&input[..length - 1]), Ok(None)));
}

/// What is read of the pieces of a message, and how many bytes they are up to its end.
fn read(input: &[u8], piece: usize) -> (Vec<u8>, Option<usize>) {
    let (mut dots, mut data, mut at) = (Unstuff::default(), Vec::new(), 0);
    for piece in input.chunks(piece) {
        if let Some(end) = dots.push(piece, |part| data.extend_from_slice(part)) {
            return (data, Some(at + end));
        }
        at += piece.len();
    }
    (data, None)
}

fn message(input: &[u8], piece: usize) {
    let (whole, end) = read(input, input.len().max(1));
    assert_eq!(read(input, piece), (whole, end));
    let said_end =
        [b"\r\n", input].concat().windows(5).position(|five| five == b"\r\n.\r\n").map(|at| at + 3);
    assert_eq!(end, said_end);

    let (mut stuff, mut sent) = (Stuff::default(), Vec::new());
    input.chunks(piece).for_each(|piece| stuff.push(piece, &mut sent));
    stuff.end(&mut sent);
    sent.extend_from_slice(b".\r\n");
    let lines =
        if input.is_empty() || input.ends_with(b"\r\n") { input.to_vec() } else { [input, b"\r\n"].concat() };
    // A bare LF is refused before: what is here is what the server is then to read.
    if !has_bare_lf(input) {
        assert_eq!(read(&sent, piece), (lines, Some(sent.len())));
    }
}

fn has_bare_lf(input: &[u8]) -> bool {
    input.iter().enumerate().any(|(at, &b)| b == b'\n' && (at == 0 || input[at - 1] != b'\r'))
}

fuzz_target!(|input: &[u8]| {
    let Some((&first, input)) = input.split_first() else { return };
    commands(input);
    reply(input);
    message(input, usize::from(first % 16) + 1);
    if let Ok(text) = std::str::from_utf8(input)
        && let Some(decoded) = unxtext(text)
    {
        assert_eq!(unxtext(&xtext(&decoded)).as_deref(), Some(decoded.as_str()));
    }
});
