//! The distributed parts: `rollbook receive` and `rollbook work` on servers of their own.
//!
//! * Redis flushes its log before every answer (`appendfsync always`) and never rewrites it meanwhile: a
//!   rewrite would fall into some turns and not into others, on either side.
//! * Postgres commits to the disk (`fsync`, `synchronous_commit`: its defaults).
//! * Each measured thing has a server or a database of its own that is new: ours as well as the bare client.

pub(crate) mod acknowledge;
pub(crate) mod apply;
pub(crate) mod authorize;
pub(crate) mod backlog;
pub(crate) mod context;
pub(crate) mod feed;
pub(crate) mod large;
pub(crate) mod path;
pub(crate) mod raw_postgres;

use std::time::Duration;

use rollbook_postgres::PostgresSettings;
use rollbook_redis::{ClockSource, KEY_PREFIX, Owner, RedisQueue, RedisSettings};
use rollbook_testkit::process::Home;
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;

use crate::Scale;
use crate::cpu::{Sharer, Who};
use crate::load::BINARY;

/// Turns of each of these parts: they are longer than those on SQLite.
const TURNS_MAX: usize = 3;

fn turns(scale: Scale) -> usize {
    scale.turns.min(TURNS_MAX)
}

async fn start_redis() -> RedisServer {
    RedisServer::start_with(&[("auto-aof-rewrite-percentage", "0")]).await
}

/// Starts a Postgres with the default size of the log, which the testkit's small segments would reduce.
pub(crate) async fn start_postgres() -> PostgresServer {
    PostgresServer::start_with(&[("max_wal_size", "1GB"), ("min_wal_size", "1GB")]).await
}

/// A new database with our tables, and nothing of earlier ones left to write back.
pub(crate) async fn new_database(postgres: &PostgresServer, name: &str) -> PostgresSettings {
    new_database_with(postgres, name, true).await
}

/// Creates such a database, with the change feed or without it.
async fn new_database_with(postgres: &PostgresServer, name: &str, changes: bool) -> PostgresSettings {
    postgres.create_database(name).await;
    let settings = PostgresSettings {
        url: postgres.url(name),
        schema: "clerk".into(),
        changes,
        pgbouncer: false,
        connections_max: 1,
        statement_timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(5),
    };
    rollbook_postgres::apply_migrations(&settings).await.expect("tables");
    postgres.psql("postgres", "CHECKPOINT").await;
    settings
}

/// A process's home on these servers. It refuses to work if an acknowledgement is not on the disk.
fn home(redis: &RedisServer) -> Home {
    Home::new(BINARY)
        .with("ROLLBOOK_LOG", "warn")
        .with("ROLLBOOK_DURABILITY", "strict")
        .with("ROLLBOOK_QUEUE_URL", redis.url())
}

fn queue(redis: &RedisServer, strict: bool) -> RedisQueue {
    let settings = RedisSettings {
        url: redis.url(),
        ca_file: None,
        fingerprints: Vec::new(),
        key_prefix: KEY_PREFIX.to_owned(),
        owner: Owner::default(),
        depth_max: 100_000_000,
        shards: 1,
        strict,
        trusted: false,
        replicas: 0,
        due_ahead_max: Duration::from_secs(600),
        lease_for: Duration::from_secs(60),
        call_timeout: Duration::from_secs(5),
        idle_poll: Duration::from_secs(20),
    };
    RedisQueue::new(settings, ClockSource::Server).expect("a queue")
}

/// A server as one of those who share the cores.
fn redis_sharer(redis: &RedisServer) -> Sharer {
    ("Redis", Who::Processes(vec![info(redis, "process_id")]))
}

/// Measures Postgres with all its processes.
pub(crate) async fn postgres_sharer(postgres: &PostgresServer) -> Sharer {
    let postmaster = "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)";
    let postmaster = postgres.psql("postgres", postmaster).await;
    ("Postgres", Who::Family(postmaster.trim().parse().expect("a process id")))
}

/// A number of Redis's own account.
fn info<T: std::str::FromStr>(redis: &RedisServer, name: &str) -> T {
    let text = redis.cli(&["INFO"]);
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|value| value.trim().parse().ok()).expect("a number of Redis")
}
