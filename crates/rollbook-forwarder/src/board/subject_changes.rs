//! Changes of one subject that a forward holds in memory: those that are neither delivered nor dead letters.

use std::collections::VecDeque;
use std::sync::Arc;

use rollbook_core::store::{ChangeLine, ForwardChange, ForwardState, Position};
use rollbook_core::time::Timestamp;

use super::room::{Attempt, Request};

/// Table and id of a row.
pub(super) type Subject = Arc<(String, String)>;

pub(super) fn subject_of(line: &ChangeLine) -> Subject {
    Arc::new((line.resource.clone(), line.subject_id.clone()))
}

/// Changes of one subject, in the order of the feed.
#[derive(Debug, Default)]
pub(super) struct SubjectChanges {
    pub(super) items: VecDeque<Item>,
    /// Request for the first change that is in progress.
    pub(super) sending: Option<Request>,
    /// Number of changes that are recorded. The subject is blocked while there are any.
    pub(super) recorded: usize,
    /// Whether nothing is sent before the next save.
    pub(super) is_held: bool,
}

impl SubjectChanges {
    /// Adds a change at its place: at the end, unless the feed is read again after a restart.
    pub(super) fn insert(&mut self, item: Item) {
        let position = item.change.line.position;
        let before = self.items.iter().rposition(|known| known.change.line.position < position);
        let index = before.map_or(0, |index| index + 1).max(usize::from(self.sending.is_some()));
        self.recorded += usize::from(item.is_recorded);
        self.items.insert(index, item);
    }
}

/// A change that is held in memory.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) change: ForwardChange,
    /// Whether the store has it, or gets it with the next save.
    pub(super) is_recorded: bool,
    /// Number of accepted changes when the last attempt began.
    pub(super) accepted_before: Option<u64>,
    /// Whether the last failure did not count.
    pub(super) is_in_doubt: bool,
}

impl Item {
    /// A change that was just read.
    pub(super) const fn fresh(line: ChangeLine, now: Timestamp) -> Self {
        let change = ForwardChange {
            line,
            state: ForwardState::Waiting,
            tries: 0,
            attempts: 0,
            failed_at: None,
            next_try_at: now,
            last_error: None,
        };
        Self { change, is_recorded: false, accepted_before: None, is_in_doubt: false }
    }

    pub(super) const fn attempt(&self) -> Attempt {
        if self.change.tries == 0 { Attempt::First } else { Attempt::Retry }
    }

    /// Order among the changes that can be sent.
    pub(super) const fn due(&self) -> (Timestamp, Position) {
        (self.change.next_try_at, self.change.line.position)
    }
}
