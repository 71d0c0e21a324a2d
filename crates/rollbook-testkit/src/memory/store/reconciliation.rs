//! The reconciler's port of the store in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::catalog::Resource;
use rollbook_core::merge::SubjectState;
use rollbook_core::source::{Lookup, Window};
use rollbook_core::store::{
    ChangeOrigin, Freshness, Head, Held, HeldCount, HeldKey, HeldState, LOCK_MAX, Living, PRUNED_MAX,
    RUNS_KEPT_FOR, RUNS_KEPT_MIN, Reconciliation, Reset, Run, StoreError,
};
use rollbook_core::table_layout::RESET_BY;
use rollbook_core::time::Timestamp;

use super::changes::Touched;
use super::{MemoryStore, State, StoredRow};

/// Records of the reconciler.
#[derive(Default)]
pub(super) struct Records {
    runs: BTreeMap<String, Run>,
    held: BTreeMap<(String, HeldKey), Held>,
    /// Holders of locks, each with the end of its hold.
    locks: BTreeMap<String, (String, Timestamp)>,
    walks: BTreeMap<String, Freshness>,
}

impl Records {
    fn latest_runs(&self) -> Vec<&Run> {
        let mut runs: Vec<&Run> = self.runs.values().collect();
        runs.sort_by(|one, other| (other.started_at, &other.id).cmp(&(one.started_at, &one.id)));
        runs
    }

    fn prune(&mut self, before: Timestamp) {
        let is_open = |id: &str| self.runs.get(id).is_some_and(|run| run.finished_at.is_none());
        let old = self.held.iter().filter(|((run, _), held)| {
            held.noted_at < before && held.state != HeldState::Waiting && !is_open(run)
        });
        let old: Vec<(String, HeldKey)> = old.map(|(key, _)| key.clone()).take(PRUNED_MAX).collect();
        for key in &old {
            self.held.remove(key);
        }
        let is_old = |run: &&&Run| {
            run.finished_at.is_some_and(|at| at < before) && !self.held.keys().any(|(of, _)| *of == run.id)
        };
        let runs = self.latest_runs();
        let old = runs[RUNS_KEPT_MIN.min(runs.len())..].iter().filter(is_old);
        let old: Vec<String> = old.map(|run| run.id.clone()).take(PRUNED_MAX).collect();
        for id in &old {
            self.runs.remove(id);
        }
    }
}

impl State {
    /// Rows that are not deleted, neither by themselves nor with a parent, with their `created_at`.
    fn living(
        &self,
        resource: &'static Resource,
    ) -> impl Iterator<Item = (Option<Timestamp>, Lookup, Timestamp)> {
        let rows = self.tables.get(resource.table).into_iter().flatten();
        let living = rows.filter(move |(_, row)| {
            row.state.deleted_at.or(self.state_from_parents(resource, row).deleted_at).is_none()
        });
        living.map(move |(id, row)| {
            let created_at = row.shown().and_then(|content| content.created_at);
            (created_at, lookup(resource, id, row), row.synced_at)
        })
    }
}

fn lookup(resource: &'static Resource, id: &str, row: &StoredRow) -> Lookup {
    let parent = |name: &str| {
        let column =
            resource.columns.iter().position(|column| column.name == name && resource.is_link(name))?;
        row.content.as_ref()?.values[column].text().map(str::to_owned)
    };
    Lookup { id: id.to_owned(), organization_id: parent("organization_id"), user_id: parent("user_id") }
}

#[async_trait]
impl Reconciliation for MemoryStore {
    async fn heads(&self, resource: &'static Resource, ids: &[&str]) -> Result<Vec<Head>, StoreError> {
        let state = self.state();
        let head =
            |id: &&str| state.find(resource, id).map(|row| Head { id: (*id).to_owned(), state: row.state });
        Ok(ids.iter().filter_map(head).collect())
    }

    async fn contents(
        &self,
        resource: &'static Resource,
        ids: &[&str],
    ) -> Result<Vec<(String, String)>, StoreError> {
        let state = self.state();
        let content = |id: &&str| {
            let row = state.find(resource, id)?;
            let row = row.shown().filter(|_| !state.state_from_parents(resource, row).erased)?;
            Some(((*id).to_owned(), row.data.clone()))
        };
        Ok(ids.iter().filter_map(content).collect())
    }

    async fn living(
        &self,
        resource: &'static Resource,
        window: Window,
        untouched_since: Timestamp,
        after: Option<&Living>,
        limit: usize,
    ) -> Result<Vec<Living>, StoreError> {
        let state = self.state();
        let found = state.living(resource).filter_map(|(created_at, lookup, synced_at)| {
            let created_at = created_at?;
            let is_in = window.from <= created_at && created_at < window.to && synced_at < untouched_since;
            is_in.then_some(Living { created_at, lookup })
        });
        let mut found: Vec<Living> = found.collect();
        let key = |one: &Living| (one.created_at, one.lookup.id.clone());
        found.sort_by_key(key);
        found.retain(|one| after.is_none_or(|after| key(one) > key(after)));
        found.truncate(limit);
        Ok(found)
    }

    async fn undated(
        &self,
        resource: &'static Resource,
        untouched_since: Timestamp,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Lookup>, StoreError> {
        let state = self.state();
        let found = state.living(resource).filter_map(|(created_at, lookup, synced_at)| {
            let is_after = after.is_none_or(|after| lookup.id.as_str() > after);
            (created_at.is_none() && synced_at < untouched_since && is_after).then_some(lookup)
        });
        Ok(found.take(limit).collect())
    }

    async fn count_living(&self, resource: &'static Resource) -> Result<u64, StoreError> {
        Ok(self.state().living(resource).count() as u64)
    }

    async fn count_children(
        &self,
        child: &'static Resource,
        parent: &'static Resource,
        ids: &[&str],
        limit: u64,
    ) -> Result<u64, StoreError> {
        let Some(link) = child.link_to(parent) else { return Ok(0) };
        let is_child = |lookup: &Lookup| {
            let id = if link.column == "user_id" { &lookup.user_id } else { &lookup.organization_id };
            id.as_deref().is_some_and(|id| ids.contains(&id))
        };
        let count = self.state().living(child).filter(|(_, lookup, _)| is_child(lookup)).count();
        Ok((count as u64).min(limit))
    }

    async fn lock(&self, name: &str, holder: &str, hold_for: Duration) -> Result<bool, StoreError> {
        let mut state = self.state();
        let now = self.clock.now();
        let known = state.records.locks.get(name);
        let latest = now.plus(LOCK_MAX);
        let is_free = known.is_none_or(|(other, until)| other == holder || *until <= now || *until > latest);
        if is_free {
            let until = now.plus(hold_for.min(LOCK_MAX));
            state.records.locks.insert(name.to_owned(), (holder.to_owned(), until));
        }
        Ok(is_free)
    }

    async fn unlock(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        self.state().records.locks.retain(|known, (other, _)| known != name || other != holder);
        Ok(())
    }

    async fn save_run(&self, run: &Run) -> Result<(), StoreError> {
        let before = self.clock.now().minus(RUNS_KEPT_FOR);
        let records = &mut self.state().records;
        records.runs.insert(run.id.clone(), run.clone());
        if run.finished_at.is_some() {
            records.prune(before);
        }
        Ok(())
    }

    async fn run(&self, id: &str) -> Result<Option<Run>, StoreError> {
        Ok(self.state().records.runs.get(id).cloned())
    }

    async fn runs(&self, limit: usize) -> Result<Vec<Run>, StoreError> {
        Ok(self.state().records.latest_runs().into_iter().take(limit).cloned().collect())
    }

    async fn hold(&self, run: &str, held: &[Held]) -> Result<(), StoreError> {
        let mut state = self.state();
        for held in held {
            let key = (run.to_owned(), held.key.clone());
            state.records.held.entry(key).or_insert_with(|| held.clone());
        }
        Ok(())
    }

    async fn held(
        &self,
        run: &str,
        state: HeldState,
        after: Option<&HeldKey>,
        limit: usize,
    ) -> Result<Vec<Held>, StoreError> {
        let known = self.state();
        let found = known.records.held.iter().filter(|((of, key), held)| {
            of == run && held.state == state && after.is_none_or(|after| key > after)
        });
        Ok(found.map(|(_, held)| held.clone()).take(limit).collect())
    }

    async fn count_held(&self, run: Option<&str>) -> Result<Vec<HeldCount>, StoreError> {
        let mut counts: BTreeMap<_, HeldCount> = BTreeMap::new();
        for ((of, key), held) in &self.state().records.held {
            if run.is_none_or(|run| run == of) {
                let (kind, state) = (held.kind, held.state);
                let (run, table) = (of.clone(), key.table.clone());
                let names = (of.clone(), key.table.clone(), kind.as_str(), state.as_str());
                let none = HeldCount { run, table, kind, state, count: 0 };
                counts.entry(names).or_insert(none).count += 1;
            }
        }
        Ok(counts.into_values().collect())
    }

    async fn settle_held(&self, run: &str, keys: &[HeldKey], state: HeldState) -> Result<(), StoreError> {
        let mut known = self.state();
        for key in keys {
            if let Some(held) = known.records.held.get_mut(&(run.to_owned(), key.clone())) {
                held.state = state;
            }
        }
        Ok(())
    }

    async fn save_freshness(&self, freshness: &Freshness) -> Result<(), StoreError> {
        self.state().records.walks.insert(freshness.table.clone(), freshness.clone());
        Ok(())
    }

    async fn freshness(&self) -> Result<Vec<Freshness>, StoreError> {
        Ok(self.state().records.walks.values().cloned().collect())
    }

    async fn reset(
        &self,
        resource: &'static Resource,
        id: &str,
        expected: &SubjectState,
    ) -> Result<Reset, StoreError> {
        let now = self.clock.now();
        let mut state = self.state();
        let row = state.tables.get_mut(resource.table).and_then(|table| table.get_mut(id));
        let reset = expected.reset();
        let Some(row) = row.filter(|row| row.state == *expected || row.state == reset) else {
            return Ok(Reset::Changed);
        };
        if reset != row.state {
            row.state = reset;
            row.synced_at = now;
            RESET_BY.clone_into(&mut row.synced_by);
        }
        let (id, origin) = (id.to_owned(), ChangeOrigin::Cascade);
        state.record(vec![Touched { resource, id, origin, cause: None }], now);
        Ok(Reset::Done(Timestamp::from_millis(reset.floor)))
    }
}
