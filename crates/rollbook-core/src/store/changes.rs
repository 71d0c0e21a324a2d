//! The change feed: one line for each real change of a row, in the order of the commits.
//!
//! A line says which row changed and how, and holds ids only: a reader joins the row. A delivery that is a duplicate, stale
//! or unchanged has no line, and neither has a placeholder row until it is filled. Of one subject, the lines are in the
//! order of its commits. Positions are consecutive, and a line never appears below a position that a reader has seen.

use std::time::Duration;

use async_trait::async_trait;

use super::StoreError;
use crate::catalog::Resource;
use crate::change::{Change, Origin};
use crate::time::Timestamp;

/// Position of a line in the feed. The first is 1; 0 is before all lines.
pub type Position = u64;

/// Random number of a feed. Positions of two generations have nothing to do with each other: the feed was made anew, or its
/// store was restored, and a position may name another line than before. At most [`GENERATION_MAX`].
pub type Generation = u64;

/// Greatest generation: every engine has such numbers.
pub const GENERATION_MAX: Generation = i64::MAX as u64;

/// Maximum number of lines that one read returns.
pub const LINES_MAX: usize = 1_000;
/// Maximum number of lines without a position that [`Changes::feed`] counts.
pub const WAITING_COUNTED_MAX: u64 = 10_000;

/// Maximum number of lines that one read passes over. A reader of a rare resource gets an empty page after that many, and
/// goes on after [`ChangesPage::through`].
pub const PASSED_MAX: u64 = 10_000;

/// Port of readers of the change feed.
#[async_trait]
pub trait Changes: Send + Sync {
    /// Returns lines after a position, in order.
    async fn changes(&self, query: &ChangesQuery) -> Result<ChangesPage, ChangesError>;

    /// Returns the state of the feed.
    async fn feed(&self) -> Result<FeedState, StoreError>;

    /// Returns the position after which a reader begins who wants all lines since a time. It is at least
    /// [`FeedState::removed_through`], so that a read after it does not fail.
    async fn position_before(&self, at: Timestamp) -> Result<Position, StoreError>;

    /// Waits for a line after a position. Returns `false` if there was none within `timeout`. The future may be dropped.
    async fn wait_for_change(&self, after: Position, timeout: Duration) -> Result<bool, StoreError>;

    /// Gives the feed a new generation, for an operator who restored the store. Returns it.
    async fn renew_feed(&self) -> Result<Generation, StoreError>;
}

/// Selection of lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangesQuery {
    /// Position of the last line that the reader has seen; 0 before the first.
    pub after: Position,
    /// Resources; empty selects all.
    pub resources: Vec<&'static Resource>,
    /// Kinds; empty selects all.
    pub kinds: Vec<ChangeKind>,
    /// Maximum number of lines, at most [`LINES_MAX`].
    pub limit: usize,
}

impl ChangesQuery {
    /// Returns the limit of the page.
    pub fn lines_max(&self) -> usize {
        self.limit.min(LINES_MAX)
    }

    /// Whether the selection contains lines of this resource and kind.
    pub fn selects(&self, resource: &str, kind: ChangeKind) -> bool {
        let has_resource =
            self.resources.is_empty() || self.resources.iter().any(|known| known.table == resource);
        has_resource && (self.kinds.is_empty() || self.kinds.contains(&kind))
    }
}

/// Lines, and how far the read went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangesPage {
    /// Selected lines, in order.
    pub lines: Vec<ChangeLine>,
    /// Position up to which every selected line is in this page or before it. The next read begins after it.
    pub through: Position,
    /// Position of the last line of the feed.
    pub last: Position,
    /// Generation of the feed.
    pub generation: Generation,
}

impl ChangesPage {
    /// Completes the lines of a read that passed over the positions from `after` to `passed`.
    pub fn new(lines: Vec<ChangeLine>, query: &ChangesQuery, feed: &FeedState) -> Self {
        let FeedState { last, generation, .. } = *feed;
        let passed = last.min(query.after.saturating_add(PASSED_MAX));
        let is_full = lines.len() >= query.lines_max();
        let through = match lines.last() {
            Some(line) if is_full => line.position,
            None if is_full => query.after,
            _ => passed,
        };
        Self { lines, through, last, generation }
    }
}

/// One line of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeLine {
    /// Position.
    pub position: Position,
    /// Name of the table.
    pub resource: String,
    /// Id of the row.
    pub subject_id: String,
    /// Kind of the change.
    pub kind: ChangeKind,
    /// Names of the typed columns that differ, and `data` and `deleted_at` if they differ. Of a created row: those that
    /// are not null.
    pub changed: Vec<String>,
    /// Source of the change.
    pub origin: ChangeOrigin,
    /// The `svix-id` of a webhook, or the run of a reconciliation.
    pub cause: Option<String>,
    /// Time of the change at Clerk; `None` where only Rollbook changed the row, as retention does.
    pub event_at: Option<Timestamp>,
    /// Time at which the line got its position. It never decreases with the position.
    pub at: Timestamp,
}

crate::named! {
    /// Kind of a change of a row.
    pub enum ChangeKind {
        /// The row is new, or a placeholder row or a reset row was filled.
        Created = "created",
        /// A column of the row changed.
        Updated = "updated",
        /// The row was marked as deleted.
        Deleted = "deleted",
        /// The content was removed for good, by retention or by an operator.
        Erased = "erased",
    }
}

crate::named! {
    /// Source of a change of a row.
    pub enum ChangeOrigin {
        /// A webhook.
        Webhook = "webhook",
        /// A reading of Clerk's API that repaired a difference.
        Reconcile = "reconcile",
        /// A reading of Clerk's API before the first complete walk of the resource.
        Backfill = "backfill",
        /// The deletion, the erasure or the reset of a parent.
        Cascade = "cascade",
        /// Retention, or an operator's erasure.
        Erase = "erase",
        /// A statement that is not Rollbook's.
        Other = "other",
    }
}

impl ChangeOrigin {
    /// Returns the origin of the lines that a change makes.
    pub const fn of(origin: &Origin) -> Self {
        match origin {
            Origin::Delivery { .. } => Self::Webhook,
            Origin::Reconcile { is_backfill: true, .. } => Self::Backfill,
            Origin::Reconcile { .. } => Self::Reconcile,
        }
    }
}

/// Returns what the triggers of an SQL engine have to know of a batch with readings: origin and run, such as
/// `backfill:01JD…`. `None` for a batch without readings. One batch has readings of one run.
pub fn reading_context(changes: &[Change]) -> Option<String> {
    let reading =
        changes.iter().map(|change| &change.origin).find(|origin| !matches!(origin, Origin::Delivery { .. }));
    reading.map(|origin| format!("{}:{}", ChangeOrigin::of(origin), origin.feed_cause()))
}

/// State of the feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedState {
    /// Whether changes are recorded: the schema has the triggers.
    pub is_on: bool,
    /// Position of the last line; 0 before the first.
    pub last: Position,
    /// Position of the last line that retention removed; 0 if it removed none. A reader can begin after it.
    pub removed_through: Position,
    /// Number of committed lines that have no position yet, counted up to [`WAITING_COUNTED_MAX`].
    pub waiting: u64,
    /// Age of the oldest committed line that has no position yet; `None` if there is none.
    pub waiting_for: Option<Duration>,
    /// Generation.
    pub generation: Generation,
}

impl FeedState {
    /// Checks that no line after this position is missing.
    ///
    /// # Errors
    /// Lines after it were removed, or it is after the last line.
    pub const fn check(&self, after: Position) -> Result<(), ChangesError> {
        if after < self.removed_through {
            return Err(ChangesError::Removed { after, oldest: self.removed_through + 1 });
        }
        if after > self.last {
            return Err(ChangesError::Ahead { after, last: self.last });
        }
        Ok(())
    }
}

/// Result of one step of [`super::Store::sequence`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceStep {
    /// Lines that got their position.
    pub moved: u64,
    /// Position of the last line; `None` if the engine does not say.
    pub last: Option<Position>,
    /// Age of the oldest line that had no position before this step; zero if there was none.
    pub waited_for: Duration,
    /// Whether another step may find more: this one was full, or another process was at work.
    pub has_more: bool,
}

/// Reason why lines can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangesError {
    /// Lines after the position were removed, so that the reader would miss them without notice.
    #[error(
        "changes after position {after} were removed; the oldest kept is {oldest}: read the rows anew, then go on from there"
    )]
    Removed {
        /// Position of the reader.
        after: Position,
        /// Position of the oldest line that is kept, or of the next line.
        oldest: Position,
    },
    /// No line has had this position: the store was restored from a backup, or is another one.
    #[error(
        "position {after} is after the last change, {last}: the store was restored or is another one; read the rows anew, \
         then go on from there"
    )]
    Ahead {
        /// Position of the reader.
        after: Position,
        /// Position of the last line.
        last: Position,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_good_from_the_last_removed_line_to_the_last_line() {
        let state = FeedState { last: 9, removed_through: 4, ..FeedState::default() };
        for good in [4, 5, 9] {
            assert_eq!(state.check(good), Ok(()));
        }
        assert_eq!(state.check(3), Err(ChangesError::Removed { after: 3, oldest: 5 }));
        assert_eq!(state.check(10), Err(ChangesError::Ahead { after: 10, last: 9 }));
    }

    #[test]
    fn a_page_goes_as_far_as_the_read_unless_it_is_full() {
        let line = |position| ChangeLine {
            position,
            resource: "users".to_owned(),
            subject_id: "user_1".to_owned(),
            kind: ChangeKind::Created,
            changed: Vec::new(),
            origin: ChangeOrigin::Webhook,
            cause: None,
            event_at: None,
            at: Timestamp::from_millis(0),
        };
        let query = ChangesQuery { after: 5, limit: 2, ..ChangesQuery::default() };
        let feed = |last| FeedState { last, generation: 7, ..FeedState::default() };
        let through = |lines, last| ChangesPage::new(lines, &query, &feed(last)).through;
        assert_eq!(through(vec![line(7), line(8)], 50), 8);
        assert_eq!(through(vec![line(7)], 50), 50);
        assert_eq!(through(Vec::new(), PASSED_MAX + 50), PASSED_MAX + 5);
        assert_eq!(through(Vec::new(), 5), 5);
        let none = ChangesQuery { limit: 0, ..query.clone() };
        assert_eq!(ChangesPage::new(Vec::new(), &none, &feed(50)).through, 5, "nothing was asked for");
    }

    #[test]
    fn kinds_and_origins_are_found_by_their_names() {
        for kind in ChangeKind::ALL {
            assert_eq!(ChangeKind::parse(kind.as_str()), Some(kind));
        }
        for origin in ChangeOrigin::ALL {
            assert_eq!(ChangeOrigin::parse(origin.as_str()), Some(origin));
        }
    }
}
