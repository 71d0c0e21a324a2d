//! Wiring: makes ports and settings of the faces from the configuration. No other file names a backend.
//!
//! Opening a server makes no connection: the server may be unreachable, and its users try again. A file must exist.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rollbook_clerk::{ApiUrl, ClerkSettings, SecretKey};
pub(crate) use rollbook_clerk::{CODE_BROKEN, CODE_TIMEOUT, CODE_UNREACHABLE, ClerkApi, Observer};
pub(crate) use rollbook_core::backend::PendingError;
use rollbook_core::backend::{Backend, Pending};
use rollbook_core::merge::DeletedRows;
use rollbook_core::queue::{Consumer, Producer, QueueAdmin};
use rollbook_core::retry::RetryPolicy;
use rollbook_core::signature::SigningSecrets;
use rollbook_core::store::{FullStore, RetentionChoices};
use rollbook_core::time::Clock;
pub(crate) use rollbook_postgres::Ignored;
use rollbook_postgres::{PostgresSettings, PostgresStore};
use rollbook_reconciler::{Ports, Reconciler};
use rollbook_redis::{ClockSource, Owner, RedisQueue, RedisSettings};
pub(crate) use rollbook_redis::{FullCoverage, Ownership};
use rollbook_sqlite::{Feed, QueueSettings, Schema, SqliteFile, SqliteQueue, SqliteStore};
use rollbook_worker::UpkeepSettings;
use tokio_util::sync::CancellationToken;

use crate::config::{About, Config, Place, Problems, ServerUrl, Settings};

/// Fix for a pooler that no setting names.
pub(crate) const POOLER_FIX: &str = PostgresSettings::POOLER_FIX;
/// Share of the drain timeout that the receiver has; the rest is for the worker to release its leases.
const RECEIVER_DRAIN_PERCENT: u32 = 80;

/// Queue, with one port for each of its three users.
#[derive(Clone)]
pub(crate) struct Queue {
    /// Port of the receiver.
    pub(crate) producer: Arc<dyn Producer>,
    /// Port of the worker.
    pub(crate) consumer: Arc<dyn Consumer>,
    /// Port of ops and operators.
    pub(crate) admin: Arc<dyn QueueAdmin>,
}

impl Queue {
    fn of<Q: Producer + Consumer + QueueAdmin + 'static>(queue: Q) -> Self {
        let queue = Arc::new(queue);
        Self { producer: queue.clone(), consumer: queue.clone(), admin: queue }
    }
}

/// Part of Rollbook that stores data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Component {
    /// The queue.
    Queue,
    /// The store.
    Store,
}

impl Component {
    /// Both parts.
    pub(crate) const ALL: [Self; 2] = [Self::Queue, Self::Store];

    /// Returns the name of the part.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Store => "store",
        }
    }

    /// Returns the place of the part.
    pub(crate) const fn place(self, config: &Config) -> &Place {
        match self {
            Self::Queue => &config.places.queue,
            Self::Store => &config.places.store,
        }
    }
}

/// Opens the queue. A file must exist: a command that lists dead letters creates none.
///
/// # Errors
/// The file does not exist or lacks a migration, or the URL of the server is not valid.
pub(crate) fn open_queue(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Queue> {
    match &config.places.queue {
        Place::Sqlite(path) => {
            must_exist(Component::Queue, path, &Settings::queue_url().about)?;
            let depth_max = config.settings.queue_depth_max;
            let settings = QueueSettings { depth_max, due_ahead_max: due_ahead_max(config) };
            let queue = SqliteQueue::open(path, settings, clock)
                .with_context(|| format!("the queue in {}", path.display()))?;
            Ok(Queue::of(queue))
        }
        Place::Server(url) => {
            check_server(config, Component::Queue)?;
            Ok(Queue::of(RedisQueue::new(redis(config, url), ClockSource::Server)?))
        }
    }
}

/// Returns how far ahead of now a due time may lie in the queue: no lease and no backoff lasts longer.
fn due_ahead_max(config: &Config) -> Duration {
    config.settings.lease_for.max(config.settings.backoff_max)
}

/// Opens the store.
///
/// # Errors
/// The file does not exist or lacks a migration, or the URL of the server is not valid.
pub(crate) fn open_store(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Arc<dyn FullStore>> {
    match &config.places.store {
        Place::Sqlite(path) => {
            must_exist(Component::Store, path, &Settings::database_url().about)?;
            let store =
                SqliteStore::open(path, clock).with_context(|| format!("the store in {}", path.display()))?;
            Ok(Arc::new(store.with_retention(retention(config))))
        }
        Place::Server(url) => {
            check_server(config, Component::Store)?;
            Ok(Arc::new(PostgresStore::new(postgres(config, url), clock)?.with_retention(retention(config))))
        }
    }
}

fn redis(config: &Config, url: &ServerUrl) -> RedisSettings {
    let settings = &config.settings;
    let secrets = settings.clerk_webhook_signing_secret.as_ref();
    RedisSettings {
        url: url.as_str().to_owned(),
        ca_file: settings.redis_ca_file.clone(),
        fingerprints: settings.redis_fingerprint.clone().unwrap_or_default(),
        key_prefix: settings.redis_key_prefix.clone(),
        owner: Owner {
            instance_id: settings.clerk_instance_id.clone(),
            fingerprints: secrets.map_or_else(Vec::new, SigningSecrets::fingerprints),
        },
        depth_max: settings.queue_depth_max,
        shards: settings.queue_shards,
        strict: config.is_strict(),
        trusted: config.is_trusted(),
        replicas: settings.redis_replicas,
        due_ahead_max: due_ahead_max(config),
        lease_for: settings.lease_for,
        call_timeout: settings.redis_timeout,
        idle_poll: settings.redis_idle_poll,
    }
}

fn postgres(config: &Config, url: &ServerUrl) -> PostgresSettings {
    let settings = &config.settings;
    PostgresSettings {
        url: url.as_str().to_owned(),
        schema: settings.schema.clone(),
        changes: settings.changes,
        pgbouncer: settings.pgbouncer,
        connections_max: settings.database_connections_max,
        statement_timeout: settings.statement_timeout,
        connect_timeout: settings.database_connect_timeout,
    }
}

fn file(config: &Config, path: &Path, part: Component) -> SqliteFile {
    let schema = match part {
        Component::Queue => Schema::Queue,
        Component::Store => Schema::Store,
    };
    SqliteFile { path: path.to_owned(), schema, feed: Feed::of(config.settings.changes) }
}

/// Points a configuration to this API of Clerk.
///
/// # Errors
/// A text is not a URL or a key. The error does not repeat it.
pub(crate) fn use_clerk(config: &mut Config, url: &str, key: &str) -> anyhow::Result<()> {
    config.settings.clerk_api_url = ApiUrl::parse(url)?;
    config.settings.clerk_secret_key = Some(SecretKey::parse(key)?);
    Ok(())
}

/// Creates the client of Clerk's API. Nothing is sent yet.
///
/// # Errors
/// No key is set, or this system has no root certificates.
pub(crate) fn clerk_api(config: &Config, observer: Observer) -> anyhow::Result<Arc<ClerkApi>> {
    let settings = &config.settings;
    let (url, budget) = (settings.clerk_api_url.clone(), settings.api_budget);
    let api = ClerkApi::new(ClerkSettings { url, budget, ..ClerkSettings::new(config.secret_key()?) })?;
    Ok(Arc::new(api.with_observer(observer)))
}

/// Creates a reconciler on a client of Clerk's API.
pub(crate) fn reconciler(
    config: &Config,
    source: Arc<ClerkApi>,
    store: Arc<dyn FullStore>,
    clock: Arc<dyn Clock>,
) -> Reconciler {
    let parallel = rollbook_reconciler::Settings::pages_at_once(source.requests_per_second());
    let ports = Ports { source, store: store.clone(), rows: store.clone(), records: store, clock };
    let instance_id = config.settings.clerk_instance_id.clone();
    let settings =
        rollbook_reconciler::Settings { instance_id, parallel, ..rollbook_reconciler::Settings::default() };
    Reconciler::new(ports, settings)
}

/// Returns the limits of the receiver.
pub(crate) fn receiver_settings(config: &Config) -> rollbook_receiver::Settings {
    let settings = &config.settings;
    rollbook_receiver::Settings {
        webhook_paths: settings.webhook_path.clone(),
        header_timeout: settings.header_timeout,
        idle_timeout: settings.idle_timeout,
        connection_age_max: settings.connection_age_max,
        body_timeout: settings.body_timeout,
        body_rate_min: settings.body_rate_min,
        body_window: rollbook_receiver::BODY_WINDOW,
        request_timeout: settings.request_timeout,
        enqueue_timeout: settings.enqueue_timeout,
        stop_delay: settings.stop_delay,
        drain_timeout: settings.drain_timeout * RECEIVER_DRAIN_PERCENT / 100,
        tolerance: settings.tolerance,
        body_max: settings.body_max,
        buffered_max: settings.buffered_max,
        connections_max: settings.connections_max,
        in_flight_max: settings.in_flight_max,
        batch_max: settings.enqueue_batch_max,
        batch_bytes_max: settings.enqueue_bytes_max,
    }
}

/// Returns the limits of the worker.
pub(crate) fn worker_settings(config: &Config) -> rollbook_worker::Settings {
    let settings = &config.settings;
    // With `erase`, content that was kept under an earlier choice is erased too.
    let erases = settings.deleted_rows == DeletedRows::Erase;
    rollbook_worker::Settings {
        lanes: settings.lanes,
        batch_max: settings.lease_batch_max,
        lease_bytes_max: settings.lease_bytes_max,
        lease_for: settings.lease_for,
        lease_wait: settings.lease_wait,
        lease_linger: settings.lease_linger,
        retry: RetryPolicy {
            backoff: settings.backoff,
            backoff_max: settings.backoff_max,
            attempts_max: settings.attempts_max,
        },
        instance_id: settings.clerk_instance_id.clone(),
        gate_backoff: settings.gate_backoff,
        gate_backoff_max: settings.gate_backoff_max,
        upkeep: UpkeepSettings {
            ledger_kept_for: settings.ledger_kept_for,
            deleted_kept_for: if erases { Some(Duration::ZERO) } else { settings.deleted_rows_kept_for },
            changes_kept_for: settings.changes_kept_for,
            ..UpkeepSettings::default()
        },
    }
}

fn retention(config: &Config) -> RetentionChoices {
    RetentionChoices { deleted_rows: config.settings.deleted_rows, ledger: config.settings.ledger }
}

/// Returns the queue or the store as a backend that can be set up. Nothing is opened.
pub(crate) fn backend(config: &Config, part: Component) -> Box<dyn Backend> {
    match (part, part.place(config)) {
        (_, Place::Sqlite(path)) => Box::new(file(config, path, part)),
        (Component::Queue, Place::Server(url)) => Box::new(redis(config, url)),
        (Component::Store, Place::Server(url)) => Box::new(postgres(config, url)),
    }
}

/// Describes place and kind of a part, without user and password.
pub(crate) fn describe(config: &Config, part: Component) -> String {
    backend(config, part).describe()
}

/// Refuses settings of a part's server that can't be used. The problems name the setting of its URL.
///
/// # Errors
/// The problems of the settings.
pub(crate) fn check_server(config: &Config, part: Component) -> Result<(), Problems> {
    let fix = "rollbook config shows each setting and its source";
    let refused = |wrong| Problems(vec![config.problem(url_setting(config, part), wrong, fix)]);
    backend(config, part).check().map_err(refused)
}

/// Returns the setting that names the place of a part.
pub(crate) fn url_setting(config: &Config, part: Component) -> &'static About {
    match part {
        Component::Queue => config.queue_setting(),
        Component::Store => &Settings::database_url().about,
    }
}

fn must_exist(part: Component, path: &Path, setting: &About) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    bail!(
        "there is no {} in {}: name the right one by data_dir or {}, or make it: rollbook migrate",
        part.name(),
        path.display(),
        setting.key
    )
}

/// Migrations of a part.
pub(crate) struct Migrations {
    /// Part that the migrations belong to.
    pub(crate) part: Component,
    /// Path of the file, or a description of the server.
    pub(crate) place: String,
    /// Names of the migrations that are pending or were applied. A queue on Redis has none.
    pub(crate) names: Vec<&'static str>,
    /// Reason why this Rollbook must not work on a server's database even after all migrations. Waiting does not help.
    pub(crate) refusal: Option<String>,
    /// Names of migrations of a newer Rollbook that this one works with.
    pub(crate) newer: Vec<String>,
}

/// Returns the pending migrations.
///
/// # Errors
/// The migrations can't be read; the error names the place. A server may be unreachable, a file unreadable.
pub(crate) async fn pending_migrations(config: &Config, part: Component) -> Result<Migrations, PendingError> {
    Ok(migrations(config, part, backend(config, part).pending().await?))
}

/// Applies pending migrations, and creates missing folders and files.
///
/// # Errors
/// The migrations can't be read, or one fails. A stop rolls back the migration of a file.
pub(crate) async fn apply_migrations(
    config: &Config,
    part: Component,
    stop: &CancellationToken,
) -> Result<Migrations, String> {
    let stop = stop.clone();
    let names = backend(config, part).migrate(Arc::new(move || stop.is_cancelled())).await?;
    Ok(migrations(config, part, Pending { names, ..Pending::default() }))
}

/// Returns the owner of a queue on a server; `None` for a queue in a file.
///
/// # Errors
/// The server can't be asked.
pub(crate) async fn ownership(config: &Config) -> Option<Result<Ownership, String>> {
    let url = config.places.queue.server()?;
    let ownership = async { RedisQueue::new(redis(config, url), ClockSource::Server)?.ownership().await };
    Some(ownership.await.map_err(|error| error.to_string()))
}

/// Returns what the nodes of the queue's cluster do while some slots have no node; `None` if it is not a cluster.
pub(crate) async fn full_coverage(config: &Config) -> Option<FullCoverage> {
    let Place::Server(url) = &config.places.queue else { return None };
    RedisQueue::new(redis(config, url), ClockSource::Server).ok()?.full_coverage().await
}

/// Returns what the store's URL has that has no effect; `None` for a file.
pub(crate) fn ignored(config: &Config) -> Option<Ignored> {
    Some(postgres(config, config.places.store.server()?).ignored())
}

fn migrations(config: &Config, part: Component, pending: Pending) -> Migrations {
    let place = match part.place(config) {
        Place::Sqlite(path) => path.display().to_string(),
        Place::Server(_) => describe(config, part),
    };
    Migrations { part, place, names: pending.names, refusal: pending.refusal, newer: pending.newer }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, FileSource, Sources};

    #[test]
    fn the_default_settings_of_the_faces_are_the_defaults_of_the_configuration() {
        let sources = Sources { flags: &[], environment: Environment::of(&[]), file: FileSource::None };
        let config = Config::load(&sources).unwrap_or_else(|problems| panic!("{problems}"));
        let receiver = rollbook_receiver::Settings::default();
        assert_eq!(config.settings.drain_timeout, receiver.drain_timeout);
        let drain_timeout = receiver_settings(&config).drain_timeout;
        assert_eq!(drain_timeout, Duration::from_secs(20));
        assert_eq!(receiver_settings(&config), rollbook_receiver::Settings { drain_timeout, ..receiver });
        assert_eq!(worker_settings(&config), rollbook_worker::Settings::default());
        assert_eq!(retention(&config), RetentionChoices::default());
    }
}
