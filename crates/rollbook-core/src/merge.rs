//! The merge: why the order of deliveries does not matter.
//!
//! A subject's state is a few registers, each the greatest value seen of it: its content, by [`Version`],
//! its end, by the event's time, and the ids of its parents, by [`Links`]. Taking a maximum is commutative, associative and idempotent, so the rows are
//! a function of the *set* of changes, whatever came late, twice, in other batches or through other workers.
//! Nothing takes an end back. A late change of a deleted subject fills in what it was like and leaves it
//! deleted, unless its content has been erased: that is the greatest content of all.
//!
//! What a row shows depends on its parents too (see [`Inherited`]): a membership ends with its user and its
//! organization. That is a function of the states, worked out anew whenever one of them changes, and never
//! a state of its own.
//!
//! [`fold`] plays a batch of changes of one resource against what is stored: it says what each change
//! did, and how each subject that advances is afterwards.

mod links;

use std::collections::BTreeMap;

pub use self::links::{Links, Named};
use crate::catalog::{LINKS_MAX, Link, Resource};
use crate::change::{Applied, Assertion, Field, Row, Version};
use crate::time::Timestamp;

/// What becomes of the content of deleted subjects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletedRows {
    /// It stays, beside `deleted_at`.
    #[default]
    Keep,
    /// It goes at once, for good.
    Erase,
}

/// The `version_hash` of content that was erased; SQL knows it as `ff`.
const ERASED_HASH: &[u8] = &[0xff];

/// What is known of a subject's content. Ordered: a maximum over these is the register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// Nothing: only its end has come, or someone has made a place for it.
    #[default]
    Unknown,
    /// It looks as at this version.
    At(Version),
    /// It was removed for good. Nothing brings it back.
    Erased,
}

impl Content {
    /// As every table has it: `version_updated_at`, `version_event_at` and `version_hash`. Two contents with the
    /// same hash are the same.
    pub fn to_columns(&self) -> (i64, i64, &[u8]) {
        match self {
            Self::Unknown => (i64::MIN, i64::MIN, &[]),
            Self::At(version) => (version.updated_at, version.event_at, &version.hash),
            Self::Erased => (i64::MAX, i64::MAX, ERASED_HASH),
        }
    }

    /// The content that a table has so. `None` where no store has written this.
    pub fn from_columns(updated_at: i64, event_at: i64, hash: &[u8]) -> Option<Self> {
        match hash {
            [] => Some(Self::Unknown),
            ERASED_HASH => Some(Self::Erased),
            _ => {
                let hash = hash.try_into().ok()?;
                Some(Self::At(Version { dead: false, updated_at, event_at, hash }))
            }
        }
    }
}

/// What a store knows of a subject. The default is what it knows of one that it has never heard of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The content.
    pub content: Content,
    /// The time of the latest event that says it is gone (milliseconds).
    pub deleted_at: Option<i64>,
    /// Changes whose event is at or before this moment (milliseconds) belong to an earlier life of
    /// the subject and are ignored. Zero until an operator resets the row.
    pub floor: i64,
    /// Where the ids of its parents are from.
    pub links: Links,
}

impl Stored {
    /// Whether an operator has had this subject erased, and so everything that is of it, whatever comes.
    pub fn is_forgotten(&self) -> bool {
        self.content == Content::Erased && self.floor > 0
    }

    /// The state after an operator has had the subject erased at `at`: deleted then, above a floor, so that
    /// what lies at or below it belongs to an earlier life, and what lies above finds it gone.
    #[must_use]
    pub fn forgotten(self, at: Timestamp) -> Self {
        let seen = match self.content {
            Content::At(version) => version.event_at,
            Content::Unknown | Content::Erased => 0,
        };
        let deleted_at = self.deleted_at.map_or(at.as_millis(), |earlier| earlier.max(at.as_millis()));
        let floor = self.floor.max(seen).max(deleted_at).max(1);
        Self { content: Content::Erased, deleted_at: Some(deleted_at), floor, links: Links::default() }
    }

    /// The state after a change that advances it, which names these parents.
    fn after(self, change: &Version, names: [bool; LINKS_MAX], deleted_rows: DeletedRows) -> Self {
        match (change.dead, deleted_rows) {
            (false, _) => {
                let links = self.links.after_content(self.content, names);
                Self { content: Content::At(*change), links, ..self }
            }
            (true, DeletedRows::Keep) => Self { deleted_at: Some(change.event_at), ..self },
            (true, DeletedRows::Erase) => Self {
                deleted_at: Some(change.event_at),
                content: Content::Erased,
                links: Links::default(),
                ..self
            },
        }
    }
}

/// The result of [`fold`].
#[derive(Clone, Debug)]
pub struct Folded {
    /// What each change did, in their order.
    pub outcomes: Vec<Applied>,
    /// Those subjects that advance, in the order of their ids: a fixed order of locks, without which two
    /// batches deadlock.
    pub winners: Vec<Winner>,
}

/// What is to be written of one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Winner {
    /// The position of the last change that did something.
    pub last: usize,
    /// The position of the change whose content is to be written; without one the content stays what
    /// it is, or goes where `state` says that it is erased.
    pub content: Option<usize>,
    /// For each link the position of the change whose parent's id is to be written; without one it stays.
    pub parents: [Option<usize>; LINKS_MAX],
    /// How the subject is afterwards.
    pub state: Stored,
}

impl Winner {
    /// The ids of parents that are to be written, in the order of the resource's links; `None`: it stays.
    pub fn parents<'a>(&self, changes: &[&'a Assertion]) -> [Option<&'a str>; LINKS_MAX] {
        let mut ids = [None; LINKS_MAX];
        for (number, (id, position)) in ids.iter_mut().zip(self.parents).enumerate() {
            *id = position.and_then(|position| changes[position].parents()[number]);
        }
        ids
    }
}

/// Plays `changes`, in their order, against what is `stored` of their subjects, by id. All changes are
/// of one resource.
pub fn fold(
    changes: &[&Assertion],
    deleted_rows: DeletedRows,
    stored: impl Fn(&str) -> Option<Stored>,
) -> Folded {
    let mut winners: BTreeMap<&str, Winner> = BTreeMap::new();
    let mut outcomes = Vec::with_capacity(changes.len());
    for (position, change) in changes.iter().enumerate() {
        let id = change.id.as_str();
        let winner = winners.get(id).copied();
        let current = winner.map_or_else(|| stored(id).unwrap_or_default(), |winner| winner.state);
        let names = change.parents().map(|id| id.is_some());
        let mut outcome = judge(&change.version, &current, deleted_rows);
        let (mut parents, mut content) =
            winner.map_or(([None; LINKS_MAX], None), |winner| (winner.parents, winner.content));
        if outcome.advances() {
            let state = current.after(&change.version, names, deleted_rows);
            if !change.version.dead {
                content = Some(position);
                parents.iter_mut().zip(names).filter(|(_, names)| *names).for_each(|(of, _)| *of = content);
            }
            if state.content == Content::Erased {
                (content, parents) = (None, [None; LINKS_MAX]);
            }
            winners.insert(id, Winner { last: position, content, parents, state });
        } else if is_older_content(&change.version, &current) {
            let (links, learned) = current.links.after_stale(&change.version, names);
            if learned.contains(&true) {
                outcome = Applied::Updated;
                let learned = parents.iter_mut().zip(learned).filter(|(_, learned)| *learned);
                learned.for_each(|(of, _)| *of = Some(position));
                let state = Stored { links, ..current };
                winners.insert(id, Winner { last: position, content, parents, state });
            }
        }
        outcomes.push(outcome);
    }
    Folded { outcomes, winners: winners.into_values().collect() }
}

/// Whether a change is a content that the one that is known replaces: all that it can add is the id of a parent.
fn is_older_content(version: &Version, known: &Stored) -> bool {
    let is_older = matches!(known.content, Content::At(current) if *version < current);
    is_older && !version.dead && version.event_at > known.floor
}

/// What a change at `version` does to a subject of which this is `known`.
pub fn judge(version: &Version, known: &Stored, deleted_rows: DeletedRows) -> Applied {
    if version.event_at <= known.floor {
        return Applied::Ignored;
    }
    if version.dead {
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

/// What a row has from its parents: a membership ends with its user and its organization, whichever came first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    /// The earliest end of a parent (milliseconds). The row shows it where it has no end of its own.
    pub deleted_at: Option<i64>,
    /// Whether the content of a parent has been erased: then the row shows none either, but for the ids of
    /// its parents.
    pub erased: bool,
}

/// What a row of `resource` has from its parents. `known` tells the state of the one with this table and id.
pub fn inherited(
    resource: &'static Resource,
    row: &Row,
    known: impl Fn(&'static Resource, &str) -> Option<Stored>,
) -> Inherited {
    let mut inherited = Inherited::default();
    for (link, id) in parents(resource, row) {
        let parent = known(link.parent, id).filter(|parent| link.cascades || parent.is_forgotten());
        if let Some(Stored { content, deleted_at: Some(at), .. }) = parent {
            inherited.deleted_at = Some(inherited.deleted_at.map_or(at, |earliest| earliest.min(at)));
            inherited.erased |= content == Content::Erased;
        }
    }
    inherited
}

/// The parents that a row names: each link with the id that is there.
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
        Version { dead: false, updated_at, event_at, hash: [hash; 16] }
    }

    fn delete(event_at: i64) -> Version {
        Version { dead: true, updated_at: 0, event_at, hash: [0; 16] }
    }

    fn at(version: Version) -> Stored {
        Stored { content: Content::At(version), ..Stored::default() }
    }

    fn dead(content: Content, at: i64) -> Stored {
        Stored { content, deleted_at: Some(at), ..Stored::default() }
    }

    #[test]
    fn the_first_known_is_inserted_and_a_newer_one_updates() {
        let (old, new) = (live(1, 1, 1), live(2, 2, 2));
        assert_eq!(judge(&old, &Stored::default(), KEEP), Applied::Inserted);
        assert_eq!(judge(&new, &at(old), KEEP), Applied::Updated);
        assert_eq!(judge(&old, &at(new), KEEP), Applied::Stale);
        assert_eq!(judge(&new, &at(new), KEEP), Applied::Unchanged);
    }

    #[test]
    fn nothing_revives_a_deleted_subject_whatever_its_times_say() {
        // The delete's time in seconds where every other is in milliseconds: it is still absorbing.
        let (deleted, late) = (delete(1_716_883_200), live(1_716_883_199_000, 1_716_883_199_000, 7));
        let known = dead(Content::Unknown, deleted.event_at);
        assert_eq!(judge(&deleted, &at(late), KEEP), Applied::Deleted);
        assert_eq!(judge(&late, &known, ERASE), Applied::Stale);
        assert_eq!(judge(&late, &known, KEEP), Applied::Updated, "it tells what it was like");
        assert_eq!(known.after(&late, [false; 2], KEEP).deleted_at, known.deleted_at, "and it stays deleted");
    }

    #[test]
    fn the_content_of_a_deleted_subject_is_the_latest_whatever_comes_first() {
        let (old, new) = (live(1, 1, 1), live(2, 2, 2));
        assert_eq!(judge(&old, &dead(Content::At(new), 3), KEEP), Applied::Stale);
        assert_eq!(judge(&new, &dead(Content::At(new), 3), KEEP), Applied::Unchanged);
        assert_eq!(judge(&new, &dead(Content::At(old), 3), KEEP), Applied::Updated);
    }

    #[test]
    fn an_erased_content_never_comes_back() {
        for deleted_rows in [KEEP, ERASE] {
            assert_eq!(judge(&live(9, 9, 9), &dead(Content::Erased, 3), deleted_rows), Applied::Stale);
        }
        let erased = at(live(1, 1, 1)).after(&delete(3), [false; 2], ERASE);
        assert_eq!(erased, dead(Content::Erased, 3));
        assert_eq!(
            at(live(1, 1, 1)).after(&delete(3), [false; 2], KEEP),
            dead(Content::At(live(1, 1, 1)), 3)
        );
    }

    #[test]
    fn a_content_is_read_as_it_was_written() {
        for content in [Content::Unknown, Content::At(live(5, 6, 7)), Content::Erased] {
            let (updated_at, event_at, hash) = content.to_columns();
            assert_eq!(Content::from_columns(updated_at, event_at, hash), Some(content));
        }
        assert_eq!(Content::from_columns(1, 1, &[1, 2]), None);
    }

    #[test]
    fn the_later_of_two_deletes_says_when() {
        assert_eq!(judge(&delete(5), &dead(Content::Unknown, 4), KEEP), Applied::Deleted);
        assert_eq!(judge(&delete(4), &dead(Content::Unknown, 4), KEEP), Applied::Unchanged);
        assert_eq!(judge(&delete(3), &dead(Content::Unknown, 4), KEEP), Applied::Stale);
    }

    #[test]
    fn an_equal_updated_at_is_decided_by_the_event_and_then_by_the_content() {
        let (first, later) = (live(5, 6, 9), live(5, 7, 1));
        assert_eq!(judge(&later, &at(first), KEEP), Applied::Updated);
        assert_eq!(judge(&first, &at(later), KEEP), Applied::Stale);
        assert_eq!(judge(&live(5, 6, 10), &at(first), KEEP), Applied::Updated);
    }

    #[test]
    fn an_event_at_the_floor_belongs_to_an_earlier_life_and_one_above_it_does_not() {
        let reset = Stored { floor: 10, ..Stored::default() };
        assert_eq!(judge(&delete(10), &reset, KEEP), Applied::Ignored);
        assert_eq!(judge(&live(3, 11, 0), &reset, KEEP), Applied::Inserted);
    }
}
