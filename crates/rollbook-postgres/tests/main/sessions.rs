//! Settings of a session, and failures that it survives.

use rollbook_core::catalog::USERS;
use rollbook_core::store::{Rows as _, Store as _};
use rollbook_postgres::PostgresSettings;
use rollbook_testkit::process::until;

use crate::world::{END_OURS, OURS, World, open, user_change};

#[tokio::test]
async fn a_commit_waits_for_the_disk_whatever_role_and_database_say() {
    let world = World::new().await;
    world
        .psql(&format!(
            "ALTER DATABASE {database} SET synchronous_commit = off;
             CREATE TABLE seen (setting text);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.seen VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$;
             CREATE TRIGGER note AFTER INSERT ON mirror_2.users FOR EACH ROW EXECUTE FUNCTION note()",
            database = world.database
        ))
        .await;
    assert_eq!(world.psql("SHOW synchronous_commit").await, "off\n");
    assert!(world.store().apply_many(&[user_change("user_1", 0)]).await.is_ok());
    assert_eq!(world.psql("SELECT setting FROM seen").await, "on\n");
}

#[tokio::test]
async fn sessions_that_were_ended_while_idle_are_replaced_without_an_error() {
    const SESSIONS: usize = 4;
    let world = World::new().await;
    let store = world.store();
    world.fill(&store, SESSIONS).await;
    assert_eq!(world.psql(END_OURS).await, format!("{SESSIONS}\n"));
    world.fill(&store, SESSIONS).await;

    // The server's own time-out for idle sessions: it applies to those that begin after it is set.
    world.psql(&format!("ALTER DATABASE {} SET idle_session_timeout = '50ms'", world.database)).await;
    drop(store);
    let store = world.store();
    for _ in 0..2 {
        world.fill(&store, SESSIONS).await;
        until("all have timed out", || async { world.psql(OURS).await == "0\n" }).await;
    }
}

#[tokio::test]
async fn the_server_is_asked_to_keep_idle_connections_alive_unless_a_pooler_lends_them() {
    let world = World::new().await;
    world
        .psql(
            "CREATE TABLE seen (setting text);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.seen VALUES (current_setting('tcp_keepalives_idle')); RETURN NEW; END $$;
             CREATE TRIGGER note AFTER INSERT ON mirror_2.users FOR EACH ROW EXECUTE FUNCTION note()",
        )
        .await;
    let system = world.psql("SHOW tcp_keepalives_idle").await;
    assert!(world.store().apply_many(&[user_change("user_1", 0)]).await.is_ok());
    let lent = PostgresSettings { pgbouncer: true, ..world.settings.clone() };
    assert!(open(&lent).apply_many(&[user_change("user_2", 0)]).await.is_ok());
    assert_eq!(world.psql("SELECT setting FROM seen").await, format!("30\n{system}"));
    assert_ne!(system, "30\n");
}

#[tokio::test]
async fn a_prepared_statement_of_a_changed_table_is_prepared_again() {
    let world = World::new().await;
    let store = world.store();
    assert!(store.apply_many(&[user_change("user_1", 0)]).await.is_ok());
    let before = store.get(&USERS, "user_1").await;
    assert!(matches!(before, Ok(Some(_))));
    world.psql("ALTER TABLE mirror_2.users ALTER COLUMN username TYPE varchar(500)").await;
    assert_eq!(store.get(&USERS, "user_1").await, before);
    assert!(store.apply_many(&[user_change("user_2", 0)]).await.is_ok());
}

#[tokio::test]
async fn a_call_that_is_given_up_midway_leaves_nothing_locked_or_half_done() {
    let world = World::new().await;
    let store = world.store();
    let changes: Vec<_> = (0..200).map(|number| user_change(&format!("user_{number}"), 0)).collect();
    for micros in [0, 200, 1_000, 3_000, 10_000] {
        let limit = std::time::Duration::from_micros(micros);
        // Whether it is done by then or not: both are fine.
        drop(tokio::time::timeout(limit, store.apply_many(&changes)).await);
    }
    assert!(store.apply_many(&changes).await.is_ok());
    assert_eq!(world.psql("SELECT count(*) FROM mirror_2.users").await, "200\n");
    assert_eq!(world.psql("SELECT count(*) FROM mirror_2.deliveries").await, "200\n");
}

#[tokio::test]
async fn a_table_that_has_grown_since_the_first_batches_is_not_scanned() {
    const USERS_MANY: usize = 2000;
    let world = World::new().await;
    let store = world.store();
    for _ in 0..10 {
        // So small that a scan is the best plan, and often enough for the server to keep that plan.
        assert!(store.apply_many(&[user_change("user", 0)]).await.is_ok());
        world.psql("ANALYZE").await;
    }
    let many: Vec<_> = (0..USERS_MANY).map(|number| user_change(&format!("user_{number}"), 0)).collect();
    for batch in many.chunks(20) {
        assert!(store.apply_many(batch).await.is_ok());
    }
    // A session reports its counters when it ends.
    drop(store);
    let inserted = "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'users'";
    until("the counters are reported", || async {
        world.psql(inserted).await == format!("{}\n", USERS_MANY + 1)
    })
    .await;
    let scanned = world.psql("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'users'").await;
    let scanned: usize = scanned.trim().parse().expect("a number");
    assert!(scanned < USERS_MANY, "{scanned} rows were read by scans");
}
