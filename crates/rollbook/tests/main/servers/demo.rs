//! The demo on servers: the rows are right, other data is not touched, and nothing is left behind.

use rollbook_testkit::process::Home;
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;
use serde_json::Value;

use super::{BINARY, run, send};

const SHORT: [&str; 7] = ["demo", "--deliveries", "2000", "--seed", "7", "--output", "json"];

async fn servers() -> (RedisServer, PostgresServer) {
    let (redis, postgres) = tokio::join!(RedisServer::start(), PostgresServer::start());
    postgres.create_database("app").await;
    (redis, postgres)
}

async fn schemas(postgres: &PostgresServer) -> String {
    let sql = "SELECT count(*) FROM information_schema.schemata WHERE schema_name = 'rollbook_demo_7'";
    postgres.psql("app", sql).await.trim().to_owned()
}

#[tokio::test]
async fn the_demo_on_redis_and_postgres_ends_with_right_rows_and_leaves_nothing_behind() {
    let (redis, postgres) = servers().await;
    let home = Home::new(BINARY);
    let (queue, store) = (redis.url(), postgres.url("app"));
    for places in [&["--queue", &queue, "--store", &store][..], &["--queue", &queue], &["--store", &store]] {
        let ran = run(&home, &[&SHORT, places].concat()).ended(0);
        let report: Value = serde_json::from_str(&ran.out).expect("JSON");
        assert_eq!(report["passed"], true, "{report}");
        assert_eq!(report["rows"], report["rows_equal"], "{report}");
        assert_eq!(report["acknowledged"], report["deliveries"], "{report}");
        assert_eq!(report["weaknesses"].as_array().map(Vec::len), Some(0), "{report}");
        let changes = report["changes"].as_array().expect("changes");
        assert_eq!(changes.len(), 5, "the end of the feed: {report}");
        assert_eq!(
            changes[4]["position"], report["last_position"],
            "every change has its position: {report}"
        );
        let on = |part: &str, server: &str| report[part].as_str().is_some_and(|place| place.contains(server));
        assert_eq!(on("queue", "Redis at 127.0.0.1"), places.contains(&"--queue"), "{report}");
        assert_eq!(on("store", "Postgres at 127.0.0.1"), places.contains(&"--store"), "{report}");
        assert_eq!(schemas(&postgres).await, "0", "its schema is dropped");
        assert_eq!(redis.cli(&["dbsize"]), "0", "its queue is deleted");
    }
}

#[tokio::test]
async fn the_demo_fills_no_redis_and_no_schema_that_is_there_already() {
    let (redis, postgres) = servers().await;
    let home = Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", redis.url());
    postgres.psql("app", "CREATE SCHEMA rollbook_demo_7").await;
    let ran = run(&home, &[&SHORT[..], &["--store", &postgres.url("app")]].concat()).ended(2);
    assert!(ran.err.contains("rollbook_demo_7 exists already"), "{}", ran.err);
    assert_eq!(schemas(&postgres).await, "1", "what is somebody else's stays");

    let mut receiver = home.start_ready(&["receive"]).await;
    assert_eq!(send(&home), 200);
    receiver.kill();
    let ran = run(&home, &[&SHORT[..], &["--queue", &redis.url()]].concat()).ended(2);
    assert!(ran.err.contains("holds a queue already"), "{}", ran.err);
}

#[test]
fn the_demo_takes_servers_of_the_right_kind_alone() {
    let home = Home::new(BINARY);
    for (flag, url) in [
        ("--queue", "postgres://me:ImASecret@h/x"),
        ("--store", "redis://h"),
        ("--queue", "sqlite://q.db"),
        ("--queue", "redis://me:ImASecret@h:none"),
        ("--store", "postgres://me:ImASecret@h:none/x"),
    ] {
        let ran = run(&home, &["demo", flag, url]).ended(2);
        assert!(ran.err.contains(&format!("{flag}: ")) && !ran.err.contains("ImASecret"), "{}", ran.err);
    }
}
