//! What a start makes of a PostgreSQL that says no: for good, or for the moment.
#![allow(clippy::unwrap_used)]

use pec_host::parameters::Settings;
use pec_state::database::Database;
use pec_state::pool::ConnectError;
use pec_test_support::network::{Network, run};

#[tokio::test]
async fn a_database_that_is_busy_is_waited_for_and_one_that_refuses_is_not() {
    let network = Network::new().await;
    let owner = &network.beta.settings;
    let part = |name: &str| owner.database.split(' ').find_map(|part| part.strip_prefix(name)).unwrap();
    let (database, user) = (part("dbname="), part("user="));
    // A role without rights, for whom limits hold.
    run(&owner.database, &format!("CREATE ROLE {database} LOGIN")).await;
    let guest = Settings {
        database: owner.database.replace(&format!("user={user}"), &format!("user={database}")),
        ..owner.clone()
    };

    // SQLSTATE 53300; a server that starts or stops says 57P.
    run(&owner.database, &format!("ALTER DATABASE {database} CONNECTION LIMIT 0")).await;
    assert!(matches!(Database::connect(&guest, "test").await, Err(ConnectError::Unreachable { .. })));
    run(&owner.database, &format!("ALTER DATABASE {database} CONNECTION LIMIT -1")).await;

    let refused = Database::connect(&guest, "test").await.err();
    assert!(
        matches!(&refused, Some(ConnectError::Refused { trouble, .. }) if trouble.contains("pec_schema")),
        "{refused:?}"
    );

    Database::connect(owner, "test").await.unwrap();
    run(&owner.database, "DROP TABLE pec_schema").await;
    assert!(matches!(Database::connect(owner, "test").await, Err(ConnectError::Schema { found: 0, .. })));
}

#[tokio::test]
async fn a_database_whose_texts_are_no_utf_8_is_refused_with_what_makes_another() {
    let network = Network::new().await;
    let utf8 = &network.beta.settings;
    let name = utf8.database.split(' ').find_map(|part| part.strip_prefix("dbname=")).unwrap();
    run(
        &utf8.database,
        &format!(
            "CREATE DATABASE {name}_c TEMPLATE template0 ENCODING SQL_ASCII LC_COLLATE 'C' LC_CTYPE 'C'"
        ),
    )
    .await;
    let ascii = Settings { database: utf8.database.replace(name, &format!("{name}_c")), ..utf8.clone() };
    let refused = Database::connect(&ascii, "test").await.err().unwrap().to_string();
    assert!(
        refused.ends_with(
            "the database's encoding is SQL_ASCII, UTF8 is needed; its owner makes another one with: \
            createdb --encoding=UTF8 --template=template0"
        ),
        "{refused}"
    );
}
