//! Pending cascades: what is left to do on child rows of deleted or erased parents, and the rules by which every engine
//! does it.

use std::time::Duration;

use crate::catalog::Resource;
use crate::time::Timestamp;

/// Time for which an entry that was taken is left alone by other workers, unless the hold is renewed. A cascade
/// makes no progress for that time after its worker was killed. Two workers on one entry repair no row twice.
pub const TAKEN_FOR: Duration = Duration::from_secs(10);
/// Wait before the first retry of a refused row. It doubles.
pub const BACKOFF: Duration = Duration::from_secs(5);
/// Maximum wait before a retry.
pub const BACKOFF_MAX: Duration = Duration::from_secs(600);
/// Maximum doublings of a wait: more than lead to the maximum wait.
pub const DOUBLINGS_MAX: u32 = 20;
/// Time for which one call works.
pub const TURN: Duration = Duration::from_secs(10);
/// Maximum rows found by one search: each search passes over the rows that are right already.
pub const FOUND_MAX: usize = 50_000;
/// Maximum rows with entries of their own that one turn retries.
pub const RETRIED_MAX: usize = 100;
/// Maximum refused rows that one turn logs by name. The others are recorded and counted.
pub const LOGGED_MAX: u64 = 10;

/// Result of one call of [`super::Store::cascade`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CascadeStep {
    /// Rows repaired: they now show the state of their parents.
    pub rows: u64,
    /// Rows that refused their change. Each is retried by itself.
    pub refused: u64,
    /// Parents with child rows not yet examined.
    pub parents_left: u64,
    /// Rows that refused their change and wait for their next attempt.
    pub rows_left: u64,
    /// Time until the next pending work is due; `None` if nothing is pending.
    pub due_in: Option<Duration>,
}

/// Pending work on child rows of deleted or erased parents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PendingCascades {
    /// Parents with child rows not yet examined.
    pub parents: u64,
    /// Rows that refused their change.
    pub rows: u64,
    /// Some of both, oldest first.
    pub listed: Vec<PendingCascade>,
}

/// A parent or a row with pending work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingCascade {
    /// Table of the parent or the row.
    pub table: String,
    /// Id of the parent or the row.
    pub id: String,
    /// Kind of pending work.
    pub what: PendingWork,
    /// Table and id of the deleted parent that the row does not reflect yet, if known.
    pub parent: Option<(String, String)>,
    /// Time at which the work was recorded; `None` if the store holds text that is not a time.
    pub noted_at: Option<Timestamp>,
    /// Number of attempts that were refused or timed out.
    pub attempts: u32,
    /// Time of the next attempt.
    pub next_try_at: Timestamp,
    /// Reason of the last refusal. Contains no values.
    pub last_error: Option<String>,
}

crate::named! {
    /// Kind of pending work of a cascade.
    pub enum PendingWork {
        /// All child rows of a parent must be examined.
        Children = "children",
        /// One row does not show its parents' deletion.
        Row = "row",
        /// One row still has content that must be erased.
        Content = "content",
    }
}

/// Entry of the table `rollbook_cascades`: pending work about a parent or a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Resource of the parent or the row.
    pub resource: &'static Resource,
    /// Id of the parent or the row.
    pub id: String,
    /// Kind of pending work.
    pub what: PendingWork,
    /// For `Children`: whether child rows that outlive their parent are included.
    pub survivors: bool,
    /// For `Children`: whether the ledger entries about the parent and its child rows are removed.
    pub forget: bool,
    /// For a row: the deleted parent that it does not show.
    pub parent: Option<(&'static Resource, String)>,
    /// Revision at the time of reading: it counts how often the entry was recorded.
    pub revision: i64,
}

impl Entry {
    /// Returns an entry about this parent or row.
    pub const fn new(resource: &'static Resource, id: String, what: PendingWork) -> Self {
        Self { resource, id, what, survivors: false, forget: false, parent: None, revision: 0 }
    }

    /// Returns the entry of a child row that refuses what follows from this parent.
    #[must_use]
    pub fn child(&self, resource: &'static Resource, id: String) -> Self {
        let parent = Some((self.resource, self.id.clone()));
        Self { parent, ..Self::new(resource, id, PendingWork::Row) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{ORGANIZATION_MEMBERSHIPS, USERS};

    #[test]
    fn a_kind_of_pending_work_has_one_name_and_an_unknown_name_gives_none() {
        for kind in [PendingWork::Children, PendingWork::Row, PendingWork::Content] {
            assert_eq!(PendingWork::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(PendingWork::parse("rows"), None);
    }

    #[test]
    fn the_entry_of_a_child_row_names_its_parent() {
        let parent = Entry::new(&USERS, "user_1".to_owned(), PendingWork::Children);
        let child = parent.child(&ORGANIZATION_MEMBERSHIPS, "orgmem_1".to_owned());
        assert_eq!(child.parent, Some((&USERS, "user_1".to_owned())));
        assert_eq!((child.what, child.id.as_str(), child.revision), (PendingWork::Row, "orgmem_1", 0));
    }
}
