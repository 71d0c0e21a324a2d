//! From the configured places to ports. The only file that names a backend.
//!
//! A server is opened without a word to it: it may be away, and whoever uses it asks again. A file must
//! be there.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rollbook_core::queue::{Consumer, Producer, QueueAdmin, QueueError};
use rollbook_core::store::{Store, StoreError};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_postgres::{PostgresSettings, PostgresStore};
use rollbook_redis::{DueTimes, Owner, RedisQueue, RedisSettings};
pub(crate) use rollbook_redis::{FullCoverage, Ownership};
use rollbook_sqlite::{QueueSettings, Schema, SqliteQueue, SqliteStore};
use tokio_util::sync::CancellationToken;

use crate::clock::SystemClock;
use crate::config::{Config, Place, Problems, ServerUrl};
use crate::file_modes;

/// The queue, as its three users see it.
#[derive(Clone)]
pub(crate) struct Queue {
    /// For the receiver.
    pub(crate) producer: Arc<dyn Producer>,
    /// For the worker.
    pub(crate) consumer: Arc<dyn Consumer>,
    /// For ops and operators.
    pub(crate) admin: Arc<dyn QueueAdmin>,
}

impl Queue {
    fn of<Q: Producer + Consumer + QueueAdmin + 'static>(queue: Q) -> Self {
        let queue = Arc::new(queue);
        Self { producer: queue.clone(), consumer: queue.clone(), admin: queue }
    }
}

/// What is kept somewhere.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The queue.
    Queue,
    /// The store.
    Store,
}

impl Part {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Queue, Self::Store];

    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Store => "store",
        }
    }

    /// Where it is.
    pub(crate) const fn place(self, config: &Config) -> &Place {
        match self {
            Self::Queue => &config.queue,
            Self::Store => &config.store,
        }
    }
}

/// Opens the queue. A file must be there: looking for dead letters makes none.
///
/// # Errors
/// There is no such file, or it lacks a migration; the URL of a server is none.
pub(crate) fn open_queue(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Queue> {
    match &config.queue {
        Place::Sqlite(path) => {
            must_exist("queue", path, "queue_url")?;
            let settings =
                QueueSettings { depth_max: config.queue_depth_max, due_within: due_within(config) };
            let queue = SqliteQueue::open(path, settings, clock)
                .with_context(|| format!("the queue in {}", path.display()))?;
            Ok(Queue::of(queue))
        }
        Place::Server(url) => {
            check_server(config, Part::Queue)?;
            Ok(Queue::of(RedisQueue::new(redis(config, url), DueTimes::Server)?))
        }
    }
}

/// How far ahead of now a due time may lie in the queue: no lease and no backoff reaches further.
fn due_within(config: &Config) -> Duration {
    config.worker.lease_for.max(config.worker.retry.backoff_max)
}

/// Opens the store.
///
/// # Errors
/// As with the queue.
pub(crate) fn open_store(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Arc<dyn Store>> {
    match &config.store {
        Place::Sqlite(path) => {
            must_exist("store", path, "database_url")?;
            let store =
                SqliteStore::open(path, clock).with_context(|| format!("the store in {}", path.display()))?;
            Ok(Arc::new(store.keeping(config.keeping)))
        }
        Place::Server(url) => {
            check_server(config, Part::Store)?;
            Ok(Arc::new(PostgresStore::new(postgres(config, url), clock)?.keeping(config.keeping)))
        }
    }
}

fn redis(config: &Config, url: &ServerUrl) -> RedisSettings {
    let redis = &config.redis;
    RedisSettings {
        url: url.as_str().to_owned(),
        ca_file: redis.ca_file.clone(),
        key_prefix: redis.key_prefix.clone(),
        owner: Owner {
            instance_id: config.worker.instance_id.clone(),
            fingerprints: config.secret_fingerprints(),
        },
        depth_max: config.queue_depth_max,
        // Both were read as far smaller numbers.
        shards: u16::try_from(redis.shards).unwrap_or(u16::MAX),
        strict: redis.strict,
        replicas: u32::try_from(redis.replicas).unwrap_or(u32::MAX),
        due_within: due_within(config),
        lease_for: config.worker.lease_for,
        call_timeout: redis.timeout,
    }
}

fn postgres(config: &Config, url: &ServerUrl) -> PostgresSettings {
    let postgres = &config.postgres;
    PostgresSettings {
        url: url.as_str().to_owned(),
        schema: postgres.schema.clone(),
        pgbouncer: postgres.pgbouncer,
        connections_max: u32::try_from(postgres.connections_max).unwrap_or(u32::MAX),
        statement_timeout: postgres.statement_timeout,
        connect_timeout: postgres.connect_timeout,
    }
}

/// Refuses settings of a part's server that can't be used, by the name of its URL.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn check_server(config: &Config, part: Part) -> Result<(), Problems> {
    let key = url_key(config, part);
    match wrong_server(config, part) {
        None => Ok(()),
        Some(wrong) => {
            Err(Problems(vec![config.problem(key, wrong, "rollbook config shows what is set, and where")]))
        }
    }
}

/// The name of the setting that says where a part is.
pub(crate) fn url_key(config: &Config, part: Part) -> &'static str {
    if part == Part::Queue { config.queue_key() } else { "database_url" }
}

fn must_exist(part: &str, path: &Path, setting: &str) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    bail!(
        "there is no {part} in {}: name the right one by data_dir or {setting}, or make it: rollbook migrate",
        path.display()
    )
}

/// What is wrong with the settings of a part's server, found without asking anyone at it.
pub(crate) fn wrong_server(config: &Config, part: Part) -> Option<String> {
    match (part, part.place(config)) {
        (_, Place::Sqlite(_)) => None,
        (Part::Queue, Place::Server(url)) => {
            RedisQueue::new(redis(config, url), DueTimes::Server).err().map(|error| match error {
                QueueError::Deployment(wrong) => wrong,
                error => error.to_string(),
            })
        }
        (Part::Store, Place::Server(url)) => {
            PostgresStore::new(postgres(config, url), Arc::new(SystemClock)).err().map(|error| match error {
                StoreError::Deployment(wrong) => wrong,
                error => error.to_string(),
            })
        }
    }
}

/// Where a part is, in words; never with a password.
pub(crate) fn describe(config: &Config, part: Part) -> String {
    match (part, part.place(config)) {
        (_, Place::Sqlite(path)) => format!("SQLite {}, WAL, synchronous=FULL", path.display()),
        (Part::Queue, Place::Server(url)) => rollbook_redis::describe(url.as_str()),
        (Part::Store, Place::Server(url)) => {
            rollbook_postgres::describe(url.as_str(), &config.postgres.schema)
        }
    }
}

/// The steps that a part lacked, or lacks.
pub(crate) struct Migrations {
    /// The part.
    pub(crate) part: Part,
    /// Where it is, in words.
    pub(crate) place: String,
    /// The names of the steps. A queue on Redis never lacks any.
    pub(crate) names: Vec<&'static str>,
    /// Why this Rollbook must not work on a server's database, whatever is applied. Waiting does not help.
    pub(crate) refusal: Option<String>,
    /// The names of steps of a newer Rollbook that this one works with.
    pub(crate) newer: Vec<String>,
}

/// What is pending.
///
/// # Errors
/// Why that can't be known, with the place: a server may be away, a file unreadable.
pub(crate) async fn pending_migrations(config: &Config, part: Part) -> Result<Migrations, String> {
    let (mut refusal, mut newer) = (None, Vec::new());
    let names = match (part, part.place(config)) {
        (_, Place::Sqlite(path)) => {
            let pending = rollbook_sqlite::pending_migrations(path, schema(part));
            newer = rollbook_sqlite::newer_migrations(path, schema(part)).unwrap_or_default();
            pending.map_err(|why| in_file(part, path, &why))?
        }
        (Part::Queue, Place::Server(_)) => Vec::new(),
        (Part::Store, Place::Server(url)) => {
            let examined = rollbook_postgres::examine(&postgres(config, url)).await;
            let examined = examined.map_err(|error| error.to_string())?;
            (refusal, newer) = (examined.refusal, examined.newer);
            examined.pending
        }
    };
    Ok(Migrations { refusal, newer, ..migrations(config, part, names) })
}

/// Applies what is pending, making folders and files that are not there.
///
/// # Errors
/// As with what is pending, and where a step fails. After a stop what a file's migration has done is undone.
pub(crate) async fn apply_migrations(
    config: &Config,
    part: Part,
    stop: &CancellationToken,
) -> Result<Migrations, String> {
    let names = match (part, part.place(config)) {
        (_, Place::Sqlite(path)) => {
            file_modes::make_folder_of(path).map_err(|error| format!("{error:#}"))?;
            let (file, stop) = (path.clone(), stop.clone());
            // It may take minutes, in which signals and clients want to be answered.
            let applying = tokio::task::spawn_blocking(move || {
                rollbook_sqlite::apply_migrations_until(&file, schema(part), move || stop.is_cancelled())
            });
            let applied = applying.await.map_err(|error| error.to_string())?;
            applied.map_err(|why| in_file(part, path, &why))?
        }
        (Part::Queue, Place::Server(_)) => Vec::new(),
        (Part::Store, Place::Server(url)) => rollbook_postgres::apply_migrations(&postgres(config, url))
            .await
            .map_err(|error| error.to_string())?,
    };
    Ok(migrations(config, part, names))
}

/// Writes a part's file anew, so that it and its log hold nothing but what is there. Says whether it is a file.
///
/// # Errors
/// It holds what it held, or its log does; and why.
pub(crate) fn rewrite_file(config: &Config, part: Part) -> Result<bool, String> {
    match part.place(config) {
        Place::Sqlite(path) => {
            rollbook_sqlite::rewrite(path).map_err(|why| in_file(part, path, &why))?;
            Ok(true)
        }
        Place::Server(_) => Ok(false),
    }
}

/// Whether there is a schema of the configured name on the store's server.
///
/// # Errors
/// Why that can't be known.
pub(crate) async fn store_exists(config: &Config) -> Result<bool, String> {
    match &config.store {
        Place::Sqlite(path) => Ok(path.exists()),
        Place::Server(url) => {
            rollbook_postgres::schema_exists(&postgres(config, url)).await.map_err(|error| error.to_string())
        }
    }
}

/// Drops the schema on the store's server with all that is in it. For what the demo has made.
///
/// # Errors
/// It is still there, and why.
pub(crate) async fn remove_store(config: &Config) -> Result<(), String> {
    match &config.store {
        Place::Sqlite(_) => Ok(()),
        Place::Server(url) => {
            rollbook_postgres::drop_schema(&postgres(config, url)).await.map_err(|error| error.to_string())
        }
    }
}

/// Whether there is a queue already, empty as it may be.
///
/// # Errors
/// Why nobody can tell.
pub(crate) async fn queue_exists(config: &Config) -> Result<bool, String> {
    match &config.queue {
        Place::Sqlite(path) => Ok(path.exists()),
        Place::Server(url) => {
            let queue = RedisQueue::new(redis(config, url), DueTimes::Server);
            let exists = async { queue?.exists().await };
            exists.await.map_err(|error| error.to_string())
        }
    }
}

/// What the clock of a part's server says; `None` where the part is a file.
///
/// # Errors
/// Why nobody can tell.
pub(crate) async fn server_time(config: &Config, part: Part) -> Option<Result<Timestamp, String>> {
    match (part, part.place(config)) {
        (_, Place::Sqlite(_)) => None,
        (Part::Queue, Place::Server(url)) => {
            let queue = RedisQueue::new(redis(config, url), DueTimes::Server);
            let time = async { queue?.server_time().await };
            Some(time.await.map_err(|error| error.to_string()))
        }
        (Part::Store, Place::Server(url)) => {
            let time = rollbook_postgres::server_time(&postgres(config, url)).await;
            Some(time.map_err(|error| error.to_string()))
        }
    }
}

/// Who the queue on a server belongs to; `None` of one in a file.
///
/// # Errors
/// Why nobody can tell.
pub(crate) async fn ownership(config: &Config) -> Option<Result<Ownership, String>> {
    let Place::Server(url) = &config.queue else { return None };
    let queue = RedisQueue::new(redis(config, url), DueTimes::Server);
    let ownership = async { queue?.ownership().await };
    Some(ownership.await.map_err(|error| error.to_string()))
}

/// What the nodes of the queue's cluster do while some slots have no node; `None` where it is not a cluster.
pub(crate) async fn full_coverage(config: &Config) -> Option<FullCoverage> {
    let Place::Server(url) = &config.queue else { return None };
    RedisQueue::new(redis(config, url), DueTimes::Server).ok()?.full_coverage().await
}

/// Deletes the queue on its server with all that is in it. For what the demo has made.
///
/// # Errors
/// It is still there, and why.
pub(crate) async fn remove_queue(config: &Config) -> Result<(), String> {
    match &config.queue {
        Place::Sqlite(_) => Ok(()),
        Place::Server(url) => {
            let queue = RedisQueue::new(redis(config, url), DueTimes::Server);
            let removed = async { queue?.remove().await };
            removed.await.map_err(|error| error.to_string())
        }
    }
}

const fn schema(part: Part) -> Schema {
    match part {
        Part::Queue => Schema::Queue,
        Part::Store => Schema::Store,
    }
}

fn in_file(part: Part, path: &Path, why: &str) -> String {
    format!("the {} in {}: {why}", part.name(), path.display())
}

fn migrations(config: &Config, part: Part, names: Vec<&'static str>) -> Migrations {
    let place = match part.place(config) {
        Place::Sqlite(path) => path.display().to_string(),
        Place::Server(_) => describe(config, part),
    };
    Migrations { part, place, names, refusal: None, newer: Vec::new() }
}
