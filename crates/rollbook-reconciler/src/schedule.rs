//! The schedule inside a worker: full walks, and cheap checks between them, by one process at a time.

use std::time::Duration;

use rollbook_core::store::{Run, RunState, StoreError};
use rollbook_core::time::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::begin::{find_run, is_ahead};
use crate::error::ReconcileError;
use crate::metrics::ReconcileMetrics;
use crate::progress::{Progress, ResourceProgress};
use crate::reconciler::{Reconciler, Resume, RunRequest};

/// Time between two looks at the schedule. The leader's lock ends after three of them.
const TICK: Duration = Duration::from_secs(20);
/// Name of the lock of the process that keeps the schedule.
const SCHEDULE_LOCK: &str = "schedule";
/// Longest wait after a failed run.
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// Share of the interval by which a run may be late: processes of many teams do not ask Clerk at the same
/// second.
const JITTER: f64 = 0.1;

/// Schedule of a process.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Time between the starts of two full walks. `None`: another process starts them.
    pub every: Option<Duration>,
    /// Time between two cheap checks. `None`: there are none.
    pub check_every: Option<Duration>,
}

/// State of the schedule between two ticks.
#[derive(Default)]
struct Kept {
    /// Not a time of the clock, which may be set back.
    checked_at: Option<Instant>,
    /// `updated_at` of the newest user that a check saw.
    users_since: Option<Timestamp>,
    is_failing: bool,
}

impl Reconciler {
    /// Keeps the schedule until `stop`. An error is logged and tried again; the deliveries do not wait for it.
    pub async fn keep_schedule(
        &self,
        schedule: Schedule,
        metrics: ReconcileMetrics,
        stop: CancellationToken,
    ) {
        tokio::select! {
            () = self.keep_ticking(schedule, &metrics, &stop) => {}
            () = self.keep_showing(&metrics) => {}
        }
        drop(self.ports.records.unlock(SCHEDULE_LOCK, &self.holder).await);
    }

    /// Shows the records. A walk may take hours, and an operator may settle something meanwhile.
    async fn keep_showing(&self, metrics: &ReconcileMetrics) {
        loop {
            if let Err(error) = metrics.refresh(self.ports.records.as_ref()).await {
                tracing::debug!(%error, "reconciliation: the metrics keep their values");
            }
            tokio::time::sleep(TICK).await;
        }
    }

    async fn keep_ticking(&self, schedule: Schedule, metrics: &ReconcileMetrics, stop: &CancellationToken) {
        let mut kept = Kept::default();
        // At a random time, so that processes that start together do not ask together.
        let mut wait = Duration::from_secs(1).mul_f64(fastrand::f64());
        while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
            wait = TICK;
            match self.tick(schedule, metrics, &mut kept, stop).await {
                Ok(()) => kept.is_failing = false,
                Err(ReconcileError::Stopped | ReconcileError::Busy(_)) => {}
                Err(error) => {
                    if !kept.is_failing {
                        warn!(%error, "reconciliation failed; it is tried again, and deliveries do not wait for it");
                    }
                    kept.is_failing = true;
                }
            }
        }
    }

    async fn tick(
        &self,
        schedule: Schedule,
        metrics: &ReconcileMetrics,
        kept: &mut Kept,
        stop: &CancellationToken,
    ) -> Result<(), ReconcileError> {
        self.ports.records.check_records().await?;
        if !self.ports.records.lock(SCHEDULE_LOCK, &self.holder, TICK * 3).await? {
            // Another process counts now.
            metrics.counts_elsewhere();
            return Ok(());
        }
        if let Some(every) = schedule.every
            && self.due_at(every).await? <= self.ports.clock.now()
        {
            // An older one ends: lists that it has read must be read again.
            let since = self.ports.clock.now().minus(every);
            let request = RunRequest { resume: Resume::Scheduled(since), ..RunRequest::default() };
            let report = self.run(&request, stop, watch::Sender::default()).await?;
            info!(
                run = report.run,
                state = report.state.as_str(),
                read = report.progress.sum(|of| of.read),
                drift = report.progress.sum(ResourceProgress::drifted),
                written = report.progress.sum(|of| of.written),
                held = report.progress.sum(|of| of.held),
                "reconciliation done"
            );
            kept.users_since = Some(report.started_at);
        }
        let is_due = |every| kept.checked_at.is_none_or(|at| at.elapsed() >= every);
        // The first walk comes before any check: until then every row is missing.
        if schedule.check_every.is_some_and(is_due) && self.is_backfilled().await? {
            kept.checked_at = Some(Instant::now());
            self.check(metrics, kept, stop).await?;
        }
        Ok(())
    }

    /// Compares the users that changed last, then the numbers of objects, and records the tables with equal numbers.
    async fn check(
        &self,
        metrics: &ReconcileMetrics,
        kept: &mut Kept,
        stop: &CancellationToken,
    ) -> Result<(), ReconcileError> {
        let since = kept.users_since.unwrap_or_else(|| self.ports.clock.now());
        let (repaired, newest) = self.check_recent_users(since, stop).await?;
        kept.users_since = Some(newest);
        if repaired > 0 {
            info!(repaired, "reconciliation: rows of recently changed users were behind");
        }
        let differences = self.count_differences(stop).await?;
        metrics.counted(&differences);
        self.record_equal(&differences).await
    }

    /// Returns the time at which the next walk is due.
    async fn due_at(&self, every: Duration) -> Result<Timestamp, StoreError> {
        let now = self.ports.clock.now();
        let is_full = |run: &Run| Progress::parse(&run.progress).is_some_and(|progress| progress.is_full());
        // A run of named resources postpones no full walk; an unfinished one of any kind goes on.
        let counts =
            |run: &Run| run.state == RunState::Running || is_full(run) && !is_ahead(run.saved_at, now);
        let last = find_run(self.ports.records.as_ref(), counts).await?;
        Ok(last.map_or(Timestamp::from_millis(i64::MIN), |last| next_after(&last, every, now)))
    }
}

/// Returns the time at which the walk after this run is due.
fn next_after(last: &Run, every: Duration, now: Timestamp) -> Timestamp {
    match last.state {
        // Killed or stopped: it goes on as soon as the lock is free.
        RunState::Running => last.saved_at.min(now),
        RunState::Failed => last.saved_at.plus(every.min(RETRY_MAX)),
        RunState::Complete | RunState::Held => {
            // A function of the id, so that every process computes the same time.
            let noise =
                last.id.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
            last.started_at.plus(every.mul_f64(1.0 + JITTER * f64::from(noise % 1000) / 1000.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW: Timestamp = Timestamp::from_millis(9_000);

    fn run(state: RunState) -> Run {
        Run {
            id: "run_1".to_owned(),
            started_at: Timestamp::from_millis(1_000),
            saved_at: Timestamp::from_millis(5_000),
            finished_at: None,
            state,
            is_dry: false,
            progress: String::new(),
            last_error: None,
        }
    }

    #[test]
    fn the_next_walk_is_due_a_day_after_the_start_of_the_last_one_with_some_jitter() {
        for state in [RunState::Complete, RunState::Held] {
            let due = next_after(&run(state), DAY, NOW);
            let late = due.since(Timestamp::from_millis(1_000).plus(DAY));
            assert!(late <= DAY.mul_f64(JITTER), "{late:?}");
            assert_eq!(next_after(&run(state), DAY, NOW), due, "every process computes the same");
        }
    }

    #[test]
    fn an_unfinished_walk_is_due_at_once_and_a_failed_one_after_an_hour_at_most() {
        let saved_at = Timestamp::from_millis(5_000);
        assert_eq!(next_after(&run(RunState::Running), DAY, NOW), saved_at);
        assert_eq!(next_after(&run(RunState::Failed), DAY, NOW), saved_at.plus(RETRY_MAX));
        let every = Duration::from_secs(60);
        assert_eq!(next_after(&run(RunState::Failed), every, NOW), saved_at.plus(every));
    }
}
