//! Finding rows: the newest that are so.
//!
//! Promise: months are searched one by one, the newest first, until there are enough rows: nothing is ever
//! sorted but rows of one month. A row belongs to the month in which it was written down; within one, rows
//! come in the order in which their facts happened, the newest first.

use jiff::Timestamp;
use pec_state::event::Event;
use postgres_protocol::escape::escape_literal;
use tokio_postgres::Client;

use crate::error::RegisterError;
use crate::rows::each_row;

/// What rows must be like: all that is there.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// The PEC identifier, the sender's Message-ID or that of a receipt, with or without angle brackets.
    pub msgid: Option<String>,
    /// The account that submitted; of a reading of the log, who read.
    pub account: Option<String>,
    /// The sender, or a recipient that the event is about, in any case.
    pub address: Option<String>,
    /// Happened at this time or later.
    pub from: Option<Timestamp>,
    /// Happened before this time.
    pub to: Option<Timestamp>,
    /// The event.
    pub kind: Option<Event>,
    /// Postfix's queue id.
    pub queue_id: Option<String>,
    /// The enhanced status code with which the error begins.
    pub error: Option<String>,
}

impl Search {
    fn conditions(&self) -> String {
        let equal = |what: &str, value: &Option<String>| {
            value.as_ref().map(|value| format!("{what} = {}", escape_literal(value)))
        };
        let all = [
            self.msgid.as_ref().map(|id| named(id)),
            equal("account", &self.account),
            self.address.as_ref().map(|address| of_address(address)),
            self.from.map(|from| format!("happened_at >= '{from}'")),
            self.to.map(|to| format!("happened_at < '{to}'")),
            equal("event", &self.kind.map(Event::name)),
            equal("queue_id", &self.queue_id),
            equal("log_error_code(error)", &self.error),
        ];
        all.into_iter().flatten().map(|condition| format!(" AND {condition}")).collect()
    }

    /// Newest first. What few rows have is found by its own index and sorted; PostgreSQL would rather go
    /// through the month backwards until it has enough of them, if it were given that choice.
    fn order(&self) -> &'static str {
        if self.msgid.is_some() || self.address.is_some() || self.queue_id.is_some() {
            "happened_at + interval '0' DESC, seq DESC"
        } else {
            "happened_at DESC, seq DESC"
        }
    }
}

/// The lines of the newest rows, `limit` at most.
pub async fn newest(client: &Client, search: &Search, limit: usize) -> Result<Vec<String>, RegisterError> {
    let (conditions, order) = (search.conditions(), search.order());
    let mut lines = Vec::new();
    for month in months(client).await? {
        let left = limit - lines.len();
        if left == 0 {
            break;
        }
        each_row(client, &format!("WHERE {month}{conditions} ORDER BY {order} LIMIT {left}"), |read| {
            lines.push(read.line.to_owned())
        })
        .await?;
    }
    Ok(lines)
}

/// SQL that is true for rows which have the identifier `id`, of whichever kind.
pub fn named(id: &str) -> String {
    let bare = id.trim().trim_start_matches('<').trim_end_matches('>');
    let (bare, bracketed) = (escape_literal(bare), escape_literal(&format!("<{bare}>")));
    format!("(identificativo = {bare} OR msgid IN ({bare}, {bracketed}) OR message_id = {bare})")
}

/// SQL that is true for rows which are about this address.
pub fn of_address(address: &str) -> String {
    format!(
        "log_addresses(mittente, destinatari, recipients) @> ARRAY[{}]",
        escape_literal(&address.to_lowercase())
    )
}

/// The months of the log, newest first, each as a condition that selects its partition alone.
async fn months(client: &Client) -> Result<Vec<String>, RegisterError> {
    let sql = "
        SELECT format('recorded_at >= %L AND recorded_at < %L',
                      month::text || ' 00:00+00',
                      (month + interval '1 month')::date::text || ' 00:00+00')
        FROM (SELECT to_date(substr(relname, 5), 'YYYY_MM') AS month
              FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
              WHERE inhparent = 'log'::regclass AND relname ~ '^log_[0-9]{4}_[0-9]{2}$') AS partition
        ORDER BY month DESC";
    Ok(client.query(sql, &[]).await?.iter().map(|row| row.get(0)).collect())
}
