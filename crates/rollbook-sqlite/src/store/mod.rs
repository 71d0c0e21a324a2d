//! The store in one file: the tables of the contract and the ledger.
//!
//! A batch is one transaction: for each table the versions of the batch's subjects are read,
//! [`rollbook_core::merge::fold`] says what each change does and which one of each subject is left to
//! write, the winners go through one prepared upsert in the order of their ids, and every delivery gets
//! its line in the ledger. The transaction holds the file's only write lock from its first statement,
//! so what it read stays true until it commits; the upsert compares once more all the same.

mod apply;
mod read;
mod sql;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use rollbook_core::catalog::Resource;
use rollbook_core::change::{Applied, Change};
use rollbook_core::delivery::MessageId;
use rollbook_core::store::{LedgerEntry, RowView, Store, StoreError};
use rollbook_core::time::Clock;

use crate::connection;
use crate::database::Database;
use crate::migrations::{self, Schema};

/// A store in an SQLite file.
pub struct SqliteStore {
    database: Database,
    clock: Arc<dyn Clock>,
    statements: Arc<sql::Statements>,
}

impl SqliteStore {
    /// Opens the store in this file, whose migrations must have been applied.
    ///
    /// # Errors
    /// The file can't be opened durably, or a migration is pending.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let connection = connection::open(path)?;
        migrations::check(&connection, Schema::Store)?;
        Ok(Self { database: Database::new(connection)?, clock, statements: Arc::new(sql::Statements::new()) })
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
        let (statements, now) = (Arc::clone(&self.statements), self.clock.now());
        Ok(self.database.run(move |connection| apply::apply(connection, &statements, &changes, now)).await?)
    }

    async fn get(&self, resource: &'static Resource, id: &str) -> Result<Option<RowView>, StoreError> {
        let (statements, id) = (Arc::clone(&self.statements), id.to_owned());
        Ok(self.database.run(move |connection| read::get(connection, &statements, resource, &id)).await?)
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
            .run(move |connection| read::rows(connection, &statements, resource, &after, limit))
            .await?)
    }

    async fn delivery(&self, id: &MessageId) -> Result<Option<LedgerEntry>, StoreError> {
        let id = id.clone();
        Ok(self.database.run(move |connection| read::delivery(connection, &id)).await?)
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
}
