//! Stores on Postgres, and queues on Redis, that tests open for themselves.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::time::Clock;
use rollbook_postgres::{PostgresSettings, PostgresStore};
use rollbook_redis::{ClockSource, KEY_PREFIX, Owner, RedisQueue, RedisSettings};
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;

/// Opens the store of a database that has the tables.
pub(crate) fn open(server: &PostgresServer, database: &str, clock: Arc<dyn Clock>) -> PostgresStore {
    PostgresStore::new(settings(server, database), clock).expect("the settings are right")
}

/// Starts a server with a store in its database `app`.
pub(crate) async fn start(clock: Arc<dyn Clock>) -> (PostgresServer, Arc<PostgresStore>) {
    let server = PostgresServer::start_with(&[("fsync", "off")]).await;
    server.create_database("app").await;
    rollbook_postgres::apply_migrations(&settings(&server, "app")).await.expect("the tables");
    let store = Arc::new(open(&server, "app", clock));
    (server, store)
}

fn settings(server: &PostgresServer, database: &str) -> PostgresSettings {
    PostgresSettings {
        url: server.url(database),
        schema: "clerk".to_owned(),
        changes: true,
        pgbouncer: false,
        connections_max: 2,
        statement_timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(20),
    }
}

/// Opens the queue of this Redis, as another process than those of a test.
pub(crate) fn open_queue(redis: &RedisServer) -> RedisQueue {
    let settings = RedisSettings {
        url: redis.url(),
        ca_file: None,
        fingerprints: Vec::new(),
        key_prefix: KEY_PREFIX.to_owned(),
        owner: Owner::default(),
        depth_max: 1_000_000,
        shards: 1,
        strict: false,
        trusted: false,
        replicas: 0,
        due_ahead_max: Duration::from_secs(600),
        lease_for: Duration::from_secs(60),
        call_timeout: Duration::from_secs(20),
        idle_poll: Duration::from_secs(20),
    };
    RedisQueue::new(settings, ClockSource::Server).expect("a queue")
}
