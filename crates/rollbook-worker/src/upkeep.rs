//! Retention: old entries leave the ledger and the change feed, and rows deleted long ago lose their content.
//!
//! Every worker runs it, in small steps with pauses; two workers at once do no work twice. Retention is not part of the
//! worker's progress: rows are right without it, so an error is logged and the next round tries again.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::store::{RetentionLimits, RetentionStep, StoreError};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::shared::Shared;
use crate::turns::{Task, Turns};

/// Maximum time from the start to the first round.
const FIRST_WITHIN: Duration = Duration::from_secs(1);

/// Runs retention until `stop`.
pub(crate) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let settings = shared.settings.upkeep;
    let kept_for = [settings.ledger_kept_for, settings.deleted_kept_for, settings.changes_kept_for];
    if kept_for.iter().all(Option::is_none) {
        return;
    }
    let mut turns = Turns::new(Task::Retention, &shared.metrics.turns);
    // Soon, so that a changed setting takes effect after a restart; at a random time, so that workers that start together
    // do not all begin together.
    let mut wait = settings.interval.min(FIRST_WITHIN).mul_f64(fastrand::f64());
    while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
        wait = settings.interval;
        let done = turns.record(round(&shared, &stop).await).unwrap_or_default();
        if done != RetentionStep::default() {
            info!(
                ledger_entries = done.ledger,
                deleted_rows = done.rows,
                changes = done.changes,
                "retention has removed old data"
            );
        }
    }
}

/// Runs steps until nothing is due.
async fn round(shared: &Shared, stop: &CancellationToken) -> Result<RetentionStep, StoreError> {
    let settings = shared.settings.upkeep;
    let now = shared.clock.now();
    let due = RetentionLimits {
        ledger_before: settings.ledger_kept_for.map(|kept_for| now.minus(kept_for)),
        deleted_before: settings.deleted_kept_for.map(|kept_for| now.minus(kept_for)),
        changes_before: settings.changes_kept_for.map(|kept_for| now.minus(kept_for)),
        limit: settings.step_max.max(1),
    };
    let mut done = RetentionStep::default();
    loop {
        let gone = shared.store.retain(&due).await?;
        shared.metrics.tidied(&gone);
        done = RetentionStep {
            ledger: done.ledger + gone.ledger,
            rows: done.rows + gone.rows,
            changes: done.changes + gone.changes,
        };
        let is_full = |count: u64| usize::try_from(count).is_ok_and(|count| count >= due.limit);
        if ![gone.ledger, gone.rows, gone.changes].into_iter().any(is_full) {
            return Ok(done);
        }
        if stop.run_until_cancelled(tokio::time::sleep(settings.pause)).await.is_none() {
            return Ok(done);
        }
    }
}
