//! A clock that moves when it is told to, and one that shows the time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rollbook_core::time::{Clock, Timestamp};

/// Stands still until a test moves it. Share it in an [`std::sync::Arc`].
#[derive(Debug)]
pub struct ManualClock {
    now: Mutex<Timestamp>,
}

impl ManualClock {
    /// A clock that shows `now`.
    pub fn new(now: Timestamp) -> Self {
        Self { now: Mutex::new(now) }
    }

    /// Moves it on by `span`.
    pub fn advance(&self, span: Duration) {
        self.change(|now| now.plus(span));
    }

    /// Moves it to `now`, also backwards: real clocks do that.
    pub fn set(&self, now: Timestamp) {
        self.change(|_| now);
    }

    fn change(&self, next: impl FnOnce(Timestamp) -> Timestamp) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = next(*now);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The real time: for deliveries to a real process, which are signed with the moment of their sending.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let since_1970 = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX))
    }
}
