//! Migrations on Postgres: no process starts on a database that lacks one, unless it may apply it.

use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::postgres::PostgresServer;

use super::{BINARY, readiness, run, send};

async fn server() -> PostgresServer {
    let postgres = PostgresServer::start_with(&[("fsync", "off")]).await;
    postgres.create_database("app").await;
    postgres
}

#[tokio::test]
async fn a_pending_migration_refuses_the_start_until_migrate_has_run() {
    let postgres = server().await;
    let home = Home::new(BINARY);
    home.migrate();
    let home = home.with("DATABASE_URL", postgres.url("app")).with("ROLLBOOK_SCHEMA", "mirror");
    for command in ["serve", "work"] {
        let ran = run(&home, &[command]).ended(1);
        assert!(ran.err.contains("rollbook migrate") && ran.err.contains("--migrate"), "{}", ran.err);
        assert!(ran.err.contains("0001_mirror"), "{}", ran.err);
    }
    let ran = run(&home, &["migrate", "--check"]).ended(1);
    assert!(ran.out.contains("0001_mirror") && ran.out.contains("mirror"), "{}", ran.out);
    run(&home, &["migrate"]).ended(0);
    run(&home, &["migrate", "--check"]).ended(0);
    let _rollbook = home.start_ready(&["serve"]).await;
    assert_eq!(send(&home), 200);
    until("it is applied", || async { home.metric("rollbook_applied_total").await == Some(1.0) }).await;
    assert_eq!(postgres.psql("app", "SELECT count(*) FROM mirror.users").await.trim(), "1");
}

#[tokio::test]
async fn a_migration_without_a_right_prints_the_statements_that_grant_it() {
    let postgres = server().await;
    postgres
        .psql("app", "CREATE ROLE \"mi grator\" LOGIN PASSWORD 'ImAPassword'; CREATE ROLE other NOLOGIN")
        .await;
    let url = postgres.url("app");
    let (_, place) = url.split_once('@').expect("a user");
    let home = Home::new(BINARY).with("DATABASE_URL", format!("postgres://mi%20grator:ImAPassword@{place}"));
    for (before, statement) in [
        ("SELECT 1", "GRANT CREATE ON DATABASE app TO \"mi grator\""),
        (
            "REVOKE CREATE ON DATABASE app FROM \"mi grator\"; CREATE SCHEMA clerk",
            "GRANT USAGE, CREATE ON SCHEMA clerk TO \"mi grator\"",
        ),
    ] {
        postgres.psql("app", before).await;
        let ran = run(&home, &["migrate"]).ended(1);
        assert!(
            ran.err.contains(&format!("Fix, as a superuser or the owner: {statement}; then")),
            "{}",
            ran.err
        );
        postgres.psql("app", statement).await;
        run(&home, &["migrate"]).ended(0);
        postgres.psql("app", "DROP SCHEMA clerk CASCADE").await;
    }
    // Another role owns the schema, and this one may not even read which migrations it has.
    postgres
        .psql("app", "CREATE SCHEMA clerk AUTHORIZATION other; GRANT CREATE ON DATABASE app TO \"mi grator\"")
        .await;
    let table = "CREATE TABLE clerk.rollbook_migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())";
    postgres.psql("app", &format!("SET ROLE other; {table}")).await;
    let ran = run(&home, &["migrate"]).ended(1);
    for statement in ["GRANT USAGE, CREATE ON SCHEMA clerk TO \"mi grator\"", "GRANT other TO \"mi grator\""]
    {
        assert!(ran.err.contains(statement), "{}", ran.err);
    }
    // Whoever only reads needs no right of an owner, neither for the check nor as a worker.
    for command in [&["migrate", "--check"][..], &["doctor", "--face", "work"]] {
        let ran = run(&home, command).ended(1);
        let said = format!("{}{}", ran.out, ran.err).split_whitespace().collect::<Vec<_>>().join(" ");
        let grants =
            "GRANT USAGE ON SCHEMA clerk TO \"mi grator\"; GRANT SELECT ON clerk.rollbook_migrations TO";
        assert!(said.contains(grants), "{command:?}: {said}");
        for wrong in ["CREATE ON SCHEMA", "GRANT other", "accepts this user", "migrate again"] {
            assert!(!said.contains(wrong), "{command:?}: {wrong} in {said}");
        }
    }
}

#[tokio::test]
async fn a_step_of_a_newer_rollbook_that_only_adds_is_named_by_doctor_and_once_by_each_start() {
    let postgres = server().await;
    let home = Home::new(BINARY).with("DATABASE_URL", postgres.url("app"));
    run(&home, &["migrate"]).ended(0);
    let ran = run(&home, &["doctor"]).ended(0);
    assert!(!ran.out.contains("newer Rollbook"), "{}", ran.out);
    let newer = "INSERT INTO clerk.rollbook_migrations (name, expands) VALUES ('0099_later', true)";
    postgres.psql("app", newer).await;
    let ran = run(&home, &["doctor"]).ended(0);
    let line = ran.out.lines().find(|line| line.starts_with("migrations ")).expect("a line about it");
    assert!(line.contains("ok") && line.contains("0099_later") && line.contains("works with them"), "{line}");
    let _rollbook = home.start_ready(&["serve"]).await;
    let log = home.log();
    assert_eq!(log.matches("a newer Rollbook has migrated this schema").count(), 1, "{log}");
    assert!(log.contains("0099_later"), "{log}");
}

#[tokio::test]
async fn migrate_logs_one_line_for_each_migration_with_its_duration() {
    let postgres = server().await;
    let home = Home::new(BINARY).with("DATABASE_URL", postgres.url("app"));
    let first = include_str!("../../../../../migrations/postgres/0001_mirror.sql");
    let table = "CREATE TABLE rollbook_migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())";
    let row = "INSERT INTO rollbook_migrations (name) VALUES ('0001_mirror')";
    let old = format!("CREATE SCHEMA clerk; SET search_path TO clerk; {table}; {first}; {row}");
    postgres.psql("app", &old).await;
    let ran = run(&home, &["migrate"]).ended(0);
    let lines: Vec<&str> = ran.err.lines().filter(|line| line.contains('0')).collect();
    let applied = lines.iter().filter(|line| line.contains("migration applied")).count();
    assert_eq!(applied, 11, "one for each of 0002 to 0016\n{}", ran.err);
    // The last one is about the triggers of the change feed.
    assert_eq!(lines.len(), applied + 1, "{}", ran.err);
    assert!(lines[..applied].iter().all(|line| line.contains("seconds")), "{}", ran.err);
}

#[tokio::test]
async fn a_receiver_opens_no_store_and_a_worker_with_migrate_applies_what_is_pending() {
    let postgres = server().await;
    let home = Home::new(BINARY);
    home.migrate();
    let home = home.with("DATABASE_URL", postgres.url("app"));
    let mut rollbook = home.start_ready(&["receive"]).await;
    assert_eq!(send(&home), 200);
    rollbook.signal("TERM");
    assert!(rollbook.exit().await.success());
    let _rollbook = home.start_ready(&["work", "--migrate"]).await;
    until("it is applied", || async { home.metric("rollbook_applied_total").await == Some(1.0) }).await;
}

#[tokio::test]
async fn a_migration_that_is_found_to_be_pending_late_keeps_the_worker_waiting_until_it_is_applied() {
    let mut postgres = server().await;
    let home = Home::new(BINARY).with("DATABASE_URL", postgres.url("app"));
    postgres.kill();
    let _rollbook = home.start(&["serve"]);
    until("it takes deliveries", || async {
        readiness(&home, "store").await.is_some_and(|(status, _)| status == 200)
    })
    .await;
    assert_eq!(send(&home), 200);
    postgres.restart().await;
    until("it names the migration", || async {
        readiness(&home, "store").await.is_some_and(|(_, why)| why.contains("0001_mirror"))
    })
    .await;
    assert_eq!(home.metric("rollbook_applied_total").await, Some(0.0));
    run(&home, &["migrate"]).ended(0);
    until("it is applied", || async { home.metric("rollbook_applied_total").await == Some(1.0) }).await;
    assert_eq!(home.metric("rollbook_dead_letters").await, Some(0.0));
}

const NEWER: &str = "INSERT INTO clerk.rollbook_migrations (name) VALUES ('0099_later')";

#[tokio::test]
async fn a_schema_of_a_newer_rollbook_refuses_the_start_and_stops_a_worker_that_runs() {
    let postgres = server().await;
    let home = Home::new(BINARY).with("DATABASE_URL", postgres.url("app"));
    run(&home, &["migrate"]).ended(0);
    let rollbook = home.start_ready(&["serve"]).await;
    postgres.psql("app", NEWER).await;
    assert_eq!(send(&home), 200, "deliveries wait in the queue");
    until("the store's part names the migration", || async {
        readiness(&home, "store").await.is_some_and(|(_, why)| why.contains("0099_later"))
    })
    .await;
    until("the log says that the worker stopped", || async {
        home.log().contains("0099_later, which this Rollbook does not know")
    })
    .await;
    assert_eq!(postgres.psql("app", "SELECT count(*) FROM clerk.users").await.trim(), "0");
    drop(rollbook);
    for command in [&["serve"][..], &["work"], &["serve", "--migrate"], &["migrate"], &["migrate", "--check"]]
    {
        let ran = run(&home, command).ended(1);
        assert!(ran.err.contains("0099_later") && ran.err.contains("newer"), "{command:?}: {}", ran.err);
    }
    let doctor = run(&home, &["doctor"]);
    assert!(doctor.out.contains("0099_later"), "{}", doctor.out);
    postgres
        .psql("app", "UPDATE clerk.rollbook_migrations SET expands = true WHERE name = '0099_later'")
        .await;
    run(&home, &["migrate", "--check"]).ended(0);
    let _rollbook = home.start_ready(&["serve"]).await;
    until("it is applied", || async { home.metric("rollbook_applied_total").await == Some(1.0) }).await;
}

#[tokio::test]
async fn a_database_of_another_encoding_is_refused_by_migrate_by_the_start_and_by_doctor() {
    let postgres = server().await;
    let create = "CREATE DATABASE jp ENCODING 'EUC_JP' TEMPLATE template0 LOCALE 'C' LOCALE_PROVIDER libc";
    postgres.psql("postgres", create).await;
    let home = Home::new(BINARY).with("DATABASE_URL", postgres.url("jp"));
    for command in [&["migrate"][..], &["serve"], &["serve", "--migrate"]] {
        let ran = run(&home, command).ended(1);
        assert!(ran.err.contains("EUC_JP") && ran.err.contains("createdb"), "{command:?}: {}", ran.err);
    }
    let doctor = run(&home, &["doctor"]);
    assert!(doctor.out.contains("EUC_JP"), "{}", doctor.out);
}
