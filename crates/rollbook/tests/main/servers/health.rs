//! Health checks and scrapes leave no trace, and an outage concerns only the faces that need the server.

use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;

use super::{BINARY, readiness};

/// Requests every path of the ops port repeatedly.
async fn ask_often(home: &Home) {
    for _ in 0..10 {
        for path in ["/livez", "/readyz", "/healthz", "/metrics"] {
            assert_eq!(home.ops_get(path).await.expect("an answer").status, 200, "{path}");
        }
    }
}

#[tokio::test]
async fn no_question_writes_to_redis_not_even_the_first_to_an_empty_one() {
    let redis = RedisServer::start().await;
    let home = Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", redis.url());
    let _rollbook = home.start_ready(&["receive"]).await;
    ask_often(&home).await;
    assert_eq!(readiness(&home, "queue").await, Some((200, "ok".to_owned())));
    let persistence = redis.cli(&["INFO", "persistence"]);
    assert!(persistence.contains("rdb_changes_since_last_save:0\r"), "{persistence}");
    assert_eq!(redis.cli(&["DBSIZE"]).trim(), "0");
    let commands = redis.cli(&["INFO", "commandstats"]);
    assert!(commands.contains("cmdstat_evalsha:"), "it was asked: {commands}");
}

#[tokio::test]
async fn no_question_writes_to_postgres_or_to_the_embedded_queue() {
    let postgres = PostgresServer::start_with(&[("fsync", "off"), ("autovacuum", "off")]).await;
    postgres.create_database("app").await;
    let home = Home::new(BINARY).with("DATABASE_URL", postgres.url("app"));
    home.migrate();
    let _rollbook = home.start_ready(&["work"]).await;
    let queue = rusqlite::Connection::open(home.data().join("queue.db")).expect("the queue's file");
    let version =
        || queue.query_row("PRAGMA data_version", [], |row| row.get::<_, i64>(0)).expect("a number");
    // The next transaction that writes, of any process.
    let next = async || postgres.psql("app", "SELECT pg_snapshot_xmax(pg_current_snapshot())").await;
    let before = (version(), next().await);
    ask_often(&home).await;
    let calls = "SELECT xact_commit > 10 FROM pg_stat_database WHERE datname = 'app'";
    until("its statistics show the queries", async || postgres.psql("app", calls).await.trim() == "t").await;
    assert_eq!((version(), next().await), before);
}

#[tokio::test]
async fn a_worker_with_an_unreachable_store_stays_alive_longer_than_one_that_hangs() {
    let postgres = PostgresServer::start_with(&[("fsync", "off")]).await;
    postgres.create_database("app").await;
    // The shortest valid durations: a worker without progress for 10 s is not alive.
    let home = Home::new(BINARY)
        .with("DATABASE_URL", postgres.url("app"))
        .with("ROLLBOOK_LEASE_FOR", "5s")
        .with("ROLLBOOK_STATEMENT_TIMEOUT", "2s")
        .with("ROLLBOOK_DATABASE_CONNECT_TIMEOUT", "1s");
    home.migrate();
    let _rollbook = home.start_ready(&["serve"]).await;
    let mut postgres = postgres;
    postgres.kill();
    assert_eq!(super::send(&home), 200);
    until("the worker has noticed", async || home.log().contains("store unreachable or failing")).await;
    let noticed = std::time::Instant::now();
    until("more than 10 s have passed", async || {
        let live = home.ops_get("/livez").await.expect("an answer");
        assert_eq!(live.status, 200, "{}", live.body);
        noticed.elapsed() > std::time::Duration::from_secs(12)
    })
    .await;
    let (status, why) = readiness(&home, "store").await.expect("an answer");
    assert!(status == 200 && why.contains("connection refused"), "a receiver goes on: {status} {why}");
}
