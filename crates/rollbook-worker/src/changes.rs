//! Positions of the change feed. A background task gives them to the lines of committed changes.
//!
//! The task runs after each batch of this process, and every ten seconds for the writes of other processes, such as
//! `rollbook erase`. Every worker runs it. One worker at a time holds the lock and gives positions. The others try again
//! within 50 ms instead of relying on that worker: its step may have begun before their last commit, and then it does not
//! include their lines. After a step of many lines the task waits 25 ms, so that under load one step takes the lines of several
//! batches (decision 0206). Rows do not depend on it: an error is logged once, and the next turn tries again.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::store::{SequenceStep, StoreError};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::shared::Shared;

/// Maximum time between two turns, for the writes of other processes.
const REFRESH: Duration = Duration::from_secs(10);
/// First and longest pause while another worker is at work.
const BUSY: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));
/// Lines of a step after which the next one waits. At fewer, a step for each batch costs little, and readers get the lines at once.
const MANY: u64 = 50;
/// Minimum time between two steps of many lines: the next one then takes the lines of several batches.
const GATHER: Duration = Duration::from_millis(25);
/// Wait after a turn that failed, or while the store is unreachable.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Maximum time for the lines of the last batches when the worker stops. Others, or the next start, move what is left.
const LAST_TURNS: Duration = Duration::from_secs(2);

/// Gives positions until `stop`.
pub(crate) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let (mut wait, mut busy, mut gather, mut failing) = (BUSY.0, BUSY.0, Duration::ZERO, false);
    let mut succeeded_at = Instant::now();
    loop {
        let due = async {
            // A wait of no time would still wait for the timer's next tick.
            if !gather.is_zero() {
                sleep(gather).await;
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = shared.store.sequence_pending() => {}
            }
        };
        if stop.run_until_cancelled(due).await.is_none() {
            return;
        }
        if !shared.gate.is_open() {
            wait = AFTER_FAILURE;
            continue;
        }
        // Each step is a transaction, so cancelling it loses nothing.
        let Some(result) = stop.run_until_cancelled(shared.store.sequence()).await else { return };
        wait = match result {
            Ok(done) => {
                (failing, succeeded_at) = (false, Instant::now());
                shared.metrics.changes.note(&done);
                busy = if done.has_more && done.moved == 0 { (busy * 2).min(BUSY.1) } else { BUSY.0 };
                let is_many = done.moved >= MANY && !done.has_more;
                gather = if is_many { GATHER } else { Duration::ZERO };
                if done.has_more { busy } else { REFRESH.min(shared.settings.upkeep.interval) }
            }
            Err(error) => {
                warn_once(&mut failing, &error);
                shared.metrics.changes.failing_for(succeeded_at.elapsed());
                AFTER_FAILURE
            }
        };
    }
}

/// Gives positions to what the last batches have left.
pub(crate) async fn finish(shared: &Shared) {
    let turns = async {
        while let Ok(SequenceStep { has_more: true, .. }) = shared.store.sequence().await {
            sleep(BUSY.0).await;
        }
    };
    if shared.gate.is_open() {
        _ = timeout(LAST_TURNS, turns).await;
    }
}

fn warn_once(failing: &mut bool, error: &StoreError) {
    if !std::mem::replace(failing, true) {
        warn!(%error, "changes get no position in the change feed now: rows are still written; retrying");
    }
}
