//! Waits between attempts to reach a queue or store that is unreachable.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rollbook_core::queue::QueueError;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::settings::Settings;

/// Minimum limit: zero would double to zero, and a lane would spin.
const LIMIT_MIN: Duration = Duration::from_millis(1);

/// Waits that double up to a limit.
#[derive(Debug)]
pub(crate) struct Backoff {
    limit: Duration,
    limit_max: Duration,
}

impl Backoff {
    pub(crate) fn new(settings: &Settings) -> Self {
        let limit_max = settings.gate_backoff_max.max(LIMIT_MIN);
        Self { limit: settings.gate_backoff.clamp(LIMIT_MIN, limit_max), limit_max }
    }

    /// Returns the next wait: between half of the current limit and all of it. Less could make a lane spin.
    /// With the full wait every time, workers that lost a server together would return together.
    pub(crate) fn next(&mut self) -> Duration {
        let limit = self.limit;
        self.limit = limit.saturating_mul(2).min(self.limit_max);
        limit.mul_f64(f64::midpoint(1.0, fastrand::f64()))
    }
}

/// Interval between log lines about the cause of an outage while it lasts.
pub(crate) const REPEATED_EVERY: Duration = Duration::from_secs(60);

/// Decides when the cause of an outage is logged: at once, and then once in [`REPEATED_EVERY`].
#[derive(Debug, Default)]
pub(crate) struct Repeat(Option<Instant>);

impl Repeat {
    /// Returns whether a log line is due now.
    pub(crate) fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.0.is_none_or(|last| now.duration_since(last) >= REPEATED_EVERY);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

/// Whether the queue is unreachable, for all lanes of a worker: an outage is logged once, not once per lane.
#[derive(Debug, Default)]
pub(crate) struct SharedOutage(Mutex<Option<Outage>>);

#[derive(Debug)]
struct Outage {
    since: Instant,
    repeat: Repeat,
}

impl SharedOutage {
    fn current(&self) -> MutexGuard<'_, Option<Outage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Outage of the queue as one call sees it, from its first error until it succeeds.
pub(crate) struct QueueOutage<'a> {
    call: &'static str,
    shared: &'a SharedOutage,
    backoff: Backoff,
    failed: bool,
}

impl<'a> QueueOutage<'a> {
    pub(crate) fn new(call: &'static str, shared: &'a SharedOutage, settings: &Settings) -> Self {
        Self { call, shared, backoff: Backoff::new(settings), failed: false }
    }

    /// Records an error and returns the time to wait.
    pub(crate) fn failed(&mut self, lane: usize, error: &QueueError) -> Duration {
        self.failed = true;
        let mut outage = self.shared.current();
        let outage =
            outage.get_or_insert_with(|| Outage { since: Instant::now(), repeat: Repeat::default() });
        if outage.repeat.is_due() {
            let (call, outage_seconds) = (self.call, outage.since.elapsed().as_secs());
            if matches!(error, QueueError::Deployment(_)) {
                error!(lane, call, %error, outage_seconds, "the queue needs manual action; retrying");
            } else {
                warn!(lane, call, %error, outage_seconds, "queue unreachable; retrying until it answers");
            }
        }
        self.backoff.next()
    }

    /// Records a success.
    pub(crate) fn over(self, lane: usize) {
        if self.failed
            && let Some(outage) = self.shared.current().take()
        {
            let outage_seconds = outage.since.elapsed().as_secs();
            info!(lane, call = self.call, outage_seconds, "the queue answers again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cause_is_logged_at_once_and_then_once_a_minute() {
        let mut repeat = Repeat::default();
        let logged = (0..=180).step_by(10).map(|_| repeat.is_due()).collect::<Vec<_>>();
        assert_eq!(logged.iter().filter(|logged| **logged).count(), 1);
        let mut logged = 0;
        for _ in 0..18 {
            tokio::time::advance(Duration::from_secs(10)).await;
            logged += usize::from(repeat.is_due());
        }
        assert_eq!(logged, 3);
    }

    #[test]
    fn waits_double_to_the_limit_and_are_never_less_than_half_of_it() {
        let mut backoff = Backoff::new(&Settings::default());
        for limit in [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000].map(Duration::from_millis) {
            let wait = backoff.next();
            assert!(wait >= limit / 2 && wait <= limit, "{wait:?} of {limit:?}");
        }
    }
}
