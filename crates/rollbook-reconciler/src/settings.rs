//! Settings of the reconciler.

use std::time::Duration;

/// Number of deletions of a table in one run that are always let through.
pub const DELETIONS_MIN: u64 = 20;

/// Share of a table's living rows that one run may delete, as a divisor: one in a hundred.
pub const DELETIONS_SHARE: u64 = 100;

/// Margin between Clerk's clock and the event time of a reading. An event within it wins over the reading at
/// an equal `updated_at`: the page may come from a copy of Clerk's database that is some seconds old.
pub const MARGIN: Duration = Duration::from_secs(10);

/// Default of [`Settings::absence_margin`].
pub const ABSENCE_MARGIN: Duration = Duration::from_secs(300);

/// Default of [`Settings::reread_pause`].
pub const REREAD_PAUSE: Duration = Duration::from_millis(500);

/// Default of [`Settings::lock_for`].
pub const LOCK_FOR: Duration = Duration::from_secs(60);

/// Time for which a check of the key's instance holds for readings on behalf of applications.
pub const INSTANCE_CHECKED_FOR: Duration = Duration::from_secs(300);

/// Time that Clerk takes to answer with a page, at most, without slowing down a walk.
pub const ANSWER_TIME: Duration = Duration::from_millis(400);

/// Least number of pages that are read at the same time.
pub const PAGES_AT_ONCE_MIN: usize = 4;

/// Largest number of pages that are read at the same time. Their size is limited too (see `room.rs`).
pub const PAGES_AT_ONCE_MAX: usize = 40;

/// Maximum number of pages of a run in the background that are requested or wait. Such a run writes about ten in a second, and
/// more would only take memory.
pub const PAGES_AT_ONCE_IN_BACKGROUND: usize = 6;

/// Shortest and longest pause of a run in the background after a step: a few objects that are decoded, or a transaction.
pub(crate) const REST_MIN: Duration = Duration::from_millis(1);
pub(crate) const REST_MAX: Duration = Duration::from_secs(1);

/// Name of the lock of a run.
pub(crate) const RUN_LOCK: &str = "run";

/// Difference between Clerk's clock and this machine's above which `doctor` warns.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);

/// Maximum difference between the `Date` of an answer of Clerk and this machine's clock. An answer beyond it proves
/// nothing, and ends a run. Svix's signatures have the same tolerance, so that no webhook is accepted beyond it either.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// Maximum time by which the `Date` of an answer is earlier than that of an answer before: Clerk has several machines.
pub const CLOCK_BACK_MAX: Duration = Duration::from_secs(15);

/// Settings of the reconciler.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Instance that the key must belong to: `CLERK_INSTANCE_ID`.
    pub instance_id: Option<String>,
    /// Maximum number of pages of a list that are read at the same time (see [`Self::pages_at_once`]). In the background it is
    /// also at most [`PAGES_AT_ONCE_IN_BACKGROUND`].
    pub parallel: usize,
    /// Objects per page, at most [`rollbook_core::source::PAGE_MAX`].
    pub page_size: usize,
    /// Time between two records of a run's position.
    pub save_every: Duration,
    /// Time for which a run holds its lock without renewing it; a timer renews it three times as often. A killed run
    /// blocks the next one this long.
    pub lock_for: Duration,
    /// Time before a read of Clerk in which a row must not have been written, so that its absence there proves
    /// anything: a copy of Clerk's database that is behind lacks what was just created. A later run examines the row.
    pub absence_margin: Duration,
    /// Pause before a page that contradicts an earlier one is read again: a copy of Clerk's database that is behind needs
    /// time.
    pub reread_pause: Duration,
    /// Time for which a run waits while Clerk or the store cannot answer. Then it stops, and can be resumed.
    pub patience: Duration,
    /// Whether the process also works on deliveries, which go first: one page at a time is compared and written, in steps of a
    /// millisecond or two, and a pause of the same length follows each.
    pub is_background: bool,
}

impl Settings {
    /// Returns the maximum number of pages of a list that are requested or wait.
    pub(crate) fn pages_under_way(&self) -> usize {
        let most = if self.is_background { PAGES_AT_ONCE_IN_BACKGROUND } else { usize::MAX };
        self.parallel.clamp(1, most)
    }

    /// Returns the number of pages to read at the same time, so that answers that take [`ANSWER_TIME`] do not slow
    /// down a client with this rate.
    pub fn pages_at_once(requests_per_second: f64) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "limited to a small number"
        )]
        let pages = (requests_per_second * ANSWER_TIME.as_secs_f64()).ceil() as usize;
        pages.clamp(PAGES_AT_ONCE_MIN, PAGES_AT_ONCE_MAX)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            instance_id: None,
            parallel: PAGES_AT_ONCE_MAX,
            page_size: rollbook_core::source::PAGE_MAX,
            save_every: Duration::from_secs(1),
            lock_for: LOCK_FOR,
            absence_margin: ABSENCE_MARGIN,
            reread_pause: REREAD_PAUSE,
            patience: Duration::from_secs(300),
            is_background: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_pages_at_once_follows_the_rate_within_limits() {
        for (rate, pages) in [(95.0, 38), (50.0, 20), (9.5, 4), (0.01, 4), (1e9, 40), (f64::NAN, 4)] {
            assert_eq!(Settings::pages_at_once(rate), pages, "{rate}");
        }
    }
}
