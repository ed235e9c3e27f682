//! What is being handed over: to a mailbox, or a notice to Postfix.
//!
//! Promise: a row says so before the first byte goes, and what was taken is never handed over again. A
//! handing over that a crash cut off, or whose answer was lost, stays open for ever: the message may be
//! there. Rows are added and never changed, each under its MAC, so that who has the database's password alone
//! can neither end one nor say that something was taken.

use pec_core::clock::Moment;
use pec_core::identifier::fresh;
use tokio_postgres::Row as Columns;

use crate::authentic::{Authentic, Content, Row};
use crate::custody::Custody;
use crate::database::{Database, spelled};
use crate::pool::DatabaseError;
use crate::sql::{Insert, Sql, Time, columns};

pec_core::spelled! {
    /// What a row of the table says of one handing over.
    What {
        /// It begins.
        Begun = "begun",
        /// It was not taken, and may be later.
        No = "no",
        /// The mailbox server says that there is no such mailbox.
        NoMailbox = "no-mailbox",
        /// It was taken.
        Taken = "taken",
    }
}

/// One handing over, from its first byte to its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    message: String,
    recipient: String,
    id: String,
}

impl Attempt {
    /// Of the message with this ENVID to `recipient` (a key).
    pub fn new(message: &str, recipient: &str) -> Result<Self, DatabaseError> {
        let id = fresh().map_err(|e| DatabaseError::Mac(e.to_string()))?;
        Ok(Self { message: message.to_owned(), recipient: recipient.to_owned(), id })
    }

    fn says(&self, what: What, at: Option<Moment>) -> Step {
        Step { attempt: self.clone(), what, at }
    }

    /// The row that says that it begins.
    pub(crate) fn begins(&self) -> Step {
        self.says(What::Begun, None)
    }
}

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Step {
    attempt: Attempt,
    what: What,
    /// When it was answered.
    at: Option<Moment>,
}

impl Row for Step {
    const TABLE: &'static str = "handover";

    fn write(&self, content: &mut Content) {
        let Attempt { message, recipient, id } = &self.attempt;
        content
            .text(message)
            .text(recipient)
            .text(id)
            .text(self.what.as_str())
            .number(self.at.map_or(i64::MIN, Moment::unix));
    }

    fn key(&self) -> &str {
        &self.attempt.message
    }
}

/// What is known when a handing over begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It may go.
    Now {
        /// What begins.
        attempt: Attempt,
        /// It was handed over before, and how that ended is not known: the message may be there.
        again: bool,
    },
    /// It was taken at that moment.
    Taken(Moment),
}

const COLUMNS: &str = columns!("handover": "message", "recipient", "attempt", "what", "answered_at", "mac");

/// The insertion of a row, open for a FROM or a WHERE.
pub(crate) fn insert(step: &Authentic<Step>) -> Sql<'_> {
    Insert::into("handover")
        .column("message", &step.attempt.message)
        .column("recipient", &step.attempt.recipient)
        .column("attempt", &step.attempt.id)
        .column("what", step.what.as_str())
        .column("answered_at", step.at.map(Time))
        .column("mac", step.mac().column())
        .sql()
}

/// The condition for the steps of any copy of an envelope.
fn of_any_copy(custody: &Custody) -> Sql<'_> {
    Sql::new("message IN (SELECT envid FROM custody")
        .value(" WHERE provider = ", &custody.provider)
        .value(" AND identificativo = ", &custody.identificativo)
        .text(")")
}

/// All steps of one or several messages to one recipient.
struct Steps(Vec<Authentic<Step>>);

impl Steps {
    /// When the message with this ENVID was taken.
    fn taken(&self, message: &str) -> Option<Moment> {
        self.0
            .iter()
            .filter(|step| step.what == What::Taken && step.attempt.message == message)
            .filter_map(|step| step.at)
            .min()
    }

    /// Whether one began of which nobody knows how it ended.
    fn are_open(&self) -> bool {
        let ends = |begun: &Step| {
            self.0.iter().any(|step| step.what != What::Begun && step.attempt == begun.attempt)
        };
        self.0.iter().any(|step| step.what == What::Begun && !ends(step))
    }

    /// Since when nothing else came of it than that there is no such mailbox.
    fn no_mailbox_since(&self) -> Option<Moment> {
        let mut ends: Vec<_> = self.0.iter().filter(|step| step.what != What::Begun).collect();
        // Of one second, the other answer is the later one.
        ends.sort_by_key(|step| (step.at.map(Moment::unix), step.what != What::NoMailbox));
        ends.iter().rev().take_while(|step| step.what == What::NoMailbox).last().and_then(|step| step.at)
    }
}

impl Database {
    /// Begins to hand the message with this ENVID over to `recipient` (a key).
    pub async fn begin_handover(&self, message: &str, recipient: &str) -> Result<Begun, DatabaseError> {
        self.begin(Attempt::new(message, recipient)?, Sql::new("message").value(" = ", message)).await
    }

    /// The same of an envelope, any copy of which the recipient may have: its provider brings it again where
    /// it did not hear that we have it.
    pub async fn begin_handover_of(
        &self,
        custody: &Custody,
        attempt: &Attempt,
    ) -> Result<Begun, DatabaseError> {
        self.begin(attempt.clone(), of_any_copy(custody)).await
    }

    /// `messages`: the condition for those of which one may be there.
    async fn begin(&self, attempt: Attempt, messages: Sql<'_>) -> Result<Begun, DatabaseError> {
        let begins = self.authentic(attempt.begins())?;
        let unless_taken = insert(&begins)
            .value(" WHERE NOT EXISTS (SELECT FROM handover WHERE message = ", &attempt.message)
            .value(" AND recipient = ", &attempt.recipient)
            .text(" AND what = 'taken')");
        let sql = Sql::with("begun", unless_taken)
            .then(Sql::select(&[COLUMNS]))
            .value(" FROM handover WHERE recipient = ", &attempt.recipient)
            .text(" AND")
            .then(messages);
        let before = self.steps(self.query(sql).await?)?;
        Ok(match before.taken(&attempt.message) {
            Some(at) => Begun::Taken(at),
            None => Begun::Now { again: before.are_open(), attempt },
        })
    }

    /// When the message with this ENVID was taken from us for `recipient` (a key), if it was.
    pub async fn taken_at(&self, message: &str, recipient: &str) -> Result<Option<Moment>, DatabaseError> {
        let sql = Sql::select(&[COLUMNS])
            .value(" FROM handover WHERE message = ", message)
            .value(" AND recipient = ", recipient)
            .text(" AND what = 'taken'");
        Ok(self.steps(self.query(sql).await?)?.taken(message))
    }

    /// It was answered no, or nothing was given: it is not open.
    pub async fn end_handover(&self, attempt: &Attempt, at: Moment) -> Result<(), DatabaseError> {
        let ends = self.authentic(attempt.says(What::No, Some(at)))?;
        self.execute(insert(&ends)).await?;
        Ok(())
    }

    /// It was answered that there is no such mailbox. Gives back since when nothing else came of it.
    pub async fn end_without_mailbox(&self, attempt: &Attempt, at: Moment) -> Result<Moment, DatabaseError> {
        let ends = self.authentic(attempt.says(What::NoMailbox, Some(at)))?;
        let sql = Sql::with("ended", insert(&ends))
            .then(Sql::select(&[COLUMNS]))
            .value(" FROM handover WHERE message = ", &attempt.message)
            .value(" AND recipient = ", &attempt.recipient);
        let before = self.steps(self.query(sql).await?)?;
        Ok(before.no_mailbox_since().unwrap_or(at))
    }

    /// It was answered yes at `at`. Of a notice of ours (the message is its fact) nobody has anything to do
    /// any more.
    pub async fn take_handover(&self, attempt: &Attempt, at: Moment) -> Result<(), DatabaseError> {
        let takes = self.authentic(attempt.says(What::Taken, Some(at)))?;
        let sql = Sql::with("taken", insert(&takes))
            .then(Sql::new("UPDATE fact SET handed_over = true"))
            .value(" WHERE id = ", &attempt.message);
        self.execute(sql).await?;
        Ok(())
    }

    /// Whether `recipient` (a key) may have a copy of this envelope, though nobody here heard yes.
    pub async fn is_handover_open(&self, custody: &Custody, recipient: &str) -> Result<bool, DatabaseError> {
        let sql = Sql::select(&[COLUMNS])
            .value(" FROM handover WHERE recipient = ", recipient)
            .text(" AND")
            .then(of_any_copy(custody));
        Ok(self.steps(self.query(sql).await?)?.are_open())
    }

    fn steps(&self, rows: Vec<Columns>) -> Result<Steps, DatabaseError> {
        Ok(Steps(rows.iter().map(|r| self.step(r)).collect::<Result<_, _>>()?))
    }

    fn step(&self, r: &Columns) -> Result<Authentic<Step>, DatabaseError> {
        let attempt = Attempt {
            message: r.get("handover.message"),
            recipient: r.get("handover.recipient"),
            id: r.get("handover.attempt"),
        };
        let what = spelled(r, "handover.what", Step::TABLE, &attempt.message)?;
        let at = r.get::<_, Option<Time>>("handover.answered_at").map(|Time(at)| at);
        self.believed(Step { attempt, what, at }, r.get("handover.mac"))
    }
}
