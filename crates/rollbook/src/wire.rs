//! From the configured places to ports. The only file that names a backend.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use rollbook_core::queue::{Consumer, Producer, QueueAdmin};
use rollbook_core::store::Store;
use rollbook_core::time::Clock;
use rollbook_sqlite::{QueueSettings, Schema, SqliteQueue, SqliteStore};

use crate::config::{Config, Place};

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

/// Opens the queue, which must be there: looking for dead letters makes no files.
pub(crate) fn open_queue(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Queue> {
    let Place::Sqlite(path) = &config.queue;
    must_exist("queue", path, "queue_url")?;
    let settings = QueueSettings { depth_max: config.queue_depth_max };
    let queue = SqliteQueue::open(path, settings, clock)
        .with_context(|| format!("the queue in {}", path.display()))?;
    let queue = Arc::new(queue);
    Ok(Queue { producer: queue.clone(), consumer: queue.clone(), admin: queue })
}

/// Opens the store, which must be there.
pub(crate) fn open_store(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Arc<dyn Store>> {
    let Place::Sqlite(path) = &config.store;
    must_exist("store", path, "database_url")?;
    let store = SqliteStore::open(path, clock).with_context(|| format!("the store in {}", path.display()))?;
    Ok(Arc::new(store))
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

/// Queue and store in words, with what makes them durable.
pub(crate) fn describe(place: &Place) -> String {
    let Place::Sqlite(path) = place;
    format!("SQLite {}, WAL, synchronous=FULL", path.display())
}

/// The steps that a database lacked, or lacks.
pub(crate) struct Migrations {
    /// `queue` or `store`.
    pub(crate) part: &'static str,
    /// Where it is.
    pub(crate) place: PathBuf,
    /// The names of the steps.
    pub(crate) names: Vec<&'static str>,
}

/// What is pending.
pub(crate) fn pending_migrations(config: &Config) -> anyhow::Result<Vec<Migrations>> {
    each_database(config, rollbook_sqlite::pending_migrations)
}

/// Applies what is pending, making folders and files that are not there.
pub(crate) fn apply_migrations(config: &Config) -> anyhow::Result<Vec<Migrations>> {
    for place in [&config.queue, &config.store] {
        let Place::Sqlite(path) = place;
        make_folder_of(path)?;
    }
    each_database(config, rollbook_sqlite::apply_migrations)
}

fn each_database(
    config: &Config,
    migrate: fn(&Path, Schema) -> Result<Vec<&'static str>, String>,
) -> anyhow::Result<Vec<Migrations>> {
    let databases = [("queue", &config.queue, Schema::Queue), ("store", &config.store, Schema::Store)];
    let each = databases.into_iter().map(|(part, place, schema)| {
        let Place::Sqlite(path) = place;
        let names =
            migrate(path, schema).map_err(|why| anyhow!("the {part} in {}: {why}", path.display()))?;
        Ok(Migrations { part, place: path.clone(), names })
    });
    each.collect()
}

/// Makes the folder of a file, for its owner alone: what will be in it is personal data.
fn make_folder_of(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("the folder {} can't be made", folder.display()))
}
