//! Envelopes written together: those that come while a commit is under way share the next one, which under load is waited for.
//!
//! Promise: a caller hears "written" after the commit that holds its row. One alone is a transaction of its own; a row that
//! PostgreSQL does not take spoils it for no other.

use std::time::{Duration, Instant};

use deadpool_postgres::{Object, Pool};
use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use crate::database::{DatabaseError, LogValues, connection, given_back, insert_log, patiently};
use crate::log::Entry;
use crate::rows::Sent;

/// So many share a commit at most. (`join_all` begins so many in their order, before what is joined after it.)
const TOGETHER: usize = 30;

/// While they come so close after a commit, the next are waited for so long: a commit for several costs hardly more than for one.
/// On most disks a commit takes as long; on a fast one hardly two would meet.
const NEAR: Duration = Duration::from_millis(5);

/// One that waits for its commit.
struct Waiting {
    sent: Sent,
    log: Entry,
    written: oneshot::Sender<Result<(), DatabaseError>>,
}

/// Where they line up.
#[derive(Debug, Clone)]
pub(crate) struct Envelopes {
    line: mpsc::Sender<Waiting>,
    pool: Pool,
}

impl Envelopes {
    /// They are written as long as somebody holds a copy of this.
    pub(crate) fn new(pool: Pool) -> Self {
        let (line, waiting) = mpsc::channel(TOGETHER);
        tokio::spawn(write(pool.clone(), waiting));
        Self { line, pool }
    }

    /// Returns when the envelope and its log row are written, or when that is not known.
    pub(crate) async fn insert(&self, sent: Sent, log: Entry) -> Result<(), DatabaseError> {
        let (written, outcome) = oneshot::channel();
        match self.line.send(Waiting { sent, log, written }).await {
            Ok(()) => outcome.await.unwrap_or_else(|_| Err(DatabaseError::Unreachable("who wrote the envelopes has ended".to_owned()))),
            // Only a panic ends who writes them; mail goes on all the same.
            Err(mpsc::error::SendError(one)) => alone(&self.pool, &one).await,
        }
    }
}

async fn write(pool: Pool, mut line: mpsc::Receiver<Waiting>) {
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
        let all = if waiting.len() > 1 { together(&pool, &waiting).await } else { Ok(false) };
        for one in waiting.drain(..) {
            let outcome = match &all {
                Ok(true) => Ok(()),
                Ok(false) => alone(&pool, &one).await,
                Err(e) => Err(e.clone()),
            };
            // Nobody waits any more: the row says "signed", and no trigger asks for it.
            let _ = one.written.send(outcome);
        }
        last = Some(Instant::now());
    }
}

/// In one transaction, sent in one go. `false`: nothing was written, because PostgreSQL does not take one of them.
async fn together(pool: &Pool, waiting: &[Waiting]) -> Result<bool, DatabaseError> {
    let client = connection(pool).await?;
    let done = patiently(async {
        let statement = client.prepare_cached(&sql()).await?;
        let rows = join_all(waiting.iter().map(|one| insert(&client, &statement, one)));
        let (begun, rows, committed) = tokio::join!(biased; client.batch_execute("BEGIN"), rows, client.batch_execute("COMMIT"));
        begun?;
        committed?;
        // One that failed has made the commit a rollback.
        match rows.into_iter().find_map(Result::err) {
            None => Ok(true),
            Some(e) if e.as_db_error().is_some() => Ok(false),
            Some(e) => Err(e),
        }
    })
    .await;
    given_back(client, done)
}

async fn alone(pool: &Pool, one: &Waiting) -> Result<(), DatabaseError> {
    let client = connection(pool).await?;
    let done = patiently(async { insert(&client, &client.prepare_cached(&sql()).await?, one).await.map(drop) }).await;
    given_back(client, done)
}

fn sql() -> String {
    format!(
        "WITH sent AS (INSERT INTO sent (id, envid, provider, identificativo, daticert, body_sha256, local_recipients, signed_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, to_timestamp($8::int8))) {}",
        insert_log(9),
    )
}

async fn insert(client: &Object, statement: &Statement, Waiting { sent, log, .. }: &Waiting) -> Result<u64, tokio_postgres::Error> {
    let log = LogValues::new(log);
    let signed_at = sent.signed_at.unix();
    let mut values: Vec<&(dyn ToSql + Sync)> =
        vec![&sent.id, &sent.envid, &sent.provider, &sent.identificativo, &sent.daticert, &sent.body_sha256, &sent.local_recipients, &signed_at];
    values.extend(log.values());
    client.execute(statement, &values).await
}
