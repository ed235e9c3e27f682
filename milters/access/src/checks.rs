//! Why a message is not accepted, each cause in its own words, and the formal checks of RFC 6109 s. 3.1.1.
//!
//! Promise: what passes them has one sender and recipients that every reader of its header reads alike; all
//! causes that a message has are found, not the first alone.

use std::collections::HashSet;
use std::fmt;

use pec_core::address::Address;
use pec_core::attachments::Blocked;
use pec_core::header::Field;
use pec_core::identifier::is_identifier;
use pec_core::message::MAX_LINE_LENGTH;
use pec_core::mime::MimeError;
use pec_milter::Transaction;

/// Fields that only providers write. A submitted message that has one pretends to be a notice.
const RESERVED_FIELDS: [&str; 5] =
    ["X-Ricevuta", "X-Trasporto", "X-Riferimento-Message-ID", "X-VerificaSicurezza", "X-Mittente"];

/// Fields that may stand at most once (RFC 5322 s. 3.6) and that the checks and the envelope go by.
const SINGLE_FIELDS: [&str; 9] = [
    "From",
    "To",
    "Cc",
    "Reply-To",
    "Message-ID",
    "Subject",
    "Date",
    "Content-Type",
    "Content-Transfer-Encoding",
];

/// What Postfix makes of a line of mbox files (`From x`) before the header: the original would be carried
/// with this field.
const MAILBOX_LINE: &str = "X-Mailbox-Line";

/// Why a message is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Eccezione {
    /// No `From:`.
    FromMissing,
    /// `From:` is not exactly one address.
    FromNotOneAddress(String),
    /// `From:` is somebody else than MAIL FROM.
    FromIsNotSender {
        /// In the header.
        from: String,
        /// In the SMTP envelope.
        sender: String,
    },
    /// No `To:`, or none with an address.
    ToMissing,
    /// `To:` or `Cc:` holds something that is no address.
    NotAnAddress {
        /// Which field.
        field: &'static str,
        /// What it holds.
        text: String,
    },
    /// `Bcc:` or `Resent-Bcc:` with a value.
    Bcc(&'static str),
    /// A recipient of the SMTP envelope that `To:` and `Cc:` do not name.
    RecipientNotInHeader(String),
    /// An address in `To:` or `Cc:` that is no recipient of the SMTP envelope.
    HeaderNotInRecipients(String),
    /// More recipients than `pec_recipient_limit`.
    TooManyRecipients {
        /// How many.
        recipients: usize,
        /// The limit.
        limit: usize,
    },
    /// Size times recipients is over the limit.
    TotalTooLarge {
        /// Bytes of the message.
        size: u64,
        /// Number of recipients.
        recipients: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A line that SMTP does not carry.
    LineTooLong(usize),
    /// `Message-ID:` is not one identifier.
    MessageId(String),
    /// A NUL, or a CR that ends no line.
    NulOrBareCr,
    /// Before the header stands a line that is no field.
    MailboxLine,
    /// A field that may stand once stands several times.
    Repeated(&'static str),
    /// A field that only providers write.
    Reserved(&'static str),
    /// Attachments of kinds that this provider does not take.
    Blocked(Vec<Blocked>),
    /// Parts that cannot be taken apart.
    Mime(MimeError),
}

impl fmt::Display for Eccezione {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FromMissing => f.write_str("the From: field is missing"),
            Self::FromNotOneAddress(text) => write!(
                f,
                "the From: field must hold exactly one mail address, \
                it holds {text:?}"
            ),
            Self::FromIsNotSender { from, sender } => write!(
                f,
                "the From: field says {from}, the sender is \
                {sender}"
            ),
            Self::ToMissing => f.write_str("the To: field names no mail address"),
            Self::NotAnAddress { field, text } => write!(
                f,
                "the {field}: field holds {text:?}, which is no \
                mail address"
            ),
            Self::Bcc(field) => write!(f, "blind copies ({field}:) are not allowed"),
            Self::RecipientNotInHeader(address) => write!(
                f,
                "the recipient {address} stands neither in To: \
                nor in Cc:"
            ),
            Self::HeaderNotInRecipients(address) => write!(
                f,
                "{address} stands in To: or Cc: but is not \
                among the recipients"
            ),
            Self::TooManyRecipients { recipients, limit } => write!(
                f,
                "{recipients} recipients, at most \
                {limit} are allowed"
            ),
            Self::TotalTooLarge { size, recipients, limit } => {
                write!(
                    f,
                    "{size} bytes for {recipients} recipients: together more than the {limit} bytes \
                    that are allowed"
                )
            }
            Self::LineTooLong(length) => write!(
                f,
                "a line has {length} characters, at most \
                {MAX_LINE_LENGTH} are allowed"
            ),
            Self::MessageId(text) => write!(
                f,
                "the Message-ID: field must hold one identifier, \
                <left@right>, it holds {text:?}"
            ),
            Self::NulOrBareCr => f.write_str(
                "the text holds a NUL character or a CR that ends no line, \
                which cannot be carried unchanged",
            ),
            Self::MailboxLine => f.write_str(
                "the header begins with a line that is no field (From ...), \
                which cannot be carried unchanged",
            ),
            Self::Repeated(field) => write!(f, "the {field}: field stands more than once"),
            Self::Reserved(field) => write!(
                f,
                "the {field}: field is reserved for certified mail \
                providers"
            ),
            Self::Blocked(found) => {
                write!(f, "attachments of a kind that is not allowed: {}", list(found, ToString::to_string))
            }
            Self::Mime(e) => write!(f, "a malformed MIME structure ({e})"),
        }
    }
}

impl Eccezione {
    /// The same in Italian, as it follows "a causa di".
    pub fn italiano(&self) -> String {
        match self {
            Self::FromMissing => "campo From assente".to_owned(),
            Self::FromNotOneAddress(text) => format!(
                "campo From che non contiene un solo indirizzo di \
                posta ({text:?})"
            ),
            Self::FromIsNotSender { from, sender } => format!(
                "indirizzo nel campo From ({from}) diverso da \
                quello del mittente ({sender})"
            ),
            Self::ToMissing => "campo To privo di indirizzi di posta".to_owned(),
            Self::NotAnAddress { field, text } => format!(
                "indirizzo non valido nel campo {field} \
                ({text:?})"
            ),
            Self::Bcc(field) => format!("destinatari in copia nascosta (campo {field}) non ammessi"),
            Self::RecipientNotInHeader(address) => format!(
                "destinatario {address} non presente nei campi \
                To o Cc"
            ),
            Self::HeaderNotInRecipients(address) => format!(
                "indirizzo {address} presente nei campi To o Cc \
                ma non tra i destinatari"
            ),
            Self::TooManyRecipients { recipients, limit } => format!(
                "numero di destinatari ({recipients}) \
                superiore al massimo di {limit}"
            ),
            Self::TotalTooLarge { size, recipients, limit } => {
                format!(
                    "superamento della dimensione massima ({size} byte per {recipients} destinatari, \
                    massimo {limit} byte in totale)"
                )
            }
            Self::LineTooLong(length) => format!(
                "riga di {length} caratteri, oltre il massimo di \
                {MAX_LINE_LENGTH}"
            ),
            Self::MessageId(text) => format!("campo Message-ID non valido ({text:?})"),
            Self::NulOrBareCr => {
                "caratteri NUL o CR isolati, che non possono essere trasmessi inalterati".to_owned()
            }
            Self::MailboxLine => "prima riga (From ...) che non è un campo dell'intestazione, e che non può \
                essere trasmessa inalterata"
                .to_owned(),
            Self::Repeated(field) => format!("campo {field} presente più volte"),
            Self::Reserved(field) => format!("campo {field} riservato ai gestori di posta certificata"),
            Self::Blocked(found) => {
                format!("allegati di tipo non ammesso: {}", list(found, Blocked::italiano))
            }
            Self::Mime(e) => format!("struttura MIME non valida ({})", e.italiano()),
        }
    }
}

fn list(found: &[Blocked], words: fn(&Blocked) -> String) -> String {
    found.iter().map(words).collect::<Vec<_>>().join(", ")
}

/// How many causes a notice names; the others are counted.
const MOST_CAUSES: usize = 20;

/// How much of a text that the sender wrote is repeated, in characters.
const MOST_QUOTED: usize = 100;

/// All causes as one line, in Italian and in English.
pub fn described(causes: &[Eccezione]) -> (String, String) {
    let others = causes.len().saturating_sub(MOST_CAUSES);
    let line = |words: &dyn Fn(&Eccezione) -> String, rest: String| {
        let named = causes.iter().take(MOST_CAUSES).map(words);
        named.chain((others > 0).then_some(rest)).collect::<Vec<_>>().join("; ")
    };
    (
        line(&Eccezione::italiano, format!("e altri {others} problemi")),
        line(&ToString::to_string, format!("and {others} other problems")),
    )
}

/// The beginning of what a field holds.
fn quoted(text: &str) -> String {
    text.chars().take(MOST_QUOTED).collect()
}

/// What a message may have at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `pec_total_size_limit`, bytes.
    pub total_size: u64,
    /// `pec_recipient_limit`.
    pub recipients: usize,
}

/// All that is wrong with a message from `sender`, in the order of RFC 6109 s. 3.1.1.
pub fn formal_exceptions(transaction: &Transaction, sender: &Address, limits: Limits) -> Vec<Eccezione> {
    let header = &transaction.header;
    let mut found = Vec::new();

    if header.first("From").is_none() {
        found.push(Eccezione::FromMissing);
    } else {
        match header.addresses("From") {
            Ok(from) => match &from[..] {
                [from] if from == sender => {}
                [from] => found
                    .push(Eccezione::FromIsNotSender { from: from.to_string(), sender: sender.to_string() }),
                _ => {
                    found.push(Eccezione::FromNotOneAddress(quoted(&header.text("From").unwrap_or_default())))
                }
            },
            Err(_) => {
                found.push(Eccezione::FromNotOneAddress(quoted(&header.text("From").unwrap_or_default())))
            }
        }
    }

    let mut named: Vec<Address> = Vec::new();
    for field in ["To", "Cc"] {
        match header.addresses(field) {
            Ok(addresses) if addresses.is_empty() && field == "To" => found.push(Eccezione::ToMissing),
            Ok(addresses) => named.extend(addresses),
            Err(text) => found.push(Eccezione::NotAnAddress { field, text: quoted(&text) }),
        }
    }
    for name in ["Bcc", "Resent-Bcc"] {
        if header.all(name).any(|field| !field.text().is_empty()) {
            found.push(Eccezione::Bcc(name));
        }
    }

    let in_header: HashSet<&Address> = named.iter().collect();
    let in_envelope: HashSet<&Address> =
        transaction.recipients.iter().filter_map(|r| r.address.as_ref()).collect();
    found.extend(
        distinct(transaction.recipients.iter().filter_map(|r| r.address.as_ref()), &in_header)
            .map(Eccezione::RecipientNotInHeader),
    );
    found.extend(distinct(named.iter(), &in_envelope).map(Eccezione::HeaderNotInRecipients));

    if in_envelope.len() > limits.recipients {
        found.push(Eccezione::TooManyRecipients { recipients: in_envelope.len(), limit: limits.recipients });
    }
    let (size, recipients) = (transaction.size(), in_envelope.len() as u64);
    if size.saturating_mul(recipients) > limits.total_size {
        found.push(Eccezione::TotalTooLarge { size, recipients, limit: limits.total_size });
    }
    let longest = transaction.body.longest_line().max(longest_header_line(transaction));
    if longest > MAX_LINE_LENGTH {
        found.push(Eccezione::LineTooLong(longest));
    }
    if let Some(text) = header.text("Message-ID").filter(|text| !is_message_id(text)) {
        found.push(Eccezione::MessageId(quoted(&text)));
    }
    if transaction.body.has_nul_or_bare_cr() || header.has_nul_or_bare_cr() {
        found.push(Eccezione::NulOrBareCr);
    }
    if header.fields().first().is_some_and(|field| field.is(MAILBOX_LINE)) {
        found.push(Eccezione::MailboxLine);
    }
    found.extend(
        SINGLE_FIELDS.into_iter().filter(|name| header.all(name).count() > 1).map(Eccezione::Repeated),
    );
    found.extend(
        RESERVED_FIELDS.into_iter().filter(|name| header.first(name).is_some()).map(Eccezione::Reserved),
    );
    found
}

/// Whether this is one identifier in angle brackets (RFC 5322 s. 3.6.4).
pub(crate) fn is_message_id(text: &str) -> bool {
    text.strip_prefix('<').and_then(|t| t.strip_suffix('>')).is_some_and(is_identifier)
}

/// The addresses, each once, that are not in `others`.
fn distinct<'a>(
    addresses: impl Iterator<Item = &'a Address>,
    others: &HashSet<&Address>,
) -> impl Iterator<Item = String> {
    let mut seen = HashSet::new();
    addresses
        .filter(|a| !others.contains(a) && seen.insert(a.key()))
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .into_iter()
}

fn longest_header_line(transaction: &Transaction) -> usize {
    let of_field = |f: &Field| {
        let mut lines =
            f.value.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line).len());
        (f.name.len() + 1 + lines.next().unwrap_or_default()).max(lines.max().unwrap_or_default())
    };
    transaction.header.fields().iter().map(of_field).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use pec_host::parameters::GUARANTEED_SIZE;
    use pec_milter::Recipient;

    use super::*;

    const GOOD: &str = "From: Anna <anna@pec.alfa.test>\nTo: bruno@pec.beta.test\nCc: \"C, arla\" \
        <carla@posta.test>\nSubject: x\n";

    fn check(header: &str, recipients: &[&str], body: &str) -> Vec<Eccezione> {
        let mut transaction = Transaction::new("<anna@pec.alfa.test>");
        for field in header.replace("\n ", "\u{1}").split_terminator('\n') {
            let (name, value) = field.split_once(':').unwrap();
            transaction.push_field(name.as_bytes(), value.replace('\u{1}', "\n ").as_bytes());
        }
        transaction.push_body(body.to_owned().into());
        transaction.recipients = recipients.iter().map(|r| Recipient::new(&format!("<{r}>"))).collect();
        formal_exceptions(
            &transaction,
            &Address::parse("anna@pec.alfa.test").unwrap(),
            Limits { total_size: GUARANTEED_SIZE, recipients: 50 },
        )
    }

    const BOTH: &[&str] = &["Bruno@pec.beta.TEST", "carla@posta.test"];

    #[test]
    fn rfc6109_3_1_1_a_formally_correct_message_passes() {
        assert_eq!(check(GOOD, BOTH, "x\r\n"), []);
        assert_eq!(check(&format!("{GOOD}Bcc:\n"), BOTH, "x\r\n"), [], "an empty Bcc has no value");
        assert_eq!(
            check(GOOD, &["bruno@pec.beta.test", "BRUNO@pec.beta.test", "carla@posta.test"], "x\r\n"),
            [],
            "named twice"
        );
    }

    #[test]
    fn rfc6109_3_1_1_from_is_one_address_and_the_sender() {
        assert_eq!(check(&GOOD.replace("From", "X-From"), BOTH, ""), [Eccezione::FromMissing]);
        for from in ["", "Anna", "anna@pec.alfa.test, bruno@pec.beta.test"] {
            let found = check(&GOOD.replace("Anna <anna@pec.alfa.test>", from), BOTH, "");
            assert!(matches!(&found[..], [Eccezione::FromNotOneAddress(_)]), "{from}: {found:?}");
        }
        let found = check(&GOOD.replace("<anna@", "<altra@"), BOTH, "");
        assert_eq!(
            found,
            [Eccezione::FromIsNotSender {
                from: "altra@pec.alfa.test".into(),
                sender: "anna@pec.alfa.test".into()
            }]
        );
        assert_eq!(check(&GOOD.replace("<anna@", "<ANNA@"), BOTH, ""), []);
    }

    #[test]
    fn rfc6109_3_1_1_to_has_addresses() {
        let found = check(&GOOD.replace("To: bruno@pec.beta.test\n", ""), &["carla@posta.test"], "");
        assert_eq!(found, [Eccezione::ToMissing]);
        let found = check(
            &GOOD.replace("To: bruno@pec.beta.test", "To: undisclosed-recipients:;"),
            &["carla@posta.test"],
            "",
        );
        assert_eq!(found, [Eccezione::ToMissing]);
        let found = check(&GOOD.replace("bruno@pec.beta.test", "bruno"), &["carla@posta.test"], "");
        assert_eq!(found, [Eccezione::NotAnAddress { field: "To", text: "bruno".into() }]);
    }

    #[test]
    fn rfc6109_3_1_1_recipients_coincide_with_to_and_cc() {
        let found = check(GOOD, &["bruno@pec.beta.test", "carla@posta.test", "dario@pec.beta.test"], "");
        assert_eq!(found, [Eccezione::RecipientNotInHeader("dario@pec.beta.test".into())]);
        let found = check(GOOD, &["bruno@pec.beta.test"], "");
        assert_eq!(found, [Eccezione::HeaderNotInRecipients("carla@posta.test".into())]);
    }

    #[test]
    fn rfc6109_3_1_1_bcc_has_no_value() {
        assert_eq!(check(&format!("{GOOD}Bcc: dario@pec.beta.test\n"), BOTH, ""), [Eccezione::Bcc("Bcc")]);
        assert_eq!(check(&format!("{GOOD}bcc:\nBcc: nobody\n"), BOTH, ""), [Eccezione::Bcc("Bcc")]);
        assert_eq!(
            check(&format!("{GOOD}Resent-Bcc: dario@pec.beta.test\n"), BOTH, ""),
            [Eccezione::Bcc("Resent-Bcc")]
        );
    }

    #[test]
    fn rfc6109_3_1_1_size_times_recipients_is_limited() {
        let line = format!("{}\r\n", "a".repeat(98));
        let body = line.repeat(160_000);
        let found = check(GOOD, BOTH, &body);
        let [Eccezione::TotalTooLarge { size, recipients: 2, limit: GUARANTEED_SIZE }] = &found[..] else {
            panic!("{found:?}")
        };
        // What the body may have for two of the message to be as much as is allowed.
        let most = usize::try_from(GUARANTEED_SIZE / 2 - (size - body.len() as u64)).unwrap();
        let body =
            |length: usize| format!("{}{}\r\n", line.repeat(length / 100 - 1), "a".repeat(98 + length % 100));
        assert_eq!(check(GOOD, BOTH, &body(most)), []);
        assert_eq!(check(GOOD, BOTH, &body(most + 1)).len(), 1);
    }

    #[test]
    fn rfc5322_lines_have_998_characters_at_most() {
        assert_eq!(check(GOOD, BOTH, &format!("{}\r\n", "a".repeat(998))), []);
        assert_eq!(check(GOOD, BOTH, &format!("{}\r\n", "a".repeat(999))), [Eccezione::LineTooLong(999)]);
        assert_eq!(check(&format!("{GOOD}X: {}\n", "a".repeat(995)), BOTH, ""), []);
        assert_eq!(
            check(&format!("{GOOD}X: {}\n", "a".repeat(996)), BOTH, ""),
            [Eccezione::LineTooLong(999)]
        );
        assert_eq!(
            check(&format!("{GOOD}X: a\n {}\n", "a".repeat(998)), BOTH, ""),
            [Eccezione::LineTooLong(999)]
        );
    }

    #[test]
    fn rfc5321_2_3_8_what_smtp_does_not_carry() {
        assert_eq!(check(GOOD, BOTH, "a\rb\r\n"), [Eccezione::NulOrBareCr]);
        assert_eq!(check(GOOD, BOTH, "a\0b\r\n"), [Eccezione::NulOrBareCr]);
        for field in ["X: a\rb\n", "X: a\r\n b\n", "X: a\n b\r\n", "X:\r\n"] {
            // LF is the fold: whatever CR there is stands for itself.
            assert_eq!(check(&format!("{GOOD}{field}"), BOTH, ""), [Eccezione::NulOrBareCr], "{field:?}");
        }
    }

    #[test]
    fn a_line_before_the_header_is_no_part_of_an_original() {
        assert_eq!(
            check(&format!("X-Mailbox-Line: From anna@pec.alfa.test Thu Nov 19\n{GOOD}"), BOTH, ""),
            [Eccezione::MailboxLine]
        );
        assert_eq!(
            check(&format!("{GOOD}X-Mailbox-Line: x\n"), BOTH, ""),
            [],
            "a field that the client wrote"
        );
    }

    #[test]
    fn rfc5322_single_fields_stand_once() {
        assert_eq!(
            check(&format!("{GOOD}Message-ID: <1@x>\nmessage-id: <2@x>\n"), BOTH, ""),
            [Eccezione::Repeated("Message-ID")]
        );
    }

    #[test]
    fn rfc5322_3_6_4_a_message_id_is_one_identifier() {
        assert_eq!(check(&format!("{GOOD}Message-ID: <a.b+c/1@[10.0.0.1]>\n"), BOTH, ""), []);
        assert_eq!(check(&format!("{GOOD}Message-ID:\n"), BOTH, ""), [], "an empty one is none");
        for wrong in
            ["1@x", "<1@x> <2@x>", "<1>", "<@x>", "<a b@x>", "parole", &format!("<{}@x>", "1".repeat(600))]
        {
            assert_eq!(
                check(&format!("{GOOD}Message-ID: {wrong}\n"), BOTH, ""),
                [Eccezione::MessageId(quoted(wrong))]
            );
        }
    }

    #[test]
    fn fields_of_providers_are_not_for_users() {
        assert_eq!(
            check(&format!("{GOOD}x-trasporto: posta-certificata\n"), BOTH, ""),
            [Eccezione::Reserved("X-Trasporto")]
        );
    }

    #[test]
    fn dm_2_11_2005_art_12_recipients_are_limited_at_50_or_more() {
        let recipients: Vec<String> = (0..51).map(|i| format!("r{i}@pec.beta.test")).collect();
        let of = |n: usize| {
            let recipients: Vec<&str> = recipients[..n].iter().map(String::as_str).collect();
            check(&format!("From: anna@pec.alfa.test\nTo: {}\n", recipients.join(", ")), &recipients, "")
        };
        assert_eq!(of(50), []);
        assert_eq!(of(51), [Eccezione::TooManyRecipients { recipients: 51, limit: 50 }]);
    }

    #[test]
    fn rfc6109_3_1_2_each_cause_has_its_own_words_in_both_languages() {
        use pec_core::attachments::Why;
        let text = || "x".to_owned();
        let blocked = |name: &str, why| Blocked { name: name.to_owned(), why };
        let attachments =
            vec![blocked("a.exe", Why::Name("exe".to_owned())), blocked("b", Why::Content("msi"))];
        for (cause, italiano, inglese) in [
            (Eccezione::FromMissing, "campo From assente", "the From: field is missing"),
            (
                Eccezione::FromNotOneAddress(text()),
                "campo From che non contiene un solo indirizzo di posta (\"x\")",
                "the From: field must hold exactly one mail address, it holds \"x\"",
            ),
            (
                Eccezione::FromIsNotSender { from: "a@x.test".to_owned(), sender: "b@x.test".to_owned() },
                "indirizzo nel campo From (a@x.test) diverso da quello del mittente (b@x.test)",
                "the From: field says a@x.test, the sender is b@x.test",
            ),
            (
                Eccezione::ToMissing,
                "campo To privo di indirizzi di posta",
                "the To: field names no mail address",
            ),
            (
                Eccezione::NotAnAddress { field: "Cc", text: text() },
                "indirizzo non valido nel campo Cc (\"x\")",
                "the Cc: field holds \"x\", which is no mail address",
            ),
            (
                Eccezione::Bcc("Bcc"),
                "destinatari in copia nascosta (campo Bcc) non ammessi",
                "blind copies (Bcc:) are not allowed",
            ),
            (
                Eccezione::RecipientNotInHeader("a@x.test".to_owned()),
                "destinatario a@x.test non presente nei campi To o Cc",
                "the recipient a@x.test stands neither in To: nor in Cc:",
            ),
            (
                Eccezione::HeaderNotInRecipients("a@x.test".to_owned()),
                "indirizzo a@x.test presente nei campi To o Cc ma non tra i destinatari",
                "a@x.test stands in To: or Cc: but is not among the recipients",
            ),
            (
                Eccezione::TooManyRecipients { recipients: 51, limit: 50 },
                "numero di destinatari (51) superiore al massimo di 50",
                "51 recipients, at most 50 are allowed",
            ),
            (
                Eccezione::TotalTooLarge { size: 20, recipients: 2, limit: 30 },
                "superamento della dimensione massima (20 byte per 2 destinatari, massimo 30 byte in \
                totale)",
                "20 bytes for 2 recipients: together more than the 30 bytes that are allowed",
            ),
            (
                Eccezione::LineTooLong(999),
                "riga di 999 caratteri, oltre il massimo di 998",
                "a line has 999 characters, at most 998 are allowed",
            ),
            (
                Eccezione::MessageId(text()),
                "campo Message-ID non valido (\"x\")",
                "the Message-ID: field must hold one identifier, <left@right>, it holds \"x\"",
            ),
            (
                Eccezione::NulOrBareCr,
                "caratteri NUL o CR isolati, che non possono essere trasmessi inalterati",
                "the text holds a NUL character or a CR that ends no line, which cannot be carried \
                unchanged",
            ),
            (
                Eccezione::MailboxLine,
                "prima riga (From ...) che non è un campo dell'intestazione, e che non può essere trasmessa \
                inalterata",
                "the header begins with a line that is no field (From ...), which cannot be carried \
                unchanged",
            ),
            (
                Eccezione::Repeated("To"),
                "campo To presente più volte",
                "the To: field stands more than \
                once",
            ),
            (
                Eccezione::Reserved("X-Ricevuta"),
                "campo X-Ricevuta riservato ai gestori di posta certificata",
                "the X-Ricevuta: field is reserved for certified mail providers",
            ),
            (
                Eccezione::Blocked(attachments),
                "allegati di tipo non ammesso: \"a.exe\" (.exe), \"b\" (.msi per il suo contenuto)",
                "attachments of a kind that is not allowed: \"a.exe\" (.exe), \"b\" (.msi by its content)",
            ),
            (
                Eccezione::Mime(MimeError::NoBoundary),
                "struttura MIME non valida (un multipart non indica il boundary)",
                "a malformed MIME structure (a multipart names no boundary)",
            ),
        ] {
            assert_eq!(described(&[cause]), (italiano.to_owned(), inglese.to_owned()));
        }
    }

    #[test]
    fn several_causes_are_all_named() {
        let found = check("From: x\nBcc: y@z\n", &["bruno@pec.beta.test"], "");
        assert_eq!(found.len(), 4, "{found:?}");
        let (italiano, inglese) = described(&found);
        assert_eq!(
            (italiano.matches("; ").count(), inglese.matches("; ").count()),
            (3, 3),
            "{italiano} {inglese}"
        );
        let many: Vec<_> =
            (0..500).map(|i| Eccezione::RecipientNotInHeader(format!("r{i}@pec.beta.test"))).collect();
        let (italiano, inglese) = described(&many);
        assert!(
            italiano.ends_with("; e altri 480 problemi") && inglese.ends_with("; and 480 other problems"),
            "{italiano}"
        );
        assert!(italiano.len() < 4000);
    }
}
