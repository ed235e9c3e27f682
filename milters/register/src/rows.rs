//! Reading rows of the log, as lines, in the order of their numbers.

use futures_util::TryStreamExt as _;
use tokio_postgres::Client;

use crate::ranges::Ranges;
use crate::row::{LineError, Lines, Read, columns};

/// The log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// PostgreSQL.
    #[error("the database: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// A row that is no row of ours.
    #[error(transparent)]
    Line(#[from] LineError),
    /// Who reads has ended.
    #[error("a reader has ended: {0}")]
    Reader(String),
}

/// Calls `each` for every row that `condition` selects, in the order of seq. `condition` is SQL of ours.
pub async fn each_row(
    client: &Client,
    condition: &str,
    mut each: impl FnMut(&Read<'_>),
) -> Result<(), RowsError> {
    let copy = format!("COPY (SELECT {} FROM log {condition}) TO STDOUT (FORMAT binary)", columns());
    let mut stream = std::pin::pin!(client.copy_out(&copy).await?);
    let (mut lines, mut line) = (Lines::default(), String::new());
    while let Some(bytes) = stream.try_next().await? {
        lines.each(&bytes, &mut line, &mut each)?;
    }
    Ok(())
}

/// The condition for rows with these numbers, in order.
pub fn numbered(seqs: &Ranges) -> String {
    format!(
        "JOIN unnest('{seqs}'::int8multirange) AS wanted(range) ON log.seq >= lower(wanted.range) AND \
        log.seq < upper(wanted.range) ORDER BY log.seq"
    )
}

/// A text as SQL writes it in a condition: COPY takes no values beside the statement.
pub fn quoted(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
