//! Maximum messages of a batch, adapted to the time limits of the store.
//!
//! A batch that runs into a time limit halves the size. A size that works grows by an eighth with each full
//! batch, as long as the larger batch would take less than half of the shortest time after which one was cut short since
//! batches last had the full size.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rollbook_core::store::SlowCause;
use tracing::{info, warn};

/// Size of batches. All lanes of a worker share it.
pub(crate) struct Pace {
    /// Configured maximum (`lease_batch_max`).
    size_max: usize,
    state: Mutex<State>,
}

struct State {
    /// Maximum messages of the next batch.
    size: usize,
    /// Shortest time after which a time limit ended a batch, since batches last had the full size.
    cut_after: Duration,
}

impl Pace {
    pub(crate) fn new(size_max: usize) -> Self {
        let size_max = size_max.max(1);
        Self { size_max, state: Mutex::new(State { size: size_max, cut_after: Duration::MAX }) }
    }

    /// Returns the maximum messages of the next batch.
    pub(crate) fn size(&self) -> usize {
        self.state().size
    }

    /// Records that a time limit of the store ended a batch of this size.
    pub(crate) fn cut_short(&self, messages: usize, cause: SlowCause, detail: &str, took: Duration) {
        let mut state = self.state();
        state.cut_after = state.cut_after.min(took);
        if state.shrink(messages / 2) {
            warn!(
                cause = cause.as_str(),
                detail,
                messages,
                next_messages = state.size,
                seconds = took.as_secs_f64(),
                "the store is too slow for a batch of this size; continuing with smaller ones. Look for slow triggers on \
                 its tables and a slow disk (statement_timeout, call_timeout), for sessions that hold locks \
                 (lock_timeout, conflict)"
            );
        }
    }

    /// Records that the time for a batch ended while the message that fails was being searched for. The batch had been
    /// divided into parts of this size, and none of them was applied or refused yet.
    pub(crate) fn out_of_time(&self, messages: usize) {
        let mut state = self.state();
        if state.shrink(messages / 2) {
            warn!(
                messages,
                next_messages = state.size,
                "a batch took too long to find the message that fails; continuing with smaller ones"
            );
        }
    }

    /// Records that this many messages were applied in one call.
    pub(crate) fn passed(&self, messages: usize, took: Duration) {
        let mut state = self.state();
        if state.size < self.size_max && messages >= state.size {
            state.grow(self.size_max, took);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Reduces the size. Returns whether it changed.
    fn shrink(&mut self, size: usize) -> bool {
        let before = self.size;
        self.size = self.size.min(size.max(1));
        self.size < before
    }

    /// Increases the size by an eighth, unless a batch of that size would probably take more than half of the shortest time
    /// limit that was met. `took` is the time of a full batch of the present size.
    fn grow(&mut self, size_max: usize, took: Duration) {
        let larger = (self.size + (self.size / 8).max(1)).min(size_max);
        let takes = took.as_secs_f64() / f64_of(self.size) * f64_of(larger);
        if takes * 2.0 > self.cut_after.as_secs_f64() {
            return;
        }
        self.size = larger;
        if larger == size_max {
            self.cut_after = Duration::MAX;
            info!(messages = larger, "the store is fast enough for batches of full size again");
        }
    }
}

fn f64_of(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: Duration = Duration::from_secs(20);

    fn cut_short(pace: &Pace) {
        pace.cut_short(pace.size(), SlowCause::Statement, "too slow", CUT);
    }

    #[test]
    fn the_size_halves_down_to_one_and_grows_slowly_to_what_takes_half_of_the_limit() {
        let pace = Pace::new(100);
        let mut sizes = Vec::new();
        for _ in 0..8 {
            cut_short(&pace);
            sizes.push(pace.size());
        }
        assert_eq!(sizes, [50, 25, 12, 6, 3, 1, 1, 1]);
        // A quarter of a second a row: 40 rows take half of the limit.
        for _ in 0..200 {
            let size = pace.size();
            pace.passed(size, Duration::from_millis(250) * u32::try_from(size).expect("few"));
        }
        assert!((33..=40).contains(&pace.size()), "{}", pace.size());
        let mut batches = 0;
        while pace.size() < 100 {
            pace.passed(pace.size(), Duration::from_millis(10));
            batches += 1;
        }
        assert!((5..=15).contains(&batches), "{batches}");
        pace.passed(1, Duration::from_secs(30));
        assert_eq!(pace.size(), 100, "what is in time shrinks nothing");
    }

    #[test]
    fn a_batch_that_is_not_full_says_nothing_about_a_larger_one() {
        let pace = Pace::new(100);
        cut_short(&pace);
        for _ in 0..100 {
            pace.passed(49, Duration::ZERO);
        }
        assert_eq!(pace.size(), 50);
    }
}
