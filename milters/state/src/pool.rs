//! Connections to PostgreSQL: the pool of a program, and those of one role alone.
//!
//! Promise: what makes starting pointless is told from what may come ([`ConnectError`]). Nobody waits longer
//! than [`PATIENCE`]; a connection on which something failed is closed, since whoever had it next would stand
//! behind a statement that still runs, or find it broken.

use std::path::Path;
use std::time::Duration;

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, PoolError, QueueMode, RecyclingMethod, Runtime, Timeouts,
};
use pec_host::outages::{Outages, Thing};
use pec_host::parameters::{ParameterError, Settings};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

/// Every schema change, in order; the number is the place in the list.
pub const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_main_flow.sql"),
    include_str!("../migrations/0002_register.sql"),
    include_str!("../migrations/0003_who_served.sql"),
];

/// Connections of one program: commits that come together share a write to the disk, and the programs of two
/// hosts together stay below the 100 that PostgreSQL allows as shipped.
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
    /// A row that none of our programs wrote so. Nothing follows from it.
    #[error(
        "the row {key} of the table {table} carries no MAC of a key in pec_row_keys_file: another hand \
        wrote or changed it, or its key was taken out of the file"
    )]
    Forged {
        /// The table.
        table: &'static str,
        /// By what the row is found.
        key: String,
    },
    /// OpenSSL.
    #[error("a row cannot be made: {0}")]
    Mac(String),
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
    /// The file of the password, or of the rows' keys.
    #[error("{0}")]
    File(#[from] ParameterError),
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
    #[error("{parameter} = {value}: the schema is version {found}, version {} is needed; the owner of the \
        database applies it with: pecctl schema --from {found} | psql", MIGRATIONS.len())]
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
        "{parameter} = {value}: the database's encoding is {found}, UTF8 is needed; its owner makes another \
        one with: createdb --encoding=UTF8 --template=template0"
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
    /// PostgreSQL says no for good, or just now: it starts, stops or has too much to do (classes 53 and 57 of
    /// its codes).
    fn of(parameter: &'static str, value: String, error: &tokio_postgres::Error) -> Self {
        let trouble = words(error);
        match error.code() {
            Some(code) if !code.code().starts_with("53") && !code.code().starts_with("57") => {
                Self::Refused { parameter, value, trouble }
            }
            _ => Self::Unreachable { parameter, value, trouble },
        }
    }
}

/// How a parameter says that the database is reached, under the name of `program` (as `pg_stat_activity`
/// shows it).
fn configuration(
    parameter: &'static str,
    value: &str,
    password_file: Option<&Path>,
    program: &str,
) -> Result<Config, ConnectError> {
    let mut config: Config = value.parse().map_err(|e: tokio_postgres::Error| ConnectError::Parameter {
        parameter,
        value: value.to_owned(),
        trouble: words(&e),
    })?;
    if let Some(file) = password_file {
        let name = if parameter == "pec_database" {
            "pec_database_password_file"
        } else {
            "pec_register_password_file"
        };
        config.password(Settings::secret(name, file)?);
    }
    config.connect_timeout(PATIENCE).application_name(program);
    Ok(config)
}

/// An error unless the database is one of UTF-8 texts and its schema the one that this program knows.
async fn check_schema(client: &Client, parameter: &'static str, value: &str) -> Result<(), ConnectError> {
    let encoding = client
        .query_one("SHOW server_encoding", &[])
        .await
        .map_err(|e| ConnectError::of(parameter, value.to_owned(), &e))?
        .get::<_, String>(0);
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
pub async fn connect_registrar(settings: &Settings, program: &str) -> Result<Client, ConnectError> {
    connect_one(
        "pec_register_database",
        &settings.register_database,
        settings.register_password_file.as_deref(),
        program,
    )
    .await
}

/// One connection as the role of the milters (`pec_database`), to read what they wrote.
pub async fn connect_reader(settings: &Settings, program: &str) -> Result<Client, ConnectError> {
    connect_one("pec_database", &settings.database, settings.database_password_file.as_deref(), program).await
}

async fn connect_one(
    parameter: &'static str,
    value: &str,
    password_file: Option<&Path>,
    program: &str,
) -> Result<Client, ConnectError> {
    let config = configuration(parameter, value, password_file, program)?;
    let (client, connection) =
        config.connect(NoTls).await.map_err(|e| ConnectError::of(parameter, value.to_owned(), &e))?;
    // What ends the connection is what the next statement fails with.
    tokio::spawn(connection);
    check_schema(&client, parameter, value).await?;
    Ok(client)
}

/// The connections of a program.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    pool: Pool,
    pub(crate) outages: Outages,
}

impl Connections {
    /// Connects as `pec_database` says, under the name of `program` (as `pg_stat_activity` shows it), and
    /// looks whether the schema is the one that this program knows.
    pub(crate) async fn open(settings: &Settings, program: &str) -> Result<Self, ConnectError> {
        let (parameter, value) = ("pec_database", settings.database.clone());
        let mut config =
            configuration(parameter, &value, settings.database_password_file.as_deref(), program)?;
        // Each statement finds its rows by an index, whatever its values are: it is planned once for each
        // connection.
        let options =
            [config.get_options().unwrap_or_default(), "-c plan_cache_mode=force_generic_plan"].join(" ");
        config.options(options);
        let manager =
            Manager::from_config(config, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            // A few do most of the work: each keeps its plans and caches of its own.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts { wait: Some(PATIENCE), create: Some(PATIENCE), recycle: Some(PATIENCE) })
            .build()
            .map_err(|e| ConnectError::Parameter {
                parameter,
                value: value.clone(),
                trouble: e.to_string(),
            })?;

        let client = match pool.get().await {
            Ok(client) => client,
            Err(PoolError::Backend(e)) => return Err(ConnectError::of(parameter, value, &e)),
            Err(e) => return Err(ConnectError::Unreachable { parameter, value, trouble: pool_words(&e) }),
        };
        check_schema(&client, parameter, &value).await?;
        drop(client);
        Ok(Self { pool, outages: Outages::default() })
    }

    /// The same; when the database does not answer, `outages` hears of it.
    pub(crate) fn telling(self, outages: &Outages) -> Self {
        Self { outages: outages.clone(), ..self }
    }

    /// One of them.
    pub(crate) async fn get(&self) -> Result<Object, DatabaseError> {
        self.pool.get().await.map_err(|e| {
            let why = pool_words(&e);
            self.outages.down(Thing::Database, &why);
            DatabaseError::Unreachable(why)
        })
    }

    /// Has one of them do `work`.
    pub(crate) async fn with<T>(
        &self,
        work: impl AsyncFnOnce(&Object) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, DatabaseError> {
        let client = self.get().await?;
        let done = in_time(&self.outages, work(&client)).await;
        if done.is_err() {
            drop(Object::take(client));
        }
        done
    }
}

/// What `statement` says, if it says anything in time; `outages` hears whether the database answers.
pub(crate) async fn in_time<T>(
    outages: &Outages,
    statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, DatabaseError> {
    let Ok(done) = timeout(PATIENCE, statement).await else {
        outages.down(Thing::Database, &DatabaseError::Slow.to_string());
        return Err(DatabaseError::Slow);
    };
    match &done {
        // It says no: it answers.
        Err(e) if e.as_db_error().is_none() => outages.down(Thing::Database, &words(e)),
        _ => outages.up(Thing::Database),
    }
    done.map_err(|e| DatabaseError::Statement(words(&e)))
}

/// PostgreSQL's own words, or what broke the connection.
fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => db.message().to_owned(),
        None => std::error::Error::source(error)
            .map_or_else(|| error.to_string(), |source| format!("{error}: {source}")),
    }
}

fn pool_words(error: &PoolError) -> String {
    match error {
        PoolError::Backend(e) => words(e),
        e => e.to_string(),
    }
}
