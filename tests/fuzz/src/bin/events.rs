//! The milter's event order: `pec_milter::callbacks`, `transaction` and `edits`. The input is a byte that
//! says what the point does ([`door`]), then events in any order: the command's byte of the milter protocol,
//! the length of what follows in two bytes (the higher first), and that. Where the input ends, Postfix goes
//! away.
//!
//! Promise: a point decides once about each message that it let begin, and only about that; of the body is
//! kept what was said and not more; no event is answered with "continue" that was none, or came after the
//! end; the edits make the header that was wanted; nothing stays in hand.
#![no_main]

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread_local;

use arc_swap::ArcSwap;
use indymilter::Listener;
use libfuzzer_sys::fuzz_target;
use pec_core::header::{Field, Header};
use pec_core::message::Body;
use pec_core::notices::Notice;
use pec_milter::callbacks::{Underway, serve};
use pec_milter::guard::Guard;
use pec_milter::transaction::MOST_FIELDS;
use pec_milter::{Connection, Edits, KeepBody, Point, Recipient, Reply, Transaction, Verdict};
use pec_program::turns::Share;
use pec_state::rows::FactKind;
use pec_state::trigger::Trigger;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::runtime::{Builder, Runtime};

/// Bytes of a message that the point takes, where it keeps any: small enough to be passed.
const LIMIT: u64 = 4096;

/// What a point of the milters may do.
#[derive(Debug, Clone, Copy)]
struct Door {
    keeps: KeepBody,
    verdict: u8,
    refuses_mail: bool,
    refuses_rcpt: bool,
}

fn door(byte: u8) -> Door {
    let keeps = [
        KeepBody::Whole(LIMIT),
        KeepBody::Pieces(LIMIT),
        KeepBody::Whole(u64::MAX),
        KeepBody::Pieces(u64::MAX),
    ][usize::from(byte & 3)];
    Door { keeps, verdict: byte >> 2 & 7, refuses_mail: byte & 0x60 == 0x60, refuses_rcpt: byte & 0x80 != 0 }
}

/// What the point was asked and what it said.
#[derive(Default)]
struct Seen {
    /// The message that was let begin: sender and recipients.
    open: Option<(String, Vec<Recipient>)>,
    /// Messages about which it was asked at their end.
    ends: usize,
    /// How many events it has let go on.
    let_go_on: usize,
    /// For each message that was changed: header before and after.
    changed: VecDeque<(Header, Header)>,
}

#[derive(Default)]
struct Judge(Mutex<Seen>);

impl Judge {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Point for Judge {
    type Door = Door;

    fn share(&self, _: Door, _: &Header) -> Share {
        Share::Users
    }

    fn keep_body(&self, door: Door, _: &Header) -> KeepBody {
        door.keeps
    }

    fn mail(&self, door: Door, _: &Connection, transaction: &Transaction) -> Result<(), Reply> {
        let mut seen = self.seen();
        seen.open = None;
        if door.refuses_mail {
            return Err(Reply::refuse(
                "550",
                "5.7.1",
                format!("not you, {} 100% sure", transaction.sender_path),
            ));
        }
        assert!(
            transaction.recipients.is_empty()
                && transaction.header.fields().is_empty()
                && transaction.body.is_empty()
        );
        seen.open = Some((transaction.sender_path.clone(), Vec::new()));
        seen.let_go_on += 1;
        Ok(())
    }

    fn rcpt(&self, door: Door, transaction: &Transaction, recipient: &Recipient) -> Result<(), Reply> {
        let mut seen = self.seen();
        seen.let_go_on += 1;
        let Some((sender, recipients)) = &mut seen.open else { panic!("a recipient of no message") };
        assert_eq!((&transaction.sender_path, transaction.recipients.last()), (&*sender, recipients.last()));
        if door.refuses_rcpt && recipients.len() % 2 == 1 {
            seen.let_go_on -= 1;
            return Err(Reply::refuse("452", "4.5.3", "one at a time"));
        }
        recipients.push(recipient.clone());
        Ok(())
    }

    async fn end_of_message(&self, door: Door, _: &Connection, transaction: Transaction) -> Verdict {
        let mut seen = self.seen();
        seen.ends += 1;
        let Some(open) = seen.open.take() else { panic!("the end of no message") };
        assert_eq!((&transaction.sender_path, &transaction.recipients), (&open.0, &open.1));
        is_kept(door.keeps, &transaction);
        let _ = (
            transaction.sender_domain(),
            transaction.is_null_path(),
            transaction.queue_id(),
            transaction.body.longest_line(),
        );
        let verdict = match door.verdict {
            0 => return Verdict::Consume,
            1 => return Verdict::Refuse(Reply::refuse("550", "5.7.1", "x%\r\n".repeat(400))),
            2 => return Verdict::Wait("one cannot know".to_owned()),
            3 => Verdict::pass(),
            4 => {
                let field = Field::written("X-Added", "1");
                let mut longer = transaction.header.clone();
                longer.push(field.clone());
                seen.changed.push_back((transaction.header, longer));
                Verdict::Change(Edits::default().add_field(field))
            }
            other => {
                let header = another(&transaction.header, other);
                let body = Body::from_bytes(vec![b'x'; 70_000]);
                let notice = Notice { header: header.clone(), body, content_sha256: [0; 32] };
                let edits = Edits::default()
                    .become_notice(&transaction.header, notice)
                    .sender("<a@x.test>".to_owned(), Some("ENVID=1".to_owned()));
                seen.changed.push_back((transaction.header, header));
                let edits = if other == 5 {
                    edits.only_to(&transaction.recipients, "anna@pec.alfa.test")
                } else {
                    edits.delete_recipients(&transaction.recipients)
                };
                Verdict::Change(edits.add_trigger(&Trigger::notice(FactKind::Accettazione, "1")))
            }
        };
        seen.let_go_on += 1;
        verdict
    }
}

/// The transaction holds what was to be kept, and no more.
fn is_kept(keeps: KeepBody, transaction: &Transaction) {
    assert!(transaction.header.fields().len() <= 2 * MOST_FIELDS);
    let held = (transaction.header.size() + transaction.body.len()) as u64;
    let (KeepBody::Pieces(limit) | KeepBody::Whole(limit)) = keeps;
    assert!(held <= transaction.size() && held <= limit);
    assert!(!transaction.too_large || held == 0);
    assert!(matches!(keeps, KeepBody::Pieces(_)) || transaction.body.pieces().len() <= 1);
}

/// Another header with much of this one in it, and never an empty value, which in the protocol takes a field
/// away.
fn another(header: &Header, how: u8) -> Header {
    let mut other = Header::default();
    for (i, field) in header.fields().iter().enumerate() {
        let mut field = field.clone();
        match (i + usize::from(how)) % 4 {
            0 => continue,
            1 => field.value.extend_from_slice(b" and more"),
            2 => field.name.make_ascii_uppercase(),
            _ => {}
        }
        other.push(field);
    }
    other.push(Field::written("Subject", "another"));
    other.push(Field::written("Subject", "a second"));
    other.push(Field::written("X-Another", "1"));
    other
}

/// A listener to which one Postfix connects.
struct Once(Option<DuplexStream>);

impl Listener for Once {
    type Io = DuplexStream;

    fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<io::Result<DuplexStream>> {
        self.0.take().map_or(Poll::Pending, |stream| Poll::Ready(Ok(stream)))
    }
}

/// The events of an input, as Postfix writes them, and how many times "continue" may come to what no point is
/// asked about; how many messages may come to their end.
fn written(mut input: &[u8]) -> (Vec<u8>, usize, usize) {
    // Version 6, all actions, all options: as Postfix begins.
    let mut bytes = [
        &13_u32.to_be_bytes()[..],
        b"O",
        &6_u32.to_be_bytes(),
        &0x1ff_u32.to_be_bytes(),
        &0x1f_ffff_u32.to_be_bytes(),
    ]
    .concat();
    let (mut free, mut ends, mut open) = (0, 0, false);
    while let [command, high, low, rest @ ..] = input {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (data, rest) = rest.split_at(length);
        bytes.extend(u32::try_from(length + 1).unwrap_or(u32::MAX).to_be_bytes());
        bytes.push(*command);
        bytes.extend_from_slice(data);
        match command {
            b'M' => open = true,
            b'E' => ends += usize::from(std::mem::take(&mut open)),
            b'A' | b'K' | b'Q' => open = false,
            b'T' | b'U' => free += 1,
            _ => {}
        }
        input = rest;
    }
    (bytes, free, ends)
}

/// Whether a reply is an edit, or a sign of life.
fn is_edit(kind: u8) -> bool {
    b"hmbe+2-p".contains(&kind)
}

/// Changes `header` as an edit says.
fn edit(header: &mut Vec<Field>, kind: u8, data: &[u8]) {
    let field = |data: &[u8]| {
        let mut parts = data.split(|&b| b == 0);
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let mut folded = Vec::new();
        for &b in value {
            folded.extend_from_slice(if b == b'\n' { b"\r\n" } else { std::slice::from_ref(&b) });
        }
        Field { name: String::from_utf8_lossy(name).into_owned(), value: folded }
    };
    match kind {
        b'h' => header.push(field(data)),
        b'm' => {
            let [a, b, c, d, data @ ..] = data else { panic!("a change of no header field") };
            let (number, field) = (u32::from_be_bytes([*a, *b, *c, *d]) as usize, field(data));
            let found = header
                .iter()
                .enumerate()
                .filter(|(_, f)| f.is(&field.name))
                .nth(number - 1)
                .map(|(at, _)| at);
            let Some(at) = found else { panic!("there is no {} number {number}", field.name) };
            if field.value.is_empty() {
                header.remove(at);
            } else {
                header[at] = field;
            }
        }
        _ => {}
    }
}

/// The values of each name in their order, but for the case of the names and CR.
fn by_name(fields: &[Field]) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut values: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for field in fields {
        values
            .entry(field.name.to_ascii_lowercase())
            .or_default()
            .push(field.value.iter().copied().filter(|&b| b != b'\r').collect());
    }
    values
}

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap_or_else(|e| panic!("{e}"));
}

async fn conversation(door: Door, input: &[u8]) {
    let (events, free, possible_ends) = written(input);
    let (mut ours, theirs) = tokio::io::duplex(1 << 16);
    let (judge, in_hand) = (Arc::new(Judge::default()), Underway::default());
    let (done, shutdown) = tokio::sync::oneshot::channel::<()>();
    let serving = serve(
        Once(Some(theirs)),
        door,
        Arc::new(ArcSwap::new(judge.clone())),
        in_hand.clone(),
        Guard::default(),
        shutdown,
    );
    let postfix = async {
        let (mut from, mut to) = tokio::io::split(&mut ours);
        let mut replies = Vec::new();
        let sending = async {
            // It may hang up before the last event.
            let _ = to.write_all(&events).await;
            let _ = to.shutdown().await;
        };
        let (_, read) = tokio::join!(sending, from.read_to_end(&mut replies));
        assert!(read.is_ok());
        in_hand.none().await;
        let _ = done.send(());
        replies
    };
    let (served, replies) = tokio::join!(serving, postfix);
    assert!(served.is_ok());

    let mut seen = judge.seen();
    assert!(seen.ends <= possible_ends, "{} ends of {possible_ends} messages", seen.ends);
    let (mut rest, mut go_on, mut header) = (&replies[..], 0, None);
    while let [a, b, c, d, kind, more @ ..] = rest {
        let (data, more) = more.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize - 1);
        rest = more;
        let before = || seen.changed.front().map(|(before, _)| before.fields().to_vec()).unwrap_or_default();
        if is_edit(*kind) {
            edit(header.get_or_insert_with(before), *kind, data);
            continue;
        }
        if let Some(header) = header.take() {
            let Some((_, wanted)) = seen.changed.pop_front() else { panic!("an edit that nobody wanted") };
            // What the protocol cannot carry (a recipient without a name) waits, and Postfix forgets the
            // other edits.
            let waits = *kind == b'y' && data.starts_with(b"451 ");
            assert!(
                waits || *kind == b'c' && by_name(&header) == by_name(wanted.fields()),
                "{header:?} is not {wanted:?}"
            );
        }
        match kind {
            b'O' | b'r' | b't' | b'd' => {}
            b'c' => go_on += 1,
            b'y' => assert!(data.ends_with(b"\0") && data.len() < 1000 && !data.contains(&b'\n')),
            other => panic!("the reply {:?}", char::from(*other)),
        }
    }
    assert!(rest.is_empty());
    assert!(go_on <= seen.let_go_on + free, "{go_on} events went on, {} may have", seen.let_go_on + free);
}

fuzz_target!(|input: &[u8]| {
    if let Some((&byte, events)) = input.split_first() {
        RUNTIME.with(|runtime| runtime.block_on(conversation(door(byte), events)));
    }
});
