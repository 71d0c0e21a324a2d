//! The server dies while workers write to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rollbook_core::catalog::USERS;
use rollbook_core::delivery::MessageId;
use rollbook_core::store::{Ledger as _, Rows as _, Store as _, StoreError};
use rollbook_postgres::apply_migrations;
use rollbook_testkit::process::until;
use rollbook_testkit::servers::postgres::PostgresServer;
use tokio::task::JoinSet;

use crate::world::{is_outage, open, settings, user_change};

const WORKERS: usize = 4;
const BATCH: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_while_applying_is_waited_for_and_nothing_acknowledged_is_lost() {
    // With fsync: acknowledged data must be in the log on disk.
    let mut server = PostgresServer::start().await;
    server.create_database("app").await;
    let settings = settings(server.url("app"));
    apply_migrations(&settings).await.expect("the migrations apply");
    let store = open(&settings);
    let (acknowledged, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let (store, acknowledged, refused) =
            (Arc::clone(&store), Arc::clone(&acknowledged), Arc::clone(&refused));
        workers.spawn(async move {
            let mut kept = Vec::new();
            for batch in 0.. {
                let users: Vec<String> =
                    (0..BATCH).map(|number| format!("user_{worker}_{batch}_{number}")).collect();
                let changes: Vec<_> = users.iter().map(|id| user_change(id, 0)).collect();
                match store.apply_many(&changes).await {
                    Ok(_) => kept.extend(users),
                    Err(StoreError::Unavailable(text)) => {
                        assert!(text.contains("Postgres at 127.0.0.1"), "{text}");
                        refused.fetch_add(1, Ordering::Relaxed);
                        return kept;
                    }
                    Err(other) => panic!("the outage is blamed on something else: {other}"),
                }
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            kept
        });
    }
    until("batches are applied", || std::future::ready(acknowledged.load(Ordering::Relaxed) > 20)).await;
    server.kill();
    let kept = workers.join_all().await.concat();
    assert_eq!(refused.load(Ordering::Relaxed), WORKERS);
    let unreachable = store.ping().await.expect_err("no server runs");
    assert!(
        is_outage(&unreachable) && unreachable.to_string().contains("connection refused"),
        "{unreachable}"
    );

    server.restart().await;
    assert_eq!(store.ping().await, Ok(()), "the same store, without a restart");
    for id in kept {
        let row = store.get(&USERS, &id).await.expect("an answer");
        let line = store.delivery(&MessageId::new(format!("msg_{id}_0"))).await.expect("an answer");
        assert!(row.is_some() && line.is_some(), "{id} was acknowledged and is lost");
    }
}
