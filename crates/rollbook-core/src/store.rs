//! The store: the team's own tables, the copy of Clerk.
//!
//! What a store must keep is written as a conformance suite in `rollbook-testkit`
//! (`conformance::store`), which every engine passes.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::catalog::Resource;
use crate::change::{Applied, Change};
use crate::delivery::MessageId;
use crate::merge::DeletedRows;
use crate::protection::Protection;
use crate::time::Timestamp;

/// Rows that [`Store::ids_holding`] reads at once. A row may have a megabyte of content.
const HOLDING_PAGE: usize = 200;

/// Whether a text in it, however deep, contains one of these, which are in lower case.
fn holds_any(value: &Value, texts: &[String]) -> bool {
    match value {
        Value::String(text) => {
            let text = text.to_lowercase();
            texts.iter().any(|wanted| text.contains(wanted.as_str()))
        }
        Value::Array(elements) => elements.iter().any(|element| holds_any(element, texts)),
        Value::Object(object) => object.values().any(|value| holds_any(value, texts)),
        _ => false,
    }
}

/// The copy of Clerk. Applying is one atomic effect: rows and ledger together, or nothing.
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

    /// The ids of rows, at most `limit`, whose `data` may hold one of these texts. Upper and lower case are the same. The
    /// whole table is read, in small steps. A row that holds one is always among them; others may be, so that the caller
    /// reads each.
    async fn ids_holding(
        &self,
        resource: &'static Resource,
        texts: &[String],
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        let texts: Vec<String> = texts.iter().map(|text| text.to_lowercase()).collect();
        let (mut ids, mut after) = (Vec::new(), None);
        if texts.is_empty() {
            return Ok(ids);
        }
        loop {
            let page = self.rows(resource, after.as_deref(), HOLDING_PAGE).await?;
            let Some(last) = page.last() else { return Ok(ids) };
            after = Some(last.id.clone());
            let holding =
                page.iter().filter(|row| row.columns.get("data").is_some_and(|data| holds_any(data, &texts)));
            ids.extend(holding.map(|row| row.id.clone()));
            if ids.len() >= limit {
                ids.truncate(limit);
                return Ok(ids);
            }
        }
    }

    /// What the ledger says became of a delivery.
    async fn delivery(&self, id: &MessageId) -> Result<Option<LedgerEntry>, StoreError>;

    /// What the ledger says of the deliveries about a subject: the `limit` that were applied last, in the order
    /// in which they were.
    async fn deliveries(&self, subject_id: &str, limit: usize) -> Result<Vec<LedgerEntry>, StoreError>;

    /// Removes what is kept of these subjects, whether there is anything or not: each becomes a tombstone
    /// without content whose floor is `at` or later, so that no delivery brings anything back. What is theirs
    /// by the catalog's links loses its content with them, now and when it comes later. Their lines, and those of
    /// what is theirs, leave the ledger. An engine may work in steps: see [`Store::erase_in_steps`].
    async fn erase(
        &self,
        subjects: &[(&'static Resource, String)],
        at: Timestamp,
    ) -> Result<ErasedCounts, StoreError>;

    /// Erases as [`Self::erase`] does, and reports progress. An engine that can hold many child rows works in steps and
    /// commits each: first the tombstones, from which on nothing can come back, then the rows of theirs and the
    /// ledger's lines. After an error what is done stays, and the same call again goes on from there.
    async fn erase_in_steps(
        &self,
        subjects: &[(&'static Resource, String)],
        at: Timestamp,
        _progress: &ErasureProgress<'_>,
    ) -> Result<ErasedCounts, StoreError> {
        self.erase(subjects, at).await
    }

    /// Works for a few seconds at most on what is left to do for rows whose parents were deleted or erased, in small
    /// steps, each committed. Harmless from many workers at once. An engine that never leaves anything does nothing.
    async fn cascade(&self) -> Result<Cascaded, StoreError> {
        Ok(Cascaded::default())
    }

    /// Returns when this process has left something for [`Store::cascade`].
    async fn cascade_left(&self) {
        std::future::pending::<()>().await;
    }

    /// What is left to do for rows whose parents were deleted or erased: of all, or of the parent or row with this
    /// id. At most `limit` of it is listed, the oldest first.
    async fn cascades(&self, _about: Option<&str>, _limit: usize) -> Result<Cascades, StoreError> {
        Ok(Cascades::default())
    }

    /// One small step of what time alone brings about. Harmless from many workers at once.
    async fn tidy(&self, due: &Due) -> Result<Tidied, StoreError>;

    /// How the latest connection to the store is protected; `None` before the first. Asks nobody.
    fn protection(&self) -> Option<Protection> {
        Some(Protection::Local)
    }

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

/// Is called with what an erasure has removed so far.
pub type ErasureProgress<'a> = dyn Fn(ErasedCounts) + Send + Sync + 'a;

/// What a call of [`Store::cascade`] has done, and what is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cascaded {
    /// Rows that got what they should have from their parents.
    pub rows: u64,
    /// Rows that refused their change: each is tried again by itself.
    pub refused: u64,
    /// Parents with rows that are not looked at yet.
    pub parents_left: u64,
    /// Rows that have refused their change and wait for their next try.
    pub rows_left: u64,
    /// How long until something that is left is due; `None` where nothing is left.
    pub due_in: Option<Duration>,
}

/// What is left to do for rows whose parents were deleted or erased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cascades {
    /// Parents with rows that are not looked at yet.
    pub parents: u64,
    /// Rows that have refused their change.
    pub rows: u64,
    /// Some of both, the oldest first.
    pub listed: Vec<PendingCascade>,
}

/// A parent or a row with something left to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingCascade {
    /// The table of the parent or the row.
    pub table: String,
    /// Its id.
    pub id: String,
    /// What is left.
    pub what: PendingWork,
    /// The table and id of the parent whose deletion a row does not show yet, where that is known.
    pub parent: Option<(String, String)>,
    /// Since when it is left.
    pub noted_at: Timestamp,
    /// How often it was refused or timed out.
    pub attempts: u32,
    /// When it is tried again.
    pub next_try_at: Timestamp,
    /// Why it was refused last. Names no values.
    pub last_error: Option<String>,
}

/// What is left to do of a cascade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingWork {
    /// All rows that hang on a parent are to be looked at.
    Children,
    /// One row does not show its parents' deletion.
    Row,
    /// One row keeps content that it should have lost by now.
    Content,
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
    /// The call ran into a time limit, and nothing of the batch was written. One row may be to blame (a slow trigger,
    /// a locked row), or all are slow. The worker tries smaller batches.
    #[error("the store is too slow for this batch: {detail}")]
    Slow {
        /// Which limit it was.
        cause: SlowCause,
        /// Where, and what to look at.
        detail: String,
    },
    /// Something failed that one change may cause, or all. Nothing of the batch was written. The worker looks for the
    /// one. Where every change fails, the error inside is the right one.
    #[error("{0}")]
    Ambiguous(Box<Self>),
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
        match self {
            Self::Dependency(_) | Self::Slow { .. } => true,
            Self::Ambiguous(inner) => inner.is_transient(),
            Self::Event(_) | Self::Deployment(_) | Self::Broken(_) => false,
        }
    }

    /// The error itself, once it is clear that no single change is to blame.
    #[must_use]
    pub fn unblamed(&self) -> &Self {
        if let Self::Ambiguous(inner) = self { inner.unblamed() } else { self }
    }
}

/// Which time limit a call to the store ran into: a closed list, so that it can be a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlowCause {
    /// One statement took too long: a slow trigger, a slow disk, or it was cancelled.
    Statement,
    /// Another session holds a lock on a row or a table.
    Lock,
    /// Other sessions write the same rows in another order, again and again.
    Conflict,
    /// The call as a whole took too long.
    Call,
}

impl SlowCause {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Statement, Self::Lock, Self::Conflict, Self::Call];

    /// The name used in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Statement => "statement_timeout",
            Self::Lock => "lock_timeout",
            Self::Conflict => "conflict",
            Self::Call => "call_timeout",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ambiguous_error_is_as_transient_as_the_error_inside() {
        for (inner, is_transient) in [
            (StoreError::Dependency("disk full".into()), true),
            (StoreError::Deployment("no right".into()), false),
        ] {
            let error = StoreError::Ambiguous(Box::new(inner.clone()));
            assert_eq!((error.is_transient(), error.unblamed()), (is_transient, &inner));
            assert_eq!(error.to_string(), inner.to_string());
        }
    }
}
