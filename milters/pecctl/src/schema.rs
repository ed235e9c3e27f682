//! `pecctl schema`: the database's tables as SQL, or what changes them from an earlier version.

use pec_state::pool::MIGRATIONS;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The version that the database has, whose tables are changed into today's; 0: it has none.
    #[arg(long, value_name = "VERSION", default_value_t = 0)]
    from: usize,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Some(migrations) = MIGRATIONS.get(arguments.from..) else {
        anyhow::bail!("--from {}: today's version is {}", arguments.from, MIGRATIONS.len());
    };
    println!("BEGIN;");
    for migration in migrations {
        println!("{migration}");
    }
    println!("COMMIT;");
    Ok(())
}
