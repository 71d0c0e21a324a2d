//! The brake: a run that would delete too many rows of a table deletes none of them. Rows count that are deleted with a
//! parent too.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::settings::{DELETIONS_MIN, DELETIONS_SHARE};

/// Time for which deletions by readings on behalf of applications are counted together.
const REFRESH_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// Deletions by readings on behalf of applications: each reads one object, so that no run counts them together.
#[derive(Debug, Default)]
pub(crate) struct RefreshBrake(Mutex<Deletions>);

/// Deletions by table since a time.
#[derive(Debug, Default)]
pub(crate) struct Deletions {
    since: Option<Instant>,
    by_table: HashMap<&'static str, u64>,
}

impl RefreshBrake {
    /// Returns the deletions of the present period. The caller holds the guard until it has counted its own.
    pub(crate) async fn deletions(&self) -> tokio::sync::MutexGuard<'_, Deletions> {
        let mut deletions = self.0.lock().await;
        if deletions.since.is_none_or(|since| since.elapsed() >= REFRESH_PERIOD) {
            *deletions = Deletions { since: Some(Instant::now()), by_table: HashMap::new() };
        }
        deletions
    }
}

impl Deletions {
    pub(crate) fn of(&self, table: &str) -> u64 {
        self.by_table.get(table).copied().unwrap_or_default()
    }

    pub(crate) fn count(&mut self, table: &'static str, rows: u64) {
        *self.by_table.entry(table).or_default() += rows;
    }
}

/// Returns how many rows a run may delete of a table with this number of living rows (before the deletion).
pub(crate) const fn allowed(living: u64) -> u64 {
    let share = living / DELETIONS_SHARE;
    if share > DELETIONS_MIN { share } else { DELETIONS_MIN }
}

/// Whether a run may delete so many rows of a table with this number of living rows (before the deletion).
pub(crate) const fn is_allowed(deletions: u64, living: u64) -> bool {
    deletions <= allowed(living)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_deletions_or_one_row_in_a_hundred_are_allowed_and_one_more_is_not() {
        assert!(is_allowed(0, 0) && is_allowed(20, 20) && !is_allowed(21, 21));
        assert!(is_allowed(20, 2_099) && !is_allowed(21, 2_099));
        assert!(is_allowed(21, 2_100) && !is_allowed(22, 2_100));
        assert!(is_allowed(10_000, 1_000_000) && !is_allowed(10_001, 1_000_000));
    }
}
