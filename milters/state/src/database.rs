//! PostgreSQL: each function is one statement, so that it happens wholly or not at all.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::Object;
use pec_core::clock::Moment;
use pec_host::maillog;
use pec_host::outages::Outages;
use pec_host::parameters::Settings;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::authentic::{Authentic, Mac, Row as Authenticated, RowKeys};
use crate::envelopes::Envelopes;
use crate::event::Event;
use crate::handover::{Attempt, insert_begun};
use crate::log::Entry;
use crate::pool::{ConnectError, Connections, DatabaseError};
use crate::rows::{AboutOne, Custody, Fact, FactKind, Made, MadeOf, NotAccepted, Passed, Ricevuta, Sent};
use crate::trigger::Trigger;

/// The database, through a small pool of connections.
#[derive(Debug, Clone)]
pub struct Database {
    pub(crate) connections: Connections,
    envelopes: Envelopes,
    pub(crate) keys: RowKeys,
}

/// A fact as the table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The fact.
    pub fact: Authentic<Fact>,
    /// What its notice came out as, if it was made before.
    pub made: Option<Made>,
}

/// What a message in Postfix's queue is.
#[derive(Debug)]
pub enum InQueue {
    /// A copy of an envelope in our custody.
    Envelope(Authentic<Custody>),
    /// What else a milter let pass.
    Passed(Authentic<Passed>),
    /// A notice of ours.
    Notice(Known),
}

/// What is in custody of an envelope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// For whom (keys).
    pub recipients: HashSet<String>,
    /// Its provider signed something else under the same identifier, and that is in custody.
    pub other_content: bool,
}

impl Database {
    /// Connects as `pec_database` says, under the name of `program` (as `pg_stat_activity` shows it), and
    /// looks whether the schema is the one that this program knows.
    pub async fn connect(settings: &Settings, program: &str) -> Result<Self, ConnectError> {
        let keys = RowKeys::read(&settings.row_keys_file)?;
        let connections = Connections::open(settings, program).await?;
        Ok(Self { envelopes: Envelopes::new(connections.clone()), connections, keys })
    }

    /// The same; when it does not answer, `outages` hears of it.
    #[must_use]
    pub fn telling(self, outages: &Outages) -> Self {
        let connections = self.connections.telling(outages);
        Self { envelopes: Envelopes::new(connections.clone()), connections, keys: self.keys }
    }

    /// A row to be written, with its MAC.
    pub fn authentic<T: Authenticated>(&self, row: T) -> Result<Authentic<T>, DatabaseError> {
        self.keys.authentic(row).map_err(|e| DatabaseError::Mac(e.to_string()))
    }

    /// A row that was read: believed, or an alarm.
    pub(crate) fn believed<T: Authenticated>(
        &self,
        row: T,
        mac: Vec<u8>,
    ) -> Result<Authentic<T>, DatabaseError> {
        let key = row.key().to_owned();
        self.keys.believed(row, Mac::from_column(mac)).ok_or_else(|| {
            maillog::forged_row(T::TABLE, &key);
            DatabaseError::Forged { table: T::TABLE, key }
        })
    }

    /// Writes that an envelope was signed, with its log row; and, if some of its recipients are ours, that
    /// this provider answers for it to them, with the log row of that.
    pub async fn insert_sent(
        &self,
        sent: Authentic<Sent>,
        log: Entry,
        custody: Option<(Authentic<Custody>, Entry)>,
    ) -> Result<(), DatabaseError> {
        self.envelopes.insert(sent, log, custody).await
    }

    /// The envelope that a trigger speaks of.
    pub async fn sent(&self, id: &str) -> Result<Option<Authentic<Sent>>, DatabaseError> {
        self.sent_where("id = $1", id).await
    }

    /// The envelope that Postfix reports on under this ENVID.
    pub async fn sent_with_envid(&self, envid: &str) -> Result<Option<Authentic<Sent>>, DatabaseError> {
        self.sent_where("envid = $1", envid).await
    }

    /// The envelope with this PEC identifier.
    pub async fn sent_with_identifier(
        &self,
        identificativo: &str,
    ) -> Result<Option<Authentic<Sent>>, DatabaseError> {
        self.sent_where("identificativo = $1", identificativo).await
    }

    async fn sent_where(
        &self,
        condition: &str,
        value: &str,
    ) -> Result<Option<Authentic<Sent>>, DatabaseError> {
        let row = self.query_opt(&format!("SELECT {SENT} FROM sent WHERE {condition}"), &[&value]).await?;
        row.map(|r| self.sent_row(&r, 0)).transpose()
    }

    /// The columns [`SENT`], from number `first` on.
    pub(crate) fn sent_row(&self, r: &Row, first: usize) -> Result<Authentic<Sent>, DatabaseError> {
        let sent = Sent {
            id: r.get(first),
            envid: r.get(first + 1),
            provider: r.get(first + 2),
            identificativo: r.get(first + 3),
            daticert: r.get(first + 4),
            body_sha256: r.get(first + 5),
            signed_at: Moment::from_unix(r.get(first + 6)),
        };
        self.believed(sent, r.get(first + 7))
    }

    /// Writes that a submission was not accepted: what its notice is about, the fact, its log row.
    pub async fn insert_not_accepted(
        &self,
        refused: &Authentic<NotAccepted>,
        fact: Fact,
        made: &Made,
        log: &Entry,
    ) -> Result<(), DatabaseError> {
        let fact = self.new_fact(fact, Some(made))?;
        let (fact, log) = (FactValues::new(&fact), LogValues::new(log));
        let mut values = fact.values();
        values.extend([
            &refused.id as &(dyn ToSql + Sync),
            &refused.provider,
            &refused.daticert,
            &refused.inglese,
            refused.mac().column(),
        ]);
        values.extend(log.values());
        self.execute(
            &format!(
                "WITH refused AS (INSERT INTO not_accepted (id, provider, daticert, inglese, mac) VALUES \
                ($16, $17, $18, $19, $20)), \
                 fact AS ({INSERT_FACT}) {}",
                insert_log(21),
            ),
            &values,
        )
        .await?;
        Ok(())
    }

    /// The submission that a notice of non-acceptance is about.
    pub async fn not_accepted(&self, id: &str) -> Result<Option<Authentic<NotAccepted>>, DatabaseError> {
        let row = self
            .query_opt("SELECT id, provider, daticert, inglese, mac FROM not_accepted WHERE id = $1", &[&id])
            .await?;
        row.map(|r| {
            let refused =
                NotAccepted { id: r.get(0), provider: r.get(1), daticert: r.get(2), inglese: r.get(3) };
            self.believed(refused, r.get(4))
        })
        .transpose()
    }

    /// Writes that a copy of an envelope was taken, with its log row.
    pub async fn insert_custody(
        &self,
        custody: &Authentic<Custody>,
        log: &Entry,
    ) -> Result<(), DatabaseError> {
        let (custody, log) = (CustodyValues::new(custody), LogValues::new(log));
        let mut values = custody.values();
        values.extend(log.values());
        self.execute(&insert_custody(), &values).await?;
        Ok(())
    }

    /// The copy that a trigger speaks of.
    pub async fn custody(&self, id: &str) -> Result<Option<Authentic<Custody>>, DatabaseError> {
        self.custody_where("id = $1", id).await
    }

    /// The copy that Postfix reports on under this ENVID.
    pub async fn custody_with_envid(&self, envid: &str) -> Result<Option<Authentic<Custody>>, DatabaseError> {
        self.custody_where("envid = $1", envid).await
    }

    /// What Postfix hands over under this ENVID.
    pub async fn in_queue(&self, envid: &str) -> Result<Option<InQueue>, DatabaseError> {
        let sql = format!(
            "SELECT c.*, p.*, f.* FROM (VALUES (true)) AS one (row) LEFT JOIN (SELECT {CUSTODY} FROM \
            custody WHERE envid = $1) AS c ON row \
             LEFT JOIN (SELECT {PASSED} FROM passed WHERE envid = $1) AS p ON row LEFT JOIN (SELECT {FACT} \
            FROM fact WHERE id = $1) AS f ON row"
        );
        let Some(row) = self.query_opt(&sql, &[&envid]).await? else { return Ok(None) };
        let (passed, fact) = (CUSTODY_COLUMNS, CUSTODY_COLUMNS + PASSED_COLUMNS);
        let is_there = |first| row.get::<_, Option<&str>>(first).is_some();
        Ok(if is_there(0) {
            Some(InQueue::Envelope(self.custody_row(&row, 0)?))
        } else if is_there(passed) {
            Some(InQueue::Passed(self.passed_row(&row, passed)?))
        } else if is_there(fact) {
            Some(InQueue::Notice(self.known(&row, fact)?))
        } else {
            None
        })
    }

    async fn custody_where(
        &self,
        condition: &str,
        value: &str,
    ) -> Result<Option<Authentic<Custody>>, DatabaseError> {
        let row =
            self.query_opt(&format!("SELECT {CUSTODY} FROM custody WHERE {condition}"), &[&value]).await?;
        row.map(|r| self.custody_row(&r, 0)).transpose()
    }

    /// The columns [`CUSTODY`], from number `first` on.
    fn custody_row(&self, r: &Row, first: usize) -> Result<Authentic<Custody>, DatabaseError> {
        let custody = Custody {
            id: r.get(first),
            envid: r.get(first + 1),
            provider: r.get(first + 2),
            mail_receipt: r.get(first + 3),
            identificativo: r.get(first + 4),
            daticert: r.get(first + 5),
            recipients: r.get(first + 6),
            body_sha256: r.get(first + 7),
            content_sha256: r.get(first + 8),
            taken_at: Moment::from_unix(r.get(first + 9)),
        };
        self.believed(custody, r.get(first + 10))
    }

    /// Writes what is let pass to mailboxes of ours, with its log row if it has one.
    pub async fn insert_passed(
        &self,
        passed: &Authentic<Passed>,
        log: Option<&Entry>,
    ) -> Result<(), DatabaseError> {
        let kind = passed.kind.as_str();
        let mut values: Vec<&(dyn ToSql + Sync)> =
            vec![&passed.envid, &kind, &passed.body_sha256, &passed.recipients, passed.mac().column()];
        let insert = format!("INSERT INTO passed ({PASSED}) VALUES ($1, $2, $3, $4, $5)");
        let Some(log) = log else {
            self.execute(&insert, &values).await?;
            return Ok(());
        };
        let log = LogValues::new(log);
        values.extend(log.values());
        self.execute(&format!("WITH passed AS ({insert}) {}", insert_log(6)), &values).await?;
        Ok(())
    }

    /// The columns [`PASSED`], from number `first` on.
    fn passed_row(&self, r: &Row, first: usize) -> Result<Authentic<Passed>, DatabaseError> {
        let envid: String = r.get(first);
        let kind = spelled(r, first + 1, Passed::TABLE, &envid)?;
        self.believed(
            Passed { envid, kind, body_sha256: r.get(first + 2), recipients: r.get(first + 3) },
            r.get(first + 4),
        )
    }

    /// What is known to be in the queue of the envelope `identificativo` of `provider`, because the trigger
    /// of its presa in carico came round.
    pub async fn taken(
        &self,
        provider: &str,
        identificativo: &str,
        content_sha256: &[u8],
    ) -> Result<Taken, DatabaseError> {
        let sql = format!(
            "SELECT f.*, c.* FROM (SELECT {FACT} FROM fact WHERE provider = $1 AND identificativo = $2 AND \
            kind = 'presa-in-carico') AS f \
             JOIN (SELECT {CUSTODY} FROM custody) AS c ON c.id = f.source"
        );
        let mut taken = Taken::default();
        for row in self.query(&sql, &[&provider, &identificativo]).await? {
            let (known, custody) = (self.known(&row, 0)?, self.custody_row(&row, FACT_COLUMNS)?);
            if custody.content_sha256 == content_sha256 {
                taken.recipients.extend(known.fact.recipient.split(' ').map(str::to_owned));
            } else {
                taken.other_content = true;
            }
        }
        Ok(taken)
    }

    /// The fact of this kind about this envelope and recipient, if it is one already.
    pub async fn fact(
        &self,
        provider: &str,
        identificativo: &str,
        kind: FactKind,
        recipient: &str,
    ) -> Result<Option<Known>, DatabaseError> {
        let condition = "provider = $1 AND identificativo = $2 AND kind = $3 AND md5(recipient) = md5($4)";
        let values: [&(dyn ToSql + Sync); 4] = [&provider, &identificativo, &kind.as_str(), &recipient];
        let row = self.query_opt(&format!("SELECT {FACT} FROM fact WHERE {condition}"), &values).await?;
        row.as_ref().map(|row| self.known(row, 0)).transpose()
    }

    /// How it ended for this recipient, as far as that is a fact: avvenuta consegna, errore consegna,
    /// rilevazione virus.
    pub async fn outcomes(
        &self,
        provider: &str,
        identificativo: &str,
        recipient: &str,
    ) -> Result<Vec<Known>, DatabaseError> {
        let condition = "provider = $1 AND identificativo = $2 AND kind IN ('avvenuta-consegna', \
            'errore-consegna', 'rilevazione-virus') AND md5(recipient) = md5($3)";
        let rows = self
            .query(
                &format!("SELECT {FACT} FROM fact WHERE {condition}"),
                &[&provider, &identificativo, &recipient],
            )
            .await?;
        rows.iter().map(|row| self.known(row, 0)).collect()
    }

    /// The fact that a trigger speaks of, or whose notice has this ENVID.
    pub async fn fact_with_id(&self, id: &str) -> Result<Option<Known>, DatabaseError> {
        self.query_opt(&format!("SELECT {FACT} FROM fact WHERE id = $1"), &[&id])
            .await?
            .as_ref()
            .map(|row| self.known(row, 0))
            .transpose()
    }

    /// Writes a fact, what its notice came out as, its log row, and that the notice is being handed over `to`
    /// (a key); unless there is a fact for the same envelope, kind and recipient. `None`: another was there
    /// first, and holds.
    pub async fn insert_fact(
        &self,
        fact: &Fact,
        made: &Made,
        log: &Entry,
        to: &str,
    ) -> Result<Option<Attempt>, DatabaseError> {
        let attempt = Attempt::new(&fact.id, to)?;
        let begins = self.authentic(attempt.begins())?;
        let fact = self.new_fact(fact.clone(), Some(made))?;
        let (fact, log) = (FactValues::new(&fact), LogValues::new(log));
        let mut values = fact.values();
        values.extend([&to as &(dyn ToSql + Sync), &attempt.id, begins.mac().column()]);
        values.extend(log.values());
        let rows = self
            .execute(
                &format!(
                    "WITH fact AS ({INSERT_FACT} {UNLESS_THERE} RETURNING id), handover AS ({}) {} WHERE \
                    EXISTS (SELECT FROM fact)",
                    insert_begun(["id", "$16", "$17", "$18"], "FROM fact"),
                    insert_log(19)
                ),
                &values,
            )
            .await?;
        Ok((rows == 1).then_some(attempt))
    }

    /// Writes a fact whose notice is made later, unless there is one already, and gives back the one that
    /// holds: another copy may have been quicker. Its log row comes with the notice.
    pub async fn hold_fact(&self, fact: &Fact) -> Result<Known, DatabaseError> {
        let new = self.new_fact(fact.clone(), None)?;
        if self.execute(&format!("{INSERT_FACT} {UNLESS_THERE}"), &FactValues::new(&new).values()).await? == 1
        {
            return Ok(Known { fact: new.fact, made: None });
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
        made: &Made,
        log: &Entry,
        to: &str,
    ) -> Result<Option<Attempt>, DatabaseError> {
        let attempt = Attempt::new(&known.fact.id, to)?;
        let begins = self.authentic(attempt.begins())?;
        let (fact, log) = (&known.fact, LogValues::new(log));
        let made = self.authentic(MadeOf { fact: &fact.id, fact_mac: fact.mac(), made: made.clone() })?;
        let before = known.made.as_ref().map(|made| &made.sha256);
        let mut values: Vec<&(dyn ToSql + Sync)> =
            vec![&fact.id, &made.made.sha256, &made.made.with, made.mac().column(), &before];
        values.extend([&to as &(dyn ToSql + Sync), &attempt.id, begins.mac().column()]);
        values.extend(log.values());
        let rows = self
            .execute(
                &format!(
                    "WITH fact AS (UPDATE fact SET notice_sha256 = $2, made_with = $3, notice_mac = $4 \
                                   WHERE id = $1 AND notice_sha256 IS NOT DISTINCT FROM $5 \
                                     AND NOT EXISTS (SELECT FROM handover WHERE message = $1 AND recipient \
                    = $6 AND what = 'taken') RETURNING id), \
                     handover AS ({}) {} WHERE EXISTS (SELECT FROM fact)",
                    insert_begun(["id", "$6", "$7", "$8"], "FROM fact"),
                    insert_log(9),
                ),
                &values,
            )
            .await?;
        Ok((rows == 1).then_some(attempt))
    }

    fn new_fact(&self, fact: Fact, made: Option<&Made>) -> Result<NewFact, DatabaseError> {
        let fact = self.authentic(fact)?;
        let made = made
            .map(|made| {
                let of =
                    self.authentic(MadeOf { fact: &fact.id, fact_mac: fact.mac(), made: made.clone() })?;
                Ok::<_, DatabaseError>((made.clone(), of.mac().clone()))
            })
            .transpose()?;
        Ok(NewFact { fact, made })
    }

    /// The columns [`FACT`], from number `first` on, without what the notice came out as, which is written
    /// later: whatever became of that, the fact is one.
    pub(crate) fn fact_row(&self, r: &Row, first: usize) -> Result<Authentic<Fact>, DatabaseError> {
        let id: String = r.get(first);
        let fact = Fact {
            provider: r.get(first + 1),
            identificativo: r.get(first + 2),
            kind: spelled(r, first + 3, Fact::TABLE, &id)?,
            recipient: r.get(first + 4),
            source: r.get(first + 5),
            source_mac: Mac::from_column(r.get(first + 6)),
            happened_at: Moment::from_unix(r.get(first + 7)),
            time_source: spelled(r, first + 8, Fact::TABLE, &id)?,
            status: r.get(first + 9),
            message_id: r.get(first + 10),
            id,
        };
        self.believed(fact, r.get(first + 11))
    }

    /// The columns [`FACT`], from number `first` on.
    pub(crate) fn known(&self, r: &Row, first: usize) -> Result<Known, DatabaseError> {
        let fact = self.fact_row(r, first)?;
        let (sha256, with, mac): (Option<Vec<u8>>, Option<String>, Option<Vec<u8>>) =
            (r.get(first + 12), r.get(first + 13), r.get(first + 14));
        if (&sha256, &with, &mac) == (&None, &None, &None) {
            return Ok(Known { fact, made: None });
        }
        // All three are written at once.
        let made = Made { sha256: sha256.unwrap_or_default(), with: with.unwrap_or_default() };
        let of =
            self.believed(MadeOf { fact: &fact.id, fact_mac: fact.mac(), made }, mac.unwrap_or_default())?;
        let made = Some(of.made.clone());
        Ok(Known { fact, made })
    }

    /// Allows these triggers to come round with a body of this hash.
    pub async fn insert_trigger_bodies(
        &self,
        triggers: &[Trigger],
        body_sha256: &[u8],
    ) -> Result<(), DatabaseError> {
        let names: Vec<String> = triggers.iter().map(Trigger::name).collect();
        self.execute(
            "INSERT INTO trigger_body (trigger_name, body_sha256) SELECT name, $2 FROM unnest($1::text[]) \
            AS name ON CONFLICT DO NOTHING",
            &[&names, &body_sha256],
        )
        .await?;
        Ok(())
    }

    /// Whether the trigger `name` may come round with a body of this hash.
    pub async fn is_trigger_body(&self, name: &str, body_sha256: &[u8]) -> Result<bool, DatabaseError> {
        let row = self
            .query_opt(
                "SELECT 1 FROM trigger_body WHERE trigger_name = $1 AND body_sha256 = $2",
                &[&name, &body_sha256],
            )
            .await?;
        Ok(row.is_some())
    }

    /// Writes that a receipt about an envelope of ours came, with its log row; one that came before is left
    /// alone. And writes that it is let pass: as `new`, or, where it came before, as `again`, which have one
    /// ENVID. `true`: it is new.
    pub async fn insert_ricevuta(
        &self,
        ricevuta: &Ricevuta,
        log: &Entry,
        (new, again): (&Authentic<Passed>, &Authentic<Passed>),
    ) -> Result<bool, DatabaseError> {
        let log = LogValues::new(log);
        let happened_at = ricevuta.happened_at.unix();
        let (kind, kinds) = (ricevuta.kind.as_str(), (new.kind.as_str(), again.kind.as_str()));
        let macs = ricevuta
            .recipients
            .iter()
            .map(|recipient| Ok(self.authentic(AboutOne { ricevuta, recipient })?.mac().column().clone()))
            .collect::<Result<Vec<_>, DatabaseError>>()?;
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![
            &ricevuta.identificativo,
            &kind,
            &ricevuta.recipients,
            &ricevuta.provider,
            &ricevuta.message_id,
            &happened_at,
            &ricevuta.content_sha256,
            &macs,
        ];
        values.extend([
            &new.envid as &(dyn ToSql + Sync),
            &new.body_sha256,
            &new.recipients,
            &kinds.0,
            new.mac().column(),
            &kinds.1,
            again.mac().column(),
        ]);
        values.extend(log.values());
        let sql = format!(
            "WITH ricevuta AS (INSERT INTO ricevuta (identificativo, kind, recipient, provider, message_id, \
            happened_at, content_sha256, mac) \
                 SELECT $1, $2, r, $4, $5, to_timestamp($6::int8), $7, m FROM unnest($3::text[], \
            $8::bytea[]) AS about (r, m) ON CONFLICT DO NOTHING RETURNING 1), \
             is_new AS (SELECT EXISTS (SELECT FROM ricevuta) AS yes), \
             passed AS (INSERT INTO passed (envid, body_sha256, recipients, kind, mac) \
                 SELECT $9, $10, $11, CASE WHEN yes THEN $12::text ELSE $14::text END, CASE WHEN yes THEN \
            $13::bytea ELSE $15::bytea END FROM is_new), \
             log AS ({} WHERE (SELECT yes FROM is_new)) SELECT yes FROM is_new",
            insert_log(16),
        );
        let row = self.query_opt(&sql, &values).await?;
        Ok(row.is_some_and(|row| row.get(0)))
    }

    /// What we, or their providers, have certified about recipients of our envelopes with these identifiers:
    /// for each identifier kinds and keys of recipients. Only kinds that another provider's receipts have too
    /// are told.
    pub(crate) async fn certified(
        &self,
        identificativi: &[&str],
    ) -> Result<HashMap<String, Vec<(String, String)>>, DatabaseError> {
        let mut certified: HashMap<String, Vec<(String, String)>> = HashMap::new();
        // What another provider sends under our identifier is another envelope.
        let is_ours =
            "provider = (SELECT provider FROM sent WHERE sent.identificativo = fact.identificativo)";
        for row in self
            .query(
                &format!("SELECT {FACT} FROM fact WHERE identificativo = ANY($1) AND {is_ours}"),
                &[&identificativi],
            )
            .await?
        {
            // A forged one counts for nothing; the alarm is given.
            let Ok(fact) = self.fact_row(&row, 0) else { continue };
            let about = fact
                .recipient
                .split(' ')
                .filter(|key| !key.is_empty())
                .map(|key| (fact.kind.as_str().to_owned(), key.to_owned()));
            certified.entry(fact.identificativo.clone()).or_default().extend(about);
        }
        let sql = "SELECT v.identificativo, v.kind, v.recipient, v.provider, v.message_id, extract(epoch \
            FROM v.happened_at)::int8, v.content_sha256, v.mac, s.mac \
                   FROM ricevuta AS v JOIN sent AS s ON s.identificativo = v.identificativo WHERE \
            v.identificativo = ANY($1)";
        for r in self.query(sql, &[&identificativi]).await? {
            let recipient: String = r.get(2);
            let Ok(kind) = spelled(&r, 1, AboutOne::TABLE, r.get(4)) else { continue };
            let ricevuta = Ricevuta {
                identificativo: r.get(0),
                kind,
                recipients: Vec::new(),
                provider: r.get(3),
                message_id: r.get(4),
                happened_at: Moment::from_unix(r.get(5)),
                content_sha256: r.get(6),
                sent_mac: Mac::from_column(r.get(8)),
            };
            if self.believed(AboutOne { ricevuta: &ricevuta, recipient: &recipient }, r.get(7)).is_ok() {
                certified
                    .entry(ricevuta.identificativo.clone())
                    .or_default()
                    .push((ricevuta.kind.as_str().to_owned(), recipient));
            }
        }
        Ok(certified)
    }

    /// Whether our envelope `identificativo` is certified as delivered to `recipient` (a key), by its
    /// provider or by us.
    pub async fn is_delivered(&self, identificativo: &str, recipient: &str) -> Result<bool, DatabaseError> {
        self.is_certified(identificativo, recipient, &["avvenuta-consegna"]).await
    }

    /// Whether it is certified that somebody has our envelope `identificativo` for `recipient` (a key): it
    /// was taken in charge, and whatever became of it then, which may be told first.
    pub async fn is_in_other_hands(
        &self,
        identificativo: &str,
        recipient: &str,
    ) -> Result<bool, DatabaseError> {
        self.is_certified(
            identificativo,
            recipient,
            &["presa-in-carico", "avvenuta-consegna", "errore-consegna", "rilevazione-virus"],
        )
        .await
    }

    async fn is_certified(
        &self,
        identificativo: &str,
        recipient: &str,
        kinds: &[&str],
    ) -> Result<bool, DatabaseError> {
        let certified = self.certified(&[identificativo]).await?;
        Ok(certified.values().flatten().any(|(kind, key)| key == recipient && kinds.contains(&kind.as_str())))
    }

    /// Writes a log row alone.
    pub async fn insert_log(&self, log: &Entry) -> Result<(), DatabaseError> {
        let log = LogValues::new(log);
        self.execute(&insert_log(1), &log.values()).await?;
        Ok(())
    }

    /// Writes the row unless there is one of this event under this identifier. `true`: it is written now.
    pub async fn insert_log_once(&self, log: &Entry) -> Result<bool, DatabaseError> {
        let log = LogValues::new(log);
        let rows = self
            .execute(
                &format!(
                    "{} WHERE NOT EXISTS (SELECT FROM log WHERE event = $2 AND identificativo = $3)",
                    insert_log(1)
                ),
                &log.values(),
            )
            .await?;
        Ok(rows > 0)
    }

    /// The words of the last row of this event under this identifier.
    pub async fn last_words(
        &self,
        event: &Event,
        identificativo: &str,
    ) -> Result<Option<String>, DatabaseError> {
        let sql = "SELECT error FROM log WHERE event = $1 AND identificativo = $2 ORDER BY seq DESC LIMIT \
            1";
        Ok(self.query_opt(sql, &[&event.name(), &identificativo]).await?.and_then(|row| row.get(0)))
    }

    pub(crate) async fn execute(
        &self,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, DatabaseError> {
        let work = async |client: &Object| client.execute(&client.prepare_cached(sql).await?, values).await;
        self.connections.with(work).await
    }

    pub(crate) async fn query(
        &self,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, DatabaseError> {
        let work = async |client: &Object| client.query(&client.prepare_cached(sql).await?, values).await;
        self.connections.with(work).await
    }

    pub(crate) async fn query_opt(
        &self,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, DatabaseError> {
        let work = async |client: &Object| client.query_opt(&client.prepare_cached(sql).await?, values).await;
        self.connections.with(work).await
    }
}

pub(crate) const SENT: &str =
    "id, envid, provider, identificativo, daticert, body_sha256, extract(epoch FROM signed_at)::int8, mac";

const CUSTODY: &str = "id, envid, provider, mail_receipt, identificativo, daticert, recipients, \
    body_sha256, content_sha256, extract(epoch FROM taken_at)::int8, mac";

/// How many columns [`CUSTODY`] are.
const CUSTODY_COLUMNS: usize = 11;

const PASSED: &str = "envid, kind, body_sha256, recipients, mac";

/// How many columns [`PASSED`] are.
const PASSED_COLUMNS: usize = 5;

pub(crate) const FACT: &str = "id, provider, identificativo, kind, recipient, source, source_mac, \
    extract(epoch FROM happened_at)::int8, time_source, \
     status, message_id, mac, notice_sha256, made_with, notice_mac";

/// How many columns [`FACT`] are.
pub(crate) const FACT_COLUMNS: usize = 15;

/// A column that holds one of a few words, of the row that is found by `key`. Another word is none that these
/// programs wrote.
pub(crate) fn spelled<T: std::str::FromStr>(
    r: &Row,
    column: usize,
    table: &'static str,
    key: &str,
) -> Result<T, DatabaseError> {
    r.get::<_, &str>(column).parse().map_err(|_| {
        maillog::forged_row(table, key);
        DatabaseError::Forged { table, key: key.to_owned() }
    })
}

/// A fact to be written, and what its notice came out as.
struct NewFact {
    fact: Authentic<Fact>,
    made: Option<(Made, Mac)>,
}

/// The insertion of a fact with the values of [`FactValues`].
const INSERT_FACT: &str = "INSERT INTO fact (id, provider, identificativo, kind, recipient, source, \
    source_mac, happened_at, time_source, status, \
     message_id, mac, notice_sha256, made_with, notice_mac) VALUES ($1, $2, $3, $4, $5, $6, $7, \
    to_timestamp($8::int8), $9, $10, $11, $12, $13, $14, $15)";

/// The first fact for an envelope, kind and recipient holds (the index `fact_once`).
const UNLESS_THERE: &str = "ON CONFLICT (provider, identificativo, kind, md5(recipient)) DO NOTHING";

/// The columns of a fact, so that a statement can refer to them.
struct FactValues<'a> {
    new: &'a NewFact,
    kind: &'static str,
    happened_at: i64,
    time_source: &'static str,
    sha256: Option<&'a Vec<u8>>,
    with: Option<&'a str>,
    notice_mac: Option<&'a Vec<u8>>,
}

impl<'a> FactValues<'a> {
    fn new(new: &'a NewFact) -> Self {
        let (fact, made) = (&new.fact, new.made.as_ref());
        Self {
            new,
            kind: fact.kind.as_str(),
            happened_at: fact.happened_at.unix(),
            time_source: fact.time_source.as_str(),
            sha256: made.map(|(made, _)| &made.sha256),
            with: made.map(|(made, _)| made.with.as_str()),
            notice_mac: made.map(|(_, mac)| mac.column()),
        }
    }

    fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
        let fact = &self.new.fact;
        vec![
            &fact.id,
            &fact.provider,
            &fact.identificativo,
            &self.kind,
            &fact.recipient,
            &fact.source,
            fact.source_mac.column(),
            &self.happened_at,
            &self.time_source,
            &fact.status,
            &fact.message_id,
            fact.mac().column(),
            &self.sha256,
            &self.with,
            &self.notice_mac,
        ]
    }
}

/// The insertion of a copy in custody and of its log row, with the values of [`CustodyValues`] and
/// [`LogValues`].
pub(crate) fn insert_custody() -> String {
    format!(
        "WITH custody AS (INSERT INTO custody (id, envid, provider, mail_receipt, identificativo, daticert, \
        recipients, body_sha256, content_sha256, taken_at, mac) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, to_timestamp($10::int8), $11)) {}",
        insert_log(12),
    )
}

/// The columns of a copy in custody, so that a statement can refer to them.
pub(crate) struct CustodyValues<'a> {
    custody: &'a Authentic<Custody>,
    taken_at: i64,
}

impl<'a> CustodyValues<'a> {
    pub(crate) fn new(custody: &'a Authentic<Custody>) -> Self {
        Self { custody, taken_at: custody.taken_at.unix() }
    }

    pub(crate) fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
        let custody = self.custody;
        vec![
            &custody.id,
            &custody.envid,
            &custody.provider,
            &custody.mail_receipt,
            &custody.identificativo,
            &custody.daticert,
            &custody.recipients,
            &custody.body_sha256,
            &custody.content_sha256,
            &self.taken_at,
            custody.mac().column(),
        ]
    }
}

/// The columns of a log row, owned, so that a statement can refer to them.
pub(crate) struct LogValues<'a> {
    entry: &'a Entry,
    happened_at: i64,
    event: String,
    destinatari: Vec<String>,
    time_source: &'static str,
    msgid: Option<&'a str>,
    message_id: Option<&'a str>,
}

/// Bytes of a Message-ID that the log keeps: it is searched by them, and PostgreSQL's indexes know no longer
/// ones. No mail program writes one that long; who means harm does.
const LONGEST_MESSAGE_ID: usize = 2000;

impl<'a> LogValues<'a> {
    pub(crate) fn new(entry: &'a Entry) -> Self {
        Self {
            entry,
            happened_at: entry.happened_at.unix(),
            event: entry.event.name(),
            destinatari: entry
                .message
                .destinatari
                .iter()
                .map(|d| format!("{} ({})", d.indirizzo, d.tipo))
                .collect(),
            time_source: entry.time_source.as_str(),
            msgid: entry.message.msgid.as_deref().map(beginning),
            message_id: entry.message_id.as_deref().map(beginning),
        }
    }

    pub(crate) fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
        let (entry, message) = (self.entry, &self.entry.message);
        vec![
            &self.happened_at,
            &self.event,
            &message.identificativo,
            &self.msgid,
            &message.mittente,
            &self.destinatari,
            &message.oggetto,
            &message.gestore_emittente,
            &entry.certified_by,
            &entry.recipients,
            &self.message_id,
            &entry.message_sha256,
            &entry.queue_id,
            &entry.envid,
            &entry.account,
            &entry.client_address,
            &entry.tls,
            &self.time_source,
            &entry.error,
        ]
    }
}

fn beginning(message_id: &str) -> &str {
    &message_id[..message_id.floor_char_boundary(LONGEST_MESSAGE_ID)]
}

/// The insertion of a log row whose values begin at `$first`, open for a WHERE.
pub(crate) fn insert_log(first: usize) -> String {
    const TYPES: [&str; 19] = [
        "int8", "text", "text", "text", "text", "text[]", "text", "text", "text", "text[]", "text", "bytea",
        "text", "text", "text", "text", "text", "text", "text",
    ];
    let places: Vec<_> = TYPES.iter().enumerate().map(|(i, t)| format!("${}::{t}", first + i)).collect();
    format!(
        "INSERT INTO log (happened_at, event, identificativo, msgid, mittente, destinatari, oggetto, \
        gestore, certified_by, recipients, message_id, message_sha256, \
         queue_id, envid, account, client_address, tls, time_source, error) SELECT to_timestamp({}), {}",
        places[0],
        places[1..].join(", "),
    )
}
