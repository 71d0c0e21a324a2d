//! A clock that a test controls, and the wall clock.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rollbook_core::time::{Clock, Timestamp};

/// A clock that stands still until a test moves it. Share it in an [`std::sync::Arc`].
#[derive(Debug)]
pub struct ManualClock {
    now: Mutex<Timestamp>,
}

impl ManualClock {
    /// Creates a clock that shows `now`.
    pub fn new(now: Timestamp) -> Self {
        Self { now: Mutex::new(now) }
    }

    /// Advances the clock by `span`.
    pub fn advance(&self, span: Duration) {
        self.change(|now| now.plus(span));
    }

    /// Sets the clock to `now`, possibly backwards, as real clocks do.
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

/// The wall clock, for deliveries to a real process: signatures contain the current time.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let since_1970 = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX))
    }
}
