//! Places of queue and store: files, or Redis and Postgres. And all of their content, as text.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rollbook_core::queue::{Consumer, DeadLetterFilter, Producer, QueueAdmin};
use rollbook_core::store::FullStore;
use rollbook_core::time::Clock;
use rollbook_sqlite::{QueueSettings, SqliteQueue, SqliteStore};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::Home;
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;
use rusqlite::types::ValueRef;

use crate::crashes::BINARY;
use crate::stores;

const DATABASE: &str = "app";
const DEPTH_MAX: u64 = 1_000_000;

pub(super) struct Places {
    pub(super) home: Home,
    servers: Option<(RedisServer, PostgresServer)>,
}

/// Ports of the queue for its three users.
pub(super) struct Queue {
    pub(super) producer: Arc<dyn Producer>,
    pub(super) consumer: Arc<dyn Consumer>,
    pub(super) admin: Arc<dyn QueueAdmin>,
}

impl Queue {
    fn of<Q: Producer + Consumer + QueueAdmin + 'static>(queue: Q) -> Self {
        let queue = Arc::new(queue);
        Self { producer: queue.clone(), consumer: queue.clone(), admin: queue }
    }
}

impl Places {
    /// Places in files.
    pub(super) fn files() -> Self {
        let home = Home::new(BINARY).with("ROLLBOOK_LOG", "warn");
        home.migrate();
        Self { home, servers: None }
    }

    /// Places on separate servers.
    pub(super) async fn servers() -> Self {
        let (redis, postgres) = (RedisServer::start().await, PostgresServer::start().await);
        postgres.create_database(DATABASE).await;
        let home = Home::new(BINARY)
            .with("ROLLBOOK_LOG", "warn")
            .with("ROLLBOOK_QUEUE_URL", redis.url())
            .with("DATABASE_URL", postgres.url(DATABASE));
        home.migrate();
        Self { home, servers: Some((redis, postgres)) }
    }

    pub(super) fn queue(&self) -> Queue {
        let Some((redis, _)) = &self.servers else {
            let settings = QueueSettings { depth_max: DEPTH_MAX, due_ahead_max: Duration::from_secs(600) };
            let path = self.home.data().join("queue.db");
            return Queue::of(SqliteQueue::open(&path, settings, Arc::new(WallClock)).expect("a queue"));
        };
        Queue::of(stores::open_queue(redis))
    }

    pub(super) fn store(&self) -> Arc<dyn FullStore> {
        let clock: Arc<dyn Clock> = Arc::new(WallClock);
        let Some((_, postgres)) = &self.servers else {
            return Arc::new(SqliteStore::open(&self.home.data().join("store.db"), clock).expect("a store"));
        };
        Arc::new(stores::open(postgres, DATABASE, clock))
    }

    /// Returns everything that queue and store hold, as raw bytes and as values.
    pub(super) async fn dump(&self) -> String {
        let mut text = match &self.servers {
            None => ["queue.db", "store.db"].map(|file| dump_file(&self.home.data().join(file))).concat(),
            Some((redis, postgres)) => dump_redis(redis) + &dump_postgres(postgres).await,
        };
        // On Redis bodies are compressed.
        let queue = self.queue().admin;
        let mut after = None;
        loop {
            let page = queue.messages(after.as_ref(), 100).await.expect("messages");
            let lines = page.messages.iter().map(|message| String::from_utf8_lossy(&message.body));
            text.extend(lines);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let letters =
            queue.dead_letters(&DeadLetterFilter::default().page(None, 1_000)).await.expect("dead letters");
        text.extend(letters.iter().map(|letter| String::from_utf8_lossy(&letter.body)));
        text
    }

    /// Returns every byte of the files.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let files = std::fs::read_dir(self.home.data()).expect("the data folder").flatten();
        files.flat_map(|entry| std::fs::read(entry.path()).expect("a file")).collect()
    }
}

/// Returns every value of every table.
fn dump_file(path: &Path) -> String {
    let connection = rusqlite::Connection::open(path).expect("a file");
    connection.busy_timeout(Duration::from_secs(10)).expect("a setting");
    let mut tables =
        connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").expect("the schema");
    let tables: Vec<String> =
        tables.query_map([], |row| row.get(0)).expect("tables").collect::<Result<_, _>>().expect("names");
    let mut text = String::new();
    for table in tables {
        let mut rows = connection.prepare(&format!("SELECT * FROM {table}")).expect("a table");
        let columns = rows.column_count();
        let mut rows = rows.query([]).expect("rows");
        while let Some(row) = rows.next().expect("a row") {
            for column in 0..columns {
                match row.get_ref(column).expect("a value") {
                    ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                        _ = writeln!(text, "{}", String::from_utf8_lossy(bytes));
                    }
                    _ => {}
                }
            }
        }
    }
    text
}

/// Returns every value of every key.
fn dump_redis(redis: &RedisServer) -> String {
    let mut text = String::new();
    for key in redis.cli(&["KEYS", "*"]).lines().filter(|key| !key.is_empty()) {
        let command: &[&str] = match redis.cli(&["TYPE", key]).as_str() {
            "hash" => &["HGETALL", key],
            "zset" => &["ZRANGE", key, "0", "-1"],
            "stream" => &["XRANGE", key, "-", "+"],
            "string" => &["GET", key],
            "set" => &["SMEMBERS", key],
            other => panic!("{key} is a {other}"),
        };
        text.push_str(&redis.cli(command));
    }
    text
}

/// Returns every row of every table.
async fn dump_postgres(postgres: &PostgresServer) -> String {
    let tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'clerk'";
    let mut text = String::new();
    for table in postgres.psql(DATABASE, tables).await.lines() {
        text += &postgres.psql(DATABASE, &format!("SELECT t::text FROM clerk.{table} AS t")).await;
    }
    text
}
