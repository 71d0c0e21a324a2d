//! The end of a resource's walk: its proved deletions are applied, or the brake holds them.

use rollbook_core::catalog::Resource;
use rollbook_core::change::Change;
use rollbook_core::drift::Drift;
use rollbook_core::store::{Held, HeldKey, HeldState, RunState};
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
        let collected = self.count_collected(resource).await?;
        if collected == 0 {
            return Ok(());
        }
        let records = &self.ports.records;
        let living = self.patiently("the store", || records.count_living(resource)).await?;
        let is_allowed = brake::is_allowed(collected, living);
        if !is_allowed {
            warn!(
                table = resource.table,
                deletions = collected,
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
                self.update(resource.table, |of| of.held += keys.len() as u64);
                self.settle(&keys, HeldState::Waiting).await?;
            }
        }
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

    async fn count_collected(&self, resource: &Resource) -> Result<u64, ReconcileError> {
        let counts =
            self.patiently("the store", || self.ports.records.count_held(Some(&self.run.id))).await?;
        let of_table = counts
            .iter()
            .filter(|count| count.table == resource.table && count.state == HeldState::Collected);
        Ok(of_table.map(|count| count.count).sum())
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
