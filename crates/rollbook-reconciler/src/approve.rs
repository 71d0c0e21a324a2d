//! Approval of held deletions, on an operator's word.

use std::collections::BTreeMap;

use rollbook_core::catalog::{ORGANIZATIONS, Resource};
use rollbook_core::source::RECONCILED;
use rollbook_core::store::{HeldKey, HeldState, RunState};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::error::ReconcileError;
use crate::progress::Progress;
use crate::reconciler::Reconciler;

/// Result of an approval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Approved {
    /// Rows marked as deleted.
    pub deleted: u64,
    /// Held objects that Clerk has after all.
    pub alive: u64,
    /// Rows that refuse their deletion, and go on waiting.
    pub refused: u64,
    /// Rows that Clerk's answers do not prove to be absent now, or that were written lately. They go on waiting.
    pub unproven: u64,
    /// Child rows of deleted parents, and parents, of which the cascade is not done yet.
    pub pending: u64,
    /// Child rows by table that went with the deleted rows. Sessions are not counted.
    pub taken_along: BTreeMap<String, u64>,
}

impl Reconciler {
    /// Lets the held deletions of a run through, each proved again first.
    ///
    /// # Errors
    /// There is no such run, nothing of it waits, or Clerk or the store gave no answer.
    pub async fn approve(&self, run: &str, stop: &CancellationToken) -> Result<Approved, ReconcileError> {
        self.locked(Box::pin(self.approve_locked(run, stop))).await
    }

    async fn approve_locked(&self, id: &str, stop: &CancellationToken) -> Result<Approved, ReconcileError> {
        let found = self.ports.records.run(id).await?;
        let run = found.ok_or(ReconcileError::UnknownRun)?;
        if run.state == RunState::Running {
            let text = "this run is not over. Let it end first: rollbook reconcile --resume";
            return Err(ReconcileError::NoSuchRun(text.to_owned()));
        }
        let Some(progress) = Progress::parse(&run.progress) else {
            let text = "another version of Rollbook has written the record of this run, and this one cannot read it. Begin \
                        a new run: rollbook reconcile";
            return Err(ReconcileError::NoSuchRun(text.to_owned()));
        };
        if !self.is_of_instance(&progress) {
            let text = "this run has read another Clerk instance than the one of CLERK_INSTANCE_ID: what it found says \
                        nothing about this one. Begin a new run: rollbook reconcile";
            return Err(ReconcileError::NoSuchRun(text.to_owned()));
        }
        let (state, last_error) = (run.state, run.last_error.clone());
        let context = self.context(run, progress, stop, watch::Sender::default());
        context.check_instance().await?;
        let (mut approved, mut waited) = (Approved::default(), false);
        for resource in RECONCILED {
            // Those of the run are among what waits.
            context.update(resource.table, |of| of.undeleted = 0);
            let mut after = None;
            while let Some(keys) = context.held_of(resource, HeldState::Waiting, &mut after).await? {
                waited |= !keys.is_empty();
                context.check_stop()?;
                context.approve(resource, keys, &mut approved).await?;
            }
        }
        if !waited {
            let text = "no deletion of this run waits for approval. A later run may have taken its place: rollbook \
                        reconcile status";
            return Err(ReconcileError::NoSuchRun(text.to_owned()));
        }
        // What the run itself left may be done by now.
        approved.pending = context.finish_cascades(&ORGANIZATIONS).await?;
        let waits = context.progress().waits();
        let is_over = state == RunState::Held && waits == 0;
        context.save(if is_over { RunState::Complete } else { state }, last_error).await?;
        Ok(approved)
    }
}

impl Context {
    async fn approve(
        &self,
        resource: &'static Resource,
        keys: Vec<HeldKey>,
        approved: &mut Approved,
    ) -> Result<(), ReconcileError> {
        if keys.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = keys.iter().map(|key| key.id.clone()).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let before = self.living_children(resource, &ids).await?;
        let confirmed = self.confirm(resource, keys).await?;
        approved.deleted += confirmed.deleted;
        approved.alive += confirmed.alive;
        approved.refused += confirmed.refused;
        approved.unproven += confirmed.unproven;
        self.finish_cascades(resource).await?;
        let after = self.living_children(resource, &ids).await?;
        for ((table, before), (_, after)) in before.into_iter().zip(after) {
            if before > after {
                *approved.taken_along.entry(table.to_owned()).or_default() += before - after;
            }
        }
        self.recount_held(resource).await?;
        // An approval is not a walk: what later checks hold still waits.
        self.save_walk(resource, false).await
    }
}
