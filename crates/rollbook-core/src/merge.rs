//! The merge: why the order of deliveries does not matter.
//!
//! A subject's state is the greatest [`Version`] seen of it, a maximum over a total order. Taking the
//! maximum is commutative, associative and idempotent, so the rows are a function of the *set* of
//! changes, whatever came late, twice, in other batches or through other workers.
//!
//! [`fold`] plays a batch of changes of one resource against what is stored: it says what each change
//! did and which one of each subject is left to write. A store calls it within its transaction and
//! writes the winners in one statement, guarded by the same comparison where others may write too.

use std::collections::BTreeMap;

use crate::change::{Applied, Assertion, Version};

/// What a store knows of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The greatest version seen; `None` where the row is only a floor.
    pub version: Option<Version>,
    /// Changes whose event is at or before this moment (milliseconds) belong to an earlier life of
    /// the subject and are ignored. Zero until an operator resets the row.
    pub floor: i64,
}

/// The result of [`fold`].
#[derive(Clone, Debug)]
pub struct Folded {
    /// What each change did, in their order.
    pub outcomes: Vec<Applied>,
    /// The positions of those changes that are to be written, one for each subject that advances, in
    /// the order of the subjects' ids: a fixed order of locks, without which two batches deadlock.
    pub winners: Vec<usize>,
}

/// Plays `changes`, in their order, against what is `stored` of their subjects, by id. All changes are
/// of one resource.
pub fn fold(changes: &[&Assertion], stored: impl Fn(&str) -> Option<Stored>) -> Folded {
    let mut winners: BTreeMap<&str, usize> = BTreeMap::new();
    let mut outcomes = Vec::with_capacity(changes.len());
    for (position, change) in changes.iter().enumerate() {
        let id = change.id.as_str();
        let known = stored(id);
        let current = match winners.get(id) {
            Some(winner) => Some(changes[*winner].version),
            None => known.and_then(|known| known.version),
        };
        let outcome = judge(&change.version, current.as_ref(), known.map_or(0, |known| known.floor));
        if matches!(outcome, Applied::Inserted | Applied::Updated | Applied::Deleted) {
            winners.insert(id, position);
        }
        outcomes.push(outcome);
    }
    Folded { outcomes, winners: winners.into_values().collect() }
}

/// What a change at `version` does to a subject whose greatest known version is `current`.
pub fn judge(version: &Version, current: Option<&Version>, floor: i64) -> Applied {
    if version.event_at <= floor {
        return Applied::Ignored;
    }
    match current {
        Some(current) if version < current => Applied::Stale,
        Some(current) if version == current => Applied::Unchanged,
        _ if version.dead => Applied::Deleted,
        Some(_) => Applied::Updated,
        None => Applied::Inserted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(dead: bool, updated_at: i64, event_at: i64, hash: u8) -> Version {
        Version { dead, updated_at, event_at, hash: [hash; 16] }
    }

    #[test]
    fn the_first_known_is_inserted_and_a_newer_one_updates() {
        let (old, new) = (version(false, 1, 1, 1), version(false, 2, 2, 2));
        assert_eq!(judge(&old, None, 0), Applied::Inserted);
        assert_eq!(judge(&new, Some(&old), 0), Applied::Updated);
        assert_eq!(judge(&old, Some(&new), 0), Applied::Stale);
        assert_eq!(judge(&new, Some(&new), 0), Applied::Unchanged);
    }

    #[test]
    fn nothing_revives_a_deleted_subject_whatever_its_times_say() {
        // The delete's time in seconds where every other is in milliseconds: it is still absorbing.
        let deleted = version(true, 0, 1_716_883_200, 0);
        let late = version(false, 1_716_883_199_000, 1_716_883_199_000, 7);
        assert_eq!(judge(&late, Some(&deleted), 0), Applied::Stale);
        assert_eq!(judge(&deleted, Some(&late), 0), Applied::Deleted);
    }

    #[test]
    fn an_equal_updated_at_is_decided_by_the_event_and_then_by_the_content() {
        let (first, later) = (version(false, 5, 6, 9), version(false, 5, 7, 1));
        assert_eq!(judge(&later, Some(&first), 0), Applied::Updated);
        assert_eq!(judge(&first, Some(&later), 0), Applied::Stale);
        assert_eq!(judge(&version(false, 5, 6, 10), Some(&first), 0), Applied::Updated);
    }

    #[test]
    fn an_event_at_the_floor_belongs_to_an_earlier_life_and_one_above_it_does_not() {
        assert_eq!(judge(&version(true, 0, 10, 0), None, 10), Applied::Ignored);
        assert_eq!(judge(&version(false, 3, 11, 0), None, 10), Applied::Inserted);
    }
}
