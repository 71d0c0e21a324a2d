//! State of a forward while a process has it.

use std::time::Duration;

use rollbook_core::store::{ChangeLine, Generation, Position};
use rollbook_core::time::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::board::Board;
use crate::failure_log::FailureLog;
use crate::hold::Hold;
use crate::steady::SteadyClock;
use crate::verdict::Verdict;

/// Time between two saves while changes are delivered. A kill, or a command of an operator, repeats what was delivered since
/// the last save.
const SAVE_EVERY: Duration = Duration::from_millis(250);
/// Time between two saves while nothing happens. They renew the hold, and notice a command of an operator.
const RENEW_EVERY: Duration = Duration::from_secs(2);

/// A turn with the forward.
pub(crate) struct Turn {
    pub(crate) board: Board,
    pub(crate) hold: Hold,
    pub(crate) epoch: u64,
    /// Generation of the feed.
    pub(crate) generation: Generation,
    /// Clock of the board.
    pub(crate) clock: SteadyClock,
    pub(crate) requests: JoinSet<(ChangeLine, Verdict)>,
    pub(crate) failures: FailureLog,
    saved_at: Instant,
    saved_position: Position,
    /// Whether it was logged that no more is read.
    is_full: bool,
}

impl Turn {
    pub(crate) fn new(
        board: Board,
        hold: Hold,
        (epoch, generation): (u64, Generation),
        clock: SteadyClock,
    ) -> Self {
        let saved_position = board.position();
        Self {
            board,
            hold,
            epoch,
            generation,
            clock,
            requests: JoinSet::new(),
            failures: FailureLog::default(),
            saved_at: Instant::now(),
            saved_position,
            is_full: false,
        }
    }

    /// Time at which the loop goes on without an answer or a page.
    pub(crate) fn wake(&self) -> Instant {
        let save = self.saved_at + self.pause();
        let due = self.board.next_at().map(|at| self.clock.instant(at));
        // A change that is due and not started waits for an answer, or for the hold to be renewed.
        due.filter(|due| *due > Instant::now()).map_or(save, |due| due.min(save))
    }

    pub(crate) fn is_save_due(&self) -> bool {
        self.saved_at.elapsed() >= self.pause()
    }

    /// Notes that the progress was saved, by a call that began at this time.
    pub(crate) fn saved(&mut self, asked_at: Instant, position: Position) {
        self.board.saved();
        self.hold.renewed(asked_at);
        self.saved_at = asked_at;
        self.saved_position = position;
    }

    /// Notes whether the forward is full. Returns whether that changed.
    pub(crate) fn note_full(&mut self, is_full: bool) -> bool {
        std::mem::replace(&mut self.is_full, is_full) != is_full
    }

    /// Time of the board.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn pause(&self) -> Duration {
        let has_news = self.board.has_news() || self.board.position() != self.saved_position;
        if has_news { SAVE_EVERY } else { RENEW_EVERY }
    }
}
