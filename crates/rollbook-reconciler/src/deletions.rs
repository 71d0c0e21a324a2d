//! The end of a resource's walk: its proved deletions are applied, or the brake holds them.

use std::collections::HashMap;

use rollbook_core::catalog::Resource;
use rollbook_core::change::Change;
use rollbook_core::drift::Drift;
use rollbook_core::merge::SubjectState;
use rollbook_core::source::{Lookup, Presence};
use rollbook_core::store::{Held, HeldCount, HeldKey, HeldState, RowView, RunState};
use rollbook_core::time::Timestamp;
use serde_json::Value;
use tracing::warn;

use crate::approve::Approved;
use crate::brake;
use crate::context::Context;
use crate::error::ReconcileError;
use crate::readings::{Readings, reading_time};

/// Held objects per step.
pub(crate) const STEP: usize = 100;

impl Context {
    /// Applies the collected deletions of a resource, or holds all of them.
    pub(crate) async fn finish_deletions(&self, resource: &'static Resource) -> Result<(), ReconcileError> {
        if self.run.is_dry {
            return self.foresee_brake(resource).await;
        }
        let found = self.count_held(resource).await?;
        if found.is_empty() {
            return Ok(());
        }
        // With those that this run settled before it was killed: the brake judges the run as a whole.
        let proved = sum(&found, |of| of.kind == Drift::NotDeleted);
        let done = sum(&found, |of| of.kind == Drift::NotDeleted && of.state == HeldState::Done);
        let living = self.patiently("the store", || self.ports.records.count_living(resource)).await?;
        let along = self.progress().taken_along(resource.table, resource.table);
        // Counted in any case: an operator who approves must see what goes with these.
        let of_children = self.table_with_excess(resource).await?;
        let is_excess = !brake::is_allowed(proved + along, living + done + along);
        let too_many = if is_excess { Some(resource.table) } else { of_children };
        let is_allowed = too_many.is_none();
        self.update(resource.table, |of| of.is_braked = !is_allowed);
        if let Some(too_many) = too_many {
            warn!(
                table = resource.table,
                deletions = proved,
                living,
                too_many,
                run = self.run.id,
                "reconciliation: the deletions of this table would delete too many rows of the table in too_many. None is \
                 done before an operator decides: check the list with `rollbook reconcile status`; `rollbook \
                 reconcile approve RUN` deletes the rows"
            );
        } else if proved > 0 {
            // What is deleted is no longer counted: a run that is killed must know it.
            self.save(RunState::Running, None).await?;
        }
        let mut after = None;
        while let Some(keys) = self.held_of(resource, HeldState::Collected, &mut after).await? {
            if is_allowed {
                let Approved { unproven, .. } = self.confirm(resource, keys).await?;
                self.update(resource.table, |of| of.unproven += unproven);
            } else {
                self.settle(&keys, HeldState::Waiting).await?;
            }
            self.save_sometimes().await?;
        }
        if is_allowed && proved > 0 {
            self.finish_cascades(resource).await?;
        }
        self.recount_held(resource).await?;
        self.save(RunState::Running, None).await
    }

    /// Counts what waits in the store: a kill may have come between a settlement and the record of the run.
    pub(crate) async fn recount_held(&self, resource: &'static Resource) -> Result<(), ReconcileError> {
        // Rows that refuse their change are counted as refused.
        let is_held = |of: &HeldCount| {
            of.state == HeldState::Waiting && matches!(of.kind, Drift::NotDeleted | Drift::WronglyDeleted)
        };
        let waiting = sum(&self.count_held(resource).await?, is_held);
        self.update(resource.table, |of| of.held = waiting);
        Ok(())
    }

    /// Counts the deletions of a dry run as held if the brake would hold them.
    async fn foresee_brake(&self, resource: &'static Resource) -> Result<(), ReconcileError> {
        let collected = self.update(resource.table, |of| of.drift.get(Drift::NotDeleted.as_str()).copied());
        let Some(collected) = collected.flatten().filter(|collected| *collected > 0) else { return Ok(()) };
        let living = self.patiently("the store", || self.ports.records.count_living(resource)).await?;
        // Nothing is deleted, so that children of absent parents are found by themselves too.
        let along = self.progress().taken_along(resource.table, resource.table);
        let is_allowed = brake::is_allowed(collected.max(along), living);
        if !is_allowed || self.foresees_excess(resource).await? {
            self.update(resource.table, |of| (of.held, of.is_braked) = (of.held + collected, true));
        }
        Ok(())
    }

    /// Reads rows that were proved absent at Clerk again, and deletes those that still are. The first proof may be hours
    /// old, or of an incident at Clerk. What is not proved now stays as it is, as does a row that was written lately: both are
    /// counted as unproven, and the next run examines them.
    pub(crate) async fn confirm(
        &self,
        resource: &'static Resource,
        keys: Vec<HeldKey>,
    ) -> Result<Approved, ReconcileError> {
        let (mut done, mut open, mut lookups, mut unproven) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let limit = self.ports.clock.now().minus(self.settings.absence_margin);
        for key in keys {
            let row = self.patiently("the store", || self.ports.rows.get(resource, &key.id)).await?;
            match row.filter(|row| !row.is_deleted()) {
                None => done.push(key),
                Some(row) if synced_at(&row).is_none_or(|at| at < limit) => {
                    lookups.push(lookup_of(&row));
                    open.push(key);
                }
                Some(_) => unproven += 1,
            }
        }
        self.settle(&done, HeldState::Done).await?;
        let before = self.states(resource, &open).await?;
        let fetched = if open.is_empty() { None } else { self.fetch(resource, &lookups).await? };
        let after = self.states(resource, &open).await?;
        let (mut absent, mut alive) = (Vec::new(), Vec::new());
        for (key, fetched) in open.into_iter().zip(fetched.into_iter().flatten()) {
            match fetched.presence {
                Presence::Absent if before.get(&key.id) == after.get(&key.id) => {
                    absent.push((key, fetched.clock));
                }
                Presence::Absent | Presence::Unknown(_) => unproven += 1,
                Presence::Exists(object) => {
                    self.compare(resource, Readings::of(resource, object, fetched.clock)).await?;
                    alive.push(key);
                }
            }
        }
        self.settle(&alive, HeldState::Done).await?;
        let (deleted, refused) = self.delete(resource, absent).await?;
        Ok(Approved { deleted, alive: alive.len() as u64, refused, unproven, ..Approved::default() })
    }

    async fn states(
        &self,
        resource: &'static Resource,
        keys: &[HeldKey],
    ) -> Result<HashMap<String, SubjectState>, ReconcileError> {
        let ids: Vec<&str> = keys.iter().map(|key| key.id.as_str()).collect();
        let heads = self.patiently("the store", || self.ports.records.heads(resource, &ids)).await?;
        Ok(heads.into_iter().map(|head| (head.id, head.state)).collect())
    }

    /// Deletes rows that were proved absent at a time of Clerk's clock, and settles them. A row that lives on goes on
    /// waiting: it refuses its deletion, or the merge ignores it, because an operator has reset the row with a later time.
    /// Returns the numbers of deleted and of living rows.
    async fn delete(
        &self,
        resource: &'static Resource,
        absent: Vec<(HeldKey, Timestamp)>,
    ) -> Result<(u64, u64), ReconcileError> {
        let change = |(key, clock): &(HeldKey, _)| self.deletion(resource, &key.id, reading_time(*clock));
        let changes: Vec<Change> = absent.iter().map(change).collect();
        let written = self.apply(&changes).await?;
        let keys: Vec<HeldKey> = absent.into_iter().map(|(key, _)| key).collect();
        let after = self.states(resource, &keys).await?;
        let lives = |key: &HeldKey| after.get(&key.id).is_some_and(|state| state.deleted_at.is_none());
        let (living, deleted): (Vec<_>, Vec<_>) = keys.into_iter().partition(lives);
        self.update(resource.table, |of| {
            of.written += written.advanced;
            of.undeleted += living.len() as u64;
        });
        self.settle(&living, HeldState::Waiting).await?;
        self.settle(&deleted, HeldState::Done).await?;
        Ok((written.advanced, living.len() as u64))
    }

    pub(crate) async fn settle(&self, keys: &[HeldKey], state: HeldState) -> Result<(), ReconcileError> {
        if keys.is_empty() {
            return Ok(());
        }
        self.patiently("the store", || self.ports.records.settle_held(&self.run.id, keys, state)).await
    }

    /// Counts what this run holds of a resource.
    async fn count_held(&self, resource: &Resource) -> Result<Vec<HeldCount>, ReconcileError> {
        let run = Some(self.run.id.as_str());
        let counts = self.patiently("the store", || self.ports.records.count_held(run)).await?;
        Ok(counts.into_iter().filter(|of| of.table == resource.table).collect())
    }

    /// Returns the next held deletions of a resource. `None` after the last.
    pub(crate) async fn held_of(
        &self,
        resource: &Resource,
        state: HeldState,
        after: &mut Option<HeldKey>,
    ) -> Result<Option<Vec<HeldKey>>, ReconcileError> {
        let first = HeldKey { table: resource.table.to_owned(), id: String::new() };
        let from = after.clone().unwrap_or(first);
        let held: Vec<Held> = self
            .patiently("the store", || self.ports.records.held(&self.run.id, state, Some(&from), STEP))
            .await?;
        *after = held.last().map(|held| held.key.clone());
        let is_deletion = |held: &Held| held.key.table == resource.table && held.kind == Drift::NotDeleted;
        let has_more = held.last().is_some_and(|held| held.key.table == resource.table);
        let keys: Vec<HeldKey> = held.into_iter().filter(is_deletion).map(|held| held.key).collect();
        Ok((has_more || !keys.is_empty()).then_some(keys))
    }
}

fn sum(counts: &[HeldCount], is_counted: impl Fn(&HeldCount) -> bool) -> u64 {
    counts.iter().filter(|of| is_counted(of)).map(|of| of.count).sum()
}

/// Returns the time at which a row was last written.
pub(crate) fn synced_at(row: &RowView) -> Option<Timestamp> {
    row.columns.get("synced_at").and_then(Value::as_str).and_then(Timestamp::parse)
}

/// Returns the request for a fresh reading of a row.
pub(crate) fn lookup_of(row: &RowView) -> Lookup {
    let text = |column: &str| row.columns.get(column).and_then(Value::as_str).map(str::to_owned);
    Lookup { id: row.id.clone(), organization_id: text("organization_id"), user_id: text("user_id") }
}
