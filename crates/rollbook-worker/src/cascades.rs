//! Large cascades and rows that refuse their change. A background task processes them.
//!
//! When a parent is deleted, the lane repairs some child rows in the same transaction and leaves the others
//! to this task, so that no delivery waits for a large organization. Every worker runs the task, in small
//! steps. No two workers process the same work. An error is logged, and the next turn tries again.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::store::CascadeStep;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::shared::Shared;
use crate::turns::{Task, Turns};

/// Maximum time between two turns: the gauge also shows pending work of other workers, such as one that was
/// killed while its hold lasts.
const REFRESH: Duration = Duration::from_secs(10);
/// Pause between two turns while work is due: the store is free for deliveries meanwhile.
const PAUSE: Duration = Duration::from_millis(20);
/// Wait after a turn that failed, or while the store is unreachable.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Processes pending cascades until `stop`.
pub(crate) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut wait = PAUSE;
    let mut turns = Turns::new(Task::Cascades, &shared.metrics.turns);
    let mut before = CascadeStep::default();
    loop {
        let due = async {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shared.store.cascade_pending() => {}
            }
        };
        if stop.run_until_cancelled(due).await.is_none() {
            return;
        }
        if !shared.gate.is_open() {
            wait = AFTER_FAILURE;
            continue;
        }
        // Each step is a transaction, so cancelling the turn loses nothing; another worker continues.
        let Some(turn) = stop.run_until_cancelled(shared.store.cascade()).await else { return };
        wait = match turns.record(turn) {
            Some(done) => {
                shared.metrics.cascades.count(&done);
                log_progress(&before, &done);
                before = done;
                let longest = REFRESH.min(shared.settings.upkeep.interval).max(PAUSE);
                done.due_in.map_or(longest, |due_in| due_in.clamp(PAUSE, longest))
            }
            None => AFTER_FAILURE,
        };
    }
}

fn log_progress(before: &CascadeStep, done: &CascadeStep) {
    let is_news = (before.parents_left, before.rows_left) != (done.parents_left, done.rows_left);
    if done.rows > 0 || is_news {
        info!(
            rows = done.rows,
            refused = done.refused,
            parents_left = done.parents_left,
            rows_left = done.rows_left,
            "child rows of deleted parents were repaired"
        );
    }
}
