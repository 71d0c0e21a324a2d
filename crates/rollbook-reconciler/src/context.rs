//! Shared context of a run: the ports, the record of the run, and retries of both sides.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rollbook_core::change::{Applied, Change};
use rollbook_core::source::{Source, SourceError};
use rollbook_core::store::{Reconciliation, Rows, Run, RunState, Store, StoreError};
use rollbook_core::time::{Clock, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::batches::{BATCH_BYTES_MAX, batches};
use crate::clocked::Clocked;
use crate::decoder::{Decoder, pause_after};
use crate::error::ReconcileError;
use crate::progress::{Progress, ResourceProgress};
use crate::settings::{RUN_LOCK, Settings};

/// Maximum number of changes in one transaction. Each transaction costs as much as some rows.
const BATCH_MAX: usize = 250;
/// The same in the background: deliveries wait for a transaction that is under way, and acknowledgements for a core.
const BATCH_MAX_IN_BACKGROUND: usize = 25;
/// First and longest pause before a call is repeated.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(20));

/// Ports of the reconciler.
#[derive(Clone)]
pub struct Ports {
    /// Clerk's API.
    pub source: Arc<dyn Source>,
    /// Writes rows.
    pub store: Arc<dyn Store>,
    /// Reads single rows.
    pub rows: Arc<dyn Rows>,
    /// Reads states of rows, and records runs.
    pub records: Arc<dyn Reconciliation>,
    /// Rollbook's clock.
    pub clock: Arc<dyn Clock>,
}

/// One run in progress.
pub(crate) struct Context {
    pub(crate) ports: Ports,
    pub(crate) settings: Settings,
    /// Record of the run, without its progress.
    pub(crate) run: Run,
    /// Name under which this process holds the lock.
    pub(crate) holder: String,
    pub(crate) stop: CancellationToken,
    /// Time of Clerk's clock at the beginning, in milliseconds.
    clerk_start: AtomicI64,
    progress: Mutex<Progress>,
    watch: watch::Sender<Progress>,
    saved: Mutex<Instant>,
    pub(crate) decoder: Decoder,
    /// Whether the resource that is walked has had no complete walk yet.
    is_backfill: AtomicBool,
    /// Whether this is a check between walks, which has no record.
    is_check: AtomicBool,
}

/// Result of writing changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Changes that advanced a row.
    pub(crate) advanced: u64,
    /// Outcome of the last change.
    pub(crate) last: Option<Applied>,
    /// Ids of subjects with rows that refused the change, by a trigger or a constraint.
    pub(crate) refused: Vec<String>,
    /// Ids of subjects that the merge ignored: the change is not later than what an operator did.
    pub(crate) ignored: Vec<String>,
}

impl Context {
    /// Pauses for as long as the step since `begun` took, in the background: what else the process does has its turn. The
    /// caller notices a stop.
    pub(crate) async fn rest(&self, begun: Instant) {
        if self.settings.is_background {
            pause_after(begun, &self.stop).await;
        }
    }

    pub(crate) fn new(
        mut ports: Ports,
        settings: Settings,
        run: Run,
        progress: Progress,
        holder: String,
        stop: CancellationToken,
        watch: watch::Sender<Progress>,
    ) -> Self {
        ports.source = Arc::new(Clocked::new(ports.source, ports.clock.clone()));
        let (progress, saved) = (Mutex::new(progress), Mutex::new(Instant::now()));
        let decoder = Decoder::new(settings.is_background);
        Self {
            ports,
            settings,
            run,
            holder,
            stop,
            clerk_start: AtomicI64::new(i64::MAX),
            progress,
            watch,
            saved,
            decoder,
            is_backfill: AtomicBool::new(false),
            is_check: AtomicBool::new(false),
        }
    }

    /// Records whether the walk that begins is the first of its resource.
    pub(crate) fn set_backfill(&self, yes: bool) {
        self.is_backfill.store(yes, Ordering::Relaxed);
    }

    /// Whether changes are part of a backfill.
    pub(crate) fn is_backfill(&self) -> bool {
        self.is_backfill.load(Ordering::Relaxed)
    }

    /// Records that this is a check between walks.
    pub(crate) fn set_check(&self) {
        self.is_check.store(true, Ordering::Relaxed);
    }

    /// Whether this is a check between walks.
    pub(crate) fn is_check(&self) -> bool {
        self.is_check.load(Ordering::Relaxed)
    }

    /// Remembers a time of Clerk's clock.
    pub(crate) fn clerk_says(&self, clock: Timestamp) {
        self.clerk_start.fetch_min(clock.as_millis(), Ordering::Relaxed);
    }

    /// Returns the time of Clerk's clock at which this process began or resumed the run.
    pub(crate) fn started_at_clerk(&self) -> Timestamp {
        // Clerk's `Date` has whole seconds, rounded down.
        Timestamp::from_millis(self.clerk_start.load(Ordering::Relaxed).saturating_add(999))
    }

    /// Returns the progress. The caller holds the guard across no `await`.
    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the progress of one resource.
    pub(crate) fn update<T>(
        &self,
        table: &str,
        change: impl FnOnce(&mut ResourceProgress) -> T,
    ) -> Option<T> {
        self.progress().resources.iter_mut().find(|of| of.table == table).map(change)
    }

    /// Returns [`ReconcileError::Stopped`] if the process was asked to stop.
    pub(crate) fn check_stop(&self) -> Result<(), ReconcileError> {
        if self.stop.is_cancelled() { Err(ReconcileError::Stopped) } else { Ok(()) }
    }

    /// Saves the position if the last record is old enough, and renews the lock.
    pub(crate) async fn save_sometimes(&self) -> Result<(), ReconcileError> {
        let is_due = {
            let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
            let is_due = saved.elapsed() >= self.settings.save_every;
            if is_due {
                *saved = Instant::now();
            }
            is_due
        };
        if !is_due {
            return Ok(());
        }
        if self.run.is_dry {
            self.show();
        }
        self.save(RunState::Running, None).await
    }

    /// Shows the progress to the caller of the run. A run that is not dry has a record then.
    fn show(&self) {
        let progress = self.progress().clone();
        self.watch.send_replace(progress);
    }

    /// Saves the run's record, and renews the lock. A dry run has neither.
    pub(crate) async fn save(
        &self,
        state: RunState,
        last_error: Option<String>,
    ) -> Result<(), ReconcileError> {
        if self.run.is_dry {
            return Ok(());
        }
        let run = self.record(state, last_error);
        // A signal does not keep a run that is over from being recorded.
        let stop = (state == RunState::Running).then_some(&self.stop);
        let lock = || self.ports.records.lock(RUN_LOCK, &self.holder, self.settings.lock_for);
        if !self.repeat("the store", stop, lock).await? {
            return Err(ReconcileError::LockLost);
        }
        self.repeat("the store", stop, || self.ports.records.save_run(&run)).await?;
        self.show();
        Ok(())
    }

    /// Saves the run's record with one attempt, at its end by an error.
    pub(crate) async fn save_once(
        &self,
        state: RunState,
        last_error: Option<String>,
    ) -> Result<(), StoreError> {
        if self.run.is_dry {
            return Ok(());
        }
        self.ports.records.save_run(&self.record(state, last_error)).await?;
        self.show();
        Ok(())
    }

    fn record(&self, state: RunState, last_error: Option<String>) -> Run {
        let now = self.ports.clock.now();
        // A run that is over, and of which something was approved since, ended when it ended.
        let finished_at = (state != RunState::Running).then(|| self.run.finished_at.unwrap_or(now));
        let progress = self.progress().to_text();
        Run { saved_at: now, state, finished_at, progress, last_error, ..self.run.clone() }
    }

    /// Repeats a call while the other side cannot answer, until the patience of the settings ends. The process that is
    /// asked to stop does not wait for the answer.
    pub(crate) async fn patiently<T, E, F>(
        &self,
        what: &'static str,
        call: impl Fn() -> F,
    ) -> Result<T, ReconcileError>
    where
        E: Into<ReconcileError>,
        F: Future<Output = Result<T, E>>,
    {
        self.repeat(what, Some(&self.stop), call).await
    }

    async fn repeat<T, E, F>(
        &self,
        what: &'static str,
        stop: Option<&CancellationToken>,
        call: impl Fn() -> F,
    ) -> Result<T, ReconcileError>
    where
        E: Into<ReconcileError>,
        F: Future<Output = Result<T, E>>,
    {
        let (begun, mut pause, mut failed) = (Instant::now(), PAUSES.0, false);
        loop {
            let answer = match stop {
                None => call().await,
                Some(stop) => stop.run_until_cancelled(call()).await.ok_or(ReconcileError::Stopped)?,
            };
            let error = match answer {
                Ok(result) => {
                    if failed {
                        info!("reconciliation: {what} answers again");
                    }
                    return Ok(result);
                }
                Err(error) => error.into(),
            };
            if !is_outage(&error) || begun.elapsed() + pause > self.settings.patience {
                return Err(error);
            }
            if !failed {
                warn!(%error, "reconciliation: {what} can't answer; it is asked again");
            }
            failed = true;
            let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            if self.stop.run_until_cancelled(tokio::time::sleep(jittered)).await.is_none() {
                return Err(ReconcileError::Stopped);
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Writes changes. A change that its row refuses does not keep the others from being written.
    pub(crate) async fn apply(&self, changes: &[Change]) -> Result<Written, ReconcileError> {
        let mut written = Written::default();
        let size = if self.settings.is_background { BATCH_MAX_IN_BACKGROUND } else { BATCH_MAX };
        let mut pending = batches(changes, size, BATCH_BYTES_MAX);
        pending.reverse();
        let mut ambiguous = None;
        while let Some(batch) = pending.pop() {
            let begun = Instant::now();
            let applied = self.patiently("the store", || self.ports.store.apply_many(batch)).await;
            match applied {
                Ok(outcomes) => {
                    written.last = outcomes.last().copied();
                    let ignored = batch.iter().zip(&outcomes).filter(|(_, of)| **of == Applied::Ignored);
                    written.ignored.extend(ignored.filter_map(|(of, _)| of.subject_id().map(str::to_owned)));
                    written.advanced +=
                        outcomes.into_iter().filter(|outcome: &Applied| outcome.advances()).count() as u64;
                }
                Err(ReconcileError::Store(
                    error @ (StoreError::Event(_) | StoreError::Ambiguous(_) | StoreError::Slow { .. }),
                )) => {
                    if batch.len() > 1 {
                        let (first, second) = batch.split_at(batch.len() / 2);
                        pending.extend([second, first]);
                    } else {
                        written.refused.extend(batch[0].subject_id().map(str::to_owned));
                        warn!(table = batch[0].resource_name(), %error, "reconciliation: a row could not be changed");
                        if !matches!(error.innermost(), StoreError::Event(_)) {
                            ambiguous = Some(error);
                        }
                    }
                }
                Err(error) => return Err(error),
            }
            self.rest(begun).await;
        }
        // Every change failed, and the store may be the reason.
        match ambiguous {
            Some(error) if written.advanced == 0 && written.refused.len() > 1 => {
                Err(error.innermost().clone().into())
            }
            _ => Ok(written),
        }
    }
}

/// Whether the other side cannot answer, so that the call is worth repeating.
const fn is_outage(error: &ReconcileError) -> bool {
    matches!(
        error,
        ReconcileError::Source(SourceError::Unavailable(_) | SourceError::Unreadable(_))
            | ReconcileError::Store(StoreError::Unavailable(_))
    )
}
