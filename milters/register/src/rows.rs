//! Reading rows of the log, as lines, in the order of their numbers.

use futures_util::TryStreamExt as _;
use tokio_postgres::Client;

use crate::error::RegisterError;
use crate::ranges::Ranges;
use crate::row::{Lines, Read, columns};

/// Calls `each` for every row that `condition` selects, in the order of seq. `condition` is SQL of ours.
pub async fn each_row(
    client: &Client,
    condition: &str,
    mut each: impl FnMut(&Read<'_>),
) -> Result<(), RegisterError> {
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
    format!("{} ORDER BY log.seq", joined(seqs))
}

/// What selects rows with these numbers from `log`, before any condition.
pub(crate) fn joined(seqs: &Ranges) -> String {
    format!(
        "JOIN unnest('{seqs}'::int8multirange) AS wanted(range)
           ON log.seq >= lower(wanted.range) AND log.seq < upper(wanted.range)"
    )
}
