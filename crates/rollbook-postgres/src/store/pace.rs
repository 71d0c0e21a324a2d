//! How much of growing work goes into one transaction.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The first step, before anything is known of the database and its triggers.
const FIRST: usize = 100;
/// Maximum size of a step.
pub(super) const STEP_MAX: usize = 1000;
/// A step of several rows that takes longer makes the next ones smaller.
const SLOW: Duration = Duration::from_secs(1);
/// A step that takes less makes the next one larger.
const QUICK: Duration = Duration::from_millis(250);

/// The size of the next step: it halves when a step times out, shrinks when one is slow, and grows while steps are quick.
#[derive(Debug)]
pub(super) struct Pace(AtomicUsize);

impl Default for Pace {
    fn default() -> Self {
        Self(AtomicUsize::new(FIRST))
    }
}

impl Pace {
    /// At least one, at most [`STEP_MAX`].
    pub(super) fn size(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// A step of this size was committed after this time.
    pub(super) fn took(&self, size: usize, time: Duration) {
        let next = if time > SLOW {
            // As many as would have taken a second.
            let share = SLOW.as_secs_f64() / time.as_secs_f64();
            (0..size).rev().find(|fewer| as_f64(*fewer) <= as_f64(size) * share).unwrap_or_default()
        } else if time < QUICK {
            self.size().max(size.saturating_mul(2))
        } else {
            return;
        };
        self.0.store(next.clamp(1, STEP_MAX), Ordering::Relaxed);
    }

    /// A step of this size timed out.
    pub(super) fn timed_out(&self, size: usize) {
        self.0.store((size / 2).clamp(1, STEP_MAX), Ordering::Relaxed);
    }
}

fn as_f64(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_times_out_halves_the_next_ones_down_to_a_single_row() {
        let pace = Pace::default();
        let mut sizes = Vec::new();
        for _ in 0..8 {
            pace.timed_out(pace.size());
            sizes.push(pace.size());
        }
        assert_eq!(sizes, [50, 25, 12, 6, 3, 1, 1, 1]);
    }

    #[test]
    fn quick_steps_grow_to_the_limit_and_slow_ones_shrink_to_about_a_second() {
        let pace = Pace::default();
        for _ in 0..5 {
            pace.took(pace.size(), Duration::from_millis(10));
        }
        assert_eq!(pace.size(), STEP_MAX);
        pace.took(STEP_MAX, Duration::from_millis(500));
        assert_eq!(pace.size(), STEP_MAX, "neither slow nor quick");
        pace.took(STEP_MAX, Duration::from_secs(4));
        assert_eq!(pace.size(), 250);
        pace.took(1, Duration::from_secs(20));
        assert_eq!(pace.size(), 1, "one row is the smallest step");
        pace.took(1, Duration::from_millis(1));
        assert_eq!(pace.size(), 2);
    }

    #[test]
    fn the_short_rest_of_a_run_does_not_make_the_next_steps_smaller() {
        let pace = Pace::default();
        pace.took(3, Duration::from_millis(1));
        assert_eq!(pace.size(), FIRST);
    }
}
