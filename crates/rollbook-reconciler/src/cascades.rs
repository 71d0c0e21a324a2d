//! Rows of other tables that deletions take with them: counted for the brake before, and followed to their end after.

use std::time::Duration;

use rollbook_core::catalog::{Resource, children_of};
use rollbook_core::source::RECONCILED;
use rollbook_core::store::{CascadeStep, HeldState};
use tokio::time::Instant;
use tracing::warn;

use crate::brake::{self, RefreshBrake};
use crate::context::Context;
use crate::error::ReconcileError;
use crate::settings::DELETIONS_MIN;

/// Time for which a run waits for child rows that other processes work on, or that refuse their change, after its own
/// work is done.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest pause between two looks at them.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Maximum number of child rows of one table that a dry run, or an approval, counts for one step.
const COUNTED_MAX: u64 = 1_000_000;

/// Tables of a reconciliation with rows that are deleted with a row of this one.
fn children(parent: &'static Resource) -> impl Iterator<Item = &'static Resource> {
    // Sessions are not reconciled: they say what happened, and every user has many.
    children_of(parent).map(|(child, _)| child).filter(|child| RECONCILED.contains(child))
}

impl Context {
    /// Counts the living rows that the collected deletions of a resource would take with them. Returns the first table
    /// that would lose too many. What a run counted before it was killed counts still.
    pub(crate) async fn table_with_excess(
        &self,
        resource: &'static Resource,
    ) -> Result<Option<&'static str>, ReconcileError> {
        let mut excess = None;
        for child in children(resource) {
            let living = self.patiently("the store", || self.ports.records.count_living(child)).await?;
            let (along, before) = {
                let progress = self.progress();
                let of = progress.resources.iter().find(|of| of.table == resource.table);
                let before = of.and_then(|of| of.cascades.get(child.table)).copied().unwrap_or_default();
                (progress.taken_along(child.table, resource.table), before)
            };
            let allowed = brake::allowed(living + along + before);
            // One more than is allowed is enough to know.
            let limit = (allowed + 1).saturating_sub(along);
            let found = self.count_along(resource, child, limit).await?.max(before);
            self.update(resource.table, |of| of.cascades.insert(child.table.to_owned(), found));
            if along + found > allowed {
                excess.get_or_insert(child.table);
            }
        }
        Ok(excess)
    }

    async fn count_along(
        &self,
        resource: &'static Resource,
        child: &'static Resource,
        limit: u64,
    ) -> Result<u64, ReconcileError> {
        let mut found = 0;
        for state in [HeldState::Collected, HeldState::Waiting] {
            let mut after = None;
            while let Some(keys) = self.held_of(resource, state, &mut after).await? {
                let ids: Vec<&str> = keys.iter().map(|key| key.id.as_str()).collect();
                found += self.count_children(resource, child, &ids, limit - found).await?;
                if found >= limit {
                    return Ok(limit);
                }
            }
        }
        Ok(found)
    }

    async fn count_children(
        &self,
        resource: &'static Resource,
        child: &'static Resource,
        ids: &[&str],
        limit: u64,
    ) -> Result<u64, ReconcileError> {
        if ids.is_empty() {
            return Ok(0);
        }
        let records = &self.ports.records;
        self.patiently("the store", || records.count_children(child, resource, ids, limit)).await
    }

    /// Counts the living rows of each child table that belong to these rows.
    pub(crate) async fn living_children(
        &self,
        resource: &'static Resource,
        ids: &[&str],
    ) -> Result<Vec<(&'static str, u64)>, ReconcileError> {
        let mut found = Vec::new();
        for child in children(resource) {
            found.push((child.table, self.count_children(resource, child, ids, COUNTED_MAX).await?));
        }
        Ok(found)
    }

    /// Whether a reading on behalf of an application may delete a row that Clerk lacks, with its child rows. If it may, the
    /// deletion is counted.
    pub(crate) async fn lets_through(
        &self,
        resource: &'static Resource,
        id: &str,
        brake: &RefreshBrake,
    ) -> Result<bool, ReconcileError> {
        let mut deletions = brake.deletions().await;
        let mut rows = vec![(resource, 1)];
        for child in children(resource) {
            rows.push((child, self.count_children(resource, child, &[id], COUNTED_MAX).await?));
        }
        for (of, number) in &rows {
            let before = deletions.of(of.table);
            if before + number <= DELETIONS_MIN {
                continue;
            }
            let living = self.patiently("the store", || self.ports.records.count_living(of)).await?;
            if !brake::is_allowed(before + number, living + before) {
                warn!(
                    table = of.table,
                    before,
                    "a reading for the API finds no object at Clerk; its row is not deleted, because too many rows of this \
                     table would be deleted in a day. A reconciliation decides: rollbook reconcile"
                );
                return Ok(false);
            }
        }
        for (of, number) in rows {
            deletions.count(of.table, number);
        }
        Ok(true)
    }

    /// Counts what the deletion of these rows would take with it, in a dry run.
    pub(crate) async fn foresee_cascades(
        &self,
        resource: &'static Resource,
        ids: &[&str],
    ) -> Result<(), ReconcileError> {
        for (table, found) in self.living_children(resource, ids).await? {
            self.update(resource.table, |of| *of.cascades.entry(table.to_owned()).or_default() += found);
        }
        Ok(())
    }

    /// Whether the brake would hold a table because of the rows that its deletions take with them, in a dry run.
    pub(crate) async fn foresees_excess(&self, resource: &'static Resource) -> Result<bool, ReconcileError> {
        for child in children(resource) {
            let living = self.patiently("the store", || self.ports.records.count_living(child)).await?;
            let along = self.progress().resources.iter().filter_map(|of| of.cascades.get(child.table)).sum();
            if !brake::is_allowed(along, living) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Works on the cascades of deleted parents until none is left, or until the rest waits for something else: rows that
    /// refuse their change, or another process. What is left is recorded, and workers continue it.
    pub(crate) async fn finish_cascades(&self, resource: &'static Resource) -> Result<u64, ReconcileError> {
        if children(resource).next().is_none() {
            return Ok(0);
        }
        let mut waited_since: Option<Instant> = None;
        let left = loop {
            self.check_stop()?;
            let step = self.patiently("the store", || self.ports.store.cascade()).await?;
            let CascadeStep { rows, parents_left, rows_left, due_in, .. } = step;
            let left = parents_left + rows_left;
            let Some(due_in) = due_in.filter(|_| left > 0) else { break left };
            if due_in.is_zero() && rows > 0 {
                waited_since = None;
                continue;
            }
            let since = *waited_since.get_or_insert_with(Instant::now);
            if parents_left == 0 || since.elapsed() >= WAIT_MAX {
                // Rows that refuse their change are tried again later, by workers.
                break left;
            }
            let pause = due_in.clamp(PAUSE_MAX / 20, PAUSE_MAX);
            if self.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return Err(ReconcileError::Stopped);
            }
        };
        // The number is of all tables, and the last one is the right one.
        self.progress().resources.iter_mut().for_each(|of| of.pending = 0);
        self.update(resource.table, |of| of.pending = left);
        if left > 0 {
            warn!(
                table = resource.table,
                left,
                "reconciliation: child rows of deleted parents are not marked as deleted yet; workers continue, and \
                 `rollbook doctor` names them"
            );
        }
        Ok(left)
    }
}
