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

use crate::authentic::Authentic;
use crate::custody::Custody;
use crate::log::Entry;
use crate::pool::{Connections, DatabaseError};
use crate::sent::Sent;
use crate::sql::Sql;
use crate::{custody, log, sent};

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
        let envelopes = prepared(client, waiting).await?;
        match transaction(client, &envelopes).await {
            Ok(()) => Ok(true),
            Err(e) if e.as_db_error().is_some() => Ok(false),
            Err(e) => Err(e),
        }
    };
    connections.with(work).await
}

async fn alone(connections: &Connections, one: &Waiting) -> Result<(), DatabaseError> {
    let work = async |client: &Object| match &prepared(client, std::slice::from_ref(one)).await?[..] {
        [envelope] if envelope.custody.is_none() => envelope.insert(client).await,
        envelopes => transaction(client, envelopes).await,
    };
    connections.with(work).await
}

/// An error of any row has made the commit a rollback.
async fn transaction(client: &Object, envelopes: &[Prepared<'_>]) -> Result<(), tokio_postgres::Error> {
    let rows = join_all(envelopes.iter().map(|envelope| envelope.insert(client)));
    let (begun, rows, committed) =
        tokio::join!(biased; client.batch_execute("BEGIN"), rows, client.batch_execute("COMMIT"));
    begun?;
    // What broke the connection is no word about any row.
    committed?;
    rows.into_iter().collect()
}

/// What is written of one envelope, so that nothing has to be waited for between the rows.
struct Prepared<'a> {
    sent: (Statement, Sql<'a>),
    custody: Option<(Statement, Sql<'a>)>,
}

async fn prepared<'a>(
    client: &Object,
    waiting: &'a [Waiting],
) -> Result<Vec<Prepared<'a>>, tokio_postgres::Error> {
    let mut prepared = Vec::with_capacity(waiting.len());
    for Waiting { sent, log, custody, .. } in waiting {
        let sent = Sql::with("sent", sent::insert(sent)).then(log::insert(log));
        let sent = (client.prepare_cached(&sent.statement()).await?, sent);
        let custody = match custody {
            Some((custody, log)) => {
                let custody = custody::insert(custody, log);
                Some((client.prepare_cached(&custody.statement()).await?, custody))
            }
            None => None,
        };
        prepared.push(Prepared { sent, custody });
    }
    Ok(prepared)
}

impl Prepared<'_> {
    async fn insert(&self, client: &Object) -> Result<(), tokio_postgres::Error> {
        let execute = async |(statement, sql): &(Statement, Sql<'_>)| {
            client.execute(statement, &sql.values()).await.map(drop)
        };
        let Some(custody) = &self.custody else { return execute(&self.sent).await };
        let (sent, custody) = tokio::join!(biased; execute(&self.sent), execute(custody));
        sent.and(custody)
    }
}
