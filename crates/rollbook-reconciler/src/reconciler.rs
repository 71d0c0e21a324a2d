//! Runs: begin or resume one, walk every resource, end it.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::catalog::{Resource, SUBSCRIPTION_ITEMS, USERS, find_resource};
use rollbook_core::source::{LOOKUPS_MAX, PAGE_MAX, SourceError};
use rollbook_core::store::{Freshness, HeldKey, HeldState, Run, RunState};
use rollbook_core::time::Timestamp;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::brake::RefreshBrake;
use crate::context::{Context, Ports};
use crate::error::ReconcileError;
use crate::progress::Progress;
use crate::settings::{RUN_LOCK, Settings};

/// Shortest time between two renewals of the lock.
const RENEW_MIN: Duration = Duration::from_secs(1);

/// Starts runs. One process may have several; the lock in the store lets one run at a time.
#[derive(Clone)]
pub struct Reconciler {
    pub(crate) ports: Ports,
    pub(crate) settings: Settings,
    /// Name of this process in the lock.
    pub(crate) holder: Arc<str>,
    /// Time of the last check of the key's instance for a refresh.
    pub(crate) instance_checked_at: Arc<Mutex<Option<Instant>>>,
    /// Rows that refreshes have deleted.
    pub(crate) refresh_brake: Arc<RefreshBrake>,
}

/// Request for a run.
#[derive(Clone, Debug, Default)]
pub struct RunRequest {
    /// Resources to walk; all of [`RECONCILED`](rollbook_core::source::RECONCILED), and the statuses of subscription items, if empty.
    pub only: Vec<&'static Resource>,
    /// Whether the run only counts, and writes nothing at all.
    pub is_dry: bool,
    /// Whether to go on with an unfinished run.
    pub resume: Resume,
}

/// Treatment of an unfinished run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// Begin a new run. The unfinished one ends.
    #[default]
    New,
    /// Go on with the unfinished one if there is one.
    IfUnfinished,
    /// Go on with the unfinished one, or with the last one if it walks every resource, failed, and began at this time or
    /// later. A schedule asks for it: what the run has read is not read again an hour later.
    Scheduled(Timestamp),
    /// Go on with the unfinished one, or with the last one if it failed; an error if there is none.
    Required,
}

/// Result of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunReport {
    /// Id of the run.
    pub run: String,
    /// [`RunState::Complete`] or [`RunState::Held`].
    pub state: RunState,
    /// Whether the run only counted.
    pub is_dry: bool,
    /// Time of its start.
    pub started_at: Timestamp,
    /// Time of its end.
    pub finished_at: Timestamp,
    /// Counts by resource.
    pub progress: Progress,
}

impl Reconciler {
    /// Creates the reconciler of one process.
    pub fn new(ports: Ports, settings: Settings) -> Self {
        let page_size = settings.page_size.clamp(2, PAGE_MAX);
        let settings = Settings { page_size, parallel: settings.parallel.max(1), ..settings };
        let holder = format!("{:016x}", fastrand::u64(..)).into();
        let (instance_checked_at, refresh_brake) = (Arc::default(), Arc::default());
        Self { ports, settings, holder, instance_checked_at, refresh_brake }
    }

    /// Sets [`Settings::absence_margin`].
    #[must_use]
    pub fn with_absence_margin(mut self, margin: Duration) -> Self {
        self.settings.absence_margin = margin;
        self
    }

    /// Sets [`Settings::is_background`].
    #[must_use]
    pub fn in_background(mut self) -> Self {
        self.settings.is_background = true;
        self
    }

    /// Sets [`Settings::patience`].
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.settings.patience = patience;
        self
    }

    /// Performs a run. `watch` shows its progress, about once a second, from its first record on: a run that has shown
    /// resources, and that `stop` or an outage ends, can be resumed.
    ///
    /// # Errors
    /// The run did not reach its end. Nothing is deleted because of an error.
    pub async fn run(
        &self,
        request: &RunRequest,
        stop: &CancellationToken,
        watch: watch::Sender<Progress>,
    ) -> Result<RunReport, ReconcileError> {
        let run = Box::pin(self.run_locked(request, stop, watch));
        if request.is_dry { run.await } else { self.locked(run).await }
    }

    /// Does work under the lock. A timer renews it, however long one step of the work takes. Work that loses the lock
    /// ends at once.
    pub(crate) async fn locked<T>(
        &self,
        work: impl Future<Output = Result<T, ReconcileError>>,
    ) -> Result<T, ReconcileError> {
        let (records, hold_for) = (&self.ports.records, self.settings.lock_for);
        if !records.lock(RUN_LOCK, &self.holder, hold_for).await? {
            return Err(ReconcileError::Busy(hold_for));
        }
        let renew = async {
            loop {
                tokio::time::sleep((hold_for / 3).max(RENEW_MIN)).await;
                // Without an answer of the store, the next renewal says whether the lock is lost.
                if records.lock(RUN_LOCK, &self.holder, hold_for).await == Ok(false) {
                    return Err(ReconcileError::LockLost);
                }
            }
        };
        let result = tokio::select! {
            biased;
            result = work => result,
            lost = renew => lost,
        };
        drop(records.unlock(RUN_LOCK, &self.holder).await);
        result
    }

    async fn run_locked(
        &self,
        request: &RunRequest,
        stop: &CancellationToken,
        watch: watch::Sender<Progress>,
    ) -> Result<RunReport, ReconcileError> {
        let (run, progress) = self.begin(request).await?;
        let context = self.context(run, progress, stop, watch);
        let result = context.walk().await;
        let state = match &result {
            Ok(Ok(state)) => *state,
            Err(error) if error.is_temporary() => RunState::Running,
            Ok(Err(_)) | Err(_) => RunState::Failed,
        };
        match result.flatten() {
            Ok(_) => context.save(state, None).await?,
            // The lock belongs to another process, and so does the record.
            Err(ReconcileError::LockLost) => return Err(ReconcileError::LockLost),
            Err(error) => {
                // While the store is unreachable the record stays as it was last saved.
                drop(context.save_once(state, Some(error.to_string())).await);
                return Err(error);
            }
        }
        let progress = context.progress().clone();
        let Run { id, is_dry, started_at, .. } = context.run;
        Ok(RunReport { run: id, state, is_dry, started_at, finished_at: self.ports.clock.now(), progress })
    }

    pub(crate) fn context(
        &self,
        run: Run,
        progress: Progress,
        stop: &CancellationToken,
        watch: watch::Sender<Progress>,
    ) -> Context {
        let (ports, settings) = (self.ports.clone(), self.settings.clone());
        Context::new(ports, settings, run, progress, self.holder.to_string(), stop.clone(), watch)
    }
}

impl Context {
    /// Walks every resource that is left. Returns the state of the run, or the errors of lists, each of which ended the
    /// walk of one resource only.
    async fn walk(&self) -> Result<Result<RunState, ReconcileError>, ReconcileError> {
        self.check_instance().await?;
        self.save(RunState::Running, None).await?;
        let open: Vec<String> =
            self.progress().resources.iter().filter(|of| !of.is_done).map(|of| of.table.clone()).collect();
        let mut failed = Vec::new();
        for resource in open.iter().filter_map(|table| find_resource(table)) {
            let Err(error) = self.walk_resource(resource).await else { continue };
            if !self.is_of_one_list(&error).await {
                return Err(error);
            }
            warn!(table = resource.table, %error, "reconciliation: this list can't be read; the run goes on with the others");
            failed.push((resource.table, error));
        }
        if let Some(error) = ReconcileError::of_lists(failed) {
            return Ok(Err(error));
        }
        let waits = self.progress().waits();
        Ok(Ok(if waits > 0 { RunState::Held } else { RunState::Complete }))
    }

    /// Whether an error says nothing about the other lists: Clerk answers, and with the same instance. An outage ends the run
    /// instead: it can be resumed where it was.
    async fn is_of_one_list(&self, error: &ReconcileError) -> bool {
        let is_outage = matches!(error, ReconcileError::Source(SourceError::Unavailable(_)));
        if is_outage || !matches!(error, ReconcileError::Source(_) | ReconcileError::Contradiction { .. }) {
            return false;
        }
        let instance = self.stop.run_until_cancelled(self.ports.source.instance()).await;
        instance.is_some_and(|answer| answer.is_ok_and(|of| of.id == self.progress().instance))
    }

    async fn walk_resource(&self, resource: &'static Resource) -> Result<(), ReconcileError> {
        if resource == &SUBSCRIPTION_ITEMS {
            return self.walk_statuses().await;
        }
        let known = self.patiently("the store", || self.ports.records.freshness()).await?;
        let is_complete = |of: &Freshness| of.table == resource.table && of.complete_since.is_some();
        self.set_backfill(!known.iter().any(is_complete));
        let is_walked = self.update(resource.table, |of| of.is_walked);
        if is_walked != Some(true) {
            self.note_empty(resource).await?;
            match self.read_all(resource).await {
                Err(ReconcileError::Source(SourceError::NotEnabled(said))) => {
                    return self.skip(resource, &said).await;
                }
                read => read?,
            }
            self.update(resource.table, |of| {
                of.is_walked = true;
                of.slices.clear();
            });
            self.save(RunState::Running, None).await?;
        }
        self.finish_deletions(resource).await?;
        self.note_freshness(resource).await?;
        self.update(resource.table, |of| of.is_done = true);
        self.save(RunState::Running, None).await
    }

    /// Ends the walk of a resource that the instance does not have. Its rows, and what is held of them, stay as they
    /// are: the answer says nothing about them. It counts only as the answer to the first page, and never for users.
    async fn skip(&self, resource: &'static Resource, said: &str) -> Result<(), ReconcileError> {
        let has_begun = self.update(resource.table, |of| !of.slices.is_empty()).unwrap_or_default();
        if resource == &USERS || has_begun {
            return Err(SourceError::NotEnabled(said.to_owned()).into());
        }
        let rows = self.patiently("the store", || self.ports.records.count_living(resource)).await?;
        if rows == 0 {
            info!(
                table = resource.table,
                said, "reconciliation: not enabled at Clerk; there is nothing to read"
            );
            self.save_walk(resource, true).await?;
        } else {
            warn!(
                table = resource.table,
                said, rows, "reconciliation: not enabled at Clerk; the rows are left as they are"
            );
        }
        self.update(resource.table, |of| (of.is_walked, of.is_done, of.not_enabled) = (true, true, rows));
        self.save(RunState::Running, None).await
    }

    /// Counts differences of subscription items. Nothing of them is written, so the view `freshness` leaves them out.
    async fn walk_statuses(&self) -> Result<(), ReconcileError> {
        match self.count_statuses().await {
            // Nothing of them is repaired, so that the answer of a later page says nothing wrong either.
            Err(ReconcileError::Source(error @ SourceError::NotEnabled(_))) => {
                info!(table = SUBSCRIPTION_ITEMS.table, %error, "reconciliation: nothing to read");
            }
            counted => counted?,
        }
        self.update(SUBSCRIPTION_ITEMS.table, |of| (of.is_walked, of.is_done) = (true, true));
        self.save(RunState::Running, None).await
    }

    /// Notes whether a walk begins on a table without rows. A walk that goes on keeps what it has noted.
    async fn note_empty(&self, resource: &'static Resource) -> Result<(), ReconcileError> {
        if self.update(resource.table, |of| of.slices.is_empty()) == Some(true) {
            let rows = self.patiently("the store", || self.ports.rows.rows(resource, None, 1)).await?;
            self.update(resource.table, |of| of.was_empty = rows.is_empty());
        }
        Ok(())
    }

    /// Reads every object of a resource.
    async fn read_all(&self, resource: &'static Resource) -> Result<(), ReconcileError> {
        if resource == &USERS {
            Box::pin(self.walk_users()).await?;
        } else {
            Box::pin(self.walk_offset(resource)).await?;
        }
        self.prove_undated(resource).await
    }

    /// Records what the walk found, and ends what older runs hold of the same table: this run found it again
    /// if it is still true.
    pub(crate) async fn note_freshness(&self, resource: &'static Resource) -> Result<(), ReconcileError> {
        self.save_walk(resource, true).await?;
        if self.run.is_dry { Ok(()) } else { self.supersede(resource).await }
    }

    /// Records what the walk found, at its end or after an approval. A dry run records nothing.
    pub(crate) async fn save_walk(
        &self,
        resource: &'static Resource,
        is_end: bool,
    ) -> Result<(), ReconcileError> {
        if self.run.is_dry {
            return Ok(());
        }
        let records = &self.ports.records;
        let known = self.patiently("the store", || records.freshness()).await?;
        let known = known.into_iter().find(|of| of.table == resource.table);
        let (drift, is_clean) = self
            .update(resource.table, |of| {
                (of.drifted(), of.held + of.refused + of.unreadable + of.pending == 0)
            })
            .unwrap_or_default();
        let since = known.as_ref().and_then(|of| of.complete_since).unwrap_or(self.run.started_at);
        let complete_since = is_clean.then_some(since);
        let walked_at = known.map(|of| of.last_walk_at).filter(|_| !is_end);
        let last_walk_at = walked_at.unwrap_or_else(|| self.ports.clock.now());
        let freshness = Freshness { table: resource.table.to_owned(), complete_since, last_walk_at, drift };
        self.patiently("the store", || records.save_freshness(&freshness)).await
    }

    async fn supersede(&self, resource: &'static Resource) -> Result<(), ReconcileError> {
        let records = &self.ports.records;
        let counts = self.patiently("the store", || records.count_held(None)).await?;
        let is_old = |run: &str, state| run != self.run.id && state != HeldState::Done;
        for count in counts.iter().filter(|of| of.table == resource.table && is_old(&of.run, of.state)) {
            let mut after = Some(HeldKey { table: resource.table.to_owned(), id: String::new() });
            loop {
                let (run, state) = (&count.run, count.state);
                let held = self
                    .patiently("the store", || records.held(run, state, after.as_ref(), LOOKUPS_MAX))
                    .await?;
                let keys: Vec<HeldKey> =
                    held.into_iter().map(|held| held.key).filter(|key| key.table == resource.table).collect();
                let Some(last) = keys.last().cloned() else { break };
                after = Some(last);
                self.patiently("the store", || records.settle_held(run, &keys, HeldState::Done)).await?;
            }
        }
        Ok(())
    }
}
