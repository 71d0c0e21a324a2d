//! Store in one file: the tables of the contract and the ledger.
//!
//! A batch is one transaction. For each table it reads the versions of the batch's subjects.
//! [`rollbook_core::merge::fold`] returns the outcome of each change, and the change of each subject to
//! write. Prepared statements write these in the order of their ids, and every delivery gets its ledger
//! entry. The transaction holds the file's only write lock from its first statement, so what it read stays
//! true until it commits. Child rows are repaired in the same transaction if they are few ([`cascade`]), and
//! in steps if they are many or refuse their change ([`steps`]).

mod access;
mod apply;
mod cascade;
mod changes;
mod columns;
mod erase;
mod forwards;
mod ledger_erasure;
mod parents;
mod pending;
mod read;
mod reconcile_reads;
mod reconciliation;
mod reset;
mod retention;
mod sql;
mod steps;
mod tables;
mod upkeep;
mod write;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rollbook_core::catalog::{RESOURCES, Resource, USERS};
use rollbook_core::change::{Applied, Change};
use rollbook_core::delivery::MessageId;
use rollbook_core::pace::Pace;
use rollbook_core::rehearsal;
use rollbook_core::store::cascades::Entry;
use rollbook_core::store::{
    CascadeStep, ErasedCounts, Erasure, ErasureProgress, Freshness, Ledger, LedgerEntry, PendingCascades,
    PendingWork, Reconciliation as _, RetentionChoices, RetentionLimits, RetentionStep, RowText, RowView,
    Rows, SequenceStep, Store, StoreError,
};
use rollbook_core::sweep::{LedgerSweep, Sweep};
use rollbook_core::time::{Clock, Timestamp};
use rusqlite::Connection;
use tokio::sync::{Notify, OnceCell, watch};

use self::cascade::BATCH_MAX;
use self::pending::as_limit;
use self::read::{row_text, view};
use self::tables::{Cascading, Tables, Trail};
use crate::connection;
use crate::database::Database;
use crate::fault::Fault;
use crate::migrations::{self, Guard, Schema};
use crate::rehearse::rolled_back;

/// Store in an SQLite file.
pub struct SqliteStore {
    path: PathBuf,
    /// Reading connection for scans of many rows. It is closed first.
    scans: OnceCell<Database>,
    database: Database,
    clock: Arc<dyn Clock>,
    statements: Arc<sql::Statements>,
    retention: RetentionChoices,
    sweep: Mutex<Sweep>,
    ledger_sweep: Mutex<LedgerSweep>,
    /// Pace of steps that write rows.
    pace: Pace,
    /// Pace of steps that remove ledger entries.
    ledger_pace: Pace,
    /// Whether work is pending for [`Store::cascade`].
    left: Notify,
    /// Changes with each commit of this process, for readers of the change feed.
    written: watch::Sender<()>,
}

impl SqliteStore {
    /// Opens the store in this file. All migrations must have been applied.
    ///
    /// # Errors
    /// The file can't be opened durably, or a migration is pending.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let connection = connection::open_writer(path)?;
        migrations::check(&connection, Schema::Store)?;
        let database = Database::writing(path, connection, Some(Guard::new(Schema::Store)))?;
        let statements = Arc::new(sql::Statements::new());
        Ok(Self {
            path: path.to_owned(),
            database,
            scans: OnceCell::new(),
            clock,
            statements,
            retention: RetentionChoices::default(),
            sweep: Mutex::default(),
            ledger_sweep: Mutex::default(),
            pace: Pace::new(steps::STEP_TIME),
            ledger_pace: Pace::new(steps::STEP_TIME),
            left: Notify::new(),
            written: watch::Sender::default(),
        })
    }

    /// Sets the retention of the store.
    #[must_use]
    pub fn with_retention(self, retention: RetentionChoices) -> Self {
        Self { retention, ..self }
    }

    /// Runs work on the tables in one transaction. `now` is its current time.
    async fn change<T: Send + 'static>(
        &self,
        now: Timestamp,
        work: impl Fn(&Tables<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Fault> {
        self.change_with(now, BATCH_MAX, Arc::default(), work).await
    }

    /// Runs work in one transaction. If a child row refuses its change, the work is repeated without repairs,
    /// and the rows that it leaves wrong are recorded.
    async fn change_around_children<T: Send + 'static>(
        &self,
        work: impl Fn(&Tables<'_>) -> rusqlite::Result<T> + Clone + Send + 'static,
    ) -> Result<T, Fault> {
        let (now, trail) = (self.clock.now(), Arc::new(Trail::default()));
        let mut done = self.change_with(now, BATCH_MAX, Arc::clone(&trail), work.clone()).await;
        if matches!(done, Err(Fault::Data(_) | Fault::Statement(_))) && trail.failed_in_child() {
            done = self.change_with(now, 0, Arc::clone(&trail), work).await;
        }
        if done.is_ok() && trail.has_noted() {
            tracing::info!(
                "child rows of deleted parents are many, or some could not be changed: a background task processes \
                 them in steps"
            );
            self.left.notify_one();
        }
        done
    }

    /// Runs work in one transaction, with room to repair this many child rows. The trail reports the result.
    async fn change_with<T: Send + 'static>(
        &self,
        now: Timestamp,
        room: usize,
        trail: Arc<Trail>,
        work: impl Fn(&Tables<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Fault> {
        let statements = Arc::clone(&self.statements);
        let run = move |connection: &Connection| {
            // Work is repeated if other work of its transaction failed.
            let cascading = Cascading::new(room, &trail);
            work(&Tables { connection, statements: &statements, now, cascading })
        };
        let done = self.database.run(run).await;
        self.written.send_replace(());
        done
    }

    /// Returns the connection for scans, which is opened when it is first needed.
    async fn scans(&self) -> Result<&Database, Fault> {
        let open = async || {
            let connection = connection::open_reader(&self.path)?;
            Database::new(connection, Some(Guard::new(Schema::Store)))
        };
        self.scans.get_or_try_init(open).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn apply_many(&self, changes: &[Change]) -> Result<Vec<Applied>, StoreError> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        // A copy: the thread may still work when the caller was cancelled.
        let changes: Arc<[Change]> = changes.into();
        let retention = self.retention;
        let applied = self.change_around_children(move |tables| apply::apply(tables, &changes, retention));
        applied.await.map_err(Fault::of_batch)
    }

    async fn remember_instance(&self, id: &str) -> Result<(), StoreError> {
        self.save_freshness(&Freshness::of_instance(id, self.clock.now())).await
    }

    async fn cascade(&self) -> Result<CascadeStep, StoreError> {
        self.turn().await
    }

    async fn cascade_pending(&self) {
        self.left.notified().await;
    }

    async fn sequence(&self) -> Result<SequenceStep, StoreError> {
        let last = self.database.read(changes::state).await?.last;
        Ok(SequenceStep { last: Some(last), ..SequenceStep::default() })
    }

    async fn retain(&self, due: &RetentionLimits) -> Result<RetentionStep, StoreError> {
        self.retain(due).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let sql = "SELECT 1 FROM users LIMIT 1";
        Ok(self.database.run(|connection| connection.prepare(sql)?.exists(()).map(drop)).await?)
    }

    async fn rehearse(&self) -> Result<bool, StoreError> {
        let (now, retention) = (self.clock.now(), self.retention);
        let never = Timestamp::from_millis(0);
        self.change(now, move |tables| {
            rolled_back(tables.connection, || {
                for batch in rehearsal::batches(now) {
                    apply::apply(tables, &batch, retention)?;
                }
                let left = Entry::new(&USERS, "nobody".to_owned(), PendingWork::Children);
                let noted = pending::note(tables.connection, &left, now, now)?;
                pending::remove(tables.connection, &noted)?;
                for resource in RESOURCES {
                    upkeep::erase_content(tables, resource, &["nobody".to_owned()])?;
                }
                upkeep::old_entries(tables.connection, never, ("", "[]"), 1)?;
                ledger_erasure::remove(tables, r#"["nobody"]"#)
            })
        })
        .await?;
        Ok(true)
    }
}

#[async_trait]
impl Rows for SqliteStore {
    async fn get(&self, resource: &'static Resource, id: &str) -> Result<Option<RowView>, StoreError> {
        let sql = self.statements.of(resource).get.clone();
        Ok(self.database.rows(sql, (id.to_owned(),), move |row| view(resource, row)).await?.pop())
    }

    async fn get_text(&self, resource: &'static Resource, id: &str) -> Result<Option<RowText>, StoreError> {
        let sql = self.statements.of(resource).get.clone();
        Ok(self.database.rows(sql, (id.to_owned(),), move |row| row_text(resource, row)).await?.pop())
    }

    async fn rows(
        &self,
        resource: &'static Resource,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RowView>, StoreError> {
        let sql = self.statements.of(resource).rows.clone();
        let values = (after.unwrap_or_default().to_owned(), as_limit(limit));
        Ok(self.database.rows(sql, values, move |row| view(resource, row)).await?)
    }

    async fn rows_where(
        &self,
        resource: &'static Resource,
        column: &'static str,
        value: &str,
        limit: usize,
    ) -> Result<Vec<RowView>, StoreError> {
        let Some(sql) = sql::rows_where(resource, column) else { return Ok(Vec::new()) };
        let values = (value.to_owned(), as_limit(limit));
        Ok(self.database.rows(sql, values, move |row| view(resource, row)).await?)
    }

    async fn cascades(&self, about: Option<&str>, limit: usize) -> Result<PendingCascades, StoreError> {
        let about = about.map(str::to_owned);
        Ok(self.database.read(move |connection| pending::list(connection, about.as_deref(), limit)).await?)
    }
}

#[async_trait]
impl Ledger for SqliteStore {
    async fn deliveries(&self, subject_id: &str, limit: usize) -> Result<Vec<LedgerEntry>, StoreError> {
        let subject_id = subject_id.to_owned();
        Ok(self.database.read(move |connection| read::deliveries(connection, &subject_id, limit)).await?)
    }

    async fn delivery(&self, id: &MessageId) -> Result<Option<LedgerEntry>, StoreError> {
        let id = id.clone();
        Ok(self.database.read(move |connection| read::delivery(connection, &id)).await?)
    }
}

#[async_trait]
impl Erasure for SqliteStore {
    async fn erase_in_steps(
        &self,
        subjects: &[(&'static Resource, String)],
        at: Timestamp,
        progress: &ErasureProgress<'_>,
    ) -> Result<ErasedCounts, StoreError> {
        self.erase_subjects(subjects, at, progress).await
    }
}
