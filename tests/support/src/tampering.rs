//! Another hand in the database: each column of a table, changed by SQL alone.

use crate::network::{column, run};

/// Columns that carry no MAC: what became of a notice or a deadline.
const WITHOUT_MAC: [&str; 2] = ["handed_over", "deadlines_seen"];

/// For each column of the table that is under a MAC: its name, and a statement that gives it another value
/// that it may have, in all rows.
pub async fn alterations(database: &str, table: &str) -> Vec<(String, String)> {
    let columns = format!(
        "SELECT column_name || ' ' || data_type FROM information_schema.columns WHERE table_schema = \
        'public' AND table_name = '{table}' ORDER BY ordinal_position"
    );
    let columns = column(database, &columns).await;
    assert!(!columns.is_empty(), "there is no table {table}");
    let mut alterations = Vec::new();
    for (name, data_type) in
        columns.iter().filter_map(|c| c.split_once(' ')).filter(|(name, _)| !WITHOUT_MAC.contains(name))
    {
        let other = match (table, name, data_type) {
            ("fact" | "ricevuta", "kind", _) => {
                "CASE kind WHEN 'errore-consegna' THEN 'avvenuta-consegna' ELSE 'errore-consegna' END"
                    .to_owned()
            }
            ("passed", "kind", _) => {
                "CASE kind WHEN 'ricevuta-dovuta' THEN 'ricevuta' ELSE 'ricevuta-dovuta' END".to_owned()
            }
            (_, "time_source", _) => {
                "CASE time_source WHEN 'mailbox' THEN 'report' ELSE 'mailbox' END".to_owned()
            }
            // It stays XML.
            (_, "daticert", _) => "replace(daticert, 'anna@', 'eva@')".to_owned(),
            (_, name, "text") => format!("{name} || 'x'"),
            // The last byte: a MAC's first ones name its key.
            (_, name, "bytea") => {
                format!("set_byte({name}, length({name}) - 1, get_byte({name}, length({name}) - 1) # 1)")
            }
            (_, name, "timestamp with time zone") => format!("{name} + interval '1 second'"),
            (_, name, "ARRAY") => format!("{name} || 'x@y.test'::text"),
            other => panic!("no other value for {other:?}"),
        };
        alterations.push((name.to_owned(), format!("UPDATE {table} SET {name} = {other}")));
    }
    alterations
}

/// Does something while a statement has changed the table; then it is as it was before.
pub async fn while_altered<T>(
    database: &str,
    table: &str,
    statement: &str,
    something: impl AsyncFnOnce() -> T,
) -> T {
    run(database, &format!("DROP TABLE IF EXISTS kept; CREATE TABLE kept AS TABLE {table}; {statement}"))
        .await;
    let outcome = something().await;
    run(database, &format!("DELETE FROM {table}; INSERT INTO {table} TABLE kept")).await;
    outcome
}
