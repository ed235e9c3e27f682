//! PostgreSQL: each function is one statement, so that it happens wholly or not at all.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, Timeouts};
use pec_core::clock::Moment;
use pec_core::outages::{self, Thing};
use pec_core::parameters::{ParameterError, Register, Settings};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row};

use crate::envelopes::Envelopes;
use crate::log::{Entry, Event};
use crate::rows::{Custody, Fact, Made, NotAccepted, Ricevuta, Sent, TimeSource};

/// Every schema change, in order; the number is the place in the list.
pub const MIGRATIONS: &[&str] = &[include_str!("../migrations/0001_main_flow.sql"), include_str!("../migrations/0002_register.sql")];

/// Connections of one program: commits that come together share a write to the disk, and the programs of two hosts together
/// stay below the 100 that PostgreSQL allows as shipped.
pub const CONNECTIONS: usize = 12;

/// How long a statement, or the wait for a connection, may take before the mail waits instead.
const PATIENCE: Duration = Duration::from_secs(10);

/// The database does not do what it is asked to. Whether a statement took effect is not known.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DatabaseError {
    /// No connection.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// A statement failed.
    #[error("the database: {0}")]
    Statement(String),
    /// No answer in time.
    #[error("the database does not answer within {} s", PATIENCE.as_secs())]
    Slow,
    /// A row holds what this program cannot read.
    #[error("the database: {0}")]
    Content(String),
}

/// What makes starting pointless until a person acts.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The parameter is no connection string.
    #[error("{parameter} = {value}: {trouble}")]
    Parameter {
        /// Its name.
        parameter: &'static str,
        /// Its value.
        value: String,
        /// Why.
        trouble: String,
    },
    /// The password's file.
    #[error("{0}")]
    Password(#[from] ParameterError),
    /// PostgreSQL answers and says no: role, password, database name.
    #[error("{parameter} = {value}: {trouble}")]
    Refused {
        /// The parameter.
        parameter: &'static str,
        /// The parameter's value.
        value: String,
        /// PostgreSQL's words.
        trouble: String,
    },
    /// The tables are missing or of another version.
    #[error("{parameter} = {value}: the schema is version {found}, version {} is needed; the owner of the database applies it with: pecctl schema --from {found} | psql", MIGRATIONS.len())]
    Schema {
        /// The parameter.
        parameter: &'static str,
        /// The parameter's value.
        value: String,
        /// What is there.
        found: i32,
    },
    /// The texts of the register are UTF-8, and PostgreSQL must know it to compare and to show them.
    #[error(
        "{parameter} = {value}: the database's encoding is {found}, UTF8 is needed; its owner makes another one with: createdb --encoding=UTF8 --template=template0"
    )]
    Encoding {
        /// The parameter.
        parameter: &'static str,
        /// The parameter's value.
        value: String,
        /// What it has.
        found: String,
    },
    /// Nobody answers: it may come.
    #[error("{parameter} = {value}: {trouble}")]
    Unreachable {
        /// The parameter.
        parameter: &'static str,
        /// The parameter's value.
        value: String,
        /// Why.
        trouble: String,
    },
}

impl ConnectError {
    /// PostgreSQL says no for good, or just now: it starts, stops or has too much to do (classes 53 and 57 of its codes).
    fn of(parameter: &'static str, value: String, error: &tokio_postgres::Error) -> Self {
        let trouble = words(error);
        match error.code() {
            Some(code) if !code.code().starts_with("53") && !code.code().starts_with("57") => Self::Refused { parameter, value, trouble },
            _ => Self::Unreachable { parameter, value, trouble },
        }
    }
}

/// How a parameter says that the database is reached, under the name of `program` (as `pg_stat_activity` shows it).
fn configuration(parameter: &'static str, value: &str, password_file: Option<&Path>, program: &str) -> Result<Config, ConnectError> {
    let mut config: Config =
        value.parse().map_err(|e: tokio_postgres::Error| ConnectError::Parameter { parameter, value: value.to_owned(), trouble: words(&e) })?;
    if let Some(file) = password_file {
        let name = if parameter == "pec_database" { "pec_database_password_file" } else { "pec_register_password_file" };
        config.password(Settings::secret(name, file)?);
    }
    config.connect_timeout(PATIENCE).application_name(program);
    Ok(config)
}

/// An error unless the database is one of UTF-8 texts and its schema the one that this program knows.
async fn check_schema(client: &Client, parameter: &'static str, value: &str) -> Result<(), ConnectError> {
    let encoding =
        client.query_one("SHOW server_encoding", &[]).await.map_err(|e| ConnectError::of(parameter, value.to_owned(), &e))?.get::<_, String>(0);
    if encoding != "UTF8" {
        return Err(ConnectError::Encoding { parameter, value: value.to_owned(), found: encoding });
    }
    let found = match client.query_opt("SELECT max(version) FROM pec_schema", &[]).await {
        Ok(row) => row.and_then(|r| r.get::<_, Option<i32>>(0)).unwrap_or(0),
        Err(e) if e.code() == Some(&SqlState::UNDEFINED_TABLE) => 0,
        Err(e) => return Err(ConnectError::of(parameter, value.to_owned(), &e)),
    };
    if usize::try_from(found) != Ok(MIGRATIONS.len()) {
        return Err(ConnectError::Schema { parameter, value: value.to_owned(), found });
    }
    Ok(())
}

/// One connection as the role that seals (`pec_register_database`).
pub async fn connect_registrar(settings: &Register, program: &str) -> Result<Client, ConnectError> {
    connect_one("pec_register_database", &settings.database, settings.password_file.as_deref(), program).await
}

/// One connection as the role of the milters (`pec_database`), to read what they wrote.
pub async fn connect_reader(settings: &Settings, program: &str) -> Result<Client, ConnectError> {
    connect_one("pec_database", &settings.database, settings.database_password_file.as_deref(), program).await
}

async fn connect_one(parameter: &'static str, value: &str, password_file: Option<&Path>, program: &str) -> Result<Client, ConnectError> {
    let config = configuration(parameter, value, password_file, program)?;
    let (client, connection) = config.connect(NoTls).await.map_err(|e| ConnectError::of(parameter, value.to_owned(), &e))?;
    // What ends the connection is what the next statement fails with.
    tokio::spawn(connection);
    check_schema(&client, parameter, value).await?;
    Ok(client)
}

/// The database, through a small pool of connections.
#[derive(Debug, Clone)]
pub struct Database {
    pool: Pool,
    envelopes: Envelopes,
}

/// A fact as the table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The fact.
    pub fact: Fact,
    /// What its notice came out as, if it was made before.
    pub made: Option<Made>,
    /// The notice is known to be in Postfix's queue: pec-clock started it and heard 250.
    pub raised: bool,
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
    /// Connects as `pec_database` says, under the name of `program` (as `pg_stat_activity` shows it), and looks whether the
    /// schema is the one that this program knows.
    pub async fn connect(settings: &Settings, program: &str) -> Result<Self, ConnectError> {
        let value = settings.database.clone();
        let config = configuration("pec_database", &value, settings.database_password_file.as_deref(), program)?;
        let parameter = "pec_database";
        let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts { wait: Some(PATIENCE), create: Some(PATIENCE), recycle: Some(PATIENCE) })
            .build()
            .map_err(|e| ConnectError::Parameter { parameter, value: value.clone(), trouble: e.to_string() })?;

        let client = match pool.get().await {
            Ok(client) => client,
            Err(PoolError::Backend(e)) => return Err(ConnectError::of(parameter, value, &e)),
            Err(e) => return Err(ConnectError::Unreachable { parameter, value, trouble: pool_words(&e) }),
        };
        check_schema(&client, parameter, &value).await?;
        drop(client);
        Ok(Self { envelopes: Envelopes::new(pool.clone()), pool })
    }

    /// Writes that an envelope was signed, with its log row.
    pub async fn insert_sent(&self, sent: &Sent, log: &Entry) -> Result<(), DatabaseError> {
        self.envelopes.insert(sent.clone(), log.clone()).await
    }

    /// The envelope that a trigger speaks of.
    pub async fn sent(&self, id: &str) -> Result<Option<Sent>, DatabaseError> {
        self.sent_where("id = $1", id).await
    }

    /// The envelope that Postfix reports on under this ENVID.
    pub async fn sent_with_envid(&self, envid: &str) -> Result<Option<Sent>, DatabaseError> {
        self.sent_where("envid = $1", envid).await
    }

    /// The envelope with this PEC identifier.
    pub async fn sent_with_identifier(&self, identificativo: &str) -> Result<Option<Sent>, DatabaseError> {
        self.sent_where("identificativo = $1", identificativo).await
    }

    async fn sent_where(&self, condition: &str, value: &str) -> Result<Option<Sent>, DatabaseError> {
        let columns = "id, envid, provider, identificativo, daticert, body_sha256, local_recipients, extract(epoch FROM signed_at)::int8";
        let row = self.query_opt(&format!("SELECT {columns} FROM sent WHERE {condition}"), &[&value]).await?;
        Ok(row.map(|r| Sent {
            id: r.get(0),
            envid: r.get(1),
            provider: r.get(2),
            identificativo: r.get(3),
            daticert: r.get(4),
            body_sha256: r.get(5),
            local_recipients: r.get(6),
            signed_at: Moment::from_unix(r.get(7)),
        }))
    }

    /// Writes that a submission was not accepted: what its notice is about, the fact, its log row.
    pub async fn insert_not_accepted(&self, refused: &NotAccepted, fact: &Fact, made: &Made, log: &Entry) -> Result<(), DatabaseError> {
        let (fact, log) = (FactValues::new(fact), LogValues::new(log));
        let mut values = fact.values();
        values.extend([&made.sha256 as &(dyn ToSql + Sync), &made.with, &refused.id, &refused.provider, &refused.daticert, &refused.inglese]);
        values.extend(log.values());
        self.execute(
            &format!(
                "WITH refused AS (INSERT INTO not_accepted (id, provider, daticert, inglese) VALUES ($13, $14, $15, $16)), \
                 fact AS ({INSERT_FACT_MADE}) {}",
                insert_log(17),
            ),
            &values,
        )
        .await?;
        Ok(())
    }

    /// The submission that a notice of non-acceptance is about.
    pub async fn not_accepted(&self, id: &str) -> Result<Option<NotAccepted>, DatabaseError> {
        let row = self.query_opt("SELECT id, provider, daticert, inglese FROM not_accepted WHERE id = $1", &[&id]).await?;
        Ok(row.map(|r| NotAccepted { id: r.get(0), provider: r.get(1), daticert: r.get(2), inglese: r.get(3) }))
    }

    /// Writes that a copy of an envelope was taken, with its log row.
    pub async fn insert_custody(&self, custody: &Custody, log: &Entry) -> Result<(), DatabaseError> {
        let log = LogValues::new(log);
        let taken_at = custody.taken_at.unix();
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![
            &custody.id,
            &custody.envid,
            &custody.mark,
            &custody.provider,
            &custody.mail_receipt,
            &custody.identificativo,
            &custody.daticert,
            &custody.recipients,
            &custody.concise,
            &custody.body_sha256,
            &custody.content_sha256,
            &taken_at,
        ];
        values.extend(log.values());
        self.execute(
            &format!(
                "WITH custody AS (INSERT INTO custody (id, envid, mark, provider, mail_receipt, identificativo, daticert, recipients, concise, body_sha256, content_sha256, taken_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, to_timestamp($12::int8))) {}",
                insert_log(13),
            ),
            &values,
        )
        .await?;
        Ok(())
    }

    /// The copy that a trigger speaks of.
    pub async fn custody(&self, id: &str) -> Result<Option<Custody>, DatabaseError> {
        self.custody_where("id = $1", id).await
    }

    /// The copy that Postfix reports on under this ENVID.
    pub async fn custody_with_envid(&self, envid: &str) -> Result<Option<Custody>, DatabaseError> {
        self.custody_where("envid = $1", envid).await
    }

    async fn custody_where(&self, condition: &str, value: &str) -> Result<Option<Custody>, DatabaseError> {
        let columns = "id, envid, mark, provider, mail_receipt, identificativo, daticert, recipients, concise, body_sha256, content_sha256, extract(epoch FROM taken_at)::int8";
        let row = self.query_opt(&format!("SELECT {columns} FROM custody WHERE {condition}"), &[&value]).await?;
        Ok(row.map(|r| Custody {
            id: r.get(0),
            envid: r.get(1),
            mark: r.get(2),
            provider: r.get(3),
            mail_receipt: r.get(4),
            identificativo: r.get(5),
            daticert: r.get(6),
            recipients: r.get(7),
            concise: r.get(8),
            body_sha256: r.get(9),
            content_sha256: r.get(10),
            taken_at: Moment::from_unix(r.get(11)),
        }))
    }

    /// The copy of this envelope that came first: when, and its mark. Copies that come again because a 250 was lost are the
    /// same delivery.
    pub async fn first_custody(
        &self,
        provider: &str,
        identificativo: &str,
        content_sha256: &[u8],
    ) -> Result<Option<(Moment, String)>, DatabaseError> {
        let sql = "SELECT extract(epoch FROM taken_at)::int8, mark FROM custody \
                   WHERE provider = $1 AND identificativo = $2 AND content_sha256 = $3 ORDER BY taken_at LIMIT 1";
        let row = self.query_opt(sql, &[&provider, &identificativo, &content_sha256]).await?;
        Ok(row.map(|r| (Moment::from_unix(r.get(0)), r.get(1))))
    }

    /// What is known to be in the queue of the envelope `identificativo` of `provider`, because the trigger of its presa in
    /// carico came round.
    pub async fn taken(&self, provider: &str, identificativo: &str, content_sha256: &[u8]) -> Result<Taken, DatabaseError> {
        let sql = "SELECT fact.recipient, custody.content_sha256 = $3 FROM fact JOIN custody ON custody.id = fact.source \
                   WHERE fact.provider = $1 AND fact.identificativo = $2 AND fact.kind = 'presa-in-carico'";
        let mut taken = Taken::default();
        for row in self.query(sql, &[&provider, &identificativo, &content_sha256]).await? {
            if row.get(1) {
                taken.recipients.extend(row.get::<_, String>(0).split(' ').map(str::to_owned));
            } else {
                taken.other_content = true;
            }
        }
        Ok(taken)
    }

    /// The fact of this kind about this envelope and recipient, if it is one already.
    pub async fn fact(&self, provider: &str, identificativo: &str, kind: &str, recipient: &str) -> Result<Option<Known>, DatabaseError> {
        let condition = "provider = $1 AND identificativo = $2 AND kind = $3 AND md5(recipient) = md5($4)";
        let row = self.query_opt(&format!("SELECT {FACT} FROM fact WHERE {condition}"), &[&provider, &identificativo, &kind, &recipient]).await?;
        row.as_ref().map(known).transpose()
    }

    /// The fact that a trigger speaks of.
    pub async fn fact_with_id(&self, id: &str) -> Result<Option<Known>, DatabaseError> {
        self.query_opt(&format!("SELECT {FACT} FROM fact WHERE id = $1"), &[&id]).await?.as_ref().map(known).transpose()
    }

    /// Writes a fact, what its notice came out as, and its log row, unless there is a fact for the same envelope, kind and
    /// recipient. `true`: it is written now; `false`: another was there first, and holds.
    pub async fn insert_fact(&self, fact: &Fact, made: &Made, log: &Entry) -> Result<bool, DatabaseError> {
        let (fact, log) = (FactValues::new(fact), LogValues::new(log));
        let mut values = fact.values();
        values.extend([&made.sha256 as &(dyn ToSql + Sync), &made.with]);
        values.extend(log.values());
        let rows = self
            .execute(
                &format!("WITH fact AS ({INSERT_FACT_MADE} {UNLESS_THERE} RETURNING 1) {} WHERE EXISTS (SELECT FROM fact)", insert_log(13)),
                &values,
            )
            .await?;
        Ok(rows == 1)
    }

    /// Writes a fact whose notice is made later, unless there is one already. Its log row comes with the notice.
    pub async fn insert_fact_before_notice(&self, fact: &Fact) -> Result<(), DatabaseError> {
        self.execute(&format!("{INSERT_FACT} {UNLESS_THERE}"), &FactValues::new(fact).values()).await?;
        Ok(())
    }

    /// The same, and gives back the fact that holds: another copy may have been quicker.
    pub async fn hold_fact(&self, fact: &Fact) -> Result<Known, DatabaseError> {
        self.insert_fact_before_notice(fact).await?;
        let held = self.fact(&fact.provider, &fact.identificativo, fact.kind.as_str(), &fact.recipient).await?;
        held.ok_or_else(|| DatabaseError::Content("a fact was neither written nor found".to_owned()))
    }

    /// Writes what the notice about a fact came out as, with the fact's log row, unless that is written already.
    pub async fn insert_made(&self, fact_id: &str, made: &Made, log: &Entry) -> Result<(), DatabaseError> {
        let log = LogValues::new(log);
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![&fact_id, &made.sha256, &made.with];
        values.extend(log.values());
        self.execute(
            &format!(
                "WITH fact AS (UPDATE fact SET notice_sha256 = $2, made_with = $3 WHERE id = $1 AND notice_sha256 IS NULL RETURNING 1) \
                 {} WHERE EXISTS (SELECT FROM fact)",
                insert_log(4),
            ),
            &values,
        )
        .await?;
        Ok(())
    }

    /// Allows the triggers `names` to come round with a body of this hash.
    pub async fn insert_trigger_bodies(&self, names: &[String], body_sha256: &[u8]) -> Result<(), DatabaseError> {
        self.execute(
            "INSERT INTO trigger_body (trigger_name, body_sha256) SELECT name, $2 FROM unnest($1::text[]) AS name ON CONFLICT DO NOTHING",
            &[&names, &body_sha256],
        )
        .await?;
        Ok(())
    }

    /// Whether the trigger `name` may come round with a body of this hash.
    pub async fn is_trigger_body(&self, name: &str, body_sha256: &[u8]) -> Result<bool, DatabaseError> {
        let row = self.query_opt("SELECT 1 FROM trigger_body WHERE trigger_name = $1 AND body_sha256 = $2", &[&name, &body_sha256]).await?;
        Ok(row.is_some())
    }

    /// Writes that a receipt about an envelope of ours came, with its log row; one that came before is left alone. `true`: it is
    /// new.
    pub async fn insert_ricevuta(&self, ricevuta: &Ricevuta, log: &Entry) -> Result<bool, DatabaseError> {
        let log = LogValues::new(log);
        let happened_at = ricevuta.happened_at.unix();
        let kind = ricevuta.kind.as_str();
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![
            &ricevuta.identificativo,
            &kind,
            &ricevuta.recipients,
            &ricevuta.provider,
            &ricevuta.message_id,
            &happened_at,
            &ricevuta.content_sha256,
        ];
        values.extend(log.values());
        let rows = self
            .execute(
                &format!(
                    "WITH ricevuta AS (INSERT INTO ricevuta (identificativo, kind, recipient, provider, message_id, happened_at, content_sha256) \
                 SELECT $1, $2, r, $4, $5, to_timestamp($6::int8), $7 FROM unnest($3::text[]) AS r ON CONFLICT DO NOTHING RETURNING 1) \
                 {} WHERE EXISTS (SELECT FROM ricevuta)",
                    insert_log(8),
                ),
                &values,
            )
            .await?;
        Ok(rows == 1)
    }

    /// Whether our envelope `identificativo` is certified as delivered to `recipient` (a key), by its provider or by us.
    pub async fn is_delivered(&self, identificativo: &str, recipient: &str) -> Result<bool, DatabaseError> {
        let sql = "SELECT 1 FROM ricevuta WHERE identificativo = $1 AND recipient = $2 AND kind = 'avvenuta-consegna' \
                   UNION SELECT 1 FROM fact WHERE identificativo = $1 AND recipient = $2 AND kind = 'avvenuta-consegna' LIMIT 1";
        Ok(self.query_opt(sql, &[&identificativo, &recipient]).await?.is_some())
    }

    /// Whether another provider has certified that it has our envelope `identificativo` for `recipient` (a key): it took it
    /// in charge, and whatever became of it there, which may be told first.
    pub async fn is_in_other_hands(&self, identificativo: &str, recipient: &str) -> Result<bool, DatabaseError> {
        let sql = "SELECT 1 FROM ricevuta WHERE identificativo = $1 AND recipient = $2 AND kind IN ('presa-in-carico', 'avvenuta-consegna', 'errore-consegna', 'rilevazione-virus') LIMIT 1";
        Ok(self.query_opt(sql, &[&identificativo, &recipient]).await?.is_some())
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
            .execute(&format!("{} WHERE NOT EXISTS (SELECT FROM log WHERE event = $2 AND identificativo = $3)", insert_log(1)), &log.values())
            .await?;
        Ok(rows > 0)
    }

    /// The words of the last row of this event under this identifier.
    pub async fn last_words(&self, event: &Event, identificativo: &str) -> Result<Option<String>, DatabaseError> {
        let sql = "SELECT error FROM log WHERE event = $1 AND identificativo = $2 ORDER BY seq DESC LIMIT 1";
        Ok(self.query_opt(sql, &[&event.name(), &identificativo]).await?.and_then(|row| row.get(0)))
    }

    pub(crate) async fn client(&self) -> Result<Object, DatabaseError> {
        connection(&self.pool).await
    }

    pub(crate) async fn execute(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<u64, DatabaseError> {
        let client = self.client().await?;
        let done = patiently(async { client.execute(&client.prepare_cached(sql).await?, values).await }).await;
        given_back(client, done)
    }

    pub(crate) async fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, DatabaseError> {
        let client = self.client().await?;
        let done = patiently(async { client.query(&client.prepare_cached(sql).await?, values).await }).await;
        given_back(client, done)
    }

    async fn query_opt(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, DatabaseError> {
        let client = self.client().await?;
        let done = patiently(async { client.query_opt(&client.prepare_cached(sql).await?, values).await }).await;
        given_back(client, done)
    }
}

/// A connection of the pool.
pub(crate) async fn connection(pool: &Pool) -> Result<Object, DatabaseError> {
    pool.get().await.map_err(|e| {
        let why = pool_words(&e);
        outages::down(Thing::Database, &why);
        DatabaseError::Unreachable(why)
    })
}

/// Gives a connection back to the pool, unless something failed on it: whoever had it next would stand behind a statement that
/// still runs, or find it broken.
pub(crate) fn given_back<T>(client: Object, done: Result<T, DatabaseError>) -> Result<T, DatabaseError> {
    if done.is_err() {
        drop(Object::take(client));
    }
    done
}

pub(crate) const FACT: &str = "id, provider, identificativo, kind, recipient, source, extract(epoch FROM happened_at)::int8, time_source, status, message_id, notice_sha256, made_with, raised";

pub(crate) fn known(r: &Row) -> Result<Known, DatabaseError> {
    let kind: String = r.get(3);
    let time_source: String = r.get(7);
    let (sha256, with): (Option<Vec<u8>>, Option<String>) = (r.get(10), r.get(11));
    Ok(Known {
        fact: Fact {
            id: r.get(0),
            provider: r.get(1),
            identificativo: r.get(2),
            kind: kind.parse().map_err(|()| DatabaseError::Content(format!("fact.kind is {kind:?}")))?,
            recipient: r.get(4),
            source: r.get(5),
            happened_at: Moment::from_unix(r.get(6)),
            time_source: TimeSource::parse(&time_source),
            status: r.get(8),
            message_id: r.get(9),
        },
        made: sha256.zip(with).map(|(sha256, with)| Made { sha256, with }),
        raised: r.get(12),
    })
}

/// The insertion of a fact with the values of [`FactValues`].
const INSERT_FACT: &str = "INSERT INTO fact (id, provider, identificativo, kind, recipient, source, happened_at, time_source, status, message_id) \
     VALUES ($1, $2, $3, $4, $5, $6, to_timestamp($7::int8), $8, $9, $10)";

/// The same with what its notice came out as.
const INSERT_FACT_MADE: &str = "INSERT INTO fact (id, provider, identificativo, kind, recipient, source, happened_at, time_source, status, message_id, \
     notice_sha256, made_with) VALUES ($1, $2, $3, $4, $5, $6, to_timestamp($7::int8), $8, $9, $10, $11, $12)";

/// The first fact for an envelope, kind and recipient holds (the index `fact_once`).
const UNLESS_THERE: &str = "ON CONFLICT (provider, identificativo, kind, md5(recipient)) DO NOTHING";

/// The columns of a fact, so that a statement can refer to them.
struct FactValues<'a> {
    fact: &'a Fact,
    kind: &'static str,
    happened_at: i64,
    time_source: &'static str,
}

impl<'a> FactValues<'a> {
    fn new(fact: &'a Fact) -> Self {
        Self { fact, kind: fact.kind.as_str(), happened_at: fact.happened_at.unix(), time_source: fact.time_source.as_str() }
    }

    fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
        let fact = self.fact;
        vec![
            &fact.id,
            &fact.provider,
            &fact.identificativo,
            &self.kind,
            &fact.recipient,
            &fact.source,
            &self.happened_at,
            &self.time_source,
            &fact.status,
            &fact.message_id,
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

/// Bytes of a Message-ID that the log keeps: it is searched by them, and PostgreSQL's indexes know no longer ones. No mail
/// program writes one that long; who means harm does.
const LONGEST_MESSAGE_ID: usize = 2000;

impl<'a> LogValues<'a> {
    pub(crate) fn new(entry: &'a Entry) -> Self {
        Self {
            entry,
            happened_at: entry.happened_at.unix(),
            event: entry.event.name(),
            destinatari: entry.message.destinatari.iter().map(|d| format!("{} ({})", d.indirizzo, d.tipo)).collect(),
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
        "int8", "text", "text", "text", "text", "text[]", "text", "text", "text", "text[]", "text", "bytea", "text", "text", "text", "text", "text",
        "text", "text",
    ];
    let places: Vec<_> = TYPES.iter().enumerate().map(|(i, t)| format!("${}::{t}", first + i)).collect();
    format!(
        "INSERT INTO log (happened_at, event, identificativo, msgid, mittente, destinatari, oggetto, gestore, certified_by, recipients, message_id, message_sha256, \
         queue_id, envid, account, client_address, tls, time_source, error) SELECT to_timestamp({}), {}",
        places[0],
        places[1..].join(", "),
    )
}

pub(crate) async fn patiently<T>(statement: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, DatabaseError> {
    let Ok(done) = timeout(PATIENCE, statement).await else {
        outages::down(Thing::Database, &DatabaseError::Slow.to_string());
        return Err(DatabaseError::Slow);
    };
    match &done {
        // It says no: it answers.
        Err(e) if e.as_db_error().is_none() => outages::down(Thing::Database, &words(e)),
        _ => outages::up(Thing::Database),
    }
    done.map_err(|e| DatabaseError::Statement(words(&e)))
}

fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => db.message().to_owned(),
        None => std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}")),
    }
}

fn pool_words(error: &PoolError) -> String {
    match error {
        PoolError::Backend(e) => words(e),
        e => e.to_string(),
    }
}
