//! The brake: a run that would delete too many rows of a table deletes none of them. Rows count that are deleted with a
//! parent too.

use crate::settings::{DELETIONS_MIN, DELETIONS_SHARE};

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
