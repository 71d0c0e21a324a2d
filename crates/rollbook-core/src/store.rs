//! The store: the team's own tables, the copy of Clerk.
//!
//! What a store must keep is written as a conformance suite in `rollbook-testkit`
//! (`conformance::store`), which every engine passes.

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::catalog::Resource;
use crate::change::{Applied, Change};
use crate::delivery::MessageId;

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

    /// What the ledger says became of a delivery.
    async fn delivery(&self, id: &MessageId) -> Result<Option<LedgerEntry>, StoreError>;

    /// Whether the store answers. Reads only.
    async fn ping(&self) -> Result<(), StoreError>;
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
    /// The event's type.
    pub event_type: String,
    /// Whose row it was about, where that is known.
    pub subject_id: Option<String>,
    /// What it did.
    pub outcome: Applied,
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
