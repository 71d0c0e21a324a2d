//! Refuted merge rules. The property that the right rule satisfies must fail for each of them.
//!
//! Every mutant is a store like any other. Mutants that lose their tombstones still list them: they must fail
//! because of wrong live rows, not because of missing rows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngSeed, TestRunner};
use rollbook_core::catalog::{Resource, find_resource};
use rollbook_core::change::{Applied, Change, Effect, Field, Row, SubjectChange, Version};
use rollbook_core::delivery::MessageId;
use rollbook_core::merge::{Content, SubjectState, from_parents, parents};
use rollbook_core::store::{
    ErasedCounts, Erasure, ErasureProgress, FullStore, Ledger, LedgerEntry, RetentionChoices,
    RetentionLimits, RetentionStep, RowView, Rows, Store, StoreError,
};
use rollbook_core::time::Timestamp;

use super::convergence::{converges, runtime};
use super::history::histories;
use crate::clock::ManualClock;
use crate::conformance::store::StoreHarness;
use crate::delegate::delegate;
use crate::events::START;
use crate::memory::store::{MemoryStore, StoredRow, view};

/// Number of histories that are tried on a mutant. The one that is hardest to detect fails within ten.
const HISTORIES: usize = 200;
const SEED: u64 = 2026;
/// Time for which the purging mutant keeps tombstones, in milliseconds of event time.
const TOMBSTONES_KEPT_FOR: i64 = 60_000;

#[derive(Clone, Copy, Debug)]
enum Rule {
    /// The rule of the core.
    Right,
    /// The later or equal `updated_at` wins.
    NotOlder,
    /// The later `updated_at` wins.
    Newer,
    /// A delete removes the row and its state.
    PhysicalDelete,
    /// The last change to arrive wins over a live row.
    Arrival,
    /// A null keeps the old value.
    Coalesce,
    /// A delete is ordered by time like any other change.
    TombstoneByTime,
    /// The hash decides before the event time.
    HashFirst,
    /// Tombstones are purged after a while.
    TombstonePurge,
    /// A delete freezes the content known at that time.
    Freeze,
    /// A delete cascades only to the child rows that exist when it arrives.
    CascadeOnce,
    /// A newer content without a parent clears the known parent.
    Unlearn,
}

impl Rule {
    fn wins(self, new: &Version, known: &Version) -> bool {
        let live = |wins: bool| !known.is_deleted && (new.is_deleted || wins);
        let in_time = |version: &Version| {
            let time = if version.is_deleted { version.event_at } else { version.updated_at };
            (time, version.event_at, version.is_deleted, version.hash)
        };
        let hash_first =
            |version: &Version| (version.is_deleted, version.updated_at, version.hash, version.event_at);
        match self {
            Self::Right
            | Self::PhysicalDelete
            | Self::Coalesce
            | Self::TombstonePurge
            | Self::Freeze
            | Self::CascadeOnce
            | Self::Unlearn => new > known,
            Self::NotOlder => live(new.updated_at >= known.updated_at),
            Self::Newer => live(new.updated_at > known.updated_at),
            Self::Arrival => live(true),
            Self::TombstoneByTime => in_time(new) > in_time(known),
            Self::HashFirst => hash_first(new) > hash_first(known),
        }
    }
}

type Key = (&'static str, String);

/// State of a subject in a mutant.
#[derive(Clone)]
struct Known {
    /// Version of the change that won.
    version: Version,
    /// Content, and the version that it comes from.
    content: Option<(Version, Row)>,
    by: MessageId,
}

#[derive(Default)]
struct State {
    known: HashMap<Key, Known>,
    /// All tombstones ever written, only for the listing.
    graves: BTreeMap<Key, Known>,
    /// Rows deleted with a parent, for [`Rule::CascadeOnce`].
    ended: HashSet<Key>,
    /// Ids of parents by subject and number of the link, and the version that each comes from.
    named: HashMap<(Key, usize), (Version, Field)>,
    latest_event_at: i64,
}

struct Mutant {
    rule: Rule,
    state: Mutex<State>,
    /// Has the reconciler's records, which no mutant changes.
    rest: MemoryStore,
}

impl State {
    fn apply(&mut self, rule: Rule, subject_change: &SubjectChange, by: &MessageId) {
        let key = (subject_change.resource.table, subject_change.id.clone());
        let new = subject_change.version;
        self.latest_event_at = self.latest_event_at.max(new.event_at);
        for (number, id) in subject_change.parents().into_iter().enumerate() {
            let Some(id) = id else { continue };
            let known = self.named.entry((key.clone(), number)).or_insert_with(|| (new, Field::Null));
            if known.1 == Field::Null || new > known.0 {
                *known = (new, Field::Text(id.to_owned()));
            }
        }
        let known = self.known.get(&key);
        let wins = known.is_none_or(|known| rule.wins(&new, &known.version));
        let mut content = known.and_then(|known| known.content.clone());
        if let Some(row) = &subject_change.row {
            let is_late =
                known.is_some_and(|known| known.version.is_deleted) && !matches!(rule, Rule::Freeze);
            let fills = is_late && content.as_ref().is_none_or(|(old, _)| rule.wins(&new, old));
            if !wins && !fills {
                return;
            }
            let mut row = row.clone();
            if let (Rule::Coalesce, Some((_, old))) = (rule, &content) {
                let pairs = row.values.iter_mut().zip(&old.values);
                pairs.filter(|(new, _)| **new == Field::Null).for_each(|(new, old)| new.clone_from(old));
            }
            content = Some((new, row));
        } else if !wins {
            return;
        } else if matches!(rule, Rule::CascadeOnce) {
            self.end_children(subject_change);
        }
        let version = if wins { new } else { self.known[&key].version };
        let known = Known { version, content, by: by.clone() };
        if version.is_deleted {
            self.graves.insert(key.clone(), known.clone());
        }
        self.known.insert(key, known);
        let kept_from = self.latest_event_at - TOMBSTONES_KEPT_FOR;
        match rule {
            Rule::PhysicalDelete => self.known.retain(|_, row| !row.version.is_deleted),
            Rule::TombstonePurge => {
                self.known.retain(|_, row| !row.version.is_deleted || row.version.event_at >= kept_from);
            }
            _ => {}
        }
    }

    fn end_children(&mut self, parent: &SubjectChange) {
        let is_child = |(table, _): &Key, known: &Known| {
            let Some((resource, (_, row))) = find_resource(table).zip(known.content.as_ref()) else {
                return false;
            };
            parents(resource, row).any(|(link, id)| link.parent == parent.resource && id == parent.id)
        };
        let children = self.known.iter().filter(|(key, known)| is_child(key, known));
        self.ended.extend(children.map(|(key, _)| key.clone()));
    }

    /// Sets the ids of parents that the row's content does not name.
    fn name_parents(&self, resource: &'static Resource, id: &str, row: &mut Row) {
        for (number, link) in resource.links.iter().enumerate() {
            let named = self.named.get(&((resource.table, id.to_owned()), number));
            let columns = resource.columns.iter().zip(&mut row.values);
            for (_, value) in columns.filter(|(column, _)| column.name == link.column) {
                if let (Field::Null, Some((_, parent))) = (&*value, named) {
                    value.clone_from(parent);
                }
            }
        }
    }

    fn view(&self, rule: Rule, resource: &'static Resource, id: &str, known: &Known) -> RowView {
        let state = |known: &Known| SubjectState {
            content: known.content.as_ref().map_or(Content::Unknown, |(version, _)| Content::At(*version)),
            deleted_at: known.version.is_deleted.then_some(known.version.event_at),
            ..SubjectState::default()
        };
        let parent = |of: &'static Resource, id: &str| {
            let key = (of.table, id.to_owned());
            self.known.get(&key).or_else(|| self.graves.get(&key)).map(state)
        };
        let mut content = known.content.as_ref().map(|(_, row)| row.clone());
        if let Some(row) = content.as_mut().filter(|_| !matches!(rule, Rule::Unlearn)) {
            self.name_parents(resource, id, row);
        }
        let shows_end =
            !matches!(rule, Rule::CascadeOnce) || self.ended.contains(&(resource.table, id.to_owned()));
        let from_parents =
            content.as_ref().filter(|_| shows_end).map(|row| from_parents(resource, row, parent));
        let (synced_at, synced_by) = (Timestamp::from_millis(START), known.by.to_string());
        let row = StoredRow { state: state(known), content, synced_at, synced_by };
        view(resource, id, &row, from_parents.unwrap_or_default())
    }
}

#[async_trait]
impl Store for Mutant {
    async fn apply_many(&self, changes: &[Change]) -> Result<Vec<Applied>, StoreError> {
        let mut state = self.state.lock().expect("no test panics in here");
        for change in changes {
            if let Effect::Merge(subject_change) = &change.effect {
                state.apply(self.rule, subject_change, change.origin.entry_id());
            }
        }
        Ok(vec![Applied::Ignored; changes.len()])
    }

    async fn retain(&self, _: &RetentionLimits) -> Result<RetentionStep, StoreError> {
        unreachable!("mutants are not asked to tidy")
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl Rows for Mutant {
    async fn rows(
        &self,
        resource: &'static Resource,
        _after: Option<&str>,
        _limit: usize,
    ) -> Result<Vec<RowView>, StoreError> {
        let state = self.state.lock().expect("no test panics in here");
        let mut rows: BTreeMap<&Key, &Known> = state.graves.iter().collect();
        rows.extend(&state.known);
        let rows = rows.into_iter().filter(|((table, _), _)| *table == resource.table);
        Ok(rows.map(|((_, id), row)| state.view(self.rule, resource, id, row)).collect())
    }

    async fn get(&self, _: &'static Resource, _: &str) -> Result<Option<RowView>, StoreError> {
        unreachable!("the property reads whole tables")
    }

    async fn rows_where(
        &self,
        _: &'static Resource,
        _: &'static str,
        _: &str,
        _: usize,
    ) -> Result<Vec<RowView>, StoreError> {
        unreachable!("the property reads whole tables")
    }
}

#[async_trait]
impl Ledger for Mutant {
    async fn delivery(&self, _: &MessageId) -> Result<Option<LedgerEntry>, StoreError> {
        unreachable!("mutants keep no ledger")
    }

    async fn deliveries(&self, _: &str, _: usize) -> Result<Vec<LedgerEntry>, StoreError> {
        unreachable!("mutants keep no ledger")
    }
}

#[async_trait]
impl Erasure for Mutant {
    async fn erase_in_steps(
        &self,
        _: &[(&'static Resource, String)],
        _: Timestamp,
        _: &ErasureProgress<'_>,
    ) -> Result<ErasedCounts, StoreError> {
        unreachable!("mutants are not asked to erase")
    }
}

delegate!(Reconciliation, Mutant, mutant => mutant.rest, call => call.await);
delegate!(Changes, Mutant, mutant => mutant.rest, call => call.await);
delegate!(Forwards, Mutant, mutant => mutant.rest, call => call.await);
delegate!(Access, Mutant, mutant => mutant.rest, call => call.await);

struct Harness {
    mutant: Arc<Mutant>,
    clock: Arc<ManualClock>,
}

#[async_trait]
impl StoreHarness for Harness {
    fn store(&self) -> Arc<dyn FullStore> {
        self.mutant.clone()
    }

    fn clock(&self) -> Arc<ManualClock> {
        self.clock.clone()
    }

    async fn reopen(&mut self) {}

    /// Mutants keep the content of deleted rows, as by default.
    async fn keep(&mut self, _: RetentionChoices) {}
}

/// Returns the number of the first history after which the rows differ from the truth.
fn first_counterexample(rule: Rule) -> Option<usize> {
    let config = Config { rng_seed: RngSeed::Fixed(SEED), failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let runtime = runtime();
    (0..HISTORIES).find(|_| {
        let mut history = histories().new_tree(&mut runner).expect("a history").current();
        // One worker, so that the same histories detect the same mutants in every run.
        history.lanes = 1;
        history.retention = RetentionChoices::default();
        history.erasures.clear();
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START)));
        let mutant = Mutant { rule, state: Mutex::default(), rest: MemoryStore::new(clock.clone()) };
        let mutant = Arc::new(mutant);
        runtime.block_on(converges(&mut Harness { mutant, clock }, &history)).is_err()
    })
}

#[test]
fn the_right_rule_survives_every_history() {
    assert_eq!(first_counterexample(Rule::Right), None);
}

macro_rules! mutants_fall {
    ($($name:ident: $rule:ident)+) => {
        $(
            #[test]
            fn $name() {
                let found = first_counterexample(Rule::$rule);
                assert!(found.is_some(), "no history of {HISTORIES} (seed {SEED}) kills {:?}", Rule::$rule);
            }
        )+
    };
}

mutants_fall! {
    the_later_or_equal_updated_at_must_not_win: NotOlder
    the_later_updated_at_alone_must_not_win: Newer
    a_delete_must_not_remove_the_row: PhysicalDelete
    the_last_to_arrive_must_not_win: Arrival
    a_null_must_not_keep_the_old_value: Coalesce
    a_tombstone_must_not_be_ordered_by_time: TombstoneByTime
    the_hash_must_not_come_before_the_event_time: HashFirst
    tombstones_must_not_be_purged: TombstonePurge
    a_delete_must_not_freeze_the_content: Freeze
    a_parents_end_must_not_reach_only_those_who_are_there: CascadeOnce
    a_parent_that_is_known_must_not_be_unlearned: Unlearn
}
