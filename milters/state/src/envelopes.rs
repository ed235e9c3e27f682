//! Envelopes written together: those that come while a commit is under way share the next one, which under
//! load is waited for.
//!
//! Promise: a caller hears "written" after the commit that holds its rows. One alone is a transaction of its
//! own; a row that PostgreSQL does not take spoils it for no other.

use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use crate::authentic::Authentic;
use crate::database::{CustodyValues, LogValues, insert_custody, insert_log};
use crate::log::Entry;
use crate::pool::{Connections, DatabaseError};
use crate::rows::{Custody, Sent};

/// So many share a commit at most. (`join_all` begins so many in their order, before what is joined after
/// it.)
const TOGETHER: usize = 30;

/// While they come so close after a commit, the next are waited for so long: a commit for several costs
/// hardly more than for one. On most disks a commit takes as long; on a fast one hardly two would meet.
const NEAR: Duration = Duration::from_millis(5);

/// One that waits for its commit.
struct Waiting {
    sent: Authentic<Sent>,
    log: Entry,
    /// What recipients of ours have of it.
    custody: Option<(Authentic<Custody>, Entry)>,
    written: oneshot::Sender<Result<(), DatabaseError>>,
}

/// Where they line up.
#[derive(Debug, Clone)]
pub(crate) struct Envelopes {
    line: mpsc::Sender<Waiting>,
    connections: Connections,
}

impl Envelopes {
    /// They are written as long as somebody holds a copy of this.
    pub(crate) fn new(connections: Connections) -> Self {
        let (line, waiting) = mpsc::channel(TOGETHER);
        tokio::spawn(write(connections.clone(), waiting));
        Self { line, connections }
    }

    /// Returns when the envelope, what recipients of ours have of it, and the log rows are written, or when
    /// that is not known.
    pub(crate) async fn insert(
        &self,
        sent: Authentic<Sent>,
        log: Entry,
        custody: Option<(Authentic<Custody>, Entry)>,
    ) -> Result<(), DatabaseError> {
        let (written, outcome) = oneshot::channel();
        match self.line.send(Waiting { sent, log, custody, written }).await {
            Ok(()) => outcome.await.unwrap_or_else(|_| {
                Err(DatabaseError::Unreachable("who wrote the envelopes has ended".to_owned()))
            }),
            // Only a panic ends who writes them; mail goes on all the same.
            Err(mpsc::error::SendError(one)) => alone(&self.connections, &one).await,
        }
    }
}

async fn write(connections: Connections, mut line: mpsc::Receiver<Waiting>) {
    let (mut waiting, mut last) = (Vec::with_capacity(TOGETHER), None);
    while line.recv_many(&mut waiting, TOGETHER).await > 0 {
        if last.is_some_and(|end: Instant| end.elapsed() < NEAR) {
            // What came is in `waiting`, whether all of them came or time was up.
            let all = async {
                let mut room = TOGETHER - waiting.len();
                while room > 0 {
                    match line.recv_many(&mut waiting, room).await {
                        0 => break,
                        more => room -= more,
                    }
                }
            };
            let _ = timeout(NEAR, all).await;
        }
        let all = if waiting.len() > 1 { together(&connections, &waiting).await } else { Ok(false) };
        for one in waiting.drain(..) {
            let outcome = match &all {
                Ok(true) => Ok(()),
                Ok(false) => alone(&connections, &one).await,
                Err(e) => Err(e.clone()),
            };
            // Nobody waits any more: the row says "signed", and no trigger asks for it.
            let _ = one.written.send(outcome);
        }
        last = Some(Instant::now());
    }
}

/// In one transaction, sent in one go. `false`: nothing was written, because PostgreSQL does not take one of
/// them.
async fn together(connections: &Connections, waiting: &[Waiting]) -> Result<bool, DatabaseError> {
    let work = async |client: &Object| {
        let statements = Statements::prepared(client, waiting).await?;
        match transaction(client, &statements, waiting).await {
            Ok(()) => Ok(true),
            Err(e) if e.as_db_error().is_some() => Ok(false),
            Err(e) => Err(e),
        }
    };
    connections.with(work).await
}

async fn alone(connections: &Connections, one: &Waiting) -> Result<(), DatabaseError> {
    let work = async |client: &Object| {
        let statements = Statements::prepared(client, std::slice::from_ref(one)).await?;
        if one.custody.is_some() {
            return transaction(client, &statements, std::slice::from_ref(one)).await;
        }
        insert(client, &statements, one).await
    };
    connections.with(work).await
}

/// An error of any row has made the commit a rollback.
async fn transaction(
    client: &Object,
    statements: &Statements,
    waiting: &[Waiting],
) -> Result<(), tokio_postgres::Error> {
    let rows = join_all(waiting.iter().map(|one| insert(client, statements, one)));
    let (begun, rows, committed) =
        tokio::join!(biased; client.batch_execute("BEGIN"), rows, client.batch_execute("COMMIT"));
    begun?;
    // What broke the connection is no word about any row.
    committed?;
    rows.into_iter().collect()
}

struct Statements {
    sent: Statement,
    custody: Option<Statement>,
}

impl Statements {
    async fn prepared(client: &Object, waiting: &[Waiting]) -> Result<Self, tokio_postgres::Error> {
        let sent = client.prepare_cached(&sql()).await?;
        let with_custody = waiting.iter().any(|one| one.custody.is_some());
        Ok(Self {
            sent,
            custody: if with_custody { Some(client.prepare_cached(&insert_custody()).await?) } else { None },
        })
    }
}

fn sql() -> String {
    format!(
        "WITH sent AS (INSERT INTO sent (id, envid, provider, identificativo, daticert, body_sha256, \
        signed_at, mac) \
         VALUES ($1, $2, $3, $4, $5, $6, to_timestamp($7::int8), $8)) {}",
        insert_log(9),
    )
}

async fn insert(
    client: &Object,
    statements: &Statements,
    Waiting { sent, log, custody, .. }: &Waiting,
) -> Result<(), tokio_postgres::Error> {
    let log = LogValues::new(log);
    let signed_at = sent.signed_at.unix();
    let mut values: Vec<&(dyn ToSql + Sync)> = vec![
        &sent.id,
        &sent.envid,
        &sent.provider,
        &sent.identificativo,
        &sent.daticert,
        &sent.body_sha256,
        &signed_at,
        sent.mac().column(),
    ];
    values.extend(log.values());
    let Some((statement, (custody, log))) = statements.custody.as_ref().zip(custody.as_ref()) else {
        return client.execute(&statements.sent, &values).await.map(drop);
    };
    let (custody, log) = (CustodyValues::new(custody), LogValues::new(log));
    let mut more = custody.values();
    more.extend(log.values());
    let (sent, custody) =
        tokio::join!(biased; client.execute(&statements.sent, &values), client.execute(statement, &more));
    sent.and(custody).map(drop)
}
