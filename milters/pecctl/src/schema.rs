//! `pecctl schema`: the database's tables as SQL.

use pec_state::database::MIGRATIONS;

pub(crate) fn run() -> anyhow::Result<()> {
    println!("BEGIN;");
    for migration in MIGRATIONS {
        println!("{migration}");
    }
    println!("COMMIT;");
    Ok(())
}
