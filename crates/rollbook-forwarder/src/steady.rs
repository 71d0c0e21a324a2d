//! A clock that does not step: it is set once, and goes on by the time that passes.

use rollbook_core::time::Timestamp;
use tokio::time::Instant;

/// Clock for backoffs and pauses: a step of the system's clock neither hurries nor stalls them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SteadyClock {
    began_at: Timestamp,
    began: Instant,
}

impl SteadyClock {
    pub(crate) fn starting_at(now: Timestamp) -> Self {
        Self { began_at: now, began: Instant::now() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.began_at.plus(self.began.elapsed())
    }

    /// Returns the instant of a time.
    pub(crate) fn instant(&self, at: Timestamp) -> Instant {
        self.began + at.since(self.began_at)
    }
}
