//! The formal checks of RFC 6109 s. 3.1.1, each with its own cause.

use std::collections::HashSet;
use std::fmt;

use pec_core::address::Address;
use pec_core::message::MAX_LINE_LENGTH;
use pec_milter::Transaction;

/// Fields that only providers write. A submitted message that has one pretends to be a notice.
const RESERVED_FIELDS: [&str; 5] = ["X-Ricevuta", "X-Trasporto", "X-Riferimento-Message-ID", "X-VerificaSicurezza", "X-Mittente"];

/// Fields that may stand at most once (RFC 5322 s. 3.6) and that the checks and the envelope go by.
const SINGLE_FIELDS: [&str; 8] = ["From", "To", "Cc", "Reply-To", "Message-ID", "Subject", "Date", "Content-Type"];

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
    /// `Bcc:` with a value.
    Bcc,
    /// A recipient of the SMTP envelope that `To:` and `Cc:` do not name.
    RecipientNotInHeader(String),
    /// An address in `To:` or `Cc:` that is no recipient of the SMTP envelope.
    HeaderNotInRecipients(String),
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
    /// A field that may stand once stands several times.
    Repeated(&'static str),
    /// A field that only providers write.
    Reserved(&'static str),
}

impl fmt::Display for Eccezione {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FromMissing => f.write_str("the From: field is missing"),
            Self::FromNotOneAddress(text) => write!(f, "the From: field must hold exactly one mail address, it holds {text:?}"),
            Self::FromIsNotSender { from, sender } => write!(f, "the From: field says {from}, the sender is {sender}"),
            Self::ToMissing => f.write_str("the To: field names no mail address"),
            Self::NotAnAddress { field, text } => write!(f, "the {field}: field holds {text:?}, which is no mail address"),
            Self::Bcc => f.write_str("blind copies (Bcc:) are not allowed"),
            Self::RecipientNotInHeader(address) => write!(f, "the recipient {address} stands neither in To: nor in Cc:"),
            Self::HeaderNotInRecipients(address) => write!(f, "{address} stands in To: or Cc: but is not among the recipients"),
            Self::TotalTooLarge { size, recipients, limit } => {
                write!(f, "{size} bytes for {recipients} recipients: together more than the {limit} bytes that are allowed")
            }
            Self::LineTooLong(length) => write!(f, "a line has {length} characters, at most {MAX_LINE_LENGTH} are allowed"),
            Self::Repeated(field) => write!(f, "the {field}: field stands more than once"),
            Self::Reserved(field) => write!(f, "the {field}: field is reserved for certified mail providers"),
        }
    }
}

/// All that is wrong with a message from `sender`, in the order of RFC 6109 s. 3.1.1; `total_limit` is
/// `pec_total_size_limit`.
pub fn formal_exceptions(transaction: &Transaction, sender: &Address, total_limit: u64) -> Vec<Eccezione> {
    let header = &transaction.header;
    let mut found = Vec::new();

    if header.first("From").is_none() {
        found.push(Eccezione::FromMissing);
    } else {
        match header.addresses("From") {
            Ok(from) => match &from[..] {
                [from] if from == sender => {}
                [from] => found.push(Eccezione::FromIsNotSender { from: from.to_string(), sender: sender.to_string() }),
                _ => found.push(Eccezione::FromNotOneAddress(header.text("From").unwrap_or_default())),
            },
            Err(_) => found.push(Eccezione::FromNotOneAddress(header.text("From").unwrap_or_default())),
        }
    }

    let mut named: Vec<Address> = Vec::new();
    for field in ["To", "Cc"] {
        match header.addresses(field) {
            Ok(addresses) if addresses.is_empty() && field == "To" => found.push(Eccezione::ToMissing),
            Ok(addresses) => named.extend(addresses),
            Err(text) => found.push(Eccezione::NotAnAddress { field, text }),
        }
    }
    if header.all("Bcc").any(|field| !field.text().is_empty()) {
        found.push(Eccezione::Bcc);
    }

    let in_header: HashSet<&Address> = named.iter().collect();
    let in_envelope: HashSet<&Address> = transaction.recipients.iter().filter_map(|r| r.address.as_ref()).collect();
    found.extend(distinct(transaction.recipients.iter().filter_map(|r| r.address.as_ref()), &in_header).map(Eccezione::RecipientNotInHeader));
    found.extend(distinct(named.iter(), &in_envelope).map(Eccezione::HeaderNotInRecipients));

    let (size, recipients) = (transaction.size(), in_envelope.len() as u64);
    if size.saturating_mul(recipients) > total_limit {
        found.push(Eccezione::TotalTooLarge { size, recipients, limit: total_limit });
    }
    let longest = transaction.body.longest_line().max(longest_header_line(transaction));
    if longest > MAX_LINE_LENGTH {
        found.push(Eccezione::LineTooLong(longest));
    }
    found.extend(SINGLE_FIELDS.into_iter().filter(|name| header.all(name).count() > 1).map(Eccezione::Repeated));
    found.extend(RESERVED_FIELDS.into_iter().filter(|name| header.first(name).is_some()).map(Eccezione::Reserved));
    found
}

/// The addresses, each once, that are not in `others`.
fn distinct<'a>(addresses: impl Iterator<Item = &'a Address>, others: &HashSet<&Address>) -> impl Iterator<Item = String> {
    let mut seen = HashSet::new();
    addresses.filter(|a| !others.contains(a) && seen.insert(a.key())).map(ToString::to_string).collect::<Vec<_>>().into_iter()
}

fn longest_header_line(transaction: &Transaction) -> usize {
    let of_field = |f: &pec_core::header::Field| {
        let mut lines = f.value.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line).len());
        (f.name.len() + 1 + lines.next().unwrap_or_default()).max(lines.max().unwrap_or_default())
    };
    transaction.header.fields().iter().map(of_field).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use pec_core::parameters::GUARANTEED_SIZE;
    use pec_milter::{Keeps, Recipient};

    use super::*;

    const GOOD: &str = "From: Anna <anna@pec.alfa.test>\nTo: bruno@pec.beta.test\nCc: \"C, arla\" <carla@posta.test>\nSubject: x\n";

    fn check(header: &str, recipients: &[&str], body: &str) -> Vec<Eccezione> {
        let mut transaction = Transaction::new("<anna@pec.alfa.test>", Keeps::Body(u64::MAX));
        for field in header.replace("\n ", "\u{1}").lines() {
            let (name, value) = field.split_once(':').unwrap();
            transaction.push_field(name.as_bytes(), value.replace('\u{1}', "\n ").as_bytes());
        }
        transaction.push_body(body.to_owned().into());
        transaction.recipients = recipients.iter().map(|r| Recipient::new(&format!("<{r}>"))).collect();
        formal_exceptions(&transaction, &Address::parse("anna@pec.alfa.test").unwrap(), GUARANTEED_SIZE)
    }

    const BOTH: &[&str] = &["Bruno@pec.beta.TEST", "carla@posta.test"];

    #[test]
    fn rfc6109_3_1_1_a_formally_correct_message_passes() {
        assert_eq!(check(GOOD, BOTH, "x\r\n"), []);
        assert_eq!(check(&format!("{GOOD}Bcc:\n"), BOTH, "x\r\n"), [], "an empty Bcc has no value");
        assert_eq!(check(GOOD, &["bruno@pec.beta.test", "BRUNO@pec.beta.test", "carla@posta.test"], "x\r\n"), [], "named twice");
    }

    #[test]
    fn rfc6109_3_1_1_from_is_one_address_and_the_sender() {
        assert_eq!(check(&GOOD.replace("From", "X-From"), BOTH, ""), [Eccezione::FromMissing]);
        for from in ["", "Anna", "anna@pec.alfa.test, bruno@pec.beta.test"] {
            let found = check(&GOOD.replace("Anna <anna@pec.alfa.test>", from), BOTH, "");
            assert!(matches!(&found[..], [Eccezione::FromNotOneAddress(_)]), "{from}: {found:?}");
        }
        let found = check(&GOOD.replace("<anna@", "<altra@"), BOTH, "");
        assert_eq!(found, [Eccezione::FromIsNotSender { from: "altra@pec.alfa.test".into(), sender: "anna@pec.alfa.test".into() }]);
        assert_eq!(check(&GOOD.replace("<anna@", "<ANNA@"), BOTH, ""), []);
    }

    #[test]
    fn rfc6109_3_1_1_to_has_addresses() {
        let found = check(&GOOD.replace("To: bruno@pec.beta.test\n", ""), &["carla@posta.test"], "");
        assert_eq!(found, [Eccezione::ToMissing]);
        let found = check(&GOOD.replace("To: bruno@pec.beta.test", "To: undisclosed-recipients:;"), &["carla@posta.test"], "");
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
        assert_eq!(check(&format!("{GOOD}Bcc: dario@pec.beta.test\n"), BOTH, ""), [Eccezione::Bcc]);
        assert_eq!(check(&format!("{GOOD}bcc:\nBcc: nobody\n"), BOTH, ""), [Eccezione::Bcc]);
    }

    #[test]
    fn rfc6109_3_1_1_size_times_recipients_is_limited() {
        let line = format!("{}\r\n", "a".repeat(98));
        let body = line.repeat(160_000);
        let found = check(GOOD, BOTH, &body);
        assert!(matches!(&found[..], [Eccezione::TotalTooLarge { recipients: 2, limit: GUARANTEED_SIZE, .. }]), "{found:?}");
        assert_eq!(check(GOOD, BOTH, &line.repeat(157_000)), []);
    }

    #[test]
    fn rfc5322_lines_have_998_characters_at_most() {
        assert_eq!(check(GOOD, BOTH, &format!("{}\r\n", "a".repeat(998))), []);
        assert_eq!(check(GOOD, BOTH, &format!("{}\r\n", "a".repeat(999))), [Eccezione::LineTooLong(999)]);
        assert_eq!(check(&format!("{GOOD}X: {}\n", "a".repeat(995)), BOTH, ""), []);
        assert_eq!(check(&format!("{GOOD}X: {}\n", "a".repeat(996)), BOTH, ""), [Eccezione::LineTooLong(999)]);
        assert_eq!(check(&format!("{GOOD}X: a\n {}\n", "a".repeat(998)), BOTH, ""), [Eccezione::LineTooLong(999)]);
    }

    #[test]
    fn rfc5322_single_fields_stand_once() {
        assert_eq!(check(&format!("{GOOD}Message-ID: <1@x>\nmessage-id: <2@x>\n"), BOTH, ""), [Eccezione::Repeated("Message-ID")]);
    }

    #[test]
    fn fields_of_providers_are_not_for_users() {
        assert_eq!(check(&format!("{GOOD}x-trasporto: posta-certificata\n"), BOTH, ""), [Eccezione::Reserved("X-Trasporto")]);
    }

    #[test]
    fn several_causes_are_all_named() {
        let found = check("From: x\nBcc: y@z\n", &["bruno@pec.beta.test"], "");
        assert_eq!(found.len(), 4, "{found:?}");
    }
}
