//! Size of steps: how much of a large job one transaction does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The size of the first step, before anything is known of the database and its triggers.
const FIRST: usize = 100;
/// Maximum size of a step.
pub const STEP_MAX: usize = 1000;
/// A step of several rows that takes longer than this makes the next ones smaller, unless an engine says otherwise.
const SLOW: Duration = Duration::from_secs(1);
/// The share of that time below which a step makes the next one larger.
const QUICK_SHARE: u32 = 4;

/// The size of the next step: it halves when a step times out, shrinks when one is slow, and grows while
/// steps are quick.
#[derive(Debug)]
pub struct Pace {
    size: AtomicUsize,
    slow: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(SLOW)
    }
}

impl Pace {
    /// The pace of steps that should take no longer than `slow`.
    pub const fn new(slow: Duration) -> Self {
        Self { size: AtomicUsize::new(FIRST), slow }
    }

    /// At least one, at most [`STEP_MAX`].
    pub fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// A step of this size was committed after this time.
    pub fn took(&self, size: usize, time: Duration) {
        let next = if time > self.slow {
            // As many as would have taken the time that a step may take.
            let share = self.slow.as_secs_f64() / time.as_secs_f64();
            (0..size).rev().find(|fewer| as_f64(*fewer) <= as_f64(size) * share).unwrap_or_default()
        } else if time < self.slow / QUICK_SHARE {
            self.size().max(size.saturating_mul(2))
        } else {
            return;
        };
        self.size.store(next.clamp(1, STEP_MAX), Ordering::Relaxed);
    }

    /// A step of this size timed out.
    pub fn timed_out(&self, size: usize) {
        self.size.store((size / 2).clamp(1, STEP_MAX), Ordering::Relaxed);
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
    fn an_engine_may_ask_for_shorter_steps() {
        let pace = Pace::new(Duration::from_millis(200));
        pace.took(FIRST, Duration::from_millis(400));
        assert_eq!(pace.size(), 50);
        pace.took(50, Duration::from_millis(49));
        assert_eq!(pace.size(), 100);
    }

    #[test]
    fn the_short_rest_of_a_run_does_not_make_the_next_steps_smaller() {
        let pace = Pace::default();
        pace.took(3, Duration::from_millis(1));
        assert_eq!(pace.size(), FIRST);
    }
}
