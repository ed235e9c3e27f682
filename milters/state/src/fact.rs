//! The table `fact`: what is true, and what the notice about it came out as.
//!
//! Promise: of an envelope, kind and recipient the first fact holds. It is written with its log row, or its
//! log row comes with its notice. What a notice came out as is written together with the beginning of its
//! handing over. What is read is believed, or an alarm.

use pec_core::clock::Moment;
use pec_core::identifier::{NoRandomness, fresh, pec_identifier};
use tokio_postgres::Row as Columns;

use crate::authentic::{Authentic, Content, Mac, Row};
use crate::custody::Custody;
use crate::database::{Database, spelled};
use crate::fact_kind::FactKind;
use crate::handover::Attempt;
use crate::log::Entry;
use crate::pool::DatabaseError;
use crate::sent::Sent;
use crate::sql::{Insert, Sql, Time, columns};
use crate::{handover, log};

pec_core::spelled! {
    /// Where the time of a fact comes from, as the tables spell it.
    TimeSource {
        /// Our clock.
        Clock = "clock",
        /// The second in which we heard the mailbox say that it has the message.
        Mailbox = "mailbox",
        /// The same, and the mailbox may have said so earlier: it was handed the message before, and its
        /// answer was lost.
        MailboxAgain = "mailbox-again",
        /// Postfix's report.
        Report = "report",
    }
}

/// Something that is true, about which there is one notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Names its trigger.
    pub id: String,
    /// The provider of the envelope's sender.
    pub provider: String,
    /// The PEC identifier of the envelope.
    pub identificativo: String,
    /// Which notice it leads to.
    pub kind: FactKind,
    /// The key of the recipient (of several: joined by blanks), empty for an acceptance.
    pub recipient: String,
    /// [`Sent::id`], [`Custody::id`] or [`NotAccepted::id`](crate::rows::NotAccepted::id).
    pub source: String,
    /// The MAC of that row.
    pub source_mac: Mac,
    /// When it happened.
    pub happened_at: Moment,
    /// Who says so.
    pub time_source: TimeSource,
    /// The enhanced status code, for a failure; the virus's name, where one was found.
    pub status: String,
    /// The identifier of the notice, without angle brackets.
    pub message_id: String,
}

/// What a fact is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// [`Fact::provider`].
    pub provider: &'a str,
    /// [`Fact::identificativo`].
    pub identificativo: &'a str,
    /// [`Fact::source`].
    pub source: &'a str,
    /// [`Fact::source_mac`].
    pub source_mac: &'a Mac,
}

impl<'a> From<&'a Authentic<Sent>> for About<'a> {
    fn from(sent: &'a Authentic<Sent>) -> Self {
        Self {
            provider: &sent.provider,
            identificativo: &sent.identificativo,
            source: &sent.id,
            source_mac: sent.mac(),
        }
    }
}

impl<'a> From<&'a Authentic<Custody>> for About<'a> {
    fn from(custody: &'a Authentic<Custody>) -> Self {
        Self {
            provider: &custody.provider,
            identificativo: &custody.identificativo,
            source: &custody.id,
            source_mac: custody.mac(),
        }
    }
}

impl Fact {
    /// A fact with an id of its own, which happened at `at` by our clock. It is about no single recipient and
    /// has no status: who knows better says so. The identifier of its notice ends in `service_domain`.
    pub fn new<'a>(
        kind: FactKind,
        about: impl Into<About<'a>>,
        at: Moment,
        service_domain: &str,
    ) -> Result<Self, NoRandomness> {
        let (id, about) = (fresh()?, about.into());
        Ok(Self {
            message_id: pec_identifier(at, &id, service_domain),
            id,
            provider: about.provider.to_owned(),
            identificativo: about.identificativo.to_owned(),
            kind,
            recipient: String::new(),
            source: about.source.to_owned(),
            source_mac: about.source_mac.clone(),
            happened_at: at,
            time_source: TimeSource::Clock,
            status: String::new(),
        })
    }
}

impl Row for Fact {
    const TABLE: &'static str = "fact";

    fn write(&self, content: &mut Content) {
        content
            .text(&self.id)
            .text(&self.provider)
            .text(&self.identificativo)
            .text(self.kind.as_str())
            .text(&self.recipient)
            .text(&self.source)
            .mac(&self.source_mac)
            .number(self.happened_at.unix())
            .text(self.time_source.as_str())
            .text(&self.status)
            .text(&self.message_id);
    }

    fn key(&self) -> &str {
        &self.id
    }
}

/// What a fact's notice came out as, the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeNotice {
    /// SHA-256 of the notice's body.
    pub sha256: Vec<u8>,
    /// What makes the bytes: certificates, name, program version.
    pub with: String,
}

/// What a fact's notice came out as, under the fact's MAC.
#[derive(Debug)]
pub(crate) struct NoticeOf<'a> {
    fact: &'a str,
    fact_mac: &'a Mac,
    made: MadeNotice,
}

impl Row for NoticeOf<'_> {
    const TABLE: &'static str = "fact.notice";

    fn write(&self, content: &mut Content) {
        content.text(self.fact).mac(self.fact_mac).bytes(&self.made.sha256).text(&self.made.with);
    }

    fn key(&self) -> &str {
        self.fact
    }
}

/// A fact as the table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The fact.
    pub fact: Authentic<Fact>,
    /// What its notice came out as, if it was made before.
    pub made: Option<MadeNotice>,
}

/// What [`Database::known`] reads.
pub(crate) const COLUMNS: &str = columns!(
    "fact": "id", "provider", "identificativo", "kind", "recipient", "source", "source_mac", "happened_at",
    "time_source", "status", "message_id", "mac", "notice_sha256", "made_with", "notice_mac"
);

/// The insertion of a fact, with what its notice came out as if it is made.
pub(crate) fn insert<'a>(fact: &'a Authentic<Fact>, notice: Option<&'a Authentic<NoticeOf<'a>>>) -> Sql<'a> {
    Insert::into("fact")
        .column("id", &fact.id)
        .column("provider", &fact.provider)
        .column("identificativo", &fact.identificativo)
        .column("kind", fact.kind.as_str())
        .column("recipient", &fact.recipient)
        .column("source", &fact.source)
        .column("source_mac", fact.source_mac.column())
        .column("happened_at", Time(fact.happened_at))
        .column("time_source", fact.time_source.as_str())
        .column("status", &fact.status)
        .column("message_id", &fact.message_id)
        .column("mac", fact.mac().column())
        .column("notice_sha256", notice.map(|notice| &notice.made.sha256))
        .column("made_with", notice.map(|notice| &notice.made.with))
        .column("notice_mac", notice.map(|notice| notice.mac().column()))
        .sql()
}

/// The first fact for an envelope, kind and recipient holds (the index `fact_once`).
const UNLESS_THERE: &str = " ON CONFLICT (provider, identificativo, kind, md5(recipient)) DO NOTHING";

impl Database {
    /// The fact of this kind about this envelope and recipient, if it is one already.
    pub async fn fact(
        &self,
        provider: &str,
        identificativo: &str,
        kind: FactKind,
        recipient: &str,
    ) -> Result<Option<Known>, DatabaseError> {
        let sql = Sql::select(&[COLUMNS])
            .value(" FROM fact WHERE provider = ", provider)
            .value(" AND identificativo = ", identificativo)
            .value(" AND kind = ", kind.as_str())
            .value(" AND md5(recipient) = md5(", recipient)
            .text(")");
        self.query_opt(sql).await?.map(|row| self.known(&row)).transpose()
    }

    /// How it ended for this recipient, as far as that is a fact: avvenuta consegna, errore consegna,
    /// rilevazione virus.
    pub async fn outcomes(
        &self,
        provider: &str,
        identificativo: &str,
        recipient: &str,
    ) -> Result<Vec<Known>, DatabaseError> {
        let sql = Sql::select(&[COLUMNS])
            .value(" FROM fact WHERE provider = ", provider)
            .value(" AND identificativo = ", identificativo)
            .text(" AND kind")
            .one_of(FactKind::ALL.iter().filter(|kind| kind.is_outcome()))
            .value(" AND md5(recipient) = md5(", recipient)
            .text(")");
        self.query(sql).await?.iter().map(|row| self.known(row)).collect()
    }

    /// The fact that a trigger speaks of, or whose notice has this ENVID.
    pub async fn fact_with_id(&self, id: &str) -> Result<Option<Known>, DatabaseError> {
        let sql = Sql::select(&[COLUMNS]).value(" FROM fact WHERE id = ", id);
        self.query_opt(sql).await?.map(|row| self.known(&row)).transpose()
    }

    /// Writes a fact, what its notice came out as, its log row, and that the notice is being handed over `to`
    /// (a key); unless there is a fact for the same envelope, kind and recipient. `None`: another was there
    /// first, and holds.
    pub async fn insert_fact(
        &self,
        fact: &Fact,
        made: &MadeNotice,
        log: &Entry,
        to: &str,
    ) -> Result<Option<Attempt>, DatabaseError> {
        let attempt = Attempt::new(&fact.id, to)?;
        let begins = self.authentic(attempt.begins())?;
        let fact = self.authentic(fact.clone())?;
        let notice = self.notice_of(&fact, made)?;
        let insert = insert(&fact, Some(&notice)).text(UNLESS_THERE).text(" RETURNING id");
        let sql = Sql::with("fact", insert)
            .and_with("handover", handover::insert(&begins).text(" FROM fact"))
            .then(log::insert(log))
            .text(" WHERE EXISTS (SELECT FROM fact)");
        Ok((self.execute(sql).await? == 1).then_some(attempt))
    }

    /// Writes a fact whose notice is made later, unless there is one already, and gives back the one that
    /// holds: another copy may have been quicker. Its log row comes with the notice.
    pub async fn insert_fact_without_notice(&self, fact: &Fact) -> Result<Known, DatabaseError> {
        let new = self.authentic(fact.clone())?;
        if self.execute(insert(&new, None).text(UNLESS_THERE)).await? == 1 {
            return Ok(Known { fact: new, made: None });
        }
        let held = self.fact(&fact.provider, &fact.identificativo, fact.kind, &fact.recipient).await?;
        held.ok_or_else(|| DatabaseError::Content("a fact was neither written nor found".to_owned()))
    }

    /// Writes what the notice about a fact came out as, the fact's log row, and that the notice is being
    /// handed over `to` (a key), unless something else than what is `known` was written meanwhile, or the
    /// notice was taken: then `None`.
    pub async fn insert_made(
        &self,
        known: &Known,
        made: &MadeNotice,
        log: &Entry,
        to: &str,
    ) -> Result<Option<Attempt>, DatabaseError> {
        let id = &known.fact.id;
        let attempt = Attempt::new(id, to)?;
        let begins = self.authentic(attempt.begins())?;
        let notice = self.notice_of(&known.fact, made)?;
        let before = known.made.as_ref().map(|made| &made.sha256);
        let update = Sql::new("UPDATE fact")
            .value(" SET notice_sha256 = ", &made.sha256)
            .value(", made_with = ", &made.with)
            .value(", notice_mac = ", notice.mac().column())
            .value(" WHERE id = ", id)
            .value(" AND notice_sha256 IS NOT DISTINCT FROM ", before)
            .value(" AND NOT EXISTS (SELECT FROM handover WHERE message = ", id)
            .value(" AND recipient = ", to)
            .text(" AND what = 'taken') RETURNING id");
        let sql = Sql::with("fact", update)
            .and_with("handover", handover::insert(&begins).text(" FROM fact"))
            .then(log::insert(log))
            .text(" WHERE EXISTS (SELECT FROM fact)");
        Ok((self.execute(sql).await? == 1).then_some(attempt))
    }

    /// What a fact's notice came out as, to be written.
    pub(crate) fn notice_of<'a>(
        &self,
        fact: &'a Authentic<Fact>,
        made: &MadeNotice,
    ) -> Result<Authentic<NoticeOf<'a>>, DatabaseError> {
        self.authentic(NoticeOf { fact: &fact.id, fact_mac: fact.mac(), made: made.clone() })
    }

    /// The fact in a row with [`COLUMNS`], without what its notice came out as, which is written later:
    /// whatever became of that, the fact is one.
    pub(crate) fn fact_row(&self, r: &Columns) -> Result<Authentic<Fact>, DatabaseError> {
        let id: String = r.get("fact.id");
        let Time(happened_at) = r.get("fact.happened_at");
        let fact = Fact {
            provider: r.get("fact.provider"),
            identificativo: r.get("fact.identificativo"),
            kind: spelled(r, "fact.kind", Fact::TABLE, &id)?,
            recipient: r.get("fact.recipient"),
            source: r.get("fact.source"),
            source_mac: Mac::from_column(r.get("fact.source_mac")),
            happened_at,
            time_source: spelled(r, "fact.time_source", Fact::TABLE, &id)?,
            status: r.get("fact.status"),
            message_id: r.get("fact.message_id"),
            id,
        };
        self.believed(fact, r.get("fact.mac"))
    }

    /// The fact in a row with [`COLUMNS`], with what its notice came out as.
    pub(crate) fn known(&self, r: &Columns) -> Result<Known, DatabaseError> {
        let fact = self.fact_row(r)?;
        let sha256: Option<Vec<u8>> = r.get("fact.notice_sha256");
        let with: Option<String> = r.get("fact.made_with");
        let mac: Option<Vec<u8>> = r.get("fact.notice_mac");
        if (&sha256, &with, &mac) == (&None, &None, &None) {
            return Ok(Known { fact, made: None });
        }
        // All three are written at once.
        let made = MadeNotice { sha256: sha256.unwrap_or_default(), with: with.unwrap_or_default() };
        let of =
            self.believed(NoticeOf { fact: &fact.id, fact_mac: fact.mac(), made }, mac.unwrap_or_default())?;
        let made = Some(of.made.clone());
        Ok(Known { fact, made })
    }
}
