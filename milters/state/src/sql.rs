//! Statements, put together with their values.
//!
//! Promise: a value gets its place where it is written, and nobody counts: `$1`, `$2` ... come with the text
//! of the whole. The text never has a value in it, so that statements of one shape are prepared once for each
//! connection.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Write as _;

use bytes::BytesMut;
use pec_core::clock::Moment;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

use crate::fact_kind::FactKind;
use crate::names;

/// The columns of a table as a SELECT has them, each under a name with the table's: `sent.id AS "sent.id"`.
/// So a row of several tables tells them apart.
macro_rules! columns {
    ($table:literal: $first:literal $(, $column:literal)*) => {
        concat!(
            $table, ".", $first, " AS \"", $table, ".", $first, "\"",
            $(", ", $table, ".", $column, " AS \"", $table, ".", $column, "\"",)*
        )
    };
}
pub(crate) use columns;

enum Piece<'a> {
    Text(Cow<'static, str>),
    Value(Box<dyn ToSql + Sync + Send + 'a>),
}

/// A statement or a part of one, with its values.
pub(crate) struct Sql<'a>(Vec<Piece<'a>>);

impl<'a> Sql<'a> {
    /// It begins with these words.
    pub(crate) fn new(text: &'static str) -> Self {
        Self(vec![Piece::Text(text.into())])
    }

    /// `SELECT` and these columns ([`columns`]), of one or several tables.
    pub(crate) fn select(tables: &[&'static str]) -> Self {
        let mut select = Self::new("SELECT ");
        for (i, columns) in tables.iter().enumerate() {
            select = select.text(if i == 0 { "" } else { ", " }).text(columns);
        }
        select
    }

    /// `WITH name AS (part)`.
    pub(crate) fn with(name: &'static str, part: Sql<'a>) -> Self {
        Self::new("WITH ").named(name, part)
    }

    /// `, name AS (part)`, behind [`Sql::with`].
    pub(crate) fn and_with(self, name: &'static str, part: Sql<'a>) -> Self {
        self.text(", ").named(name, part)
    }

    fn named(mut self, name: &'static str, part: Sql<'a>) -> Self {
        self = self.text(name).text(" AS (");
        self.0.extend(part.0);
        self.text(")")
    }

    /// Words.
    pub(crate) fn text(mut self, text: &'static str) -> Self {
        self.0.push(Piece::Text(text.into()));
        self
    }

    /// Words, and the value that stands behind them.
    pub(crate) fn value(mut self, text: &'static str, value: impl ToSql + Sync + Send + 'a) -> Self {
        self.0.extend([Piece::Text(text.into()), Piece::Value(Box::new(value))]);
        self
    }

    /// ` = ` and a spelling of ours.
    pub(crate) fn is(self, one: FactKind) -> Self {
        self.text(" = '").text(one.as_str()).text("'")
    }

    /// ` IN ` and spellings of ours. They are no values: PostgreSQL takes a partial index only for a
    /// statement whose text has the same constants.
    pub(crate) fn one_of<'k>(mut self, kinds: impl IntoIterator<Item = &'k FactKind>) -> Self {
        self.0.push(Piece::Text(format!(" IN ({})", names::list(kinds)).into()));
        self
    }

    /// A blank and a part.
    pub(crate) fn then(mut self, part: Sql<'a>) -> Self {
        self.0.push(Piece::Text(" ".into()));
        self.0.extend(part.0);
        self
    }

    /// As PostgreSQL is given it.
    pub(crate) fn statement(&self) -> String {
        let (mut statement, mut place) = (String::with_capacity(1024), 0);
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => statement.push_str(text),
                Piece::Value(_) => {
                    place += 1;
                    // A String takes everything.
                    let _ = write!(statement, "${place}");
                }
            }
        }
        statement
    }

    /// The values, in the order of their places.
    pub(crate) fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
        let mut values: Vec<&(dyn ToSql + Sync)> = Vec::with_capacity(self.0.len());
        for piece in &self.0 {
            if let Piece::Value(value) = piece {
                values.push(&**value);
            }
        }
        values
    }
}

/// The insertion of a row: `INSERT INTO table (column, ...) SELECT value, ...`, behind which a FROM, a WHERE,
/// an ON CONFLICT or a RETURNING may stand.
pub(crate) struct Insert<'a> {
    columns: Sql<'a>,
    terms: Sql<'a>,
    has_columns: bool,
}

impl<'a> Insert<'a> {
    /// Into this table.
    pub(crate) fn into(table: &'static str) -> Self {
        let columns = Sql::new("INSERT INTO ").text(table).text(" (");
        Self { columns, terms: Sql::new(") SELECT "), has_columns: false }
    }

    /// A column and its value.
    pub(crate) fn column(self, name: &'static str, value: impl ToSql + Sync + Send + 'a) -> Self {
        self.term(name, Sql::new("").value("", value))
    }

    /// A column and the expression for it.
    pub(crate) fn term(mut self, name: &'static str, term: Sql<'a>) -> Self {
        if self.has_columns {
            self.columns = self.columns.text(", ");
            self.terms = self.terms.text(", ");
        }
        self.columns = self.columns.text(name);
        self.terms.0.extend(term.0);
        Self { has_columns: true, ..self }
    }

    /// As a part of a statement, or a whole one.
    pub(crate) fn sql(mut self) -> Sql<'a> {
        self.columns.0.extend(self.terms.0);
        self.columns
    }
}

/// A second, as a `timestamptz` has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time(pub(crate) Moment);

/// From 1970-01-01 to 2000-01-01 (UTC), from which PostgreSQL counts.
const SECONDS_TO_2000: i64 = 946_684_800;

/// PostgreSQL's unit.
const MICROSECONDS: i64 = 1_000_000;

impl ToSql for Time {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let seconds = self.0.unix().checked_sub(SECONDS_TO_2000);
        let since_2000 =
            seconds.and_then(|s| s.checked_mul(MICROSECONDS)).ok_or("no time that a row can have")?;
        out.extend_from_slice(&since_2000.to_be_bytes());
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl FromSql<'_> for Time {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let since_2000 = i64::from_be_bytes(raw.try_into()?);
        Ok(Self(Moment::from_unix(since_2000.div_euclid(MICROSECONDS) + SECONDS_TO_2000)))
    }

    accepts!(TIMESTAMPTZ);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_numbered_through_all_parts() {
        let insert = Insert::into("b").column("x", 1_i64).term("y", Sql::new("z")).column("v", "w").sql();
        let sql = Sql::with("a", Sql::select(&["p", "q"]).value(" FROM c WHERE d = ", "e"))
            .and_with("b", insert.text(" FROM a"))
            .then(Sql::new("SELECT").value(" ", true));
        assert_eq!(
            sql.statement(),
            "WITH a AS (SELECT p, q FROM c WHERE d = $1), \
             b AS (INSERT INTO b (x, y, v) SELECT $2, z, $3 FROM a) \
             SELECT $4"
        );
        let shown: Vec<_> = sql.values().iter().map(|value| format!("{value:?}")).collect();
        assert_eq!(shown, ["\"e\"", "1", "\"w\"", "true"]);
    }

    #[test]
    fn kinds_stand_in_the_text() {
        let sql = Sql::new("kind").one_of(&[FactKind::Preavviso12, FactKind::Preavviso24]);
        assert_eq!(sql.statement(), "kind IN ('preavviso-12', 'preavviso-24')");
        assert_eq!(Sql::new("kind").is(FactKind::Accettazione).statement(), "kind = 'accettazione'");
        assert!(sql.values().is_empty());
    }

    #[test]
    fn columns_have_the_names_of_their_tables() {
        assert_eq!(columns!("t": "a"), "t.a AS \"t.a\"");
        assert_eq!(columns!("t": "a", "b"), "t.a AS \"t.a\", t.b AS \"t.b\"");
    }

    #[test]
    fn a_time_is_read_as_it_was_written() {
        let bytes = |seconds| {
            let mut bytes = BytesMut::new();
            let written = Time(Moment::from_unix(seconds)).to_sql(&Type::TIMESTAMPTZ, &mut bytes);
            written.is_ok().then(|| bytes.to_vec())
        };
        let read = |bytes: &[u8]| Time::from_sql(&Type::TIMESTAMPTZ, bytes).unwrap().0.unix();
        assert_eq!(bytes(SECONDS_TO_2000), Some(vec![0; 8]));
        assert_eq!(bytes(SECONDS_TO_2000 - 1), Some((-1_000_000_i64).to_be_bytes().to_vec()));
        for seconds in [i64::from(i32::MIN), -1, 0, 1, SECONDS_TO_2000, 1_764_000_000, 253_402_300_799] {
            assert_eq!(read(&bytes(seconds).unwrap()), seconds);
        }
        assert_eq!((bytes(i64::MAX), bytes(i64::MIN)), (None, None));
        // What PostgreSQL calls infinity is a second too: no row that is believed has it.
        read(&i64::MAX.to_be_bytes());
        read(&i64::MIN.to_be_bytes());
    }
}
