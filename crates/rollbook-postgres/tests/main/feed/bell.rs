//! Waits of readers: by notifications, without them, and after their connection was lost.

use std::time::Duration;

use rollbook_core::store::{Changes as _, Store as _};
use rollbook_postgres::PostgresSettings;
use rollbook_testkit::process::until;
use tokio::task::JoinSet;

use super::sequence;
use crate::world::{World, open, user_change};

const LONG: Duration = Duration::from_secs(60);
/// Sessions that listen.
const LISTENING: &str = "SELECT count(*) FROM pg_stat_activity
                         WHERE datname = current_database() AND query LIKE 'LISTEN%'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_of_a_process_wait_by_one_connection_which_is_replaced_and_closed() {
    let world = World::new().await;
    let (reader, worker) = (world.store(), world.store());
    let waiting = || {
        let reader = reader.clone();
        async move { reader.wait_for_change(0, LONG).await }
    };
    let mut readers = JoinSet::new();
    (0..20).for_each(|_| drop(readers.spawn(waiting())));
    until("one session listens", || async { world.psql(LISTENING).await == "1\n" }).await;
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid IN ({})",
        LISTENING.replace("count(*)", "pid")
    );
    world.psql(&end).await;
    until("another one listens", || async { world.psql(LISTENING).await == "1\n" }).await;
    worker.apply_many(&[user_change("user_1", 0)]).await.expect("applied");
    sequence(&worker).await;
    assert_eq!(readers.join_all().await, vec![Ok(true); 20]);
    until("nobody waits, and nobody listens", || async { world.psql(LISTENING).await == "0\n" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_behind_a_pooler_waits_without_a_notification() {
    let world = World::new().await;
    let reader = open(&PostgresSettings { pgbouncer: true, ..world.settings.clone() });
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { reader.wait_for_change(0, LONG).await });
    let worker = world.store();
    worker.apply_many(&[user_change("user_1", 0)]).await.expect("applied");
    sequence(&worker).await;
    assert_eq!(waiting.join_all().await, [Ok(true)]);
    assert_eq!(world.psql(LISTENING).await, "0\n");
}

/// Control: a reader that goes by the notifications alone misses what comes while its connection is down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification_is_lost_with_its_connection_and_the_line_is_not() {
    let world = World::new().await;
    let store = world.store();
    let mut listener = sqlx::postgres::PgListener::connect(&world.settings.url).await.expect("a connection");
    listener.listen("rollbook_changes").await.expect("it may listen");
    store.apply_many(&[user_change("user_1", 0)]).await.expect("applied");
    sequence(&store).await;
    assert_eq!(listener.recv().await.expect("a notification").payload(), "mirror_2:1");
    drop(listener);
    store.apply_many(&[user_change("user_2", 0)]).await.expect("applied");
    sequence(&store).await;
    let mut listener = sqlx::postgres::PgListener::connect(&world.settings.url).await.expect("a connection");
    listener.listen("rollbook_changes").await.expect("it may listen");
    store.apply_many(&[user_change("user_3", 0)]).await.expect("applied");
    sequence(&store).await;
    assert_eq!(
        listener.recv().await.expect("a notification").payload(),
        "mirror_2:3",
        "nothing of position 2"
    );
    assert_eq!(super::ids(&super::lines(&store, 1).await), ["user_2", "user_3"]);
}
