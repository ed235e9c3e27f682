//! What becomes of connections on which a statement does not end.
#![allow(clippy::unwrap_used)]

use pec_state::database::Database;
use pec_state::pool::{CONNECTIONS, DatabaseError};
use pec_test_support::network::Network;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_did_not_answer_in_time_is_not_used_again() {
    let network = Network::new().await;
    let settings = &network.alfa.settings;
    let database = Database::connect(settings, "test").await.unwrap();
    let (mut other, connection) = tokio_postgres::connect(&settings.database, NoTls).await.unwrap();
    tokio::spawn(connection);
    let lock = other.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE sent").await.unwrap();
    // On every connection of the pool, all at once.
    let mut statements = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let database = database.clone();
        statements.spawn(async move { database.sent("x").await });
    }
    for ended in statements.join_all().await {
        assert!(matches!(ended, Err(DatabaseError::Slow)), "{ended:?}");
    }
    // They still stand before the lock; what has nothing to do with it goes on.
    assert_eq!(database.custody("x").await.unwrap(), None);
    drop(lock);
}
