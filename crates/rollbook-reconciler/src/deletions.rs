//! The end of a resource's walk: its proved deletions are applied, or the brake holds them.

use rollbook_core::catalog::Resource;
use rollbook_core::change::Change;
use rollbook_core::drift::Drift;
use rollbook_core::store::{Held, HeldCount, HeldKey, HeldState, RunState};
use rollbook_core::time::Timestamp;
use tracing::warn;

use crate::brake;
use crate::context::{Context, Written};
use crate::error::ReconcileError;

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
        let is_allowed = brake::is_allowed(proved, living + done);
        if !is_allowed {
            warn!(
                table = resource.table,
                deletions = proved,
                living,
                run = self.run.id,
                "reconciliation: too many deletions for one run. All of this table are held. Check the list with \
                 `rollbook reconcile status`; `rollbook reconcile approve RUN` lets these through"
            );
        }
        let mut after = None;
        while let Some(keys) = self.held_of(resource, HeldState::Collected, &mut after).await? {
            if is_allowed {
                self.delete(resource, keys, self.clerk_clock()).await?;
            } else {
                self.settle(&keys, HeldState::Waiting).await?;
            }
        }
        // Counted in the store: a kill may have come between a settlement and the record of the run.
        let waiting = sum(&self.count_held(resource).await?, |of| of.state == HeldState::Waiting);
        self.update(resource.table, |of| of.held = waiting);
        self.save(RunState::Running, None).await
    }

    /// Counts the deletions of a dry run as held if the brake would hold them.
    async fn foresee_brake(&self, resource: &'static Resource) -> Result<(), ReconcileError> {
        let collected = self.update(resource.table, |of| of.drift.get(Drift::NotDeleted.as_str()).copied());
        let Some(collected) = collected.flatten().filter(|collected| *collected > 0) else { return Ok(()) };
        let living = self.patiently("the store", || self.ports.records.count_living(resource)).await?;
        if !brake::is_allowed(collected, living) {
            self.update(resource.table, |of| of.held += collected);
        }
        Ok(())
    }

    /// Deletes rows that were proved absent, and settles them. A row that refuses its deletion goes on waiting.
    pub(crate) async fn delete(
        &self,
        resource: &'static Resource,
        keys: Vec<HeldKey>,
        clock: Timestamp,
    ) -> Result<Written, ReconcileError> {
        let read_at = Self::read_at(clock);
        let changes: Vec<Change> = keys.iter().map(|key| self.deletion(resource, &key.id, read_at)).collect();
        let written = self.apply(&changes).await?;
        self.update(resource.table, |of| {
            of.written += written.advanced;
            of.refused += written.refused.len() as u64;
        });
        let (refused, deleted): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|key| written.refused.contains(&key.id));
        self.settle(&refused, HeldState::Waiting).await?;
        self.settle(&deleted, HeldState::Done).await?;
        Ok(written)
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
