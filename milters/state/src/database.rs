//! PostgreSQL, as the programs use it: what they ask and write stands with each table.
//!
//! Promise: each function is one statement, so that it happens wholly or not at all. A row that carries a MAC
//! is believed, or an alarm and an error.

use deadpool_postgres::Object;
use pec_host::maillog;
use pec_host::outages::Outages;
use pec_host::parameters::Settings;
use tokio_postgres::Row as Columns;

use crate::authentic::{Authentic, Mac, Row, RowKeys};
use crate::custody::Custody;
use crate::envelopes::Envelopes;
use crate::fact::Known;
use crate::passed::Passed;
use crate::pool::{ConnectError, Connections, DatabaseError};
use crate::sql::Sql;
use crate::{custody, fact, passed};

/// The database, through a small pool of connections.
#[derive(Debug, Clone)]
pub struct Database {
    pub(crate) connections: Connections,
    pub(crate) envelopes: Envelopes,
    keys: RowKeys,
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
    pub fn authentic<T: Row>(&self, row: T) -> Result<Authentic<T>, DatabaseError> {
        self.keys.authentic(row).map_err(|e| DatabaseError::Mac(e.to_string()))
    }

    /// A row that was read: believed, or an alarm.
    pub(crate) fn believed<T: Row>(&self, row: T, mac: Vec<u8>) -> Result<Authentic<T>, DatabaseError> {
        let key = row.key().to_owned();
        self.keys.believed(row, Mac::from_column(mac)).ok_or_else(|| forged(T::TABLE, &key))
    }

    /// What Postfix hands over under this ENVID.
    pub async fn in_queue(&self, envid: &str) -> Result<Option<InQueue>, DatabaseError> {
        let sql = Sql::select(&[custody::COLUMNS, passed::COLUMNS, fact::COLUMNS])
            .text(" FROM (VALUES (true)) AS one")
            .value(" LEFT JOIN custody ON custody.envid = ", envid)
            .value(" LEFT JOIN passed ON passed.envid = ", envid)
            .value(" LEFT JOIN fact ON fact.id = ", envid);
        let Some(row) = self.query_opt(sql).await? else { return Ok(None) };
        let is_there = |key| row.get::<_, Option<&str>>(key).is_some();
        Ok(if is_there("custody.id") {
            Some(InQueue::Envelope(self.custody_row(&row)?))
        } else if is_there("passed.envid") {
            Some(InQueue::Passed(self.passed_row(&row)?))
        } else if is_there("fact.id") {
            Some(InQueue::Notice(self.known(&row)?))
        } else {
            None
        })
    }

    /// How many rows a statement wrote.
    pub(crate) async fn execute(&self, sql: Sql<'_>) -> Result<u64, DatabaseError> {
        let (statement, values) = (sql.statement(), sql.values());
        let work =
            async |client: &Object| client.execute(&client.prepare_cached(&statement).await?, &values).await;
        self.connections.with(work).await
    }

    /// The rows that a statement finds.
    pub(crate) async fn query(&self, sql: Sql<'_>) -> Result<Vec<Columns>, DatabaseError> {
        let (statement, values) = (sql.statement(), sql.values());
        let work =
            async |client: &Object| client.query(&client.prepare_cached(&statement).await?, &values).await;
        self.connections.with(work).await
    }

    /// The row that a statement finds.
    pub(crate) async fn query_opt(&self, sql: Sql<'_>) -> Result<Option<Columns>, DatabaseError> {
        let (statement, values) = (sql.statement(), sql.values());
        let work = async |client: &Object| {
            client.query_opt(&client.prepare_cached(&statement).await?, &values).await
        };
        self.connections.with(work).await
    }
}

/// A column that holds one of a few words, of the row that is found by `key`. Another word is none that these
/// programs wrote.
pub(crate) fn spelled<T: std::str::FromStr>(
    r: &Columns,
    column: &str,
    table: &'static str,
    key: &str,
) -> Result<T, DatabaseError> {
    r.get::<_, &str>(column).parse().map_err(|_| forged(table, key))
}

/// The alarm that a row is not one of ours, and the error.
fn forged(table: &'static str, key: &str) -> DatabaseError {
    maillog::forged_row(table, key);
    DatabaseError::Forged { table, key: key.to_owned() }
}
