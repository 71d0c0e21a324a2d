//! Behind a `PgBouncer` in transaction mode.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rollbook_core::backend::Backend as _;
use rollbook_core::catalog::USERS;
use rollbook_core::delivery::MessageId;
use rollbook_core::store::{Erasure as _, Ledger as _, Rows as _, Store as _, StoreError};
use rollbook_postgres::{PostgresSettings, apply_migrations, pending_migrations};
use rollbook_testkit::process::until;
use rollbook_testkit::servers::pgbouncer::PgBouncer;
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tokio::task::JoinSet;

use crate::migrations::ALL;
use crate::world::{END_OURS, World, open, settings, user_change};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_behind_a_pgbouncer_in_transaction_mode() {
    let world = World::empty().await;
    let bouncer = PgBouncer::start(world.server).await;
    let settings =
        PostgresSettings { url: bouncer.url(&world.database), pgbouncer: true, ..world.settings.clone() };
    assert_eq!(pending_migrations(&settings).await, Ok(ALL.to_vec()));
    assert_eq!(apply_migrations(&settings).await, Ok(ALL.to_vec()));
    let store = open(&settings);
    // More clients than PgBouncer has connections: it shares them between transactions.
    let mut workers = JoinSet::new();
    for worker in 0..6 {
        let store = store.clone();
        workers.spawn(async move {
            for batch in 0..20 {
                let changes: Vec<_> =
                    (0..5).map(|user| user_change(&format!("user_{user}"), batch)).collect();
                store.apply_many(&changes).await.expect("the store applies them");
                assert!(store.get(&USERS, "user_0").await.expect("the store reads a row").is_some());
                let line = store.delivery(&MessageId::new("msg_user_0_0")).await;
                assert!(line.expect("the store reads its ledger").is_some());
                assert_eq!(store.rows(&USERS, None, 10).await.expect("the store lists rows").len(), 5);
                assert_eq!(store.ping().await, Ok(()), "worker {worker}");
            }
        });
    }
    workers.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_url_as_prisma_writes_it_for_a_pooler_is_enough() {
    let world = World::empty().await;
    let bouncer = PgBouncer::start(world.server).await;
    let url = format!(
        "{}?pgbouncer=true&connection_limit=1&pool_timeout=0&schema=public&statement_cache_size=0",
        bouncer.url(&world.database)
    );
    let settings = PostgresSettings { url, ..world.settings.clone() };
    assert!(!settings.pgbouncer);
    assert_eq!(apply_migrations(&settings).await, Ok(ALL.to_vec()));
    // The triggers of the change feed are changed in a schema that is in use.
    for changes in [false, true] {
        let settings = PostgresSettings { changes, ..settings.clone() };
        assert_eq!(apply_migrations(&settings).await, Ok(Vec::new()), "changes: {changes}");
    }
    // More stores than PgBouncer has connections, so that each meets the sessions of others.
    let stores: Vec<_> = (0..4).map(|_| open(&settings)).collect();
    for batch in 0..5 {
        for store in &stores {
            store.apply_many(&[user_change("user_0", batch)]).await.expect("the store applies it");
            assert!(store.get(&USERS, "user_0").await.expect("the store reads a row").is_some());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_of_another_client_of_a_pooler_that_is_not_named_are_never_read_as_missing_rights() {
    let world = World::new().await;
    let bouncer = PgBouncer::start(world.server).await;
    let url = bouncer.url(&world.database);
    let store = open(&settings(url.clone()));
    assert_eq!(store.ping().await, Ok(()));
    // Another program that uses the same session of the server, and names its statements as this driver does.
    // PgBouncer refuses the driver's other settings of a session.
    let other: PgConnectOptions = url.parse().expect("a URL");
    let mut other = other.extra_float_digits(None).connect().await.expect("a connection");
    let theirs = |number| {
        format!("PREPARE sqlx_s_{number} AS SELECT 'mirror_2.users'::text, 'DELETE'::text, 'me'::text;")
    };
    let theirs = format!("DEALLOCATE ALL; {}", (1..=5).map(theirs).collect::<String>());
    sqlx::raw_sql(sqlx::AssertSqlSafe(theirs)).execute(&mut other).await.expect("prepared");
    assert_eq!(store.ping().await, Ok(()));
    assert_eq!(store.hidden_tables().await, Ok(Vec::new()));
    assert_eq!(store.unpinned_triggers().await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_pooler_that_refuses_settings_of_a_session_gets_sessions_without_them() {
    let world = World::new().await;
    let bouncer = PgBouncer::start(world.server).await;
    // As for a pooler of sessions: the URL does not say that there is one.
    let settings = settings(bouncer.url(&world.database));
    assert!(!settings.pgbouncer);
    let examined = settings.pending().await;
    assert_eq!(examined.map(|examined| examined.names), Ok(Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pgbouncer_that_was_restarted_between_two_calls_is_not_noticed() {
    let world = World::new().await;
    let mut bouncer = PgBouncer::start(world.server).await;
    let settings =
        PostgresSettings { url: bouncer.url(&world.database), pgbouncer: true, ..world.settings.clone() };
    let store = open(&settings);
    for user in ["user_0", "user_1", "user_2"] {
        assert!(store.apply_many(&[user_change(user, 0)]).await.is_ok(), "{user}");
        assert_eq!(store.ping().await, Ok(()), "{user}");
        bouncer.kill();
        bouncer.restart().await;
    }
    // Its own sessions on the server end: it has to open others.
    assert_eq!(store.ping().await, Ok(()));
    world.psql(END_OURS).await;
    assert!(store.apply_many(&[user_change("user_3", 0)]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_of_a_pgbouncer_under_load_lose_nothing_and_blame_no_message() {
    const WORKERS: usize = 4;
    const BATCHES: usize = 40;
    const RESETS: usize = 4;
    let world = World::new().await;
    let mut bouncer = PgBouncer::start(world.server).await;
    let settings =
        PostgresSettings { url: bouncer.url(&world.database), pgbouncer: true, ..world.settings.clone() };
    let store = open(&settings);
    let applied = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let (store, applied) = (Arc::clone(&store), Arc::clone(&applied));
        workers.spawn(async move {
            for batch in 0..BATCHES {
                let changes: Vec<_> =
                    (0..5).map(|user| user_change(&format!("user_{worker}_{batch}_{user}"), 0)).collect();
                until("the batch is applied", || async {
                    let outcome = store.apply_many(&changes).await;
                    // A session that ends in a statement may be the doing of a row's trigger. If the server answers again by
                    // then, the worker applies the rows one by one, and blames none of them while others succeed.
                    let outage = outcome.as_ref().err().map(StoreError::innermost);
                    let is_outage = matches!(outage, Some(StoreError::Unavailable(_)));
                    assert!(is_outage || outcome.is_ok(), "an outage is blamed on: {outcome:?}");
                    outcome.is_ok()
                })
                .await;
                applied.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for reset in 1..=RESETS {
        let enough = reset * WORKERS * BATCHES / (RESETS + 1);
        until("some batches are applied", || std::future::ready(applied.load(Ordering::Relaxed) >= enough))
            .await;
        world.psql(END_OURS).await;
        bouncer.kill();
        bouncer.restart().await;
    }
    workers.join_all().await;
    let expected = WORKERS * BATCHES * 5;
    for table in ["users", "deliveries"] {
        let count = world.psql(&format!("SELECT count(*) FROM mirror_2.{table}")).await;
        assert_eq!(count, format!("{expected}\n"), "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_setting_the_error_names_it() {
    let world = World::new().await;
    let bouncer = PgBouncer::start(world.server).await;
    let settings = PostgresSettings { url: bouncer.url(&world.database), ..world.settings.clone() };
    // A prepared statement of one store conflicts with that of the next.
    for _ in 0..10 {
        if let Err(error) = open(&settings).apply_many(&[user_change("user_1", 0)]).await {
            let StoreError::Deployment(text) = error else { panic!("{error}") };
            for word in
                ["a prepared statement", "pooler", "set pgbouncer = yes", "pgbouncer=true", "direct URL"]
            {
                assert!(text.contains(word), "{word}: {text}");
            }
            return;
        }
    }
    panic!("prepared statements do not conflict");
}
