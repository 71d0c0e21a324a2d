//! Settings of a session, and failures that it survives.

use std::time::{Duration, Instant};

use rollbook_core::catalog::USERS;
use rollbook_core::change::Change;
use rollbook_core::store::{Rows as _, Store as _};
use rollbook_postgres::PostgresSettings;
use rollbook_testkit::events::{START, change_of, event, organization};
use rollbook_testkit::process::until;
use rollbook_testkit::servers::pgbouncer::PgBouncer;
use tokio::task::JoinSet;

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
async fn the_server_is_asked_to_notice_a_lost_client_unless_a_pooler_lends_its_sessions() {
    let shown =
        "concat_ws(' ', current_setting('tcp_keepalives_idle'), current_setting('tcp_keepalives_interval'),
                 current_setting('tcp_keepalives_count'), current_setting('tcp_user_timeout'),
                 current_setting('client_connection_check_interval'))";
    let world = World::new().await;
    world
        .psql(&format!(
            "CREATE TABLE seen (setting text);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.seen VALUES ({shown}); RETURN NEW; END $$;
             CREATE TRIGGER note AFTER INSERT ON mirror_2.users FOR EACH ROW EXECUTE FUNCTION note()",
        ))
        .await;
    let system = world.psql(&format!("SELECT {shown}")).await;
    assert!(world.store().apply_many(&[user_change("user_1", 0)]).await.is_ok());
    let lent = PostgresSettings { pgbouncer: true, ..world.settings.clone() };
    assert!(open(&lent).apply_many(&[user_change("user_2", 0)]).await.is_ok());
    let ours = "10 3 3 20000 2s\n";
    assert_eq!(world.psql("SELECT setting FROM seen").await, format!("{ours}{system}"));
    assert_ne!(system, ours);
}

const SLOW_ROW: &str = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
     $$ BEGIN PERFORM pg_sleep(120); RETURN NEW; END $$;
     CREATE TRIGGER slow AFTER INSERT ON mirror_2.users FOR EACH ROW WHEN (NEW.id = 'user_slow')
     EXECUTE FUNCTION slow()";
const SLOW: Duration = Duration::from_secs(120);

/// Applies changes, and is gone while a session of the store waits for this: the kernel closes the connections of a process
/// that is killed, as here. The server must end the statement, and with it the locks.
async fn is_gone_while_waiting(world: &World, settings: &PostgresSettings, changes: Vec<Change>, wait: &str) {
    let store = open(settings);
    let mut working = JoinSet::new();
    working.spawn(async move { store.apply_many(&changes).await });
    let busy = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = '{wait}' AND datname = current_database()"
    );
    until("the statement is under way", || async { world.psql(&busy).await == "1\n" }).await;
    working.shutdown().await;
    let gone_at = Instant::now();
    until("the server has ended it", || async { world.psql(&busy).await == "0\n" }).await;
    assert!(gone_at.elapsed() < SLOW / 4, "{wait}: {:?}", gone_at.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_gone_in_the_middle_of_a_statement_or_of_a_wait_keeps_no_lock() {
    let world = World::new().await;
    let settings = PostgresSettings { statement_timeout: SLOW, ..world.settings.clone() };
    world.psql(SLOW_ROW).await;
    is_gone_while_waiting(&world, &settings, vec![user_change("user_slow", 0)], "PgSleep").await;
    // The lock of a user's row is held during the wait for the table.
    let mut holder = world.session().await;
    holder.run("BEGIN; LOCK TABLE mirror_2.organizations").await;
    let waiting = change_of("msg_org", &event("organization.created", START, &organization("org_1", START)));
    is_gone_while_waiting(&world, &settings, vec![user_change("user_1", 0), waiting], "relation").await;
    holder.run("COMMIT").await;
    assert_eq!(world.psql("SELECT count(*) FROM mirror_2.users").await, "0\n");
}

/// `PgBouncer` closes its connection to the server; the setting is the one that the page about servers names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_gone_behind_a_pgbouncer_keeps_no_lock_where_the_role_has_the_setting() {
    let world = World::new().await;
    world.psql(SLOW_ROW).await;
    let setting = "SET client_connection_check_interval = '2s'";
    world.psql(&format!("ALTER ROLE rollbook IN DATABASE {} {setting}", world.database)).await;
    let bouncer = PgBouncer::start(world.server).await;
    let settings = PostgresSettings {
        url: bouncer.url(&world.database),
        pgbouncer: true,
        statement_timeout: SLOW,
        ..world.settings.clone()
    };
    is_gone_while_waiting(&world, &settings, vec![user_change("user_slow", 0)], "PgSleep").await;
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
        let limit = Duration::from_micros(micros);
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
