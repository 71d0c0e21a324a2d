//! Migrations of a schema in use: readers continue, workers stop if they must, the team's own objects are
//! named, and an interrupted migration continues.

use rollbook_core::catalog::USERS;
use rollbook_core::change::Applied;
use rollbook_core::store::{Erasure as _, Ledger as _, Rows as _, Store as _, StoreError};
use rollbook_postgres::{PostgresSettings, apply_migrations, pending_migrations};
use rollbook_testkit::events::{change_of, deleted, event};
use rollbook_testkit::process::until;
use tokio::task::JoinSet;

use crate::migrations::ALL;
use crate::world::{World, open, settings, user_change};

/// Returns the text of a refusal that needs manual action.
fn deployment<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> String {
    match outcome {
        Err(StoreError::Deployment(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// Starts work that continues meanwhile.
fn start<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinSet<T> {
    let mut started = JoinSet::new();
    started.spawn(work);
    started
}

/// Returns the result of the work.
async fn end<T: 'static>(mut started: JoinSet<T>) -> T {
    started.join_next().await.expect("it was started").expect("it ends")
}

/// Returns a database with the first two steps, a deleted user, a living one and their sessions.
async fn before_ends() -> World {
    let world = World::empty().await;
    make_before_ends(&world).await;
    world
}

async fn make_before_ends(world: &World) {
    let steps = [
        include_str!("../../../../migrations/postgres/0001_mirror.sql"),
        include_str!("../../../../migrations/postgres/0002_whole_of_clerk.sql"),
    ];
    let version = "synced_at, synced_by, version_dead, version_updated_at, version_event_at, version_hash";
    let alive = "now(), 'msg', false, 5, 5, decode(repeat('07', 16), 'hex')";
    world
        .psql(&format!(
            "CREATE SCHEMA mirror_2; SET search_path TO mirror_2; {}; {};
             CREATE TABLE rollbook_migrations (name text PRIMARY KEY, applied_at timestamptz DEFAULT now());
             INSERT INTO rollbook_migrations (name) VALUES ('0001_mirror'), ('0002_whole_of_clerk');
             INSERT INTO users (id, deleted_at, {version}) VALUES ('user_1', 'epoch'::timestamptz + '7 ms', now(), 'msg', true, 0, 7, '');
             INSERT INTO users (id, primary_email_address, {version}) VALUES ('user_2', 'ImASecret@x', {alive});
             INSERT INTO sessions (id, user_id, {version}) VALUES ('sess_1', 'user_1', {alive}), ('sess_2', 'user_2', {alive})",
            steps[0], steps[1]
        ))
        .await;
}

/// Rows after the step about deletions.
const ENDS: &str = "SELECT id, version_deleted_at, extract(milliseconds FROM deleted_at)::int FROM mirror_2.users
                    UNION ALL SELECT id, NULL, extract(milliseconds FROM deleted_at)::int FROM mirror_2.sessions ORDER BY id";
const ENDED: &str = "sess_1||7\nsess_2||\nuser_1|7|7\nuser_2||\n";

#[tokio::test]
async fn a_newer_schema_is_worked_on_where_its_steps_expand_and_refused_by_every_call_where_one_does_not() {
    let world = World::new().await;
    let store = world.store();
    assert!(store.apply_many(&[user_change("user_1", 0)]).await.is_ok());
    world.psql("INSERT INTO mirror_2.rollbook_migrations (name, expands) VALUES ('0098_later', true)").await;
    assert_eq!(store.apply_many(&[user_change("user_1", 1)]).await, Ok(vec![Applied::Updated]));
    assert_eq!(store.ping().await, Ok(()));
    assert_eq!(pending_migrations(&world.settings).await, Ok(vec![]));

    // The worker runs while a newer Rollbook changes the schema.
    world.psql("INSERT INTO mirror_2.rollbook_migrations (name) VALUES ('0099_later')").await;
    let refusals = [
        deployment(store.apply_many(&[user_change("user_1", 2)]).await),
        deployment(store.get(&USERS, "user_1").await),
        deployment(store.deliveries("user_1", 10).await),
        deployment(store.ping().await),
        deployment(pending_migrations(&world.settings).await),
        deployment(apply_migrations(&world.settings).await),
    ];
    for refusal in refusals {
        assert!(refusal.contains("0099_later") && refusal.contains("newer"), "{refusal}");
    }
    assert_eq!(world.psql("SELECT count(*) FROM mirror_2.deliveries").await, "2\n");
    // After the step is undone, the same store works again.
    world.psql("DELETE FROM mirror_2.rollbook_migrations WHERE name = '0099_later'").await;
    assert_eq!(store.apply_many(&[user_change("user_1", 2)]).await, Ok(vec![Applied::Updated]));
}

#[tokio::test]
async fn a_step_begins_after_the_batches_in_progress_and_no_batch_that_waited_for_it_is_written() {
    let world = World::new().await;
    let store = world.store();
    let mut holder = world.session().await;
    holder.run("BEGIN; LOCK TABLE mirror_2.users").await;
    let under_way = start({
        let store = world.store();
        async move { store.apply_many(&[user_change("user_1", 0)]).await }
    });
    let waits = |lock: &'static str| {
        let world = &world;
        let asked =
            format!("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{lock}'::regclass");
        async move { until(lock, || async { world.psql(&asked).await == "1\n" }).await }
    };
    waits("mirror_2.users").await;
    let mut newer = world.session().await;
    let step = start(async move {
        newer
            .run(
                "BEGIN; LOCK TABLE mirror_2.rollbook_migrations IN ACCESS EXCLUSIVE MODE;
                 INSERT INTO mirror_2.rollbook_migrations (name) VALUES ('0099_later (unfinished)')",
            )
            .await;
        newer
    });
    waits("mirror_2.rollbook_migrations").await;
    holder.run("COMMIT").await;
    assert_eq!(end(under_way).await, Ok(vec![Applied::Inserted]));
    let mut newer = end(step).await;
    let late = start(async move { store.apply_many(&[user_change("user_2", 0)]).await });
    waits("mirror_2.rollbook_migrations").await;
    newer.run("COMMIT").await;
    let refusal = deployment(end(late).await);
    assert!(refusal.contains("0099_later"), "{refusal}");
    assert_eq!(world.psql("SELECT count(*) FROM mirror_2.users").await, "1\n");
}

#[tokio::test]
async fn readers_go_on_while_a_migration_waits_for_one_of_them_and_it_is_applied_when_that_one_ends() {
    let world = before_ends().await;
    let mut reader = world.session().await;
    reader.run("BEGIN; SELECT count(*) FROM mirror_2.users").await;
    let mut migrates = start({
        let settings = world.settings.clone();
        async move { apply_migrations(&settings).await }
    });
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'mirror_2.users'::regclass";
    until("the migration waits for the reader", || async { world.psql(waits).await == "1\n" }).await;
    for _ in 0..5 {
        // Less than the former wait for a lock, far more than the current one.
        let read = "SET statement_timeout = '5s'; SELECT count(*) FROM mirror_2.users";
        assert_eq!(world.psql(read).await, "2\n");
    }
    assert!(migrates.try_join_next().is_none(), "it can't be done while the reader's transaction is open");
    reader.run("COMMIT").await;
    assert_eq!(end(migrates).await, Ok(ALL[2..].to_vec()));
    assert_eq!(world.psql(ENDS).await, ENDED);
    assert_eq!(world.store().ping().await, Ok(()));
}

#[tokio::test]
async fn the_ledgers_index_is_built_while_deliveries_are_recorded() {
    let world = World::new().await;
    // State after the step before.
    world
        .psql(
            "DELETE FROM mirror_2.rollbook_migrations WHERE name = '0006_ledger_order';
             DROP INDEX mirror_2.deliveries_by_subject;
             CREATE INDEX deliveries_by_subject ON mirror_2.deliveries USING hash (subject_id)",
        )
        .await;
    let line = "INSERT INTO mirror_2.deliveries VALUES ('msg_1', 'user.updated', 'user_1', 'updated', now(), now(), now(), 1)";
    let mut worker = world.session().await;
    worker.run("BEGIN; INSERT INTO mirror_2.deliveries VALUES ('msg_0', 'user.updated', 'user_1', 'updated', now(), now(), now(), 1)").await;
    let migrates = start({
        let settings = world.settings.clone();
        async move { apply_migrations(&settings).await }
    });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'CREATE INDEX CONCURRENTLY%'
                 AND wait_event_type = 'Lock'";
    until("the index waits for the worker's transaction", || async { world.psql(waits).await == "1\n" })
        .await;
    world.psql(&format!("SET lock_timeout = '10s'; {line}")).await;
    worker.run("COMMIT").await;
    assert_eq!(end(migrates).await, Ok(vec!["0006_ledger_order"]));
    let index = "SELECT pg_get_indexdef('mirror_2.deliveries_by_subject'::regclass)";
    let index = world.psql(index).await;
    assert!(index.contains("USING btree (subject_id, applied_at)"), "{index}");
    assert_eq!(world.store().deliveries("user_1", 10).await.map(|lines| lines.len()), Ok(2));
}

#[tokio::test]
async fn a_view_of_the_teams_own_is_named_before_anything_is_changed() {
    let world = before_ends().await;
    world.psql("CREATE VIEW public.people AS SELECT * FROM mirror_2.users").await;
    let refusal = deployment(apply_migrations(&world.settings).await);
    for part in [
        "0003_ends",
        "view public.people",
        "version_dead of table users",
        "can't be applied",
        "run rollbook migrate again",
        "2BP01",
    ] {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
    let changed = "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'mirror_2' AND column_name = 'version_deleted_at'";
    assert_eq!(world.psql(changed).await, "0\n", "workers of the release before go on");
    world.psql("DROP VIEW public.people").await;
    assert_eq!(apply_migrations(&world.settings).await, Ok(ALL[2..].to_vec()));
    assert_eq!(world.psql(ENDS).await, ENDED);
}

#[tokio::test]
async fn a_deferred_trigger_of_the_teams_own_keeps_no_step_from_being_applied() {
    let world = before_ends().await;
    world
        .psql(
            "CREATE TABLE public.seen (id text);
             CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.seen VALUES (new.id); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER later AFTER UPDATE ON mirror_2.users DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION public.see()",
        )
        .await;
    assert_eq!(apply_migrations(&world.settings).await, Ok(ALL[2..].to_vec()));
    assert_eq!(world.psql(ENDS).await, ENDED);
    assert_eq!(world.psql("SELECT id FROM public.seen").await, "user_1\n");
}

#[tokio::test]
async fn an_object_that_prevents_rewriting_rows_is_named_without_a_value() {
    let world = before_ends().await;
    world
        .psql("ALTER TABLE mirror_2.users ADD CONSTRAINT none_is_deleted CHECK (version_updated_at >= 0)")
        .await;
    let refusal = deployment(apply_migrations(&world.settings).await);
    for part in ["0003_ends", "none_is_deleted", "users", "run rollbook migrate again"] {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
    assert!(!refusal.contains("user_1") && !refusal.contains("ImASecret"), "{refusal}");
}

#[tokio::test]
async fn an_interrupted_migration_continues_where_it_stopped_and_workers_wait_meanwhile() {
    let world = before_ends().await;
    // A name that a late phase needs is taken.
    world.psql("CREATE VIEW mirror_2.current_members AS SELECT 1").await;
    let refusal = deployment(apply_migrations(&world.settings).await);
    assert!(refusal.contains("current_members") && refusal.contains("0003_ends"), "{refusal}");
    let unfinished = "SELECT name, phase > 12 FROM mirror_2.rollbook_migrations WHERE phase IS NOT NULL";
    assert_eq!(world.psql(unfinished).await, "0003_ends (unfinished)|t\n");
    for refusal in [
        deployment(world.store().ping().await),
        deployment(world.store().apply_many(&[user_change("user_2", 0)]).await),
    ] {
        assert!(refusal.contains("0003_ends is pending"), "{refusal}");
    }
    world.psql("DROP VIEW mirror_2.current_members").await;
    assert_eq!(apply_migrations(&world.settings).await, Ok(ALL[2..].to_vec()));
    assert_eq!(world.psql(ENDS).await, ENDED, "no phase is done twice");
    let gone = event("user.deleted", 7, &deleted("user", "user_1"));
    let outcomes = world.store().apply_many(&[change_of("msg_1", &gone)]).await;
    assert_eq!(outcomes, Ok(vec![Applied::Deleted]));
    let rows = "SELECT string_agg(name, ' ' ORDER BY name), count(phase) FROM mirror_2.rollbook_migrations";
    assert_eq!(world.psql(rows).await, format!("{}|0\n", ALL.join(" ")));
}

#[tokio::test]
async fn a_database_that_cannot_hold_every_character_is_refused_before_anything_is_made_and_by_a_worker() {
    let server = crate::world::server().await;
    for encoding in ["SQL_ASCII", "LATIN1", "EUC_JP"] {
        let database = format!("encoded_{}", encoding.to_lowercase());
        server
            .psql(
                "postgres",
                &format!(
                    "CREATE DATABASE {database} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C' LOCALE_PROVIDER libc"
                ),
            )
            .await;
        let world = World { server, settings: settings(server.url(&database)), database: database.clone() };
        for refusal in [
            deployment(pending_migrations(&world.settings).await),
            deployment(apply_migrations(&world.settings).await),
        ] {
            for part in [encoding, &database, "UTF8", "createdb"] {
                assert!(refusal.contains(part), "{part}: {refusal}");
            }
        }
        assert_eq!(world.psql("SELECT count(*) FROM pg_namespace WHERE nspname = 'mirror_2'").await, "0\n");
        // A database that an earlier build has migrated.
        make_before_ends(&world).await;
        for refusal in [
            deployment(world.store().ping().await),
            deployment(world.store().apply_many(&[user_change("user_1", 0)]).await),
        ] {
            assert!(refusal.contains(encoding), "{refusal}");
        }
    }
}

#[tokio::test]
async fn the_ledger_entries_of_a_subject_are_read_and_removed_by_their_index() {
    let world = World::new().await;
    world
        .psql(
            "INSERT INTO mirror_2.deliveries SELECT 'msg_' || i, 'user.updated', 'user_' || i % 500, 'updated', now(), now(), now(), 1
             FROM generate_series(1, 5000) i; ANALYZE mirror_2.deliveries",
        )
        .await;
    let scans = "SELECT idx_scan, (SELECT seq_scan FROM pg_stat_user_tables WHERE relid = indexes.relid)
                 FROM pg_stat_user_indexes AS indexes WHERE indexrelid = 'mirror_2.deliveries_by_subject'::regclass";
    let scans = || async {
        let found = world.psql(scans).await;
        let (by_index, of_all) = found.trim().split_once('|').expect("two numbers");
        [by_index, of_all].map(|number| number.parse::<u64>().expect("a number"))
    };
    let before = scans().await;
    let few = PostgresSettings { connections_max: 1, ..world.settings.clone() };
    let store = open(&few);
    assert_eq!(store.deliveries("user_7", 100).await.map(|lines| lines.len()), Ok(10));
    let at = rollbook_core::time::Timestamp::from_millis(0);
    assert_eq!(store.erase(&[(&USERS, "user_7".to_owned())], at).await.map(|erased| erased.ledger), Ok(10));
    // A session reports its statistics when it ends.
    drop(store);
    until("the server counts both", || async { scans().await[0] >= before[0] + 2 }).await;
    assert_eq!(scans().await[1], before[1], "no statement reads the whole ledger");
}
