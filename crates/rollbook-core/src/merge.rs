//! The merge: why the order of deliveries does not matter.
//!
//! The state of a subject is a few registers, each the maximum of the values seen: the content, by
//! [`Version`]; the deletion, by the event time; and the ids of the parents, by [`Links`]. A maximum is
//! commutative, associative and idempotent. The rows are therefore a function of the *set* of changes:
//! delays, duplicates, batches and the number of workers make no difference. A deletion is never undone. A
//! late change of a deleted subject supplies its content and leaves it deleted, unless the content has been
//! erased: erased content is the maximum of all.
//!
//! A row also depends on its parents (see [`FromParents`]): a membership is deleted with its user or its
//! organization. This is computed from the states of the parents whenever one of them changes. It is not a
//! register of its own.
//!
//! [`fold`] applies a batch of changes of one resource to the stored states. It returns the outcome of each
//! change and the new state of each subject that advances.

mod links;
mod reset;

use std::collections::BTreeMap;

pub use self::links::{Links, Named};
use crate::catalog::{LINKS_MAX, Link, Resource};
use crate::change::{Applied, Field, Row, SubjectChange, Version};
use crate::time::Timestamp;

/// Treatment of the content of deleted subjects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletedRows {
    /// The content stays; only `deleted_at` is set.
    #[default]
    Keep,
    /// The content is erased at once, permanently.
    Erase,
}

/// `version_hash` of erased content; `ff` in SQL.
const ERASED_HASH: &[u8] = &[0xff];

/// Content register of a subject. The order defines the register: it holds the maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// No content: only a delete event has arrived, or the row is a placeholder.
    #[default]
    Unknown,
    /// Content at this version.
    At(Version),
    /// Erased permanently. No change restores it.
    Erased,
}

impl Content {
    /// Returns the columns `version_updated_at`, `version_event_at` and `version_hash` that every table has.
    /// Contents with equal hashes are equal.
    pub fn to_columns(&self) -> (i64, i64, &[u8]) {
        match self {
            Self::Unknown => (i64::MIN, i64::MIN, &[]),
            Self::At(version) => (version.updated_at, version.event_at, &version.hash),
            Self::Erased => (i64::MAX, i64::MAX, ERASED_HASH),
        }
    }

    /// Returns the content that these columns stand for, or `None` if no store writes such values.
    pub fn from_columns(updated_at: i64, event_at: i64, hash: &[u8]) -> Option<Self> {
        match hash {
            [] => Some(Self::Unknown),
            ERASED_HASH => Some(Self::Erased),
            _ => {
                let hash = hash.try_into().ok()?;
                Some(Self::At(Version { is_deleted: false, updated_at, event_at, hash }))
            }
        }
    }
}

/// Stored state of a subject. The default is the state of an unknown subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubjectState {
    /// Content register.
    pub content: Content,
    /// Time of the latest delete event, in milliseconds.
    pub deleted_at: Option<i64>,
    /// Erasure floor, in milliseconds: changes with an event time at or below it are ignored. Zero until an
    /// operator resets or erases the subject.
    pub floor: i64,
    /// Source of the ids of its parents.
    pub links: Links,
}

impl SubjectState {
    /// Returns whether an operator has erased this subject. Its child rows then lose their content too,
    /// whenever they arrive.
    pub fn is_erased_by_operator(&self) -> bool {
        self.content == Content::Erased && self.floor > 0
    }

    /// Returns the state after an operator has erased the subject at `at`: deleted at that time, with an
    /// erasure floor. Changes at or below the floor are ignored; changes above it find the subject erased.
    #[must_use]
    pub fn erased_by_operator(self, at: Timestamp) -> Self {
        let seen = match self.content {
            Content::At(version) => version.event_at,
            Content::Unknown | Content::Erased => 0,
        };
        let deleted_at = self.deleted_at.map_or(at.as_millis(), |earlier| earlier.max(at.as_millis()));
        let floor = self.floor.max(seen).max(deleted_at).max(1);
        Self { content: Content::Erased, deleted_at: Some(deleted_at), floor, links: Links::default() }
    }

    /// Returns the state after a change that advances it and names these parents.
    fn after(self, change: &Version, names: [bool; LINKS_MAX], deleted_rows: DeletedRows) -> Self {
        match (change.is_deleted, deleted_rows) {
            (false, _) => {
                let links = self.links.after_content(self.content, names);
                Self { content: Content::At(*change), links, ..self }
            }
            (true, DeletedRows::Keep) => Self { deleted_at: Some(change.event_at), ..self },
            (true, DeletedRows::Erase) => Self {
                deleted_at: Some(change.event_at),
                content: Content::Erased,
                links: Links::default(),
                // Erased content with a floor is an operator's erasure, and needs no floor otherwise.
                floor: if self.is_erased_by_operator() { self.floor } else { 0 },
            },
        }
    }
}

/// Result of [`fold`].
#[derive(Clone, Debug)]
pub struct MergeResult {
    /// Outcome of each change, in the same order.
    pub outcomes: Vec<Applied>,
    /// Subjects that advance, in the order of their ids. The fixed order of locks prevents deadlocks between batches.
    pub winners: Vec<SubjectUpdate>,
}

/// New values of one subject to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubjectUpdate {
    /// Position of the last change that had an effect.
    pub last: usize,
    /// Position of the change that gives the content. `None`: the content stays, or is erased if `state` says so.
    pub content: Option<usize>,
    /// Position of the change that gives the parent's id, for each link. `None`: the id stays.
    pub parents: [Option<usize>; LINKS_MAX],
    /// State of the subject after the batch.
    pub state: SubjectState,
}

impl SubjectUpdate {
    /// Returns the parent ids to write, in the order of the resource's links. `None`: the id stays.
    pub fn parents<'a>(&self, changes: &[&'a SubjectChange]) -> [Option<&'a str>; LINKS_MAX] {
        let mut ids = [None; LINKS_MAX];
        for (number, (id, position)) in ids.iter_mut().zip(self.parents).enumerate() {
            *id = position.and_then(|position| changes[position].parents()[number]);
        }
        ids
    }
}

/// Applies `changes` in their order to the `stored` state of their subjects, by id. All changes must be of one resource.
pub fn fold(
    changes: &[&SubjectChange],
    deleted_rows: DeletedRows,
    stored: impl Fn(&str) -> Option<SubjectState>,
) -> MergeResult {
    let mut winners: BTreeMap<&str, SubjectUpdate> = BTreeMap::new();
    let mut outcomes = Vec::with_capacity(changes.len());
    for (position, change) in changes.iter().enumerate() {
        let id = change.id.as_str();
        let winner = winners.get(id).copied();
        let current = winner.map_or_else(|| stored(id).unwrap_or_default(), |winner| winner.state);
        let names = change.parents().map(|id| id.is_some());
        let mut outcome = outcome_of(&change.version, &current, deleted_rows);
        let (mut parents, mut content) =
            winner.map_or(([None; LINKS_MAX], None), |winner| (winner.parents, winner.content));
        if outcome.advances() {
            let state = current.after(&change.version, names, deleted_rows);
            if !change.version.is_deleted {
                content = Some(position);
                parents.iter_mut().zip(names).filter(|(_, names)| *names).for_each(|(of, _)| *of = content);
            }
            if state.content == Content::Erased {
                (content, parents) = (None, [None; LINKS_MAX]);
            }
            winners.insert(id, SubjectUpdate { last: position, content, parents, state });
        } else if is_older_content(&change.version, &current) {
            let (links, learned) = current.links.after_stale(&change.version, names);
            if learned.contains(&true) {
                outcome = Applied::Updated;
                let learned = parents.iter_mut().zip(learned).filter(|(_, learned)| *learned);
                learned.for_each(|(of, _)| *of = Some(position));
                let state = SubjectState { links, ..current };
                winners.insert(id, SubjectUpdate { last: position, content, parents, state });
            }
        }
        outcomes.push(outcome);
    }
    MergeResult { outcomes, winners: winners.into_values().collect() }
}

/// Returns whether the content of a change is older than the known content. Such a change can only add the id
/// of a parent.
fn is_older_content(version: &Version, known: &SubjectState) -> bool {
    let is_older = matches!(known.content, Content::At(current) if *version < current);
    is_older && !version.is_deleted && version.event_at > known.floor
}

/// Returns the outcome of a change at `version` for a subject in the state `known`.
pub fn outcome_of(version: &Version, known: &SubjectState, deleted_rows: DeletedRows) -> Applied {
    if version.event_at <= known.floor {
        return Applied::Ignored;
    }
    if version.is_deleted {
        return match known.deleted_at {
            Some(at) if version.event_at < at => Applied::Stale,
            Some(at) if version.event_at == at => Applied::Unchanged,
            _ => Applied::Deleted,
        };
    }
    match known.content {
        Content::Erased => Applied::Stale,
        Content::At(current) if *version < current => Applied::Stale,
        Content::At(current) if *version == current => Applied::Unchanged,
        _ if known.deleted_at.is_some() && deleted_rows == DeletedRows::Erase => Applied::Stale,
        Content::Unknown if known.deleted_at.is_none() => Applied::Inserted,
        _ => Applied::Updated,
    }
}

/// State that a row takes from its parents: a membership is deleted with its user or its organization,
/// whichever is deleted first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FromParents {
    /// Earliest deletion of a parent, in milliseconds. The row shows it if it has no deletion of its own.
    pub deleted_at: Option<i64>,
    /// Whether the content of a parent has been erased. The row then shows no content either, except the ids
    /// of its parents.
    pub erased: bool,
}

/// Returns the state that a row of `resource` takes from its parents. `known` returns the state of a parent
/// by resource and id.
pub fn from_parents(
    resource: &'static Resource,
    row: &Row,
    known: impl Fn(&'static Resource, &str) -> Option<SubjectState>,
) -> FromParents {
    let mut from_parents = FromParents::default();
    for (link, id) in parents(resource, row) {
        let parent = known(link.parent, id).filter(|parent| link.cascades || parent.is_erased_by_operator());
        if let Some(SubjectState { content, deleted_at: Some(at), .. }) = parent {
            from_parents.deleted_at = Some(from_parents.deleted_at.map_or(at, |earliest| earliest.min(at)));
            from_parents.erased |= content == Content::Erased;
        }
    }
    from_parents
}

/// Returns the parents that a row names: each link with its id.
pub fn parents<'a>(
    resource: &'static Resource,
    row: &'a Row,
) -> impl Iterator<Item = (&'static Link, &'a str)> {
    let ids = resource.columns.iter().zip(&row.values);
    resource.links.iter().filter_map(move |link| {
        let id = ids.clone().find(|(column, _)| column.name == link.column);
        match id {
            Some((_, Field::Text(id))) => Some((link, id.as_str())),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: DeletedRows = DeletedRows::Keep;
    const ERASE: DeletedRows = DeletedRows::Erase;

    fn live(updated_at: i64, event_at: i64, hash: u8) -> Version {
        Version { is_deleted: false, updated_at, event_at, hash: [hash; 16] }
    }

    fn delete(event_at: i64) -> Version {
        Version { is_deleted: true, updated_at: 0, event_at, hash: [0; 16] }
    }

    fn at(version: Version) -> SubjectState {
        SubjectState { content: Content::At(version), ..SubjectState::default() }
    }

    fn dead(content: Content, at: i64) -> SubjectState {
        SubjectState { content, deleted_at: Some(at), ..SubjectState::default() }
    }

    #[test]
    fn the_first_content_is_inserted_and_a_newer_one_updates() {
        let (old, new) = (live(1, 1, 1), live(2, 2, 2));
        assert_eq!(outcome_of(&old, &SubjectState::default(), KEEP), Applied::Inserted);
        assert_eq!(outcome_of(&new, &at(old), KEEP), Applied::Updated);
        assert_eq!(outcome_of(&old, &at(new), KEEP), Applied::Stale);
        assert_eq!(outcome_of(&new, &at(new), KEEP), Applied::Unchanged);
    }

    #[test]
    fn no_change_restores_a_deleted_subject_whatever_its_timestamps() {
        // The delete has its time in seconds, all others in milliseconds. It still wins.
        let (deleted, late) = (delete(1_716_883_200), live(1_716_883_199_000, 1_716_883_199_000, 7));
        let known = dead(Content::Unknown, deleted.event_at);
        assert_eq!(outcome_of(&deleted, &at(late), KEEP), Applied::Deleted);
        assert_eq!(outcome_of(&late, &known, ERASE), Applied::Stale);
        assert_eq!(outcome_of(&late, &known, KEEP), Applied::Updated, "a late change supplies the content");
        assert_eq!(
            known.after(&late, [false; 2], KEEP).deleted_at,
            known.deleted_at,
            "the subject stays deleted"
        );
    }

    #[test]
    fn a_deleted_subject_has_its_latest_content_in_any_order_of_arrival() {
        let (old, new) = (live(1, 1, 1), live(2, 2, 2));
        assert_eq!(outcome_of(&old, &dead(Content::At(new), 3), KEEP), Applied::Stale);
        assert_eq!(outcome_of(&new, &dead(Content::At(new), 3), KEEP), Applied::Unchanged);
        assert_eq!(outcome_of(&new, &dead(Content::At(old), 3), KEEP), Applied::Updated);
    }

    #[test]
    fn erased_content_is_never_restored() {
        for deleted_rows in [KEEP, ERASE] {
            assert_eq!(outcome_of(&live(9, 9, 9), &dead(Content::Erased, 3), deleted_rows), Applied::Stale);
        }
        let erased = at(live(1, 1, 1)).after(&delete(3), [false; 2], ERASE);
        assert_eq!(erased, dead(Content::Erased, 3));
        assert_eq!(
            at(live(1, 1, 1)).after(&delete(3), [false; 2], KEEP),
            dead(Content::At(live(1, 1, 1)), 3)
        );
    }

    #[test]
    fn content_round_trips_through_its_columns() {
        for content in [Content::Unknown, Content::At(live(5, 6, 7)), Content::Erased] {
            let (updated_at, event_at, hash) = content.to_columns();
            assert_eq!(Content::from_columns(updated_at, event_at, hash), Some(content));
        }
        assert_eq!(Content::from_columns(1, 1, &[1, 2]), None);
    }

    #[test]
    fn the_later_of_two_deletes_gives_the_time() {
        assert_eq!(outcome_of(&delete(5), &dead(Content::Unknown, 4), KEEP), Applied::Deleted);
        assert_eq!(outcome_of(&delete(4), &dead(Content::Unknown, 4), KEEP), Applied::Unchanged);
        assert_eq!(outcome_of(&delete(3), &dead(Content::Unknown, 4), KEEP), Applied::Stale);
    }

    #[test]
    fn equal_updated_at_is_decided_by_the_event_time_and_then_by_the_hash() {
        let (first, later) = (live(5, 6, 9), live(5, 7, 1));
        assert_eq!(outcome_of(&later, &at(first), KEEP), Applied::Updated);
        assert_eq!(outcome_of(&first, &at(later), KEEP), Applied::Stale);
        assert_eq!(outcome_of(&live(5, 6, 10), &at(first), KEEP), Applied::Updated);
    }

    #[test]
    fn an_event_at_the_erasure_floor_is_ignored_and_one_above_it_is_not() {
        let reset = SubjectState { floor: 10, ..SubjectState::default() };
        assert_eq!(outcome_of(&delete(10), &reset, KEEP), Applied::Ignored);
        assert_eq!(outcome_of(&live(3, 11, 0), &reset, KEEP), Applied::Inserted);
    }
}
