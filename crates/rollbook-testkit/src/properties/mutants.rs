//! The merge rules that were refuted, each killed by the property that the right one keeps.
//!
//! Every mutant is a store like any other. Those that lose their tombstones still list them: they must
//! fall by what they do to the living, not by a missing line.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngSeed, TestRunner};
use rollbook_core::catalog::Resource;
use rollbook_core::change::{Applied, Assertion, Change, Effect, Field, Version};
use rollbook_core::delivery::MessageId;
use rollbook_core::store::{LedgerEntry, RowView, Store, StoreError};
use rollbook_core::time::Timestamp;

use super::convergence::{converges, runtime};
use super::history::histories;
use crate::clock::ManualClock;
use crate::conformance::store::StoreHarness;
use crate::events::START;
use crate::memory::store::{StoredRow, view};

/// So many histories are tried before a mutant counts as alive. The hardest to find falls within ten.
const HISTORIES: usize = 200;
const SEED: u64 = 2026;
/// How long the purging mutant keeps its tombstones, in milliseconds of Clerk's time.
const TOMBSTONES_KEPT_FOR: i64 = 60_000;

#[derive(Clone, Copy, Debug)]
enum Rule {
    /// The rule of the core.
    Right,
    /// The later or equal `updated_at` wins.
    NotOlder,
    /// The later `updated_at` wins.
    Newer,
    /// A delete removes the row and what was known of it.
    PhysicalDelete,
    /// What arrives last wins over what is alive.
    Arrival,
    /// A null keeps what was there.
    Coalesce,
    /// A delete has its place in time like any other change.
    TombstoneByTime,
    /// The content decides before the event's time does.
    HashFirst,
    /// Tombstones are forgotten after a while.
    TombstonePurge,
}

impl Rule {
    fn wins(self, new: &Version, known: &Version) -> bool {
        let live = |wins: bool| !known.dead && (new.dead || wins);
        let in_time = |version: &Version| {
            let time = if version.dead { version.event_at } else { version.updated_at };
            (time, version.event_at, version.dead, version.hash)
        };
        let hash_first =
            |version: &Version| (version.dead, version.updated_at, version.hash, version.event_at);
        match self {
            Self::Right | Self::PhysicalDelete | Self::Coalesce | Self::TombstonePurge => new > known,
            Self::NotOlder => live(new.updated_at >= known.updated_at),
            Self::Newer => live(new.updated_at > known.updated_at),
            Self::Arrival => live(true),
            Self::TombstoneByTime => in_time(new) > in_time(known),
            Self::HashFirst => hash_first(new) > hash_first(known),
        }
    }
}

type Key = (&'static str, String);

#[derive(Default)]
struct State {
    known: HashMap<Key, StoredRow>,
    /// Every tombstone there ever was, for the listing alone.
    graves: BTreeMap<Key, StoredRow>,
    latest_event_at: i64,
}

struct Mutant {
    rule: Rule,
    state: Mutex<State>,
}

impl State {
    fn apply(&mut self, rule: Rule, assertion: &Assertion, by: &MessageId) {
        let key = (assertion.resource.table, assertion.id.clone());
        self.latest_event_at = self.latest_event_at.max(assertion.version.event_at);
        if self.known.get(&key).is_some_and(|known| !rule.wins(&assertion.version, &known.version)) {
            return;
        }
        let mut content = assertion.row.clone();
        if let (Rule::Coalesce, Some(new)) = (rule, &mut content)
            && let Some(old) = self.known.get(&key).and_then(|known| known.content.as_ref())
        {
            for (new, old) in new.values.iter_mut().zip(&old.values).filter(|(new, _)| **new == Field::Null) {
                new.clone_from(old);
            }
        }
        let synced_at = Timestamp::from_millis(START);
        let row = StoredRow { version: assertion.version, content, synced_at, synced_by: by.clone() };
        if row.version.dead {
            self.graves.insert(key.clone(), row.clone());
        }
        self.known.insert(key, row);
        let kept_from = self.latest_event_at - TOMBSTONES_KEPT_FOR;
        match rule {
            Rule::PhysicalDelete => self.known.retain(|_, row| !row.version.dead),
            Rule::TombstonePurge => {
                self.known.retain(|_, row| !row.version.dead || row.version.event_at >= kept_from);
            }
            _ => {}
        }
    }
}

#[async_trait]
impl Store for Mutant {
    async fn apply_many(&self, changes: &[Change]) -> Result<Vec<Applied>, StoreError> {
        let mut state = self.state.lock().expect("no test panics in here");
        for change in changes {
            if let Effect::Merge(assertion) = &change.effect {
                state.apply(self.rule, assertion, &change.origin.message_id);
            }
        }
        Ok(vec![Applied::Ignored; changes.len()])
    }

    async fn rows(
        &self,
        resource: &'static Resource,
        _after: Option<&str>,
        _limit: usize,
    ) -> Result<Vec<RowView>, StoreError> {
        let state = self.state.lock().expect("no test panics in here");
        let mut rows: BTreeMap<&Key, &StoredRow> = state.graves.iter().collect();
        rows.extend(&state.known);
        let rows = rows.into_iter().filter(|((table, _), _)| *table == resource.table);
        Ok(rows.map(|((_, id), row)| view(resource, id, row)).collect())
    }

    async fn get(&self, _: &'static Resource, _: &str) -> Result<Option<RowView>, StoreError> {
        unreachable!("the property reads whole tables")
    }

    async fn delivery(&self, _: &MessageId) -> Result<Option<LedgerEntry>, StoreError> {
        unreachable!("mutants keep no ledger")
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

struct Harness {
    mutant: Arc<Mutant>,
    clock: Arc<ManualClock>,
}

#[async_trait]
impl StoreHarness for Harness {
    fn store(&self) -> Arc<dyn Store> {
        self.mutant.clone()
    }

    fn clock(&self) -> Arc<ManualClock> {
        self.clock.clone()
    }

    async fn reopen(&mut self) {}
}

/// The number of the first history under which the rows do not end as the truth.
fn first_counterexample(rule: Rule) -> Option<usize> {
    let config = Config { rng_seed: RngSeed::Fixed(SEED), failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let runtime = runtime();
    (0..HISTORIES).find(|_| {
        let mut history = histories().new_tree(&mut runner).expect("a history").current();
        // One worker, so that the same histories kill the same mutants in every run.
        history.lanes = 1;
        let mutant = Arc::new(Mutant { rule, state: Mutex::default() });
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START)));
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
}
