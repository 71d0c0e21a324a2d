//! The store: the team's own tables, the copy of Clerk.
//!
//! What a store must keep is written as a conformance suite in `rollbook-testkit`
//! (`conformance::store`), which every engine passes.

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::catalog::Resource;
use crate::change::{Applied, Change};
use crate::delivery::MessageId;
use crate::merge::DeletedRows;
use crate::time::Timestamp;

/// The copy of Clerk. One call is one atomic effect: rows and ledger together, or nothing.
#[async_trait]
pub trait Store: Send + Sync {
    /// Merges changes (see [`crate::merge`]) and writes the ledger, durably and all at once. One
    /// answer per change, in their order. The same changes again, in any order, in any batches, from
    /// any number of workers, end in the same rows.
    async fn apply_many(&self, changes: &[Change]) -> Result<Vec<Applied>, StoreError>;

    /// One row, whether it lives or is deleted.
    async fn get(&self, resource: &'static Resource, id: &str) -> Result<Option<RowView>, StoreError>;

    /// Rows in the order of their ids, at most `limit`, from behind `after`.
    async fn rows(
        &self,
        resource: &'static Resource,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RowView>, StoreError>;

    /// Rows, at most `limit`, whose typed column of this name, an id or a text, is `value`.
    async fn rows_where(
        &self,
        resource: &'static Resource,
        column: &'static str,
        value: &str,
        limit: usize,
    ) -> Result<Vec<RowView>, StoreError>;

    /// What the ledger says became of a delivery.
    async fn delivery(&self, id: &MessageId) -> Result<Option<LedgerEntry>, StoreError>;

    /// What the ledger says of the deliveries about a subject: the `limit` that were applied last, in the order
    /// in which they were.
    async fn deliveries(&self, subject_id: &str, limit: usize) -> Result<Vec<LedgerEntry>, StoreError>;

    /// Removes what is kept of these subjects, whether there is anything or not: each becomes a tombstone
    /// without content whose floor is `at` or later, so that no delivery brings anything back. What is theirs
    /// by the catalog's links loses its content with them, now and when it comes later. Their lines, and those of
    /// what is theirs, leave the ledger. All at once or nothing.
    async fn erase(
        &self,
        subjects: &[(&'static Resource, String)],
        at: Timestamp,
    ) -> Result<ErasedCounts, StoreError>;

    /// One small step of what time alone brings about. Harmless from many workers at once.
    async fn tidy(&self, due: &Due) -> Result<Tidied, StoreError>;

    /// Whether the store answers. Reads only.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Writes all that a worker writes (see [`crate::rehearsal`]) in one transaction and rolls it back: whatever would
    /// refuse a worker refuses this. Nothing is kept. `false` from an engine that can't do that.
    ///
    /// # Errors
    /// What refuses it. [`StoreError::Event`] where the made-up values are refused: others may be accepted.
    async fn rehearse(&self) -> Result<bool, StoreError> {
        Ok(false)
    }
}

/// What a store keeps beside the living rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// What becomes of the content of deleted rows.
    pub deleted_rows: DeletedRows,
    /// Whether there is a ledger.
    pub ledger: bool,
}

impl Default for Keeping {
    fn default() -> Self {
        Self { deleted_rows: DeletedRows::Keep, ledger: true }
    }
}

/// What an erasure has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErasedCounts {
    /// Rows that have lost their content.
    pub rows: u64,
    /// Lines of the ledger.
    pub ledger: u64,
}

/// What time has brought about, for [`Store::tidy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Lines of the ledger go that were written before this.
    pub ledger_before: Option<Timestamp>,
    /// The content of rows goes whose `deleted_at` is before this.
    pub deleted_before: Option<Timestamp>,
    /// At most so many lines and so many rows at once.
    pub limit: usize,
}

/// What one step of tidying has done. Where a number has reached the limit, there may be more to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Lines of the ledger that are gone.
    pub ledger: u64,
    /// Rows that have lost their content.
    pub rows: u64,
}

/// A row as an application sees it: the columns of the contract by name. JSON columns are JSON,
/// times are ISO 8601 text, a missing value is null.
#[derive(Clone, Debug, PartialEq)]
pub struct RowView {
    /// Clerk's id.
    pub id: String,
    /// All columns, `id` included.
    pub columns: Map<String, Value>,
}

impl RowView {
    /// Whether the row shows as deleted.
    pub fn is_deleted(&self) -> bool {
        self.columns.get("deleted_at").is_some_and(|at| !at.is_null())
    }
}

/// One line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The `svix-id`.
    pub message_id: MessageId,
    /// The event's type.
    pub event_type: String,
    /// Whose row it was about, where that is known.
    pub subject_id: Option<String>,
    /// What it did.
    pub outcome: Applied,
    /// When it happened at Clerk's.
    pub event_at: Timestamp,
    /// When the receiver had read it.
    pub received_at: Timestamp,
    /// When it was applied.
    pub applied_at: Timestamp,
    /// How often the message had been leased when it was applied.
    pub attempts: u32,
}

/// Why a store could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The values of at least one change are refused. Nothing of the batch was written; the worker
    /// looks for the one. The text never quotes a value.
    #[error("the store refuses the values: {0}")]
    Event(String),
    /// The store can't answer now: unreachable, busy, out of space. No message is to blame.
    #[error("the store can't answer now: {0}")]
    Dependency(String),
    /// The deployment is wrong (rights, schema, a missing migration): a person must mend it. No
    /// message is to blame.
    #[error("the store is not set up right: {0}")]
    Deployment(String),
    /// The storage failed under us and what it holds is unknown until it is opened anew: this
    /// process must end.
    #[error("the store's storage failed, the process must restart: {0}")]
    Broken(String),
}

impl StoreError {
    /// Whether the same call may succeed later without anyone doing anything.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Dependency(_))
    }
}
