//! Progress of a board: the position, changes to record, and open changes above the position.

use rollbook_core::store::{ForwardProgress, OpenChanges, Position};
use rollbook_core::time::Timestamp;
use rollbook_operator::forwards::full;

use super::Board;
use crate::limits::Limits;

impl Board {
    /// Progress to save. [`Self::saved`] must follow if it was saved, and nothing else before.
    pub(crate) fn progress(&self, now: Timestamp) -> ForwardProgress {
        ForwardProgress {
            position: self.position(),
            stopped: None,
            recorded: self.recorded.values().cloned().collect(),
            removed: self.removed.iter().copied().collect(),
            saved_at: now,
            open_changes: self.open_changes(),
            generation: None,
            paused_until: self.paused_until,
        }
    }

    /// Notes that the last progress was saved.
    pub(crate) fn saved(&mut self) {
        self.has_news = false;
        self.recorded.clear();
        self.removed.clear();
        for subject in std::mem::take(&mut self.held) {
            if let Some(of_subject) = self.by_subject.get_mut(&subject) {
                of_subject.is_held = false;
            }
            self.offer(&subject);
        }
    }

    /// Position up to which every change is settled.
    pub(crate) fn position(&self) -> Position {
        let open = self.fresh.first().into_iter().chain(self.earlier.open.first()).min();
        open.map_or(self.read_through.max(self.earlier.through), |first| first - 1)
    }

    /// Changes above the position that are open; `None` if none is.
    fn open_changes(&self) -> Option<OpenChanges> {
        let through = self.read_through.max(self.earlier.through);
        let open: Vec<Position> = self.fresh.union(&self.earlier.open).copied().collect();
        (!open.is_empty()).then_some(OpenChanges { through, open })
    }

    /// Whether there is something to save.
    pub(crate) const fn has_news(&self) -> bool {
        self.has_news
    }

    /// Position after which the feed is read on.
    pub(crate) fn read_through(&self) -> Position {
        self.read_through.max(self.position())
    }

    /// Whether more of the feed may be read.
    pub(crate) fn wants_more(&self) -> bool {
        let must_read = !self.deferred.is_empty();
        (must_read || self.full().is_none()) && self.fresh.len() < self.limits.fresh_max
    }

    /// Reason why no more is read until an operator or the endpoint does something.
    pub(crate) fn full(&self) -> Option<String> {
        let Limits { blocked_max, waiting_max, failed_max, .. } = self.limits;
        full(
            (self.blocked as u64, blocked_max as u64),
            (self.waiting, waiting_max),
            (self.failed, failed_max),
        )
    }
}
