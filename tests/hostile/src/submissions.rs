//! What users submit: the table. Each line is a message and what RFC 6109 s. 3.1 makes of it.

use pec_core::header::Field;
use pec_test_support::postfix::Mail;

use crate::forge::{ANNA, BRUNO};
use crate::{Zip, numbered, zip_of};

/// What becomes of a submission.
#[derive(Debug, Clone)]
pub enum Access {
    /// The envelope, with every byte of the original; nothing else.
    Accepted,
    /// The notice of non-acceptance to its sender, with exactly these causes (the beginning or a part of
    /// each), and nothing else.
    NotAccepted(Vec<&'static str>),
    /// The notice of non-acceptance for a virus.
    Virus,
    /// SMTP says no, with this code and status.
    Refused(&'static str),
}

use Access::{Accepted, Refused, Virus};

/// One line of the table.
pub struct Submission {
    /// What it tries.
    pub kind: &'static str,
    /// What is odd about it.
    pub name: String,
    /// The message as Postfix hands it to the milter.
    pub mail: Mail,
    /// What becomes of it.
    pub expect: Access,
}

/// A letter that is correct until a case changes it.
#[derive(Clone)]
pub struct Letter(Mail);

/// Anna's letter to Bruno.
pub fn letter() -> Letter {
    let text = format!(
        "From: {ANNA}\nTo: {BRUNO}\nSubject: Prova\nMessage-ID: <1@client.test>\nDate: Thu, 19 Nov 2026 \
        00:00:00 +0100\n\nCiao\n"
    );
    Letter(Mail::submitted(ANNA, &[BRUNO], text.as_bytes()))
}

impl Letter {
    /// The field with these bytes after its colon and blank, at the place where it was.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let field = Field { name: name.to_owned(), value: [b" ", value.as_ref()].concat() };
        match self.0.header.fields_mut().iter_mut().find(|f| f.is(name)) {
            Some(found) => *found = field,
            None => self.0.header.push(field),
        }
        self
    }

    /// One more field.
    #[must_use]
    pub fn also(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.0.header.push(Field { name: name.to_owned(), value: [b" ", value.as_ref()].concat() });
        self
    }

    /// One more field, before all others.
    #[must_use]
    pub fn first(mut self, name: &str, value: &str) -> Self {
        self.0.header.fields_mut().insert(0, Field::written(name, value));
        self
    }

    /// Without the field.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.0.header.fields_mut().retain(|f| !f.is(name));
        self
    }

    /// To these recipients in SMTP.
    #[must_use]
    pub fn rcpt(mut self, recipients: &[&str]) -> Self {
        self.0.recipients = recipients.iter().map(|r| format!("<{r}>")).collect();
        self
    }

    /// From this path in SMTP, whoever has logged in.
    #[must_use]
    pub fn mail_from(mut self, path: &str) -> Self {
        self.0.sender = path.to_owned();
        self
    }

    /// With this body, LF as CRLF.
    #[must_use]
    pub fn text(self, body: impl AsRef<str>) -> Self {
        self.raw(body.as_ref().replace("\r\n", "\n").replace('\n', "\r\n"))
    }

    /// With exactly this body.
    #[must_use]
    pub fn raw(mut self, body: impl AsRef<[u8]>) -> Self {
        self.0.body = body.as_ref().to_vec();
        self
    }

    /// A multipart/mixed with these parts (header, empty line, body).
    #[must_use]
    pub fn parts(self, parts: &[&str]) -> Self {
        let body: String = parts.iter().map(|part| format!("--b\n{part}\n")).collect();
        self.set("Content-Type", "multipart/mixed; boundary=b").text(format!("{body}--b--\n"))
    }

    /// One attached file.
    #[must_use]
    pub fn file(self, fields: &str, content: &[u8]) -> Self {
        let encoded = encodify::base64::MIME.encode(content);
        let fields = if fields.contains("Transfer") {
            fields.to_owned()
        } else {
            format!("{fields}\nContent-Transfer-Encoding: base64")
        };
        self.parts(&["Content-Type: text/plain\n\nVedi allegato", &format!("{fields}\n\n{encoded}")])
    }

    /// The message.
    pub fn mail(self) -> Mail {
        self.0
    }
}

/// Not accepted for this and nothing else.
fn not(causes: &[&'static str]) -> Access {
    Access::NotAccepted(causes.to_vec())
}

const FROM: &str = "campo From che non contiene un solo indirizzo";
const TO: &str = "indirizzo non valido nel campo To";
const CC: &str = "indirizzo non valido nel campo Cc";
const NOT_NAMED: &str = "non presente nei campi To o Cc";
const NOT_SENT: &str = "presente nei campi To o Cc ma non tra i destinatari";
const MIME: &str = "struttura MIME non valida";
const BLOCKED: &str = "allegati di tipo non ammesso";
const ENDLESS: &str = "compresso troppe volte o troppo grande per essere esaminato";
const MESSAGE_ID: &str = "campo Message-ID non valido";
const STRAY: &str = "caratteri NUL o CR isolati";

/// A program for DOS and Windows, by its first bytes.
fn program() -> Vec<u8> {
    let mut bytes = b"MZ\x90\0\x03".to_vec();
    bytes.resize(200, 0);
    bytes
}

/// All submissions.
#[allow(clippy::too_many_lines)]
pub fn submissions() -> Vec<Submission> {
    let mut table: Vec<Submission> = Vec::new();
    let mut kind = "";
    let mut row = |kind: &'static str, name: &str, letter: Letter, expect: Access| {
        table.push(Submission { kind, name: name.to_owned(), mail: letter.mail(), expect });
    };
    let l = letter;

    kind = if kind.is_empty() { "From" } else { kind };
    row(kind, "missing", l().without("From"), not(&["campo From assente"]));
    row(kind, "empty", l().set("From", ""), not(&[FROM]));
    row(kind, "blanks and folds", l().set("From", " \r\n \t\r\n  "), not(&[FROM]));
    row(kind, "a name alone", l().set("From", "Anna Rossi"), not(&[FROM]));
    row(kind, "empty brackets", l().set("From", "Anna <>"), not(&[FROM]));
    row(kind, "two addresses", l().set("From", format!("{ANNA}, {BRUNO}")), not(&[FROM]));
    row(
        kind,
        "the same address twice in one field",
        l().set("From", format!("{ANNA}, {ANNA}")),
        not(&[FROM]),
    );
    row(kind, "the field twice", l().also("From", ANNA), not(&[FROM, "campo From presente più volte"]));
    row(
        kind,
        "the field twice, in another case, somebody else first",
        l().set("From", BRUNO).also("FROM", ANNA),
        not(&[FROM, "campo From presente più volte"]),
    );
    row(
        kind,
        "somebody else",
        l().set("From", "altra@pec.alfa.test"),
        not(&["indirizzo nel campo From (altra@pec.alfa.test) diverso"]),
    );
    row(
        kind,
        "our address as a name before another's",
        l().set("From", format!("\"{ANNA}\" <altra@pec.alfa.test>")),
        not(&["diverso da quello del mittente"]),
    );
    row(
        kind,
        "an encoded word is no address",
        l().set("From", "=?utf-8?q?anna=40pec.alfa.test?="),
        not(&[FROM]),
    );
    row(
        kind,
        "an address in encoded words in brackets",
        l().set("From", "Anna <=?utf-8?q?anna=40pec.alfa.test?=>"),
        not(&[FROM]),
    );
    row(
        kind,
        "another's address in an encoded name",
        l().set("From", format!("=?utf-8?q?=3Caltra=40pec.alfa.test=3E?= <{ANNA}>")),
        Accepted,
    );
    row(
        kind,
        "an encoded comma in the name",
        l().set("From", format!("=?utf-8?q?Rossi=2C_Anna?= <{ANNA}>")),
        Accepted,
    );
    row(kind, "a bare comma in the name", l().set("From", format!("Rossi, Anna <{ANNA}>")), not(&[FROM]));
    row(
        kind,
        "two addresses without a comma",
        l().set("From", format!("<{ANNA}> <altra@pec.alfa.test>")),
        not(&[FROM]),
    );
    row(kind, "a semicolon for a comma", l().set("From", format!("{ANNA}; {BRUNO}")), not(&[FROM]));
    row(kind, "only a comment", l().set("From", format!("({ANNA})")), not(&[FROM]));
    row(
        kind,
        "comments in comments",
        l().set("From", format!("{ANNA} (Anna (la (prima) \\( ) !)")),
        Accepted,
    );
    row(
        kind,
        "comments 450 deep",
        l().set("From", format!("{}{} {ANNA}", "(".repeat(450), ")".repeat(450))),
        Accepted,
    );
    row(kind, "a comment that never ends", l().set("From", format!("{ANNA} (Anna")), not(&[FROM]));
    row(kind, "a quoted name that never ends", l().set("From", format!("\"Anna <{ANNA}>")), not(&[FROM]));
    row(kind, "a bracket that never ends", l().set("From", format!("Anna <{ANNA}")), not(&[FROM]));
    row(kind, "a source route", l().set("From", format!("<@relay.test:{ANNA}>")), not(&[FROM]));
    row(kind, "a domain that ends in a dot", l().set("From", format!("<{ANNA}.>")), not(&[FROM]));
    row(kind, "letters beyond ASCII in the address", l().set("From", "ànna@pec.alfa.test"), not(&[FROM]));
    row(
        kind,
        "a name in Latin-1, raw",
        l().set("From", [b"Ann\xe0 <", ANNA.as_bytes(), b">"].concat()),
        Accepted,
    );
    row(
        kind,
        "a name in a charset that nobody knows",
        l().set("From", format!("=?x-klingon?q?Anna?= <{ANNA}>")),
        Accepted,
    );
    row(
        kind,
        "a name in Shift-JIS that ends in half a letter",
        l().set("From", format!("=?shift_jis?b?gsCC?= <{ANNA}>")),
        Accepted,
    );
    row(kind, "another writing of the same address", l().set("From", "ANNA@PEC.Alfa.TEST"), Accepted);
    row(kind, "10,000 commas", l().set("From", folded(",", 900, 10)), not(&[FROM]));
    row(kind, "900 addresses", l().set("From", folded("x@pec.alfa.test,", 50, 18)), not(&[FROM]));

    let kind = "To";
    row(kind, "missing", l().without("To").rcpt(&[BRUNO]), not(&["campo To privo", NOT_NAMED]));
    row(kind, "empty", l().set("To", ""), not(&["campo To privo", NOT_NAMED]));
    row(
        kind,
        "undisclosed recipients",
        l().set("To", "undisclosed-recipients:;"),
        not(&["campo To privo", NOT_NAMED]),
    );
    row(kind, "only Cc", l().without("To").set("Cc", BRUNO), not(&["campo To privo"]));
    row(
        kind,
        "a group with its members",
        l().set("To", format!("Ufficio: Bruno <{BRUNO}>, carla@posta.test;"))
            .rcpt(&[BRUNO, "carla@posta.test"]),
        Accepted,
    );
    row(
        kind,
        "a group that never ends",
        l().set("To", format!("Ufficio: Bruno <{BRUNO}>")),
        not(&[TO, NOT_NAMED]),
    );
    row(kind, "groups in groups", l().set("To", format!("A: B: {BRUNO};;")), not(&[TO, NOT_NAMED]));
    row(
        kind,
        "semicolons for commas",
        l().set("To", format!("{BRUNO}; carla@posta.test")).rcpt(&[BRUNO, "carla@posta.test"]),
        not(&[TO, NOT_NAMED, NOT_NAMED]),
    );
    row(
        kind,
        "something that is none beside an address",
        l().set("To", format!("{BRUNO}, Carla")),
        not(&[TO, NOT_NAMED]),
    );
    row(
        kind,
        "an address and text behind it",
        l().set("To", format!("{BRUNO} e Carla")),
        not(&[TO, NOT_NAMED]),
    );
    row(kind, "text behind the bracket", l().set("To", format!("<{BRUNO}> carla")), not(&[TO, NOT_NAMED]));
    row(kind, "no at sign", l().set("To", "bruno.pec.beta.test"), not(&[TO, NOT_NAMED]));
    row(kind, "two at signs", l().set("To", "bruno@pec@beta.test"), not(&[TO, NOT_NAMED]));
    row(kind, "blanks around the at sign", l().set("To", "bruno @ pec.beta.test"), not(&[TO, NOT_NAMED]));
    row(kind, "an address literal", l().set("To", "bruno@[192.0.2.1]"), not(&[TO, NOT_NAMED]));
    row(
        kind,
        "a quoted local part with a blank",
        l().set("To", "\"bruno bianchi\"@pec.beta.test"),
        not(&[TO, NOT_NAMED]),
    );
    row(
        kind,
        "a quoted local part, which is not read",
        l().set("To", "\"bruno..b\"@pec.beta.test").rcpt(&["\"bruno..b\"@pec.beta.test"]),
        not(&[TO, NOT_NAMED]),
    );
    row(
        kind,
        "percent routing is a mailbox name",
        l().set("To", "bruno%altro.test@pec.beta.test").rcpt(&["bruno%altro.test@pec.beta.test"]),
        Accepted,
    );
    row(
        kind,
        "a label of 64 letters",
        l().set("To", format!("bruno@{}.test", "a".repeat(64))),
        not(&[TO, NOT_NAMED]),
    );
    row(
        kind,
        "an address of 300 letters",
        l().set("To", format!("{}@pec.beta.test", "b".repeat(300))),
        not(&[TO, NOT_NAMED]),
    );
    row(kind, "a domain with a hyphen at its end", l().set("To", "bruno@pec-.test"), not(&[TO, NOT_NAMED]));
    row(kind, "empty places in the list", l().set("To", format!(",,{BRUNO},,")), Accepted);
    row(
        kind,
        "the field twice",
        l().also("To", "carla@posta.test").rcpt(&[BRUNO, "carla@posta.test"]),
        not(&["campo To presente più volte"]),
    );
    row(kind, "in To and in Cc", l().also("Cc", "BRUNO@pec.beta.test"), Accepted);
    row(kind, "a recipient whom nobody names", l().rcpt(&[BRUNO, "dario@pec.beta.test"]), not(&[NOT_NAMED]));
    row(
        kind,
        "somebody named who is no recipient",
        l().set("To", format!("{BRUNO}, carla@posta.test")),
        not(&[NOT_SENT]),
    );
    row(
        kind,
        "named in a comment only",
        l().set("To", format!("carla@posta.test ({BRUNO})")).rcpt(&[BRUNO, "carla@posta.test"]),
        not(&[NOT_NAMED]),
    );
    row(
        kind,
        "named as a display name only",
        l().set("To", format!("\"{BRUNO}\" <carla@posta.test>")).rcpt(&[BRUNO, "carla@posta.test"]),
        not(&[NOT_NAMED]),
    );
    row(
        kind,
        "named in encoded words only",
        l().set("To", "=?utf-8?q?bruno=40pec.beta.test?= <carla@posta.test>")
            .rcpt(&[BRUNO, "carla@posta.test"]),
        not(&[NOT_NAMED]),
    );
    row(kind, "the same recipient a hundred times", l().rcpt(&[BRUNO; 100]), Accepted);
    let many: Vec<String> = numbered("u", "@pec.beta.test", 500);
    let named = |all: &[String]| all.chunks(20).map(|line| line.join(",")).collect::<Vec<_>>().join(",\r\n ");
    let refs = |all: &'static [String]| all.iter().map(String::as_str).collect::<Vec<_>>();
    let many: &'static [String] = Box::leak(many.into_boxed_slice());
    row(kind, "500 recipients", l().set("To", named(many)).rcpt(&refs(many)), Accepted);
    let more: &'static [String] = Box::leak(numbered("u", "@pec.beta.test", 501).into_boxed_slice());
    row(
        kind,
        "501 recipients",
        l().set("To", named(more)).rcpt(&refs(more)),
        not(&["numero di destinatari (501) superiore"]),
    );
    row(
        kind,
        "2,000 people named of whom one is a recipient",
        l().set("To", named(&numbered("altro", "@x.test", 2000))),
        not(&[NOT_NAMED, NOT_SENT]),
    );
    row(
        kind,
        "a display name that turns the line around",
        l().set("To", format!("=?utf-8?q?=E2=80=AEonurb?= <{BRUNO}>")),
        Accepted,
    );
    row(
        kind,
        "a name of 900 encoded words",
        l().set("To", format!("{} <{BRUNO}>", folded("=?utf-8?q?x?= ", 30, 30))),
        Accepted,
    );
    row(kind, "Cc is none", l().set("Cc", "Carla Verdi"), not(&[CC]));
    row(
        kind,
        "Cc twice",
        l().also("Cc", "carla@posta.test").also("CC", "dario@posta.test").rcpt(&[
            BRUNO,
            "carla@posta.test",
            "dario@posta.test",
        ]),
        not(&["campo Cc presente più volte"]),
    );

    let kind = "Bcc";
    row(
        kind,
        "somebody",
        l().also("Bcc", "carla@posta.test").rcpt(&[BRUNO, "carla@posta.test"]),
        not(&["copia nascosta", NOT_NAMED]),
    );
    row(kind, "somebody who is in To as well", l().also("BCC", BRUNO), not(&["copia nascosta"]));
    row(kind, "empty", l().also("Bcc", ""), Accepted);
    row(
        kind,
        "of somebody who sends it on",
        l().also("Resent-Bcc", "carla@posta.test").rcpt(&[BRUNO, "carla@posta.test"]),
        not(&["copia nascosta (campo Resent-Bcc)", "carla@posta.test"]),
    );
    row(kind, "blanks and folds", l().also("Bcc", " \r\n\t "), Accepted);
    row(
        kind,
        "empty, and one with a value behind it",
        l().also("Bcc", "").also("bcc", "x"),
        not(&["copia nascosta"]),
    );
    row(kind, "a comment is a value", l().also("Bcc", "(nessuno)"), not(&["copia nascosta"]));
    row(kind, "bytes that are no text", l().also("Bcc", b"\xff\xfe"), not(&["copia nascosta"]));

    let kind = "fields that providers write";
    for name in ["X-Ricevuta", "X-Trasporto", "X-Riferimento-Message-ID", "X-VerificaSicurezza", "X-Mittente"]
    {
        row(kind, name, l().also(name, "errore"), not(&["riservato ai gestori"]));
    }
    row(
        kind,
        "in small letters",
        l().also("x-trasporto", "posta-certificata"),
        not(&["riservato ai gestori"]),
    );
    row(kind, "without a value", l().also("X-Ricevuta", ""), not(&["riservato ai gestori"]));
    row(
        kind,
        "all of them",
        ["X-Ricevuta", "X-Trasporto", "X-Mittente"].iter().fold(l(), |l, name| l.also(name, "x")),
        not(&["campo X-Ricevuta ris", "campo X-Trasporto ris", "campo X-Mittente ris"]),
    );
    row(kind, "of a spam filter, which means nothing here", l().also("X-Pec-Spam", "Yes"), Accepted);
    let unknown = [
        "X-Pec-Custody",
        "X-Pec-Notice",
        "X-Envelope-Id",
        "Original-Envelope-Id",
        "Disposition-Notification-To",
    ];
    row(
        kind,
        "that sound like it, and nobody reads",
        unknown.iter().fold(l(), |l, name| l.also(name, "00")),
        Accepted,
    );

    let kind = "fields that stand once";
    for (name, value) in [
        ("Reply-To", ANNA),
        ("Message-ID", "<2@client.test>"),
        ("Subject", "altro"),
        ("Date", "Thu, 19 Nov 2026 00:00:00 +0100"),
    ] {
        row(kind, name, l().set(name, value).also(name, value), not(&["presente più volte"]));
    }
    row(
        kind,
        "Content-Type",
        l().also("Content-Type", "text/plain").also("content-type", "text/html"),
        not(&["presente più volte", MIME]),
    );
    row(
        kind,
        "Content-Transfer-Encoding",
        l().also("Content-Transfer-Encoding", "7bit").also("Content-Transfer-Encoding", "base64"),
        not(&["presente più volte", MIME]),
    );

    let kind = "Message-ID";
    row(kind, "missing", l().without("Message-ID"), Accepted);
    row(kind, "empty", l().set("Message-ID", ""), Accepted);
    for (name, value) in [
        ("words", "la mia lettera"),
        ("without brackets", "1@client.test"),
        ("two of them", "<1@client.test> <2@client.test>"),
        ("text behind it", "<1@client.test> x"),
        ("without a right side", "<1@>"),
        ("without a left side", "<@client.test>"),
        ("without an at sign", "<1>"),
        ("a blank inside", "<1 2@client.test>"),
        ("brackets inside", "<1<2@client.test>"),
        ("a field that would begin", "<1@client.test\r\n X: y>"),
    ] {
        row(kind, name, l().set("Message-ID", value), not(&[MESSAGE_ID]));
    }
    row(kind, "bytes beyond ASCII", l().set("Message-ID", b"<citt\xe0@client.test>"), not(&[MESSAGE_ID]));
    row(
        kind,
        "longer than half a line",
        l().set("Message-ID", format!("<{}@client.test>", "a".repeat(600))),
        not(&[MESSAGE_ID]),
    );
    row(kind, "markup", l().set("Message-ID", "<]]&gt;&#0;<x>@client.test>"), not(&[MESSAGE_ID]));
    row(kind, "markup that is an identifier", l().set("Message-ID", "<]]&gt;&#0;'\"@client.test>"), Accepted);

    let kind = "Date";
    for value in [
        "",
        "ieri",
        "Thu, 19 Nov 99999 00:00:00 +0100",
        "Xyz, 99 Foo -2026 77:88:99 +9999",
        "0",
        "19 Nov 26 00:00 GMT",
        "Thu, 19 Nov 2026 00:00:60 +0100",
        "\u{661}\u{669} Nov",
    ] {
        row(kind, value, l().set("Date", value), Accepted);
    }
    row(kind, "missing", l().without("Date"), Accepted);

    let kind = "Subject";
    row(kind, "missing", l().without("Subject"), Accepted);
    row(kind, "empty", l().set("Subject", ""), Accepted);
    for value in [
        "=?x-unknown?q?citt=E0?=",
        "=?utf-8?b?!!!!?=",
        "=?utf-8?q?mai chiusa",
        "=?utf-8?q?x=0D=0ABcc:_carla=40posta.test?=",
        "=?utf-8?q?x=0D=0A=0D=0Acorpo?=",
        "=?utf-8?q?=00=01=07=1B[2J=7F=C2=85?=",
        "=?iso-2022-jp?b?GyRCGyRCGyRC?=",
        "=?utf-7?q?+2AA-+ADw-script+AD4-?=",
        "=?utf-16?b?2AAA2AA=?=",
        "=?utf-8?q?=C0=80=ED=A0=80=F8=88=80=80=80?=",
        "=?gb18030?q?=81=30=81?=",
        "=?utf-8?q?=E2=80=AEesrever=E2=80=8B=EF=BB=BF?=",
        "=?utf-8?q?=3D=3Futf-8=3Fq=3Fx=3F=3D?=",
        "=?utf-8*it?q?lingua?=",
        "=?utf-8?x?altra codifica?=",
        "=??q??= =?utf-8??x?= =?utf-8?q??=",
        "</oggetto><mittente>x</mittente>]]>&amp;&lt;<!--",
        "ACCETTAZIONE: POSTA CERTIFICATA: ANOMALIA MESSAGGIO:",
        "\u{feff}\u{200f}\u{2028}\u{2029}\u{fffe}\u{ffff}",
        "\u{1f4a9}\u{10ffff}",
    ] {
        row(kind, value, l().set("Subject", value), Accepted);
    }
    row(kind, "Latin-1, raw", l().set("Subject", b"citt\xe0 \xe8"), Accepted);
    row(
        kind,
        "C1 controls and escape sequences, raw",
        l().set("Subject", b"\x1b]0;x\x07 \x9b31m \x85 \x7f"),
        Accepted,
    );
    row(kind, "half a UTF-8 letter at the end", l().set("Subject", b"citt\xc3"), Accepted);
    row(kind, "folded in every place", l().set("Subject", "a\r\n b\r\n\tc\r\n  \r\n d"), Accepted);
    row(kind, "50,000 letters", l().set("Subject", folded("parola ", 130, 55)), Accepted);
    row(kind, "one word of 900 letters", l().set("Subject", "x".repeat(900)), Accepted);
    row(kind, "3,000 encoded words", l().set("Subject", folded("=?utf-8?q?=E2=82=AC?= ", 40, 60)), Accepted);
    row(kind, "encoded words that never close", l().set("Subject", folded("=?utf-8?q?", 90, 60)), Accepted);
    row(
        kind,
        "nothing but question marks and equals signs",
        l().set("Subject", folded("=?", 450, 60)),
        Accepted,
    );

    let kind = "Reply-To";
    for value in ["nessuno", "\"", "<>", "a@b, c", "gruppo:;", "=?utf-8?q?a=40b.test?="] {
        row(kind, value, l().set("Reply-To", value), Accepted);
    }
    row(kind, "bytes beyond ASCII", l().set("Reply-To", b"\xe0 <\xe8@x.test>"), Accepted);
    row(kind, "2,000 addresses", l().set("Reply-To", named(&numbered("r", "@x.test", 2000))), Accepted);

    let kind = "X-TipoRicevuta";
    for value in ["banana", "", "completa, breve", "BREVE", "=?utf-8?q?breve?=", "breve\r\n sintetica"] {
        row(kind, value, l().set("X-TipoRicevuta", value), Accepted);
    }

    mime(&mut row);
    lines(&mut row);
    sizes(&mut row);
    attachments(&mut row);

    let kind = "SMTP";
    row(kind, "MAIL FROM of somebody else", l().mail_from("<altra@pec.alfa.test>"), Refused("553 5.7.1"));
    row(kind, "the null path", l().mail_from("<>"), Refused("553 5.7.1"));
    row(
        kind,
        "a path with a route to ourselves",
        l().mail_from(&format!("<@x.test:{ANNA}>")),
        Refused("553 5.7.1"),
    );
    row(kind, "a path that ends in a dot", l().mail_from(&format!("<{ANNA}.>")), Refused("553 5.7.1"));
    row(
        kind,
        "a quoted writing of ourselves",
        l().mail_from("<\"anna\"@pec.alfa.test>"),
        Refused("553 5.7.1"),
    );
    row(kind, "no path at all", l().mail_from("anna"), Refused("553 5.7.1"));
    for recipient in [
        "",
        "bruno",
        "é@pec.beta.test",
        "\"b b\"@pec.beta.test",
        "bruno@[192.0.2.1]",
        "bruno@pec.beta.test.",
        "@x.test:bruno@pec.beta.test",
        "bruno@pec..test",
    ] {
        row(kind, &format!("RCPT TO <{recipient}>"), l().rcpt(&[recipient]), Refused("553 5.1.3"));
    }
    for recipient in ["accettazione+00@notices.pec.internal", "presa-in-carico+00@Notices.PEC.internal"] {
        row(kind, recipient, l().rcpt(&[BRUNO, recipient]), Refused("550 5.1.1"));
    }
    row(
        kind,
        "a trigger, and a dot",
        l().rcpt(&[BRUNO, "accettazione+00@notices.pec.internal."]),
        Refused("553 5.1.3"),
    );
    row(
        kind,
        "an answer to a receipt",
        l().rcpt(&[BRUNO, "posta-certificata@Gestore.Alfa.test"]),
        Refused("550 5.7.1"),
    );

    let kind = "recipients of ours";
    let to = |recipients: &[&str]| l().set("To", recipients.join(", ")).rcpt(recipients);
    row(kind, "oneself", to(&[ANNA]), Accepted);
    row(
        kind,
        "one here, one at another provider, one elsewhere",
        to(&["aldo@studio.example", BRUNO, "carla@posta.test"]),
        Accepted,
    );
    row(kind, "one in two writings", to(&["Aldo@Studio.Example", "aldo@studio.example"]), Accepted);
    row(kind, "somebody who may not exist", to(&["nessuno@pec.alfa.test"]), Accepted);
    row(kind, "a virus for one here", to(&["aldo@studio.example"]).text(crate::VIRUS), Virus);
    table
}

/// So many of `what` on a line, so many lines.
fn folded(what: &str, on_a_line: usize, lines: usize) -> String {
    vec![what.repeat(on_a_line); lines].join("\r\n ")
}

type Row<'a> = &'a mut dyn FnMut(&'static str, &str, Letter, Access);

/// `depth` multiparts in each other.
fn nested(depth: usize) -> String {
    let open: String = (1..depth)
        .map(|i| format!("--b{}\nContent-Type: multipart/mixed; boundary=b{i}\n\n", i - 1))
        .collect();
    let close: String = (0..depth).rev().map(|i| format!("--b{i}--\n")).collect();
    format!("{open}--b{}\n\nfondo\n{close}", depth - 1)
}

#[allow(clippy::too_many_lines)]
fn mime(row: Row<'_>) {
    let l = letter;
    let typed = |value: &str, body: &str| letter().set("Content-Type", value).text(body);
    let mixed = "multipart/mixed; boundary=b";

    let kind = "MIME structure";
    row(kind, "multiparts 1,000 deep", typed("multipart/mixed; boundary=b0", &nested(1000)), not(&[MIME]));
    row(kind, "multiparts 30 deep", typed("multipart/mixed; boundary=b0", &nested(30)), Accepted);
    row(kind, "multiparts 32 deep", typed("multipart/mixed; boundary=b0", &nested(32)), not(&[MIME]));
    row(
        kind,
        "attached messages 1,000 deep",
        typed("message/rfc822", &"Content-Type: message/rfc822\n\n".repeat(1000)),
        not(&[MIME]),
    );
    row(kind, "10,000 parts", typed(mixed, &format!("{}--b--\n", "--b\n\n\n".repeat(10_000))), Accepted);
    row(kind, "10,001 parts", typed(mixed, &format!("{}--b--\n", "--b\n\n\n".repeat(10_001))), not(&[MIME]));
    row(kind, "100,000 parts", typed(mixed, &format!("{}--b--\n", "--b\n".repeat(100_000))), not(&[MIME]));
    row(
        kind,
        "10,001 parts on two levels",
        typed(
            "multipart/mixed; boundary=o",
            &format!(
                "--o\nContent-Type: multipart/mixed; boundary=b\n\n{}--b--\n--o--\n",
                "--b\n\n\n".repeat(10_000)
            ),
        ),
        not(&[MIME]),
    );
    row(kind, "no boundary", typed("multipart/mixed", "--b\n\nx\n--b--\n"), not(&[MIME]));
    row(kind, "an empty boundary", typed("multipart/mixed; boundary=\"\"", "--\n\nx\n----\n"), not(&[MIME]));
    row(kind, "a boundary that never comes", typed(mixed, "testo\n"), not(&[MIME]));
    row(kind, "a multipart that never closes", typed(mixed, "--b\n\nx\n"), not(&[MIME]));
    row(kind, "closed before it opens", typed(mixed, "--b--\n--b\n\nx\n"), not(&[MIME]));
    row(kind, "an empty body", typed(mixed, ""), not(&[MIME]));
    row(
        kind,
        "a boundary that never comes, beside a formal fault",
        typed(mixed, "testo\n").without("From"),
        not(&["campo From assente", MIME]),
    );
    row(
        kind,
        "parts after the end are epilogue",
        typed(mixed, "--b\n\nx\n--b--\n--b\nnessun campo\n\ny\n"),
        Accepted,
    );
    row(
        kind,
        "a boundary of 200 letters",
        typed(
            &format!("multipart/mixed; boundary={0}", "b".repeat(200)),
            &format!("--{0}\n\nx\n--{0}--\n", "b".repeat(200)),
        ),
        Accepted,
    );
    row(
        kind,
        "a boundary of odd letters",
        typed("multipart/mixed; boundary=\"'()+_,-./:=? x\"", "--'()+_,-./:=? x\n\nx\n--'()+_,-./:=? x--\n"),
        Accepted,
    );
    row(
        kind,
        "a boundary that is the beginning of another",
        typed(mixed, "--b\nContent-Type: multipart/mixed; boundary=bb\n\n--bb\n\nx\n--bb--\n--b--\n"),
        Accepted,
    );
    row(
        kind,
        "the same boundary inside",
        typed(mixed, "--b\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nx\n--b--\n--b--\n"),
        not(&[MIME]),
    );
    row(
        kind,
        "two boundaries in one field",
        typed("multipart/mixed; boundary=b; boundary=c", "--b\n\nx\n--b--\n--c\n\ny\n--c--\n"),
        not(&[MIME]),
    );
    row(
        kind,
        "a boundary in RFC 2231's writing",
        typed("multipart/mixed; boundary*=us-ascii''b", "--b\n\nx\n--b--\n"),
        not(&[MIME]),
    );
    row(
        kind,
        "a boundary in two pieces",
        typed("multipart/mixed; boundary*0=b; boundary*1=c", "--bc\n\nx\n--bc--\n"),
        not(&[MIME]),
    );
    row(
        kind,
        "a comment in the media type",
        typed("multipart/mixed (misto); boundary=b (limite)", "--b\n\nx\n--b--\n"),
        not(&[MIME]),
    );
    row(
        kind,
        "a media type with 200 parameters",
        typed(&format!("multipart/mixed; boundary=b{}", folded("; x=y", 20, 10)), "--b\n\nx\n--b--\n"),
        not(&[MIME]),
    );
    row(
        kind,
        "a media type of 20,000 letters",
        typed(
            &format!("multipart/mixed; x={}; boundary=b", vec!["y".repeat(900); 22].join("\r\n ")),
            "--b\n\nx\n--b--\n",
        ),
        not(&[MIME]),
    );
    row(
        kind,
        "no semicolon before the boundary",
        typed("multipart/mixed boundary=b", "--b\n\nx\n--b--\n"),
        not(&[MIME]),
    );
    row(
        kind,
        "a multipart in base64",
        typed(mixed, "LS1iCgp4Ci0tYi0tCg==\n").set("Content-Transfer-Encoding", "base64"),
        not(&[MIME]),
    );
    row(
        kind,
        "a multipart that says quoted-printable",
        typed(mixed, "--b\n\nx\n--b--\n").set("Content-Transfer-Encoding", "quoted-printable"),
        not(&[MIME]),
    );
    row(
        kind,
        "a multipart that says 8bit",
        typed(mixed, "--b\n\nx\n--b--\n").set("Content-Transfer-Encoding", "8bit"),
        Accepted,
    );
    row(
        kind,
        "a multipart inside that says base64",
        l().parts(&["Content-Type: multipart/mixed; boundary=c\nContent-Transfer-Encoding: \
            base64\n\n--c\n\nx\n--c--"]),
        not(&[MIME]),
    );
    row(kind, "no subtype", typed("multipart", "--b\n\nx\n--b--\n"), Accepted);
    row(kind, "a media type that is none", typed("questo è testo", "x\n"), Accepted);
    row(kind, "an empty media type", typed("", "x\n"), Accepted);
    row(kind, "nothing but semicolons", typed(";;;;;=;=;", "x\n"), Accepted);
    row(kind, "a parameter whose quote never closes", typed("text/plain; charset=\"utf-8", "x\n"), Accepted);
    row(
        kind,
        "a preamble and an epilogue of a megabyte",
        typed(mixed, &format!("{0}--b\n\nx\n--b--\n{0}", "testo che nessuno legge\n".repeat(20_000))),
        Accepted,
    );
    row(
        kind,
        "lines that only look like delimiters",
        typed(mixed, &format!("--b\n\n{}--b--\n", "--bb\n--\n---b\n --b\n--b-\n--b x\n".repeat(2000))),
        Accepted,
    );
    row(
        kind,
        "delimiters of ours",
        typed(mixed, "--b\n\n------=_PEC_signed_00\n------=_PEC_mixed_00--\n--b--\n"),
        Accepted,
    );
    row(kind, "MIME-Version 2.0", l().set("MIME-Version", "2.0"), Accepted);

    let kind = "MIME parts";
    row(kind, "a line that is no field", l().parts(&["nessun campo\n\nx"]), not(&[MIME]));
    row(kind, "a field name with a blank", l().parts(&["Content Type: text/plain\n\nx"]), not(&[MIME]));
    row(
        kind,
        "a header of 100,000 bytes",
        l().parts(&[&format!("{}\nx", "X-Y: z\n".repeat(14_000))]),
        not(&[MIME]),
    );
    row(kind, "no header", l().parts(&["\nx"]), Accepted);
    row(kind, "nothing but a header", l().parts(&["Content-Type: text/plain"]), Accepted);
    row(
        kind,
        "the media type twice",
        l().parts(&["Content-Type: text/plain\nContent-Type: multipart/mixed; \
            boundary=c\n\n--c\nContent-Type: a/b; name=x.exe\n\ny\n--c--"]),
        not(&[MIME]),
    );
    row(
        kind,
        "the transfer encoding twice",
        l().parts(&["Content-Transfer-Encoding: 7bit\nContent-Transfer-Encoding: base64\n\nTVqQAAM="]),
        not(&[MIME]),
    );
    row(
        kind,
        "a PEC message inside, with its daticert.xml",
        l().parts(&["Content-Type: message/rfc822; \
        name=\"postacert.eml\"\n\nX-Trasporto: posta-certificata\nContent-Type: multipart/mixed; \
        boundary=i\n\n--i\nContent-Type: application/xml; name=\"daticert.xml\"\n\n<postacert/>\n--i--"]),
        Accepted,
    );
    row(
        kind,
        "an attachment called daticert.xml",
        l().parts(&[
            "Content-Type: application/xml; name=\"daticert.xml\"\n\n<postacert tipo=\"accettazione\"/>",
            "Content-Type: application/pkcs7-signature; name=smime.p7s\n\nxx",
        ]),
        Accepted,
    );
    row(
        kind,
        "a signature that signs nothing",
        typed(
            "multipart/signed; boundary=b; protocol=\"application/pkcs7-signature\"",
            "--b\n\nx\n--b\nContent-Type: application/pkcs7-signature\n\nxx\n--b--\n",
        ),
        Accepted,
    );
    row(
        kind,
        "an attached message that is encoded",
        l().parts(&[
            "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\nU3ViamVjdDogeAoKeQo=",
        ]),
        Accepted,
    );
    row(
        kind,
        "an attached message without a header",
        l().parts(&["Content-Type: message/rfc822\n\n\n"]),
        Accepted,
    );
    row(
        kind,
        "an attached message that is cut",
        l().parts(&["Content-Type: message/rfc822\n\nContent-Type: multipart/mixed; boundary=c\n\n--c\n\nx"]),
        Accepted,
    );
    row(
        kind,
        "an attached message that is none",
        l().parts(&["Content-Type: message/rfc822\n\nquesto non è un messaggio"]),
        Accepted,
    );
    row(
        kind,
        "a digest",
        typed(
            "multipart/digest; boundary=b",
            "--b\n\nSubject: 1\n\nuno\n--b\nContent-Type: text/plain\n\ndue\n--b--\n",
        ),
        Accepted,
    );
    row(
        kind,
        "message/partial",
        typed("message/partial; id=x; number=1; total=2", "Subject: x\n\ny\n"),
        not(&["nel messaggio"]),
    );
    row(
        kind,
        "message/external-body",
        typed(
            "message/external-body; access-type=URL; URL=\"http://x.test/\"",
            "Content-Type: text/plain\n\n",
        ),
        not(&["nel messaggio"]),
    );
    row(
        kind,
        "a report of delivery, made up",
        typed(
            "multipart/report; report-type=delivery-status; boundary=b",
            "--b\n\nx\n--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; \
            x\n\nFinal-Recipient: rfc822; bruno@pec.beta.test\nAction: delivered\nStatus: 2.0.0\n--b--\n",
        ),
        Accepted,
    );

    let kind = "transfer encodings";
    for (name, encoding, body) in [
        ("one that nobody knows", "x-segreta", "xyz\n"),
        ("empty", "", "x\n"),
        ("base64 of letters that are none", "base64", "!!!! àè *** ====\n"),
        ("base64 cut in a group", "base64", "QUJDRA\n"),
        ("base64 with padding inside", "base64", "QQ==QQ==QQ==\n"),
        ("quoted-printable that is none", "quoted-printable", "=ZZ =\n=E =\n"),
        ("a soft line break at the end", "quoted-printable", "x="),
        ("7bit with 8 bits", "7bit", "citt\u{e0}\n"),
        ("binary", "binary", "x\n"),
        ("uuencode", "x-uuencode", "begin 644 a.txt\n#0V%T\n`\nend\n"),
        ("two in one field", "base64, quoted-printable", "x\n"),
    ] {
        row(kind, name, l().set("Content-Transfer-Encoding", encoding).text(body), Accepted);
    }
    for charset in ["x-unknown", "utf-7", "utf-16", "\"\"", "=?utf-8?q?x?=", "ebcdic-cp-it"] {
        row(
            kind,
            &format!("charset={charset}"),
            l().set("Content-Type", format!("text/plain; charset={charset}"))
                .raw(b"\xff\xfe\x80citt\xe0\r\n"),
            Accepted,
        );
    }
}

fn lines(row: Row<'_>) {
    let l = letter;
    let kind = "lines and bytes";
    row(kind, "998 letters", l().text(format!("{}\n", "x".repeat(998))), Accepted);
    row(kind, "999 letters", l().text(format!("{}\n", "x".repeat(999))), not(&["riga di 999 caratteri"]));
    row(
        kind,
        "2 MB without a line break",
        l().text("x".repeat(2_000_000)),
        not(&["riga di 2000000 caratteri"]),
    );
    row(kind, "998 bytes of two-byte letters", l().text(format!("{}\n", "è".repeat(499))), Accepted);
    row(kind, "a header line of 999", l().also("X", "x".repeat(999 - 3)), not(&["riga di 999 caratteri"]));
    row(
        kind,
        "a folded header line of 999",
        l().also("X", format!("a\r\n {}", "x".repeat(998))),
        not(&["riga di 999 caratteri"]),
    );
    row(kind, "NUL", l().raw(b"a\0b\r\n"), not(&[STRAY]));
    row(kind, "a CR alone", l().raw(b"a\rb\r\n"), not(&[STRAY]));
    row(kind, "CR CR LF", l().raw(b"a\r\r\n"), not(&[STRAY]));
    row(kind, "a CR at the very end", l().raw(b"a\r\nb\r"), not(&[STRAY]));
    row(
        kind,
        "a CR where two pieces meet",
        l().raw(
            [
                vec![b'x'; 65_534 - 65 * 1002],
                b"\r\n".to_vec(),
                [vec![b'y'; 900], b"\r\n".to_vec()].concat().repeat(72),
                b"z\r!\r\n".to_vec(),
            ]
            .concat(),
        ),
        not(&[STRAY]),
    );
    row(
        kind,
        "NUL and a long line and CR",
        l().raw([b"\0\r".to_vec(), vec![b'x'; 2000]].concat()),
        not(&["riga di 2002 caratteri", STRAY]),
    );
    row(kind, "a CR alone in a field", l().also("X-A", b"a\rb"), not(&[STRAY]));
    row(kind, "CR CR LF in a folded field", l().also("X-A", b"a\r\r\n b"), not(&[STRAY]));
    row(kind, "a CR at the end of a field", l().also("X-A", b"a\r"), not(&[STRAY]));
    row(kind, "a CR in an address", l().set("To", b"bruno\r@pec.beta.test"), not(&[TO, NOT_NAMED, STRAY]));
    row(
        kind,
        "a line of an mbox file",
        l().first("X-Mailbox-Line", "From x Thu Nov 19 10:00:00 2026"),
        not(&["prima riga (From ...)"]),
    );
    row(kind, "no line break at the end", l().raw(b"Ciao"), Accepted);
    row(kind, "dots alone", l().text(".\n..\n...\n.\n"), Accepted);
    row(kind, "100,000 empty lines", l().text("\n".repeat(100_000)), Accepted);
    row(kind, "escape sequences", l().raw(b"\x1b[2J\x1b]0;x\x07\x08\x7f\x0c\x0b\r\n"), Accepted);
    row(
        kind,
        "every byte but NUL, CR and LF",
        l().raw((1..=255u8).filter(|b| !b"\r\n".contains(b)).collect::<Vec<_>>()),
        Accepted,
    );
    row(
        kind,
        "an SMTP dialogue in the body",
        l().text(
            ".\nMAIL FROM:<altra@pec.alfa.test>\nRCPT TO:<bruno@pec.beta.test>\nDATA\nFrom: x\n\nx\n.\n",
        ),
        Accepted,
    );
    row(
        kind,
        "a second header in the body",
        l().text("\n\nFrom: altra@pec.alfa.test\nX-Trasporto: posta-certificata\n\nx\n"),
        Accepted,
    );
    row(kind, "no body", l().raw(b""), Accepted);
}

fn sizes(row: Row<'_>) {
    let l = letter;
    let kind = "header";
    row(
        kind,
        "names of every printable letter",
        (33..127u8).filter(|b| *b != b':').fold(l(), |l, b| l.also(&char::from(b).to_string(), "x")),
        Accepted,
    );
    row(
        kind,
        "a field without a blank, with tabs, without anything",
        l().also("X-A", "").also("X-B", "\t\t"),
        Accepted,
    );
    row(
        kind,
        "a field that Postfix cuts",
        l().also("X", vec!["x".repeat(900); 67].join("\r\n ")),
        Refused("554 5.6.0"),
    );
    row(
        kind,
        "1,200 fields",
        (0..1200).fold(l(), |l, i| l.also(&format!("X-{i}"), "x")),
        Refused("554 5.6.0"),
    );
    row(
        kind,
        "60 hops",
        (0..60)
            .fold(l(), |l, _| l.also("Received", "from a.test by b.test; Thu, 19 Nov 2026 00:00:00 +0100")),
        Refused("554 5.6.0"),
    );
    row(
        kind,
        "more than a megabyte",
        (0..25).fold(l(), |l, _| l.also("X", vec!["x".repeat(900); 50].join("\r\n "))),
        Refused("554 5.6.0"),
    );
    row(
        kind,
        "990 fields of forty kinds",
        (0..985).fold(l(), |l, i| l.also(&format!("Resent-X-{}", i % 40), "x@y.test")),
        Accepted,
    );
    row(
        kind,
        "fields that a mailing list writes",
        l().also("List-Id", "<l.x.test>")
            .also("Sender", "altra@pec.alfa.test")
            .also("Resent-From", "x@y.test")
            .also("Return-Path", "<>"),
        Accepted,
    );

    let kind = "size";
    row(
        kind,
        "more than the limit",
        l().text("0123456789abcdefghijklmnopqrstuvwxyz\n".repeat(90_000)),
        Refused("552 5.3.4"),
    );
    let five: Vec<String> = numbered("u", "@pec.beta.test", 5);
    let five: &'static [String] = Box::leak(five.into_boxed_slice());
    row(
        kind,
        "size times recipients",
        l().set("To", five.join(", "))
            .rcpt(&five.iter().map(String::as_str).collect::<Vec<_>>())
            .text("0123456789abcdefghijklmnopqrstuvwxyz\n".repeat(60_000)),
        not(&["superamento della dimensione massima"]),
    );
}

#[allow(clippy::too_many_lines)]
fn attachments(row: Row<'_>) {
    let l = letter;
    let pdf = "Content-Type: application/pdf; name=\"fattura.pdf\"";
    let zip = "Content-Type: application/zip; name=\"a.zip\"";
    let one = |name: &str, content: &[u8]| zip_of(&[Zip::stored(name, content)]);

    let kind = "blocked attachments";
    row(
        kind,
        "by its name",
        l().file("Content-Type: application/octet-stream; name=\"a.exe\"", b"x"),
        not(&[BLOCKED]),
    );
    row(kind, "renamed", l().file(pdf, &program()), not(&[BLOCKED]));
    row(
        kind,
        "renamed, the transfer encoding with a comment",
        l().file(&format!("{pdf}\nContent-Transfer-Encoding: base64 (così)"), &program()),
        not(&[BLOCKED]),
    );
    row(
        kind,
        "renamed, the transfer encoding in capitals and folded",
        l().file(&format!("{pdf}\nContent-Transfer-Encoding:\n BASE64"), &program()),
        not(&[BLOCKED]),
    );
    row(
        kind,
        "renamed, base64 with rubbish between its letters",
        l().parts(&[&format!(
            "{pdf}\nContent-Transfer-Encoding: base64\n\n!{}",
            encodify::base64::STANDARD
                .encode(program())
                .chars()
                .map(|c| format!("{c}\u{7f}-"))
                .collect::<String>()
                .as_bytes()
                .chunks(90)
                .map(String::from_utf8_lossy)
                .collect::<Vec<_>>()
                .join("\n")
        )]),
        not(&[BLOCKED]),
    );
    row(
        kind,
        "a name in pieces",
        l().file("Content-Type: a/b; name*0=\"a.e\"; name*1=xe", b"x"),
        not(&[BLOCKED]),
    );
    row(
        kind,
        "a name in per cents",
        l().file("Content-Disposition: attachment; filename*=utf-8''a%2Eexe", b"x"),
        not(&[BLOCKED]),
    );
    row(
        kind,
        "a name in encoded words",
        l().file("Content-Disposition: attachment; filename=\"=?utf-8?q?a=2Eexe?=\"", b"x"),
        not(&[BLOCKED]),
    );
    row(
        kind,
        "a name whose end is hidden",
        l().file("Content-Disposition: attachment; filename=\"=?utf-8?q?fattura=E2=80=AEfdp.exe?=\"", b"x"),
        not(&[BLOCKED]),
    );
    row(
        kind,
        "dots and blanks at the end",
        l().file("Content-Disposition: attachment; filename=\"a.exe. . \"", b"x"),
        not(&[BLOCKED]),
    );
    row(
        kind,
        "two names that differ",
        l().file("Content-Type: a/b; name=a.pdf\nContent-Disposition: attachment; filename=a.exe", b"x"),
        not(&[BLOCKED]),
    );
    row(
        kind,
        "two names in one field",
        l().file("Content-Disposition: attachment; filename=a.pdf; filename=a.exe", b"x"),
        not(&[BLOCKED]),
    );
    row(
        kind,
        "a name behind 200 parameters",
        l().file(&format!("Content-Disposition: attachment{}; filename=a.exe", "; x=y".repeat(190)), b"x"),
        not(&[BLOCKED]),
    );
    row(
        kind,
        "the message itself",
        l().set("Content-Type", "application/x-msdownload; name=a.exe").text("x\n"),
        not(&[BLOCKED]),
    );
    row(
        kind,
        "in an attached message",
        l().parts(&["Content-Type: message/rfc822\n\nContent-Type: a/b; name=a.exe\n\nx"]),
        not(&[BLOCKED]),
    );
    row(
        kind,
        "in an attached message that is encoded",
        l().file("Content-Type: message/rfc822", b"Content-Type: a/b; name=a.exe\r\n\r\nx"),
        not(&[BLOCKED]),
    );
    row(
        kind,
        "in a file that is a message",
        l().file(
            "Content-Type: application/octet-stream; name=a.eml",
            b"Content-Type: a/b; name=a.exe\r\n\r\nx",
        ),
        not(&[BLOCKED]),
    );
    row(
        kind,
        "messages in files, too deep to look at",
        l().file(
            "Content-Type: a/b; name=a.eml",
            &(0..12).fold(b"x".to_vec(), |inner, _| {
                [b"Content-Type: a/b; name=a.eml\r\n\r\n".to_vec(), inner].concat()
            }),
        ),
        not(&[ENDLESS]),
    );
    row(kind, "of a kind that is not blocked", l().file(pdf, b"%PDF-1.7"), Accepted);
    row(
        kind,
        "a text that begins with MZ",
        l().file(
            "Content-Type: text/plain; name=a.txt",
            b"MZ e' la sigla di Monza, un tempo; e questo testo e' lungo abbastanza",
        ),
        Accepted,
    );

    row(
        kind,
        "beside a formal fault",
        l().also("Bcc", BRUNO).file("Content-Type: application/octet-stream; name=\"a.exe\"", b"x"),
        not(&["copia nascosta", BLOCKED]),
    );

    let kind = "zip archives";
    row(kind, "a program", l().file(zip, &one("a.exe", b"x")), not(&[BLOCKED]));
    row(kind, "a program renamed", l().file(zip, &one("a.pdf", &program())), not(&[BLOCKED]));
    row(
        kind,
        "a program renamed and packed",
        l().file(zip, &zip_of(&[Zip::packed("a.pdf", &program())])),
        not(&[BLOCKED]),
    );
    row(kind, "an archive renamed", l().file(pdf, &one("a.exe", b"x")), not(&[BLOCKED]));
    row(kind, "an archive in an archive", l().file(zip, &one("b.dat", &one("a.exe", b"x"))), not(&[BLOCKED]));
    row(
        kind,
        "archives twelve deep",
        l().file(zip, &(0..12).fold(one("a.txt", b"x"), |inner, _| one("b.zip", &inner))),
        not(&[ENDLESS]),
    );
    row(
        kind,
        "a bomb: 100 MB of zeros in an archive in an archive",
        l().file(
            zip,
            &zip_of(&[Zip::packed("b.zip", &[b"PK\x03\x04".to_vec(), vec![0; 100_000_000]].concat())]),
        ),
        not(&[ENDLESS]),
    );
    row(
        kind,
        "a bomb: a hundred archives of a megabyte each",
        l().file(
            zip,
            &zip_of(
                &(0..100)
                    .map(|i| {
                        Zip::packed(
                            &format!("{i}.zip"),
                            &[b"PK\x03\x04".to_vec(), vec![0; 1_000_000]].concat(),
                        )
                    })
                    .collect::<Vec<_>>(),
            ),
        ),
        not(&[ENDLESS]),
    );
    row(
        kind,
        "a bomb of one large file is its receiver's",
        l().file(zip, &zip_of(&[Zip::packed("a.txt", &vec![0; 50_000_000])])),
        Accepted,
    );
    row(kind, "a bomb: all entries overlap", l().file(zip, &overlapping(15_000)), not(&[ENDLESS]));
    row(
        kind,
        "10,001 files",
        l().file(zip, &zip_of(&(0..10_001).map(|i| Zip::stored(&format!("{i}"), b"")).collect::<Vec<_>>())),
        not(&[ENDLESS]),
    );
    row(
        kind,
        "encrypted, its names are read",
        l().file(zip, &zip_of(&[Zip { flags: 1, ..Zip::stored("a.exe", b"xxxxxxxxxxxx") }])),
        not(&[BLOCKED]),
    );
    row(
        kind,
        "encrypted",
        l().file(zip, &zip_of(&[Zip { flags: 1, ..Zip::stored("a.pdf", b"xxxxxxxxxxxx") }])),
        Accepted,
    );
    row(
        kind,
        "a method that nobody knows",
        l().file(zip, &zip_of(&[Zip { method: 99, ..Zip::stored("a.txt", b"x") }])),
        Accepted,
    );
    row(
        kind,
        "a second name",
        l().file(zip, &zip_of(&[Zip { extra: unicode_name("a.exe"), ..Zip::stored("a.txt", b"x") }])),
        not(&[BLOCKED]),
    );
    row(
        kind,
        "sizes and offsets of 64 bits",
        l().file(
            zip,
            &zip_of(&[Zip {
                extra: [vec![1, 0, 16, 0], vec![0xff; 16]].concat(),
                offset: Some(u32::MAX),
                ..Zip::stored("a.txt", b"x")
            }]),
        ),
        Accepted,
    );
    row(
        kind,
        "offsets that lead out of the archive",
        l().file(zip, &zip_of(&[Zip { offset: Some(0x7fff_ffff), ..Zip::stored("a.txt", b"x") }])),
        Accepted,
    );
    row(kind, "a directory that is cut", l().file(zip, &one("a.txt", b"x")[..60]), Accepted);
    row(
        kind,
        "a stream that is cut",
        l().file(zip, &zip_of(&[Zip::packed("a.txt", &program())])[..50]),
        Accepted,
    );
    row(kind, "signatures and nothing else", l().file(zip, &b"PK\x01\x02".repeat(20_000)), not(&[ENDLESS]));
    row(
        kind,
        "a name of 60,000 letters",
        l().file(zip, &one(&format!("{}.exe", "a".repeat(60_000)), b"x")),
        not(&[BLOCKED]),
    );
    row(
        kind,
        "a name that is no text",
        l().file(
            zip,
            &zip_of(&[Zip { raw_name: Some(b"\xff\xfe../\0..\\a.exe".to_vec()), ..Zip::stored("", b"x") }]),
        ),
        not(&[BLOCKED]),
    );

    let kind = "viruses";
    row(kind, "in the text", l().text(format!("{}\n", crate::VIRUS)), Virus);
    row(kind, "in the header", l().also("X", crate::VIRUS), Virus);
    row(
        kind,
        "in the epilogue",
        l().set("Content-Type", "multipart/mixed; boundary=b")
            .text(format!("--b\n\nx\n--b--\n{}\n", crate::VIRUS)),
        Virus,
    );
    row(
        kind,
        "beside a blocked attachment",
        l().parts(&["Content-Type: a/b; name=a.exe\n\nx", &format!("\n{}", crate::VIRUS)]),
        Virus,
    );
    row(
        kind,
        "what the scanner gives up on",
        l().text(format!("{}\n", crate::SCANNER_GIVES_UP)),
        Refused("552 5.3.4"),
    );
    row(kind, "comes before a formal fault", l().without("From").text(format!("{}\n", crate::VIRUS)), Virus);
}

/// An archive whose records all describe the same bytes.
fn overlapping(records: usize) -> Vec<u8> {
    zip_of(
        &(0..records)
            .map(|i| Zip { offset: Some(0), ..Zip::packed(&format!("{i}.txt"), &[0; 4096]) })
            .collect::<Vec<_>>(),
    )
}

fn unicode_name(name: &str) -> Vec<u8> {
    let length = u16::try_from(name.len() + 5).unwrap().to_le_bytes();
    [&[0x75, 0x70][..], &length, &[1, 0, 0, 0, 0], name.as_bytes()].concat()
}
