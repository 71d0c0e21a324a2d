//! Servers that answer reads and refuse writes: from the real server through the metrics to the alert.

use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::prometheus::PrometheusServer;
use rollbook_testkit::servers::redis::RedisServer;

use super::prometheus::firing;
use super::rules;
use crate::crashes::BINARY;
use crate::raw_http::{exchange, signed, status};

async fn up(home: &Home, part: &str) -> Option<f64> {
    home.metric_with("rollbook_up", &format!("part=\"{part}\"")).await
}

/// Posts an event about a new user and returns the status.
async fn deliver(home: &Home, id: &str) -> u16 {
    let event = format!(r#"{{"type":"user.created","timestamp":1785312000032,"data":{{"id":"{id}"}}}}"#);
    status(&exchange(home.listen, &signed(&format!("msg_{id}"), &event)).await)
}

async fn says(home: &Home, text: &str) -> bool {
    home.ops_get("/readyz").await.is_some_and(|answer| answer.body.contains(text))
}

/// Asserts that the alert fires while the store refuses batches, and ends with the first one that is applied.
async fn alarms_while_the_store_refuses(refuse: &str, end: &str, reason: &str) {
    let postgres = PostgresServer::start_with(&[("fsync", "off")]).await;
    postgres.create_database("app").await;
    let owner = Home::new(BINARY).with("DATABASE_URL", postgres.url("app"));
    owner.migrate();
    let role = "CREATE ROLE worker LOGIN PASSWORD 'ImASecret'; GRANT USAGE ON SCHEMA clerk TO worker;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA clerk TO worker";
    postgres.psql("app", role).await;
    let url = format!("postgres://worker:ImASecret@127.0.0.1:{}/app", postgres.port());
    let home = Home::new(BINARY).with("DATABASE_URL", url).with("ROLLBOOK_GATE_BACKOFF_MAX", "500ms");
    let _rollbook = home.start_ready(&["serve"]).await;
    let prometheus = PrometheusServer::start(home.ops, &rules()).await;
    until("it is scraped and nothing fires", async || firing(&prometheus).await.is_empty()).await;

    postgres.psql("app", refuse).await;
    assert_eq!(deliver(&home, "user_1").await, 200, "a receiver goes on");
    until("readiness names the reason", async || says(&home, reason).await).await;
    assert_eq!(up(&home, "store").await, Some(0.0));
    assert_eq!(up(&home, "queue").await, Some(1.0));
    until("the alert fires", async || firing(&prometheus).await.contains("RollbookStoreDown")).await;

    postgres.psql("app", end).await;
    until("the message is applied", async || {
        let applied = postgres.psql("app", "SELECT count(*) FROM clerk.users").await;
        applied.trim() == "1"
    })
    .await;
    until("the store is up again", async || up(&home, "store").await == Some(1.0)).await;
    assert_eq!(postgres.psql("app", "SELECT id FROM clerk.users").await.trim(), "user_1");
    until("the alert ends", async || !firing(&prometheus).await.contains("RollbookStoreDown")).await;
}

#[tokio::test]
async fn a_postgres_that_became_read_only_fires_the_alert_of_the_store() {
    alarms_while_the_store_refuses(
        "ALTER ROLE worker SET default_transaction_read_only = on;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'worker'",
        "ALTER ROLE worker RESET default_transaction_read_only;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'worker'",
        "read-only",
    )
    .await;
}

#[tokio::test]
async fn a_row_level_policy_that_a_ping_does_not_meet_fires_the_alert_of_the_store() {
    alarms_while_the_store_refuses(
        "ALTER TABLE clerk.users ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE clerk.users DISABLE ROW LEVEL SECURITY",
        "nothing has been applied",
    )
    .await;
}

/// Asserts that the alert fires while Redis refuses writes, and ends when Redis accepts them.
async fn alarms_while_redis_refuses(face: &str, refuse: &[&str], end: &[&str], reason: &str) {
    let redis = RedisServer::start().await;
    let home = Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", redis.url());
    home.migrate();
    let _rollbook = home.start_ready(&[face]).await;
    let prometheus = PrometheusServer::start(home.ops, &rules()).await;
    until("it is scraped", async || up(&home, "queue").await == Some(1.0)).await;
    redis.cli(refuse);
    if face == "receive" {
        assert_eq!(deliver(&home, "user_1").await, 503, "{reason}");
    }
    until("readiness names the reason", async || says(&home, reason).await).await;
    until("the alert fires", async || firing(&prometheus).await.contains("RollbookQueueDown")).await;
    assert_eq!(home.ops_get("/readyz").await.map(|answer| answer.status), Some(503), "{reason}");
    redis.cli(end);
    until("it is up again", async || up(&home, "queue").await == Some(1.0)).await;
    until("the alert ends", async || !firing(&prometheus).await.contains("RollbookQueueDown")).await;
}

const NO_REPLICAS: (&[&str], &[&str], &str) = (
    &["config", "set", "min-replicas-to-write", "1"],
    &["config", "set", "min-replicas-to-write", "0"],
    "NOREPLICAS",
);
const NO_RIGHT: (&[&str], &[&str], &str) =
    (&["acl", "setuser", "default", "-@write"], &["acl", "setuser", "default", "+@all"], "NOPERM");
const NO_MEMORY: (&[&str], &[&str], &str) =
    (&["config", "set", "maxmemory", "1"], &["config", "set", "maxmemory", "0"], "no room");

#[tokio::test]
async fn a_redis_that_refuses_deliveries_fires_the_alert_of_the_queue() {
    for (refuse, end, reason) in [NO_REPLICAS, NO_RIGHT, NO_MEMORY] {
        alarms_while_redis_refuses("receive", refuse, end, reason).await;
    }
}

#[tokio::test]
async fn a_redis_that_refuses_workers_fires_the_alert_of_the_queue() {
    for (refuse, end, reason) in [NO_REPLICAS, NO_RIGHT] {
        alarms_while_redis_refuses("work", refuse, end, reason).await;
    }
}

#[tokio::test]
async fn a_redis_without_memory_has_an_outcome_and_an_alert_of_its_own() {
    let redis = RedisServer::start().await;
    let home = Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", redis.url());
    home.migrate();
    let _rollbook = home.start_ready(&["receive"]).await;
    let prometheus = PrometheusServer::start(home.ops, &rules()).await;
    assert_eq!(home.metric("rollbook_queue_memory_limit_bytes").await, None, "there is none");
    redis.cli(&["config", "set", "maxmemory", "1"]);
    until("Prometheus has seen the limit", async || {
        firing(&prometheus).await.contains("RollbookQueueMemoryNearLimit")
    })
    .await;
    assert_eq!(deliver(&home, "user_1").await, 503);
    let count = async |outcome: &str| {
        home.metric_with("rollbook_deliveries_total", &format!("outcome=\"{outcome}\"")).await
    };
    assert_eq!((count("queue_no_room").await, count("queue_full").await), (Some(1.0), Some(0.0)));
    until("its own alert fires", async || firing(&prometheus).await.contains("RollbookQueueNoRoom")).await;
}
