//! Migrations: each applied once, by one of several processes, in the schema of the setting.

use std::collections::BTreeSet;
use std::time::Duration;

use rollbook_core::backend::Backend as _;
use rollbook_core::catalog::{COMMON_COLUMNS, Kind, RESOURCES};
use rollbook_core::change::Applied;
use rollbook_core::store::{Store as _, StoreError};
use rollbook_postgres::{PostgresSettings, apply_migrations, pending_migrations};
use rollbook_testkit::events::{change_of, deleted, event};
use rollbook_testkit::process::until;
use tokio::task::JoinSet;

use crate::world::{World, open, user_change};

/// All steps.
pub(crate) const ALL: [&str; 12] = [
    "0001_mirror",
    "0002_whole_of_clerk",
    "0003_ends",
    "0004_storage",
    "0005_cascades",
    "0006_ledger_order",
    "0007_links",
    "0010_reconcile",
    "0012_changes",
    "0013_forwards",
    "0015_permissions",
    "0016_generations",
];

#[tokio::test]
async fn migrations_are_pending_until_they_are_applied_and_asking_makes_nothing() {
    let world = World::empty().await;
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname !~ '^(pg_|information)'";
    let before = world.psql(schemas).await;
    assert_eq!(pending_migrations(&world.settings).await, Ok(ALL.to_vec()));
    assert_eq!(world.settings.exists().await, Ok(false));
    assert_eq!(world.psql(schemas).await, before);
    assert_eq!(apply_migrations(&world.settings).await, Ok(ALL.to_vec()));
    assert_eq!(apply_migrations(&world.settings).await, Ok(vec![]));
    assert_eq!(pending_migrations(&world.settings).await, Ok(vec![]));
    assert_eq!(world.settings.exists().await, Ok(true));
    let tables =
        "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'mirror_2'";
    assert_eq!(
        world.psql(tables).await,
        "changes changes_pending changes_state deliveries forward_changes forwards organization_domains organization_invitations organization_memberships organizations \
         payment_attempts permissions reconcile_held reconcile_locks reconcile_runs reconcile_walks roles rollbook_cascades rollbook_migrations sessions subscription_items \
         subscriptions users waitlist_entries\n"
    );
}

#[tokio::test]
async fn the_tables_have_the_columns_of_the_catalog_in_its_types() {
    let world = World::new().await;
    for resource in RESOURCES {
        let typed: BTreeSet<String> = resource.columns.iter().map(|of| described(of.name, of.kind)).collect();
        let found = world
            .psql(&format!(
                "SELECT column_name, data_type FROM information_schema.columns
                 WHERE table_schema = 'mirror_2' AND table_name = '{}' AND column_name !~ '^(version|synced)_'",
                resource.table
            ))
            .await;
        let is_own = |line: &&str| !COMMON_COLUMNS.contains(&line.split('|').next().unwrap_or_default());
        let found: BTreeSet<String> = found.lines().filter(is_own).map(str::to_owned).collect();
        assert_eq!(found, typed, "{resource:?}");
    }
}

/// Formats a column as the query above does.
fn described(name: &str, kind: Kind) -> String {
    let described = match kind {
        Kind::Text | Kind::IndexedText | Kind::Id => "text",
        Kind::Integer => "bigint",
        Kind::Bool => "boolean",
        Kind::Time => "timestamp with time zone",
        Kind::Json => "jsonb",
    };
    format!("{name}|{described}")
}

#[tokio::test]
async fn a_step_keeps_the_rows_and_fills_what_it_adds_from_what_is_there() {
    let world = World::empty().await;
    let first = include_str!("../../../../migrations/postgres/0001_mirror.sql");
    world
        .psql(&format!(
            "CREATE SCHEMA mirror_2; SET search_path TO mirror_2; {first};
             CREATE TABLE rollbook_migrations (name text PRIMARY KEY, applied_at timestamptz DEFAULT now());
             INSERT INTO rollbook_migrations (name) VALUES ('0001_mirror');
             INSERT INTO users (id, data, synced_at, synced_by, version_dead, version_updated_at,
                                version_event_at, version_hash)
             SELECT 'user_' || row_number() OVER (), data::jsonb, now(), 'msg_1', false, 1, 1, ''
             FROM unnest(ARRAY['{{\"deprovisioned\": true}}', '{{\"deprovisioned\": false}}',
                               '{{\"deprovisioned\": \"x\"}}', '{{}}', NULL]) AS data"
        ))
        .await;
    assert_eq!(apply_migrations(&world.settings).await, Ok(ALL[1..].to_vec()));
    let users = world.psql("SELECT id, deprovisioned FROM mirror_2.users ORDER BY id").await;
    assert_eq!(users, "user_1|t\nuser_2|f\nuser_3|\nuser_4|\nuser_5|\n");
}

#[tokio::test]
async fn rows_deleted_before_the_third_migration_stay_deleted_with_their_child_rows() {
    let world = World::empty().await;
    let steps = [
        include_str!("../../../../migrations/postgres/0001_mirror.sql"),
        include_str!("../../../../migrations/postgres/0002_whole_of_clerk.sql"),
    ];
    let version = "synced_at, synced_by, version_dead, version_updated_at, version_event_at, version_hash";
    let (alive, dead) =
        ("now(), 'msg', false, 5, 5, decode(repeat('07', 16), 'hex')", "now(), 'msg', true, 0");
    world
        .psql(&format!(
            "CREATE SCHEMA mirror_2; SET search_path TO mirror_2; {}; {};
             CREATE TABLE rollbook_migrations (name text PRIMARY KEY, applied_at timestamptz DEFAULT now());
             INSERT INTO rollbook_migrations (name) VALUES ('0001_mirror'), ('0002_whole_of_clerk');
             INSERT INTO users (id, deleted_at, {version}) VALUES ('user_1', 'epoch'::timestamptz + '7 ms', {dead}, 7, '');
             INSERT INTO users (id, {version}) VALUES ('user_2', {alive});
             INSERT INTO organizations (id, deleted_at, {version}) VALUES ('org_1', 'epoch'::timestamptz + '6 ms', {dead}, 6, '');
             INSERT INTO sessions (id, user_id, {version}) VALUES ('sess_1', 'user_1', {alive}), ('sess_2', 'user_2', {alive});
             INSERT INTO organization_memberships (id, user_id, organization_id, {version})
             VALUES ('m_1', 'user_1', 'org_1', {alive}), ('m_2', 'user_2', 'org_1', {alive}), ('m_3', 'user_2', 'org_2', {alive})",
            steps[0], steps[1]
        ))
        .await;
    assert_eq!(apply_migrations(&world.settings).await, Ok(ALL[2..].to_vec()));
    let ended = "SELECT id, extract(milliseconds FROM deleted_at)::int FROM
                 (SELECT id, deleted_at FROM mirror_2.users UNION ALL SELECT id, deleted_at FROM mirror_2.sessions
                  UNION ALL SELECT id, deleted_at FROM mirror_2.organization_memberships) AS rows ORDER BY id";
    assert_eq!(world.psql(ended).await, "m_1|6\nm_2|6\nm_3|\nsess_1|7\nsess_2|\nuser_1|7\nuser_2|\n");
    // A repeated deletion changes nothing, and an update does not revive the rows.
    let gone = event("user.deleted", 7, &deleted("user", "user_1"));
    let outcomes = world.store().apply_many(&[change_of("msg_1", &gone), user_change("user_1", 0)]).await;
    assert_eq!(outcomes, Ok(vec![Applied::Deleted, Applied::Updated]));
    let row = "SELECT first_name, deleted_at IS NOT NULL FROM mirror_2.users WHERE id = 'user_1'";
    assert_eq!(world.psql(row).await, "Ines|t\n");
}

#[tokio::test]
async fn what_is_packed_is_packed_with_lz4_and_pages_keep_room_in_every_table() {
    let world = World::empty().await;
    // A table of the team in the same schema stays as it is.
    world.psql("CREATE SCHEMA mirror_2; CREATE TABLE mirror_2.theirs (settings jsonb)").await;
    apply_migrations(&world.settings).await.expect("the migrations apply");
    let tables = "FROM pg_class WHERE relnamespace = 'mirror_2'::regnamespace AND relkind = 'r' AND relname !~ '^(deliveries|changes.*|forward.*|rollbook_.*|reconcile_.*)$'";
    let room = world
        .psql(&format!("SELECT 'fillfactor=70' = ANY (reloptions), count(*) {tables} GROUP BY 1 ORDER BY 2"))
        .await;
    assert_eq!(room, format!("|1\nt|{}\n", RESOURCES.len()));
    let packed = "SELECT relname = 'theirs', attcompression, count(*) > 0 FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
                  WHERE relnamespace = 'mirror_2'::regnamespace AND relkind = 'r' AND atttypid = 'jsonb'::regtype GROUP BY 1, 2 ORDER BY 1";
    assert_eq!(world.psql(packed).await, "f|l|t\nt||t\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_concurrent_migrations_applies_each_step() {
    let world = World::empty().await;
    let mut processes = JoinSet::new();
    for _ in 0..6 {
        let settings = world.settings.clone();
        processes.spawn(async move { apply_migrations(&settings).await.expect("it is migrated").len() });
    }
    assert_eq!(processes.join_all().await.iter().sum::<usize>(), ALL.len());
}

#[tokio::test]
async fn two_schemas_in_one_database_are_two_mirrors() {
    let world = World::empty().await;
    let other = PostgresSettings { schema: "clerk".to_owned(), ..world.settings.clone() };
    for settings in [&world.settings, &other] {
        apply_migrations(settings).await.expect("the migrations apply");
    }
    assert!(open(&other).apply_many(&[user_change("user_1", 0)]).await.is_ok());
    let counted = "SELECT (SELECT count(*) FROM clerk.users), (SELECT count(*) FROM clerk.deliveries),
                          (SELECT count(*) FROM mirror_2.users), (SELECT count(*) FROM mirror_2.deliveries)";
    assert_eq!(world.psql(counted).await, "1|1|0|0\n");
    assert_eq!(other.remove().await, Ok(()));
    assert_eq!(other.exists().await, Ok(false));
    assert_eq!(world.store().ping().await, Ok(()), "the other one stays");
}

#[tokio::test]
async fn an_existing_schema_needs_no_right_to_create_schemas() {
    let world = World::empty().await;
    let role = format!("owner_{}", world.database);
    world
        .psql(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'ImAPassword'; CREATE SCHEMA mirror_2 AUTHORIZATION {role}"
        ))
        .await;
    let owner = world.with_user(&role, "ImAPassword");
    assert_eq!(apply_migrations(&owner).await, Ok(ALL.to_vec()));
    assert_eq!(open(&owner).ping().await, Ok(()));
    let elsewhere = PostgresSettings { schema: "other".to_owned(), ..owner };
    let Err(StoreError::Deployment(text)) = apply_migrations(&elsewhere).await else {
        panic!("no right is needed")
    };
    assert!(text.contains("permission denied for database") && text.contains(&role), "{text}");
}

#[tokio::test]
async fn a_newer_schema_and_tables_of_another_program_are_refused() {
    let world = World::new().await;
    world.psql("INSERT INTO mirror_2.rollbook_migrations (name) VALUES ('0099_later')").await;
    let refusals = [
        pending_migrations(&world.settings).await.map(drop),
        apply_migrations(&world.settings).await.map(drop),
        world.store().ping().await,
    ];
    for refusal in refusals {
        let Err(StoreError::Deployment(text)) = refusal else { panic!("{refusal:?}") };
        assert!(text.contains("0099_later") && text.contains("newer"), "{text}");
    }
    let public = PostgresSettings { schema: "public".to_owned(), ..world.settings.clone() };
    world.psql("CREATE TABLE public.users (id text)").await;
    let Err(StoreError::Deployment(text)) = apply_migrations(&public).await else { panic!("users is taken") };
    assert!(text.contains("\"users\" already exists") && text.contains("choose another"), "{text}");
    assert_eq!(
        world.psql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").await,
        "1\n",
        "all or nothing"
    );
}

#[test]
fn a_schema_with_another_name_than_a_plain_one_is_refused() {
    let url = "postgres://me@127.0.0.1/app".to_owned();
    for schema in ["Clerk", "a\"; DROP SCHEMA clerk; --", ""] {
        let settings = PostgresSettings { schema: schema.to_owned(), ..crate::world::settings(url.clone()) };
        let refused = rollbook_postgres::PostgresStore::new(settings, crate::world::clock()).map(drop);
        assert!(matches!(refused, Err(StoreError::Deployment(_))), "{schema}");
    }
}

#[tokio::test]
async fn a_second_migration_waits_until_the_first_has_finished() {
    let world = World::empty().await;
    let mut first = world.session().await;
    // The number that all take: "rollbook" as the bytes of a whole number.
    first.run("BEGIN; SELECT pg_advisory_xact_lock(x'726f6c6c626f6f6b'::bit(64)::bigint)").await;
    let second = PostgresSettings { statement_timeout: Duration::from_secs(1), ..world.settings.clone() };
    let first_ends = async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                       AND wait_event = 'advisory' AND now() - query_start > interval '1.5 s'";
        until("the second has waited longer than a statement may take", || async {
            world.psql(waiting).await == "1\n"
        })
        .await;
        first.run("COMMIT").await;
    };
    let (applied, ()) = tokio::join!(apply_migrations(&second), first_ends);
    assert_eq!(applied, Ok(ALL.to_vec()));
}
