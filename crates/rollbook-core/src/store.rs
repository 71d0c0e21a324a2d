//! The store: the team's own tables, which are a copy of Clerk's data.
//!
//! The conformance suite in `rollbook-testkit` (`conformance::store`) specifies the behaviour of a store.
//! Every engine passes it.

mod access;
pub mod cascades;
mod changes;
mod erasure;
mod forwards;
mod ledger;
mod open_changes;
mod reconciliation;
mod rows;
mod search;
pub mod turn;

use async_trait::async_trait;

pub use self::access::{Access, ContextRows, ITEMS_MAX, Member, MembersOf, STATUSES_OVER};
pub use self::cascades::{CascadeStep, PendingCascade, PendingCascades, PendingWork};
pub use self::changes::{
    ChangeKind, ChangeLine, ChangeOrigin, Changes, ChangesError, ChangesPage, ChangesQuery, FeedState,
    GENERATION_MAX, Generation, LINES_MAX, PASSED_MAX, Position, SequenceStep, WAITING_COUNTED_MAX,
    reading_context,
};
pub use self::erasure::{ErasedCounts, Erasure, ErasureProgress};
pub use self::forwards::{
    FORWARD_CHANGES_MAX, Forward, ForwardChange, ForwardMove, ForwardProgress, ForwardState, ForwardStop,
    Forwards,
};
pub use self::ledger::{Ledger, LedgerEntry, UnknownOutcome};
pub use self::open_changes::OpenChanges;
pub use self::reconciliation::{
    Freshness, Head, Held, HeldCount, HeldKey, HeldState, LOCK_MAX, Living, PRUNED_MAX, RUNS_KEPT_FOR,
    RUNS_KEPT_MIN, Reconciliation, Reset, Run, RunState,
};
pub use self::rows::{ReadProgress, RowText, RowView, Rows};
use crate::change::{Applied, Change};
use crate::merge::DeletedRows;
use crate::protection::Protection;
use crate::time::Timestamp;

/// Port of the worker. Applying a batch is atomic: rows and ledger are written together, or nothing is.
#[async_trait]
pub trait Store: Send + Sync {
    /// Merges changes (see [`crate::merge`]) and writes the ledger, atomically and durably. Returns one
    /// outcome per change, in the same order. Applying the same changes again, in any order, in any batches
    /// and from any number of workers, gives the same rows.
    async fn apply_many(&self, changes: &[Change]) -> Result<Vec<Applied>, StoreError>;

    /// Remembers that rows come from this Clerk instance, for good ([`Freshness::instance`]). A worker calls it
    /// before it applies the first event of an instance: a reconciliation deletes nothing with the key of another
    /// one.
    async fn remember_instance(&self, _id: &str) -> Result<(), StoreError> {
        Ok(())
    }

    /// Continues pending cascades: child rows of deleted or erased parents. Works in small steps, each
    /// committed, for a few seconds at most. Safe to call from many workers at once. An engine without
    /// pending cascades does nothing.
    async fn cascade(&self) -> Result<CascadeStep, StoreError> {
        Ok(CascadeStep::default())
    }

    /// Returns when this process has left work for [`Store::cascade`].
    async fn cascade_pending(&self) {
        std::future::pending::<()>().await;
    }

    /// Gives lines of the change feed their positions, in one step. Safe to call from many workers at once. An engine that
    /// writes lines with their positions has nothing to do.
    async fn sequence(&self) -> Result<SequenceStep, StoreError> {
        Ok(SequenceStep::default())
    }

    /// Returns when this process may have left lines for [`Store::sequence`].
    async fn sequence_pending(&self) {
        std::future::pending::<()>().await;
    }

    /// Performs one small step of retention. Safe to call from many workers at once.
    async fn retain(&self, due: &RetentionLimits) -> Result<RetentionStep, StoreError>;

    /// Returns the protection of the latest connection to the store, or `None` before the first. Makes no
    /// request.
    fn protection(&self) -> Option<Protection> {
        Some(Protection::Local)
    }

    /// Checks that the store answers. Reads only.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Writes everything that a worker writes (see [`crate::rehearsal`]) in one transaction, and rolls it
    /// back. A store that would refuse a worker refuses this too. Nothing is kept. Returns `false` if the
    /// engine does not support it.
    ///
    /// # Errors
    /// The refusal of the store. [`StoreError::Event`] if it refuses the made-up values: it may accept
    /// others.
    async fn rehearse(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Returns the functions of a team's triggers on new users and organizations that have no search path of their own.
    /// They find their tables by the path of whoever writes the row, and a placeholder row is written with another path
    /// than a worker's.
    async fn unpinned_triggers(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }
}

/// Ports of a reader, who cannot write.
pub trait Reads: Rows + Ledger {}

impl<S: Rows + Ledger + ?Sized> Reads for S {}

/// A store with all its ports, as an engine implements it.
pub trait FullStore: Store + Reads + Access + Erasure + Reconciliation + Changes + Forwards {}

impl<S: Store + Reads + Access + Erasure + Reconciliation + Changes + Forwards + ?Sized> FullStore for S {}

/// Retention choices: data that a store keeps in addition to live rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionChoices {
    /// Treatment of the content of deleted rows.
    pub deleted_rows: DeletedRows,
    /// Whether the store has a ledger.
    pub ledger: bool,
}

impl Default for RetentionChoices {
    fn default() -> Self {
        Self { deleted_rows: DeletedRows::Keep, ledger: true }
    }
}

/// Limits of one retention step, for [`Store::retain`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionLimits {
    /// Ledger entries written before this time are removed.
    pub ledger_before: Option<Timestamp>,
    /// Rows with `deleted_at` before this time lose their content.
    pub deleted_before: Option<Timestamp>,
    /// Lines of the change feed from before this time are removed.
    pub changes_before: Option<Timestamp>,
    /// Maximum number of ledger entries, of rows, and of lines, per step.
    pub limit: usize,
}

/// Result of one retention step. If a number equals the limit, there may be more to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionStep {
    /// Ledger entries removed.
    pub ledger: u64,
    /// Rows that lost their content.
    pub rows: u64,
    /// Lines of the change feed removed.
    pub changes: u64,
}

/// Reason why a store call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store refuses the values of at least one change. Nothing of the batch was written. The worker
    /// searches for that change. The text never quotes a value.
    #[error("the store refuses the values: {0}")]
    Event(String),
    /// The call hit a time limit. Nothing of the batch was written. One row may be the cause (a slow trigger,
    /// a locked row), or all are slow. The worker tries smaller batches.
    #[error("the store is too slow for this batch: {detail}")]
    Slow {
        /// Time limit that was hit.
        cause: SlowCause,
        /// Backend, and what to check.
        detail: String,
    },
    /// The cause may be one change or all of them. Nothing of the batch was written. The worker searches for
    /// the change. If every change fails, the inner error is the right one.
    #[error("{0}")]
    Ambiguous(Box<Self>),
    /// The store cannot answer now: unreachable, busy, out of space. No message is the cause.
    #[error("the store can't answer now: {0}")]
    Unavailable(String),
    /// The deployment is wrong (rights, schema, a missing migration): manual action is needed. No message is
    /// the cause.
    #[error("the store is not set up right: {0}")]
    Deployment(String),
    /// The store holds a value that this version of Rollbook does not write, such as one of a newer version. No message
    /// is the cause. The text says where, and what to do.
    #[error("{0}")]
    Unreadable(String),
    /// The storage failed, and its content is unknown until it is opened again. The process must exit.
    #[error("the store's storage failed, the process must restart: {0}")]
    Broken(String),
}

impl StoreError {
    /// Returns the inner error, once it is clear that no single change is the cause.
    #[must_use]
    pub fn innermost(&self) -> &Self {
        if let Self::Ambiguous(inner) = self { inner.innermost() } else { self }
    }
}

crate::named! {
    /// Time limit that a call to the store hit. The list is closed, so that it can be a metric's label.
    pub enum SlowCause {
        /// One statement took too long: a slow trigger, a slow disk, or it was cancelled.
        Statement = "statement_timeout",
        /// Another session holds a lock on a row or a table.
        Lock = "lock_timeout",
        /// Other sessions repeatedly write the same rows in another order.
        Conflict = "conflict",
        /// The call as a whole took too long.
        Call = "call_timeout",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ambiguous_error_reads_as_the_error_inside() {
        let inner = StoreError::Deployment("no right".into());
        let error = StoreError::Ambiguous(Box::new(StoreError::Ambiguous(Box::new(inner.clone()))));
        assert_eq!(error.innermost(), &inner);
        assert_eq!(error.to_string(), inner.to_string());
    }
}
