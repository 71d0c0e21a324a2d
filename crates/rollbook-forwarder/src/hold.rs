//! The hold of a forward, as its process knows it.

use std::time::Duration;

use tokio::time::Instant;

/// Hold of a forward. It ends for this process no later than for the store: the time counts from before each call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    until: Instant,
    hold_for: Duration,
}

impl Hold {
    /// A hold that was asked for at this time.
    pub(crate) fn new(asked_at: Instant, hold_for: Duration) -> Self {
        Self { until: asked_at + hold_for, hold_for }
    }

    /// Notes a renewal that was asked for at this time.
    pub(crate) fn renewed(&mut self, asked_at: Instant) {
        self.until = asked_at + self.hold_for;
    }

    /// Whether work of this length, if it begins now, ends within the hold.
    pub(crate) fn covers(&self, work: Duration) -> bool {
        Instant::now() + work <= self.until
    }

    /// Whether the hold is over.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }
}
