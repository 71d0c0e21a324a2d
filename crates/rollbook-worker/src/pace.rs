//! Maximum messages of a batch, adapted to the time limits of the store.
//!
//! A batch that runs into a time limit halves the size. A size that works grows by an eighth with each full
//! batch, as long as the larger batch would take less than half of the time after which the last one was cut short.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rollbook_core::store::SlowCause;
use tracing::{info, warn};

/// Shared by all lanes of a worker.
pub(crate) struct Pace {
    size_max: usize,
    state: Mutex<State>,
}

struct State {
    size: usize,
    /// The shortest time after which a batch was cut short.
    cut_after: Duration,
}

impl Pace {
    pub(crate) fn new(size_max: usize) -> Self {
        let size_max = size_max.max(1);
        Self { size_max, state: Mutex::new(State { size: size_max, cut_after: Duration::MAX }) }
    }

    /// The size of the next batch, at most.
    pub(crate) fn size(&self) -> usize {
        self.state().size
    }

    /// A batch of this size ran into a time limit.
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

    /// The time of a batch was over before anything of it was decided; it got down to parts of this size.
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

    /// Records that this many changes were applied in one call.
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

    /// Grows where a larger batch than the one that took so long is likely to be in time.
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
