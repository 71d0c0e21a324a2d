//! The store in one file: the tables of the contract and the ledger.
//!
//! A batch is one transaction: for each table the versions of the batch's subjects are read,
//! [`rollbook_core::merge::fold`] says what each change does and which one of each subject is left to
//! write, the winners go through prepared statements in the order of their ids, and every delivery gets
//! its line in the ledger. The transaction holds the file's only write lock from its first statement,
//! so what it read stays true until it commits.

mod apply;
mod read;
mod retention;
mod sql;
mod upkeep;
mod write;

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rollbook_core::catalog::{RESOURCES, Resource};
use rollbook_core::change::{Applied, Change};
use rollbook_core::delivery::MessageId;
use rollbook_core::rehearsal;
use rollbook_core::store::{Due, ErasedCounts, Keeping, LedgerEntry, RowView, Store, StoreError, Tidied};
use rollbook_core::sweep::Sweep;
use rollbook_core::time::{Clock, Timestamp};
use rusqlite::Connection;

use self::apply::Tables;
use crate::connection;
use crate::database::Database;
use crate::fault::Fault;
use crate::migrations::{self, Guard, Schema};
use crate::rehearse::rolled_back;

/// A store in an SQLite file.
pub struct SqliteStore {
    database: Database,
    clock: Arc<dyn Clock>,
    statements: Arc<sql::Statements>,
    keeping: Keeping,
    sweep: Mutex<Sweep>,
}

impl SqliteStore {
    /// Opens the store in this file, whose migrations must have been applied.
    ///
    /// # Errors
    /// The file can't be opened durably, or a migration is pending.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let connection = connection::open(path)?;
        migrations::check(&connection, Schema::Store)?;
        let database = Database::new(connection, Some(Guard::new(Schema::Store)))?;
        let statements = Arc::new(sql::Statements::new());
        Ok(Self { database, clock, statements, keeping: Keeping::default(), sweep: Mutex::default() })
    }

    /// The same store, keeping what this says.
    #[must_use]
    pub fn keeping(self, keeping: Keeping) -> Self {
        Self { keeping, ..self }
    }

    /// Runs work on the tables in one transaction. `now` is what it takes for the present.
    async fn change<T: Send + 'static>(
        &self,
        now: Timestamp,
        work: impl Fn(&Tables<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Fault> {
        let statements = Arc::clone(&self.statements);
        let run = move |connection: &Connection| work(&Tables { connection, statements: &statements, now });
        self.database.run(run).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn apply_many(&self, changes: &[Change]) -> Result<Vec<Applied>, StoreError> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        // A copy, since the thread may still be at work when the caller has gone.
        let changes = changes.to_vec();
        let keeping = self.keeping;
        let applied = self.change(self.clock.now(), move |tables| apply::apply(tables, &changes, keeping));
        applied.await.map_err(Fault::of_batch)
    }

    async fn get(&self, resource: &'static Resource, id: &str) -> Result<Option<RowView>, StoreError> {
        let (statements, id) = (Arc::clone(&self.statements), id.to_owned());
        Ok(self.database.read(move |connection| read::get(connection, &statements, resource, &id)).await?)
    }

    async fn rows(
        &self,
        resource: &'static Resource,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RowView>, StoreError> {
        let (statements, after) = (Arc::clone(&self.statements), after.unwrap_or_default().to_owned());
        Ok(self
            .database
            .read(move |connection| read::rows(connection, &statements, resource, &after, limit))
            .await?)
    }

    async fn rows_where(
        &self,
        resource: &'static Resource,
        column: &'static str,
        value: &str,
        limit: usize,
    ) -> Result<Vec<RowView>, StoreError> {
        let value = value.to_owned();
        let read =
            move |connection: &Connection| read::rows_where(connection, resource, column, &value, limit);
        Ok(self.database.read(read).await?)
    }

    async fn deliveries(&self, subject_id: &str, limit: usize) -> Result<Vec<LedgerEntry>, StoreError> {
        let subject_id = subject_id.to_owned();
        Ok(self.database.read(move |connection| read::deliveries(connection, &subject_id, limit)).await?)
    }

    async fn erase(
        &self,
        subjects: &[(&'static Resource, String)],
        at: Timestamp,
    ) -> Result<ErasedCounts, StoreError> {
        let subjects = subjects.to_vec();
        Ok(self.change(at, move |tables| upkeep::erase(tables, &subjects)).await?)
    }

    async fn tidy(&self, due: &Due) -> Result<Tidied, StoreError> {
        self.retain(due).await
    }

    async fn delivery(&self, id: &MessageId) -> Result<Option<LedgerEntry>, StoreError> {
        let id = id.clone();
        Ok(self.database.read(move |connection| read::delivery(connection, &id)).await?)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(self
            .database
            .run(|connection| {
                connection.query_row("SELECT 1 FROM users LIMIT 1", [], |_| Ok(())).or_else(|error| {
                    if error == rusqlite::Error::QueryReturnedNoRows { Ok(()) } else { Err(error) }
                })
            })
            .await?)
    }

    async fn rehearse(&self) -> Result<bool, StoreError> {
        let (now, keeping) = (self.clock.now(), self.keeping);
        let never = Timestamp::from_millis(0);
        self.change(now, move |tables| {
            rolled_back(tables.connection, || {
                for batch in rehearsal::batches(now) {
                    apply::apply(tables, &batch, keeping)?;
                }
                for resource in RESOURCES {
                    upkeep::erase_content(tables, resource, &["nobody".to_owned()])?;
                }
                upkeep::prune(tables, never, 1)
            })
        })
        .await?;
        Ok(true)
    }
}
