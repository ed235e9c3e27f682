//! What is being handed over: to a mailbox, or a notice to Postfix.
//!
//! Promise: a row says so before the first byte goes, and what was taken is never handed over again. A
//! handing over that a crash cut off, or whose answer was lost, stays open for ever: the message may be
//! there. Rows are added and never changed, each under its MAC, so that who has the database's password alone
//! can neither end one nor say that something was taken.

use pec_core::clock::Moment;
use pec_core::identifier::fresh;
use tokio_postgres::Row as Columns;
use tokio_postgres::types::ToSql;

use crate::authentic::{Authentic, Content, Row};
use crate::database::{Database, spelled};
use crate::pool::DatabaseError;
use crate::rows::Custody;

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
    pub(crate) id: String,
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

const STEP: &str = "message, recipient, attempt, what, extract(epoch FROM answered_at)::int8, mac";

/// The insertion of the row that says that one begins: message, recipient, attempt and MAC are these, `rest`
/// follows.
pub(crate) fn insert_begun([message, recipient, attempt, mac]: [&str; 4], rest: &str) -> String {
    format!(
        "INSERT INTO handover (message, recipient, attempt, what, mac) SELECT {message}, {recipient}::text, \
        {attempt}::text, 'begun', {mac}::bytea {rest}"
    )
}

/// The insertion of an answer with the values that [`Answer::values`] has.
fn insert_answer(what: What) -> String {
    format!(
        "INSERT INTO handover (message, recipient, attempt, what, mac, answered_at) VALUES ($1, $2, $3, \
        '{what}', $4, to_timestamp($5::int8))"
    )
}

/// The copies of an envelope, whose provider and identifier are these values.
fn copies(provider: usize, identificativo: usize) -> String {
    format!(
        "(SELECT envid FROM custody WHERE provider = ${provider} AND identificativo = \
        ${identificativo})"
    )
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
        self.begin(Attempt::new(message, recipient)?, "message = $1", &[]).await
    }

    /// The same of an envelope, any copy of which the recipient may have: its provider brings it again where
    /// it did not hear that we have it.
    pub async fn begin_handover_of(
        &self,
        custody: &Custody,
        attempt: &Attempt,
    ) -> Result<Begun, DatabaseError> {
        let condition = format!("message IN {}", copies(3, 4));
        self.begin(attempt.clone(), &condition, &[&custody.provider, &custody.identificativo]).await
    }

    /// `messages`: the condition for those of which one may be there.
    async fn begin(
        &self,
        attempt: Attempt,
        messages: &str,
        more: &[&(dyn ToSql + Sync)],
    ) -> Result<Begun, DatabaseError> {
        let begins = self.authentic(attempt.begins())?;
        let (id, mac) = (format!("${}", 3 + more.len()), format!("${}", 4 + more.len()));
        let unless_taken = "WHERE NOT EXISTS (SELECT FROM handover WHERE message = $1 AND recipient = $2 \
            AND what = 'taken')";
        let sql = format!(
            "WITH begun AS ({}) SELECT {STEP} FROM handover WHERE recipient = $2 AND {messages}",
            insert_begun(["$1::text", "$2", &id, &mac], unless_taken),
        );
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![&attempt.message, &attempt.recipient];
        values.extend(more);
        values.extend([&attempt.id as &(dyn ToSql + Sync), begins.mac().column()]);
        let before = self.steps(self.query(&sql, &values).await?)?;
        Ok(match before.taken(&attempt.message) {
            Some(at) => Begun::Taken(at),
            None => Begun::Now { again: before.are_open(), attempt },
        })
    }

    /// When the message with this ENVID was taken from us for `recipient` (a key), if it was.
    pub async fn taken_at(&self, message: &str, recipient: &str) -> Result<Option<Moment>, DatabaseError> {
        let sql =
            format!("SELECT {STEP} FROM handover WHERE message = $1 AND recipient = $2 AND what = 'taken'");
        Ok(self.steps(self.query(&sql, &[&message, &recipient]).await?)?.taken(message))
    }

    /// It was answered no, or nothing was given: it is not open.
    pub async fn end_handover(&self, attempt: &Attempt, at: Moment) -> Result<(), DatabaseError> {
        let answer = Answer::new(self, attempt, What::No, at)?;
        self.execute(&insert_answer(What::No), &answer.values()).await?;
        Ok(())
    }

    /// It was answered that there is no such mailbox. Gives back since when nothing else came of it.
    pub async fn end_without_mailbox(&self, attempt: &Attempt, at: Moment) -> Result<Moment, DatabaseError> {
        let answer = Answer::new(self, attempt, What::NoMailbox, at)?;
        let insert = insert_answer(What::NoMailbox);
        let sql = format!(
            "WITH ended AS ({insert}) SELECT {STEP} FROM handover WHERE message = $1 AND recipient = $2"
        );
        let before = self.steps(self.query(&sql, &answer.values()).await?)?;
        Ok(before.no_mailbox_since().unwrap_or(at))
    }

    /// It was answered yes at `at`. Of a notice of ours (the message is its fact) nobody has anything to do
    /// any more.
    pub async fn take_handover(&self, attempt: &Attempt, at: Moment) -> Result<(), DatabaseError> {
        let answer = Answer::new(self, attempt, What::Taken, at)?;
        let sql = format!(
            "WITH taken AS ({}) UPDATE fact SET handed_over = true WHERE id = $1",
            insert_answer(What::Taken)
        );
        self.execute(&sql, &answer.values()).await?;
        Ok(())
    }

    /// Whether `recipient` (a key) may have a copy of this envelope, though nobody here heard yes.
    pub async fn is_handover_open(&self, custody: &Custody, recipient: &str) -> Result<bool, DatabaseError> {
        let sql = format!("SELECT {STEP} FROM handover WHERE recipient = $1 AND message IN {}", copies(2, 3));
        let steps = self.query(&sql, &[&recipient, &custody.provider, &custody.identificativo]).await?;
        Ok(self.steps(steps)?.are_open())
    }

    fn steps(&self, rows: Vec<Columns>) -> Result<Steps, DatabaseError> {
        let step = |r: &Columns| {
            let attempt = Attempt { message: r.get(0), recipient: r.get(1), id: r.get(2) };
            let what = spelled(r, 3, Step::TABLE, &attempt.message)?;
            self.believed(
                Step { attempt, what, at: r.get::<_, Option<i64>>(4).map(Moment::from_unix) },
                r.get(5),
            )
        };
        Ok(Steps(rows.iter().map(step).collect::<Result<_, _>>()?))
    }
}

/// An answer to be written.
struct Answer {
    step: Authentic<Step>,
    at: i64,
}

impl Answer {
    fn new(database: &Database, attempt: &Attempt, what: What, at: Moment) -> Result<Self, DatabaseError> {
        Ok(Self { step: database.authentic(attempt.says(what, Some(at)))?, at: at.unix() })
    }

    fn values(&self) -> [&(dyn ToSql + Sync); 5] {
        let Attempt { message, recipient, id } = &self.step.attempt;
        [message, recipient, id, self.step.mac().column(), &self.at]
    }
}
