//! Settings of the reconciler.

use std::time::Duration;

/// Number of deletions of a table in one run that are always let through.
pub const DELETIONS_MIN: u64 = 20;

/// Share of a table's living rows that one run may delete, as a divisor: one in a hundred.
pub const DELETIONS_SHARE: u64 = 100;

/// Margin between Clerk's clock and the event time of a reading. An event within it wins over the reading at
/// an equal `updated_at`: the page may come from a copy of Clerk's database that is some seconds old.
pub const MARGIN: Duration = Duration::from_secs(10);

/// Default of [`Settings::lock_for`].
pub const LOCK_FOR: Duration = Duration::from_secs(60);

/// Name of the lock of a run.
pub(crate) const RUN_LOCK: &str = "run";

/// Difference between Clerk's clock and this machine's above which `doctor` warns.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);

/// Settings of the reconciler.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Instance that the key must belong to: `CLERK_INSTANCE_ID`.
    pub instance_id: Option<String>,
    /// Maximum number of pages of users that are read at the same time.
    pub parallel: usize,
    /// Objects per page, at most [`rollbook_core::source::PAGE_MAX`].
    pub page_size: usize,
    /// Time between two records of a run's position.
    pub save_every: Duration,
    /// Time for which a run holds its lock without renewing it. A killed run blocks the next one this long.
    pub lock_for: Duration,
    /// Time for which a run waits while Clerk or the store cannot answer. Then it stops, and can be resumed.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            instance_id: None,
            parallel: 16,
            page_size: rollbook_core::source::PAGE_MAX,
            save_every: Duration::from_secs(1),
            lock_for: LOCK_FOR,
            patience: Duration::from_secs(300),
        }
    }
}
