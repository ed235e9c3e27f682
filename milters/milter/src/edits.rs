//! Turning the message in hand into another one, in as few edits as it takes: each costs Postfix a pass over
//! its queue file.
//!
//! Promise: what Postfix has after all edits is the message that they are about, byte for byte.

use std::ffi::CString;

use indymilter::{ActionError, ContextActions};
use pec_core::header::{Field, Header};
use pec_core::message::Body;
use pec_core::notices::Notice;
use pec_state::trigger::Trigger;

use crate::NOTIFY_FAILURE;
use crate::transaction::{Recipient, Transaction};

/// What is changed.
#[derive(Debug, Default)]
pub struct Edits {
    fields: Vec<FieldEdit>,
    sender: Option<(String, Option<String>)>,
    delete: Vec<String>,
    add: Vec<(String, Option<String>)>,
    body: Option<Body>,
}

#[derive(Debug, PartialEq, Eq)]
enum FieldEdit {
    Add(Field),
    /// Name, which of that name (from 1), new value or removal.
    Change(String, i32, Option<Field>),
}

impl Edits {
    /// The message with the header `current` becomes `notice`.
    pub fn become_notice(mut self, current: &Header, notice: Notice) -> Self {
        self.fields = field_edits(current, &notice.header);
        self.body = Some(notice.body);
        self
    }

    /// Adds a field below the others.
    pub fn add_field(mut self, field: Field) -> Self {
        self.fields.push(FieldEdit::Add(field));
        self
    }

    /// Takes the `count` fields of this name out, which are all that the message has.
    pub fn remove_fields(mut self, name: &str, count: usize) -> Self {
        // From the last, so that the numbers before it hold.
        self.fields.extend(
            (1..=count).rev().map(|index| {
                FieldEdit::Change(name.to_owned(), i32::try_from(index).unwrap_or(i32::MAX), None)
            }),
        );
        self
    }

    /// Sets MAIL FROM to `path` (with brackets), with ESMTP parameters.
    pub fn sender(mut self, path: String, parameters: Option<String>) -> Self {
        self.sender = Some((path, parameters));
        self
    }

    /// The message keeps its sender and gets this envelope id (RFC 3461 s. 4.4): under it Postfix hands it to
    /// pec-delivery, and reports, with its header alone, what it cannot hand on.
    pub fn envelope_id(self, transaction: &Transaction, envid: &str) -> Self {
        self.sender(format!("<{}>", transaction.reverse_path()), Some(format!("RET=HDRS ENVID={envid}")))
    }

    /// Sets MAIL FROM to `path` (with brackets), with the ESMTP parameters that it has by now.
    pub fn sent_by(mut self, path: String) -> Self {
        let parameters = self.sender.take().and_then(|(_, parameters)| parameters);
        self.sender = Some((path, parameters));
        self
    }

    /// Takes a recipient out; `path` as Postfix gave it.
    pub fn delete_recipient(mut self, path: &str) -> Self {
        if !self.delete.iter().any(|deleted| deleted == path) {
            self.delete.push(path.to_owned());
        }
        self
    }

    /// Takes all these recipients out.
    pub fn delete_recipients(self, recipients: &[Recipient]) -> Self {
        recipients.iter().fold(self, |edits, recipient| edits.delete_recipient(&recipient.path))
    }

    /// Adds the recipient that makes pec-delivery write a notice.
    pub fn add_trigger(self, trigger: &Trigger) -> Self {
        self.add_recipient(format!("<{}>", trigger.address()), Some(NOTIFY_FAILURE))
    }

    /// The message goes to `to` and to none of its `recipients`, unless one of them is `to`.
    pub fn only_to(mut self, recipients: &[Recipient], to: &str) -> Self {
        let is_to =
            |r: &&Recipient| r.path.trim_start_matches('<').trim_end_matches('>').eq_ignore_ascii_case(to);
        for recipient in recipients.iter().filter(|r| !is_to(r)) {
            self = self.delete_recipient(&recipient.path);
        }
        if recipients.iter().any(|r| is_to(&r)) { self } else { self.add_recipient(format!("<{to}>"), None) }
    }

    /// Adds a recipient, `path` with brackets, with ESMTP parameters.
    pub fn add_recipient(mut self, path: String, parameters: Option<&str>) -> Self {
        self.add.push((path, parameters.map(str::to_owned)));
        self
    }

    /// Tells Postfix, in this order: header, sender, recipients, body. The pieces of the body follow each
    /// other without anything between them, which would end it.
    pub async fn apply(self, actions: &impl ContextActions) -> Result<(), ActionError> {
        for edit in self.fields {
            match edit {
                FieldEdit::Add(field) => actions.add_header(field.name.as_str(), value(&field)).await?,
                FieldEdit::Change(name, index, Some(field)) => {
                    actions.change_header(name, index, Some(value(&field))).await?
                }
                FieldEdit::Change(name, index, None) => {
                    actions.change_header(name, index, None::<CString>).await?
                }
            }
        }
        if let Some((path, parameters)) = self.sender {
            actions.change_sender(path, parameters).await?;
        }
        for path in self.delete {
            actions.delete_recipient(path).await?;
        }
        for (path, parameters) in self.add {
            match parameters {
                Some(parameters) => actions.add_recipient_ext(path, Some(parameters)).await?,
                None => actions.add_recipient(path).await?,
            }
        }
        if let Some(body) = self.body {
            for piece in body.pieces() {
                actions.replace_body(piece).await?;
            }
        }
        Ok(())
    }
}

/// Field by field of each name: equal ones stay, others change in place, surplus ones go (from the last, so
/// that the numbers before it hold), missing ones are added.
fn field_edits(current: &Header, wanted: &Header) -> Vec<FieldEdit> {
    let mut names: Vec<String> = Vec::new();
    for field in current.fields().iter().chain(wanted.fields()) {
        if !names.iter().any(|n| field.is(n)) {
            names.push(field.name.clone());
        }
    }
    let (mut edits, mut additions) = (Vec::new(), Vec::new());
    for name in names {
        let (now, then): (Vec<_>, Vec<_>) = (current.all(&name).collect(), wanted.all(&name).collect());
        for index in (0..now.len()).rev() {
            let number = i32::try_from(index + 1).unwrap_or(i32::MAX);
            match then.get(index) {
                Some(field) if field.value == now[index].value => {}
                Some(field) => {
                    edits.push(FieldEdit::Change(field.name.clone(), number, Some((*field).clone())))
                }
                None => edits.push(FieldEdit::Change(name.clone(), number, None)),
            }
        }
        additions.extend(then.iter().skip(now.len()).map(|field| (**field).clone()));
    }
    // Additions in the order in which they were wanted, not by name.
    for field in wanted.fields() {
        if let Some(at) = additions.iter().position(|a| a == field) {
            edits.push(FieldEdit::Add(additions.remove(at)));
        }
    }
    edits
}

/// A value as milters pass it: LF for each fold.
fn value(field: &Field) -> CString {
    let bytes: Vec<u8> = field.value.iter().copied().filter(|&b| b != b'\r' && b != 0).collect();
    CString::new(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pec_state::rows::FactKind;

    fn header(text: &str) -> Header {
        Header::parse(text.replace('\n', "\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn only_what_differs_is_edited() {
        let current = header("Received: a\nReceived: b\nTo: x@y\nsubject: old\nX-Mailer: z\n");
        let wanted = header("To: x@y\nSubject: new\nX-New: 1\nFrom: f@g\n");
        let edits = field_edits(&current, &wanted);
        assert_eq!(
            edits,
            [
                FieldEdit::Change("Received".into(), 2, None),
                FieldEdit::Change("Received".into(), 1, None),
                FieldEdit::Change("Subject".into(), 1, Some(Field::written("Subject", "new"))),
                FieldEdit::Change("X-Mailer".into(), 1, None),
                FieldEdit::Add(Field::written("X-New", "1")),
                FieldEdit::Add(Field::written("From", "f@g")),
            ]
        );
        assert!(field_edits(&wanted, &wanted).is_empty());
    }

    #[test]
    fn repeated_fields_keep_their_places() {
        let edits = field_edits(&header("A: 1\nA: 2\n"), &header("A: 1\nA: 3\nA: 4\n"));
        assert_eq!(
            edits,
            [
                FieldEdit::Change("A".into(), 2, Some(Field::written("A", "3"))),
                FieldEdit::Add(Field::written("A", "4"))
            ]
        );
    }

    fn to(paths: &[&str]) -> Transaction {
        let mut transaction = Transaction::new("<anna@pec.alfa.test>");
        transaction.recipients = paths.iter().map(|path| Recipient::new(path)).collect();
        transaction
    }

    #[test]
    fn rfc3461_4_4_a_message_keeps_its_envelope_id_whoever_sends_it() {
        let transaction = to(&["<bruno@pec.beta.test>"]);
        let edits = Edits::default().envelope_id(&transaction, "00ff");
        assert_eq!(
            edits.sender,
            Some(("<anna@pec.alfa.test>".to_owned(), Some("RET=HDRS ENVID=00ff".to_owned())))
        );
        let edits = edits.sent_by("<posta-certificata@gestore.alfa.test>".to_owned());
        assert_eq!(
            edits.sender,
            Some((
                "<posta-certificata@gestore.alfa.test>".to_owned(),
                Some("RET=HDRS ENVID=00ff".to_owned())
            ))
        );
        assert_eq!(
            Edits::default().sent_by("<a@x.test>".to_owned()).sender,
            Some(("<a@x.test>".to_owned(), None))
        );
        // The null path stays one.
        let null = Transaction::new("<>");
        assert_eq!(Edits::default().envelope_id(&null, "00ff").sender.unwrap().0, "<>");
    }

    #[test]
    fn a_message_goes_to_its_sender_alone_also_where_he_is_a_recipient() {
        let elsewhere = to(&["<bruno@pec.beta.test>", "<carla@posta.test>", "<carla@posta.test>"]);
        let edits = Edits::default().only_to(&elsewhere.recipients, "anna@pec.alfa.test");
        assert_eq!(edits.delete, ["<bruno@pec.beta.test>", "<carla@posta.test>"]);
        assert_eq!(edits.add, [("<anna@pec.alfa.test>".to_owned(), None)]);
        let oneself = to(&["<Anna@pec.alfa.test>", "<bruno@pec.beta.test>"]);
        let edits = Edits::default().only_to(&oneself.recipients, "anna@pec.alfa.test");
        assert_eq!((&edits.delete[..], &edits.add[..]), (&["<bruno@pec.beta.test>".to_owned()][..], &[][..]));
    }

    #[test]
    fn a_trigger_is_never_dropped_in_silence() {
        let edits = Edits::default().add_trigger(&Trigger::notice(FactKind::Accettazione, "00ff"));
        assert_eq!(
            edits.add,
            [("<accettazione+00ff@notices.pec.internal>".to_owned(), Some("NOTIFY=FAILURE".to_owned()))]
        );
    }

    #[test]
    fn folds_are_written_as_milters_want_them() {
        assert_eq!(value(&Field { name: "X".into(), value: b" a;\r\n\tb".to_vec() }), c" a;\n\tb".to_owned());
    }
}
