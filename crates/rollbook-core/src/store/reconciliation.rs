//! Port of the reconciler: what it reads of the rows, and the record of its runs.

use std::time::Duration;

use async_trait::async_trait;

use super::StoreError;
use crate::catalog::Resource;
use crate::drift::Drift;
use crate::merge::SubjectState;
use crate::source::{Lookup, Window};
use crate::time::Timestamp;

/// Time for which the records of finished runs, and held objects that are settled, are kept.
pub const RUNS_KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 3600);

/// Number of the latest runs that are kept however old they are.
pub const RUNS_KEPT_MIN: usize = 20;

/// Maximum number of held objects, and of runs, that one call removes.
pub const PRUNED_MAX: usize = 10_000;

/// Maximum time for which a lock is taken at once.
pub const LOCK_MAX: Duration = Duration::from_secs(24 * 3600);

/// Port of the reconciler. Rows are written through [`super::Store::apply_many`] only.
#[async_trait]
pub trait Reconciliation: Send + Sync {
    /// Checks that the reconciler may read and write its records. Reads only. A worker needs none of them to apply
    /// deliveries.
    ///
    /// # Errors
    /// [`StoreError::Deployment`] with the tables and rights that are missing.
    async fn check_records(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Returns the states of those of the subjects that have a row, in any order.
    async fn heads(&self, resource: &'static Resource, ids: &[&str]) -> Result<Vec<Head>, StoreError>;

    /// Returns `data` of those of the rows that have content, as id and JSON text, in any order.
    async fn contents(
        &self,
        resource: &'static Resource,
        ids: &[&str],
    ) -> Result<Vec<(String, String)>, StoreError>;

    /// Returns living rows that were created in the window and last written before `untouched_since`, in
    /// the order of `created_at` and id, at most `limit`, after the row `after`. Rows without a `created_at`
    /// are not among them (see [`Self::undated`]).
    async fn living(
        &self,
        resource: &'static Resource,
        window: Window,
        untouched_since: Timestamp,
        after: Option<&Living>,
        limit: usize,
    ) -> Result<Vec<Living>, StoreError>;

    /// Returns living rows without a `created_at`, last written before `untouched_since`, in the order of
    /// their ids, at most `limit`, after the id `after`.
    async fn undated(
        &self,
        resource: &'static Resource,
        untouched_since: Timestamp,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Lookup>, StoreError>;

    /// Counts living rows.
    async fn count_living(&self, resource: &'static Resource) -> Result<u64, StoreError>;

    /// Counts the living rows of `child` that a deletion of these subjects of `parent` takes with it, at most `limit`.
    /// Zero if the rows of `child` are not deleted with a parent of this resource.
    async fn count_children(
        &self,
        child: &'static Resource,
        parent: &'static Resource,
        ids: &[&str],
        limit: u64,
    ) -> Result<u64, StoreError>;

    /// Takes or renews the lock `name` for `holder`. Returns `false` while another holder has it. The lock
    /// ends by itself after `hold_for`, at most [`LOCK_MAX`], by the store's clock. A lock that would last longer was taken
    /// while that clock was ahead, and counts as ended.
    async fn lock(&self, name: &str, holder: &str, hold_for: Duration) -> Result<bool, StoreError>;

    /// Gives the lock back if `holder` has it.
    async fn unlock(&self, name: &str, holder: &str) -> Result<(), StoreError>;

    /// Writes the record of a run, or replaces it. A finished run also removes what is older than
    /// [`RUNS_KEPT_FOR`]: settled held objects, and finished runs without held objects. Objects that wait for
    /// an operator stay, and so do the latest [`RUNS_KEPT_MIN`] runs.
    async fn save_run(&self, run: &Run) -> Result<(), StoreError>;

    /// Returns the record of a run.
    async fn run(&self, id: &str) -> Result<Option<Run>, StoreError>;

    /// Returns the runs that started last, newest first.
    async fn runs(&self, limit: usize) -> Result<Vec<Run>, StoreError>;

    /// Records objects that a run wants to delete, or found wrongly deleted. A known one stays as it is.
    async fn hold(&self, run: &str, held: &[Held]) -> Result<(), StoreError>;

    /// Returns held objects of a run in one state, in the order of table and id, after `after`.
    async fn held(
        &self,
        run: &str,
        state: HeldState,
        after: Option<&HeldKey>,
        limit: usize,
    ) -> Result<Vec<Held>, StoreError>;

    /// Counts the held objects of a run, or of all runs, by run, table, kind and state, in this order.
    async fn count_held(&self, run: Option<&str>) -> Result<Vec<HeldCount>, StoreError>;

    /// Sets the state of held objects of a run.
    async fn settle_held(&self, run: &str, keys: &[HeldKey], state: HeldState) -> Result<(), StoreError>;

    /// Writes what the last walk of a resource found, for the view `freshness`.
    async fn save_freshness(&self, freshness: &Freshness) -> Result<(), StoreError>;

    /// Returns the last walk of each resource that was ever walked, and the records of instances.
    async fn freshness(&self) -> Result<Vec<Freshness>, StoreError>;

    /// Resets a row that has the state `expected`, so that a fresh reading of Clerk can revive it: the register
    /// becomes empty, and the erasure floor rises to the latest event time known, so that older events are
    /// ignored. Child rows no longer show a deletion from this row. Content that an operator erased stays
    /// erased. A row with another state, such as a deletion that has arrived meanwhile, stays as it is.
    async fn reset(
        &self,
        resource: &'static Resource,
        id: &str,
        expected: &SubjectState,
    ) -> Result<Reset, StoreError>;
}

/// Result of [`Reconciliation::reset`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// The row is reset: its erasure floor.
    Done(Timestamp),
    /// The row has another state than expected, or there is none. Nothing was changed.
    Changed,
}

/// State of a subject's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Clerk's id.
    pub id: String,
    /// State in the merge.
    pub state: SubjectState,
}

/// A living row, as a walk sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Living {
    /// Time of creation at Clerk.
    pub created_at: Timestamp,
    /// Id and parents.
    pub lookup: Lookup,
}

/// Record of a run. A run that was killed continues from its last record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Id of the run.
    pub id: String,
    /// Time of its start.
    pub started_at: Timestamp,
    /// Time of this record.
    pub saved_at: Timestamp,
    /// Time of its end.
    pub finished_at: Option<Timestamp>,
    /// State.
    pub state: RunState,
    /// Whether the run only counts, and writes no row.
    pub is_dry: bool,
    /// Positions and counts, as JSON text that only the reconciler reads.
    pub progress: String,
    /// Reason of its failure. Contains no values.
    pub last_error: Option<String>,
}

crate::named! {
    /// State of a run.
    pub enum RunState {
        /// In progress, or stopped and to be resumed.
        Running = "running",
        /// Every resource was walked, and every difference is repaired.
        Complete = "complete",
        /// Every resource was walked, and something waits for an operator.
        Held = "held",
        /// Ended by an error.
        Failed = "failed",
    }
}

/// Key of a held object within its run: table and id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeldKey {
    /// Table.
    pub table: String,
    /// Clerk's id.
    pub id: String,
}

/// An object that waits for a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Table and id.
    pub key: HeldKey,
    /// [`Drift::NotDeleted`] or [`Drift::WronglyDeleted`].
    pub kind: Drift,
    /// State.
    pub state: HeldState,
    /// Time at which the run recorded it.
    pub noted_at: Timestamp,
}

crate::named! {
    /// State of a held object.
    pub enum HeldState {
        /// Collected by a run that is not yet over.
        Collected = "collected",
        /// Waits for an operator.
        Waiting = "waiting",
        /// Done: deleted, approved and found living, or resynchronized.
        Done = "done",
    }
}

/// Number of held objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldCount {
    /// Run.
    pub run: String,
    /// Table.
    pub table: String,
    /// Kind.
    pub kind: Drift,
    /// State.
    pub state: HeldState,
    /// Number of objects.
    pub count: u64,
}

/// Result of the last complete walk of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// Table.
    pub table: String,
    /// Start of the first walk since which each walk left no difference. `None` if the last one left some.
    pub complete_since: Option<Timestamp>,
    /// End of the last complete walk.
    pub last_walk_at: Timestamp,
    /// Number of differences that the last walk found.
    pub drift: u64,
}

/// Beginning of the names under which the records of walks hold the Clerk instances that rows come from.
const INSTANCE: &str = "instance:";

impl Freshness {
    /// Returns the record that rows come from this Clerk instance.
    pub fn of_instance(id: &str, now: Timestamp) -> Self {
        Self { table: format!("{INSTANCE}{id}"), complete_since: None, last_walk_at: now, drift: 0 }
    }

    /// Returns the Clerk instance that this record names. `None` for the record of a walk.
    pub fn instance(&self) -> Option<&str> {
        self.table.strip_prefix(INSTANCE)
    }
}
