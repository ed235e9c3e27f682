//! Postfix's part: it tells a milter about a message and changes it as the milter says.

use std::ffi::CString;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use indymilter_test::{EomAction, MacroStage, Status, TestConnection};
use pec_core::clock::Moment;
use pec_core::header::{Field, Header};
use pec_milter::Point;
use pec_milter::callbacks::{Underway, serve};
use pec_milter::guard::Guard;
use tokio::net::TcpListener;

/// Runs a milter for one of its doors; gives back where it listens.
pub async fn start<P: Point>(point: P, door: P::Door) -> SocketAddr {
    start_shared(Arc::new(ArcSwap::from_pointee(point)), door).await
}

/// The same with a point that the test can exchange.
pub async fn start_shared<P: Point>(point: Arc<ArcSwap<P>>, door: P::Door) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(
        listener,
        door,
        point,
        Underway::default(),
        Guard::default(),
        std::future::pending::<()>(),
    ));
    address
}

/// A message as Postfix has it.
#[derive(Debug, Clone)]
pub struct Mail {
    /// The queue id.
    pub queue_id: String,
    /// The SASL account.
    pub account: Option<String>,
    /// Whether it comes over TLS.
    pub tls: bool,
    /// MAIL FROM, with brackets.
    pub sender: String,
    /// RCPT TO, with brackets.
    pub recipients: Vec<String>,
    /// The header.
    pub header: Header,
    /// The body.
    pub body: Vec<u8>,
}

/// What Postfix has afterwards.
#[derive(Debug)]
pub enum Outcome {
    /// The message, changed, and the ESMTP parameters that the milter gave with sender and recipients.
    Queued(Box<Queued>),
    /// 250, and nothing in the queue.
    Discarded,
    /// 5xx.
    Rejected(String),
    /// 4xx.
    Deferred(String),
}

/// A message in the queue.
#[derive(Debug, Clone)]
pub struct Queued {
    /// The message.
    pub mail: Mail,
    /// Parameters of the sender, if the milter changed it.
    pub sender_parameters: Option<String>,
    /// Recipients that the milter added, with their parameters.
    pub added: Vec<(String, Option<String>)>,
    /// How many edits it took.
    pub edits: usize,
}

impl Outcome {
    /// The queued message; anything else fails the test.
    #[track_caller]
    pub fn queued(self) -> Queued {
        match self {
            Self::Queued(queued) => *queued,
            other => panic!("not queued: {other:?}"),
        }
    }

    /// The text of a 5xx; anything else fails the test.
    #[track_caller]
    pub fn rejected(self) -> String {
        match self {
            Self::Rejected(text) => text,
            other => panic!("not rejected: {other:?}"),
        }
    }

    /// The text of a 4xx; anything else fails the test.
    #[track_caller]
    pub fn deferred(self) -> String {
        match self {
            Self::Deferred(text) => text,
            other => panic!("not deferred: {other:?}"),
        }
    }
}

impl Queued {
    /// The recipient that begins so, without its brackets.
    #[track_caller]
    pub fn recipient(&self, begins: &str) -> String {
        let found = self.mail.recipients.iter().find_map(|r| {
            r.trim_matches(['<', '>']).strip_prefix(begins).map(|_| r.trim_matches(['<', '>']).to_owned())
        });
        found.unwrap_or_else(|| panic!("no recipient {begins}... in {:?}", self.mail.recipients))
    }

    /// The copy of the message that the queue manager sends to one recipient.
    pub fn copy_for(&self, recipient: &str) -> Mail {
        let mut mail = self.mail.clone();
        mail.recipients = vec![format!("<{recipient}>")];
        mail.header = with_received(&mail.header);
        mail
    }
}

/// The next hop puts its `Received:` on top before a milter sees the message.
fn with_received(header: &Header) -> Header {
    let mut longer = Header::default();
    longer.push(Field::written("Received", "from test by test (Postfix)"));
    header.fields().iter().for_each(|field| longer.push(field.clone()));
    longer
}

impl Mail {
    /// A message from `sender`'s account; `text` is header and body with LF or CRLF.
    pub fn submitted(sender: &str, recipients: &[&str], text: &[u8]) -> Self {
        let mut crlf = Vec::new();
        for (i, &b) in text.iter().enumerate() {
            if b == b'\n' && (i == 0 || text[i - 1] != b'\r') {
                crlf.push(b'\r');
            }
            crlf.push(b);
        }
        let (end, body) = pec_core::mime::header_end(&crlf).unwrap_or((crlf.len(), crlf.len()));
        Self {
            queue_id: "4jTESTqueueid".to_owned(),
            account: Some(sender.to_owned()),
            tls: true,
            sender: format!("<{sender}>"),
            recipients: recipients.iter().map(|r| format!("<{r}>")).collect(),
            header: Header::parse(&crlf[..end]).unwrap(),
            body: crlf[body..].to_vec(),
        }
    }

    /// Header, empty line, body.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.header.to_bytes()[..], b"\r\n", &self.body].concat()
    }

    /// Gives the message to the milter at `address`, as smtpd and cleanup do.
    pub async fn give_to(&self, address: SocketAddr) -> Outcome {
        let mut connection =
            TestConnection::configure().exact_leading_space(true).open_tcp(address).await.unwrap();
        connection.connect("client.test", [192, 0, 2, 1]).await.unwrap();
        if self.tls {
            let tls = [
                ("{tls_version}", "TLSv1.3"),
                ("{cipher}", "TLS_AES_256_GCM_SHA384"),
                ("{cipher_bits}", "256"),
            ];
            connection.macros(MacroStage::Helo, tls).await.unwrap();
        }
        connection.helo("client.test").await.unwrap();
        if let Some(account) = &self.account {
            connection.macros(MacroStage::Mail, [("{auth_authen}", account.as_str())]).await.unwrap();
        }
        if let Some(refusal) = refusal(connection.mail([self.sender.as_str()]).await.unwrap()) {
            return refusal;
        }
        for recipient in &self.recipients {
            if let Some(refusal) = refusal(connection.rcpt([recipient.as_str()]).await.unwrap()) {
                return refusal;
            }
        }
        connection.macros(MacroStage::Data, [("i", self.queue_id.as_str())]).await.unwrap();
        for field in self.header.fields() {
            connection.header(field.name.as_str(), milter_value(&field.value)).await.unwrap();
        }
        connection.eoh().await.unwrap();
        if !self.body.is_empty() {
            connection.body(Bytes::from(self.body.clone())).await.unwrap();
        }
        let (actions, status) = connection.eom().await.unwrap();
        let outcome =
            refusal(status).unwrap_or_else(|| Outcome::Queued(Box::new(self.changed(actions.actions))));
        connection.close().await.unwrap();
        outcome
    }

    fn changed(&self, actions: Vec<EomAction>) -> Queued {
        let mut queued =
            Queued { mail: self.clone(), sender_parameters: None, added: Vec::new(), edits: actions.len() };
        let mut body: Option<Vec<u8>> = None;
        for action in actions {
            let fields = queued.mail.header.fields_mut();
            let at = |fields: &[Field], name: &str, index: i32| {
                let mut found = fields.iter().enumerate().filter(|(_, f)| f.is(name)).map(|(i, _)| i);
                found
                    .nth(usize::try_from(index).unwrap() - 1)
                    .unwrap_or_else(|| panic!("there is no {name} number {index}"))
            };
            match action {
                EomAction::AddHeader { name, value } => fields.push(field(&name, &value)),
                EomAction::ChangeHeader { name, index, value } => {
                    let at = at(fields, &text(&name), index);
                    fields[at] = field(&name, &value);
                }
                EomAction::DeleteHeader { name, index } => {
                    let at = at(fields, &text(&name), index);
                    fields.remove(at);
                }
                EomAction::ChangeSender { mail, args } => {
                    queued.mail.sender = text(&mail);
                    queued.sender_parameters = args.as_ref().map(text);
                }
                EomAction::AddRecipient { rcpt, args } => {
                    queued.mail.recipients.push(text(&rcpt));
                    queued.added.push((text(&rcpt), args.as_ref().map(text)));
                }
                EomAction::DeleteRecipient { rcpt } => {
                    let before = queued.mail.recipients.len();
                    queued.mail.recipients.retain(|r| *r != text(&rcpt));
                    assert!(queued.mail.recipients.len() < before, "{rcpt:?} is no recipient");
                }
                EomAction::ReplaceBody { chunk } => {
                    body.get_or_insert_with(Vec::new).extend_from_slice(&chunk)
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        if let Some(body) = body {
            queued.mail.body = body;
        }
        queued
    }
}

/// A delivery status notification about `original` as Postfix writes it: (recipient, action, status) for
/// each. `written`: seconds.
pub fn report(envid: Option<&str>, original: &Mail, recipients: &[(&str, &str, &str)], written: i64) -> Mail {
    let message_id = original.header.text("Message-ID").unwrap_or_default();
    let header = format!(
        "Content-Description: Message Headers\nContent-Type: text/rfc822-headers\n\nReceived: \
        x\nMessage-ID: {message_id}\n"
    );
    notification(envid, original, recipients, written, header.as_bytes())
}

/// The same about a message that was sent with `RET=FULL`: it comes back whole, below what Postfix has put on
/// top of it.
pub fn bounce(envid: Option<&str>, original: &Mail, recipients: &[(&str, &str, &str)], written: i64) -> Mail {
    let sender = original.sender.trim_matches(['<', '>']);
    let top = format!(
        "Content-Description: Undelivered Message\nContent-Type: message/rfc822\n\nReturn-Path: \
        <{sender}>\nReceived: from x\n\tby y\n"
    );
    notification(envid, original, recipients, written, &[top.as_bytes(), &original.to_bytes()].concat())
}

/// `returned` is the part that says which message it is about.
fn notification(
    envid: Option<&str>,
    original: &Mail,
    recipients: &[(&str, &str, &str)],
    written: i64,
    returned: &[u8],
) -> Mail {
    let sender = original.sender.trim_matches(['<', '>']);
    let mut status = String::from("Reporting-MTA: dns; mail.gestore.beta.test\n");
    envid.into_iter().for_each(|id| status += &format!("Original-Envelope-Id: {id}\n"));
    status += &format!("X-Postfix-Queue-ID: 4jXX\nX-Postfix-Sender: rfc822; {sender}\n");
    for (recipient, action, code) in recipients {
        status += &format!(
            "\nFinal-Recipient: rfc822; {recipient}\nOriginal-Recipient: rfc822;{recipient}\nAction: \
            {action}\nStatus: {code}\nDiagnostic-Code: smtp; {code} words\n"
        );
    }
    // Each report has a queue id of its own.
    let boundary = format!("4jXX{written}/mail");
    let text = format!(
        "From: MAILER-DAEMON (Mail Delivery System)\nSubject: Delivery report\nTo: \
        {sender}\nAuto-Submitted: auto-replied\nMIME-Version: 1.0\nDate: {}\n\
         Content-Type: multipart/report; \
        report-type=delivery-status;\n\tboundary=\"{boundary}\"\nMessage-Id: \
        <20261119.4jYY@mail.gestore.beta.test>\n\n\
         This is a MIME-encapsulated message.\n\n--{boundary}\nContent-Description: \
        Notification\nContent-Type: text/plain; charset=us-ascii\n\nwords\n\n\
         --{boundary}\nContent-Description: Delivery report\nContent-Type: \
        message/delivery-status\n\n{status}\n\
         --{boundary}\n",
        Moment::from_unix(written).rfc5322(),
    );
    let text = [text.as_bytes(), returned, format!("\n--{boundary}--\n").as_bytes()].concat();
    Mail {
        account: None,
        sender: String::new(),
        recipients: vec![sender.to_owned()],
        ..Mail::submitted("", &[], &text)
    }
}

fn refusal(status: Status) -> Option<Outcome> {
    let words = |message: Option<CString>| message.map_or_else(String::new, |m| text(&m));
    match status {
        Status::Reject { message } => Some(Outcome::Rejected(words(message))),
        Status::Tempfail { message } => Some(Outcome::Deferred(words(message))),
        Status::Discard => Some(Outcome::Discarded),
        _ => None,
    }
}

fn field(name: &CString, value: &CString) -> Field {
    let mut folded = Vec::new();
    for &b in value.as_bytes() {
        if b == b'\n' {
            folded.push(b'\r');
        }
        folded.push(b);
    }
    Field { name: text(name), value: folded }
}

/// LF for each fold; a CR that ends no line stays.
fn milter_value(value: &[u8]) -> CString {
    let is_fold = |at: usize| value.get(at..at + 2) == Some(b"\r\n");
    CString::new(
        value.iter().enumerate().filter(|(at, _)| !is_fold(*at)).map(|(_, &b)| b).collect::<Vec<_>>(),
    )
    .unwrap()
}

fn text(bytes: &CString) -> String {
    bytes.to_string_lossy().into_owned()
}
