//! The beginning of a run: a new one, or the record of one that did not reach its end.

use std::time::Duration;

use rollbook_core::catalog::{Resource, SUBSCRIPTION_ITEMS};
use rollbook_core::source::RECONCILED;
use rollbook_core::store::{Reconciliation, Run, RunState, StoreError};
use rollbook_core::time::Timestamp;
use tracing::info;

use crate::error::ReconcileError;
use crate::progress::{Progress, ResourceProgress};
use crate::reconciler::{Reconciler, Resume, RunRequest};
use crate::settings::CLOCK_TOLERANCE;

/// Runs that are searched for an unfinished run.
pub(crate) const RUNS: usize = 20;
/// Runs that are searched where the first [`RUNS`] have none of the kind: runs of named resources may be many.
pub(crate) const RUNS_MAX: usize = 500;
/// Reason of the failure of a run that a later one replaced.
const REPLACED: &str = "a later run took its place";
/// Reason of the failure of a run that began while this machine's clock was ahead.
const AHEAD: &str =
    "it began while this machine's clock was ahead; its times are those at which a later run noticed it";

/// Whether a time was recorded while this machine's clock was ahead: no run can have one that is so late.
pub(crate) fn is_ahead(at: Timestamp, now: Timestamp) -> bool {
    at > now.plus(CLOCK_TOLERANCE)
}

/// Returns the latest run of a kind.
pub(crate) async fn find_run(
    records: &dyn Reconciliation,
    is_of_kind: impl Fn(&Run) -> bool,
) -> Result<Option<Run>, StoreError> {
    for limit in [RUNS, RUNS_MAX] {
        let runs = records.runs(limit).await?;
        let are_all = runs.len() < limit;
        let found = runs.into_iter().find(&is_of_kind);
        if found.is_some() || are_all {
            return Ok(found);
        }
    }
    Ok(None)
}

impl Reconciler {
    /// Returns the record and the progress to begin with.
    pub(crate) async fn begin(&self, request: &RunRequest) -> Result<(Run, Progress), ReconcileError> {
        if let Some(resumed) = self.resumed(request).await? {
            info!(run = resumed.0.id, "reconciliation: continuing an unfinished run");
            return Ok(resumed);
        }
        if request.resume == Resume::Required {
            let text = "there is no unfinished run. Begin one: rollbook reconcile";
            return Err(ReconcileError::NoSuchRun(text.to_owned()));
        }
        let is_asked = |of: &&'static Resource| request.only.is_empty() || request.only.contains(of);
        let mut resources: Vec<&Resource> = RECONCILED.into_iter().filter(is_asked).collect();
        if request.only.is_empty() {
            resources.push(&SUBSCRIPTION_ITEMS);
        }
        let resources = resources.iter().map(|resource| ResourceProgress::new(resource.table)).collect();
        Ok((self.new_run(request.is_dry), Progress { instance: String::new(), resources }))
    }

    /// Returns the run to go on with. The other unfinished runs end.
    async fn resumed(&self, request: &RunRequest) -> Result<Option<(Run, Progress)>, ReconcileError> {
        if request.is_dry {
            return Ok(None);
        }
        let now = self.ports.clock.now();
        let runs = self.ports.records.runs(RUNS).await?;
        let (ahead, runs): (Vec<Run>, Vec<Run>) =
            runs.into_iter().partition(|run| is_ahead(run.started_at, now));
        for run in ahead {
            self.ports.records.save_run(&at_the_right_time(run, now)).await?;
        }
        let last = runs.iter().find(|run| !run.is_dry).filter(|run| run.state == RunState::Failed).cloned();
        let mut resumed = None;
        for run in runs.into_iter().filter(|run| run.state == RunState::Running) {
            match Progress::parse(&run.progress).filter(|progress| self.is_of_instance(progress)) {
                Some(progress) if resumed.is_none() && request.resume != Resume::New => {
                    resumed = Some((run, progress));
                }
                _ => {
                    let (last_error, now) = (Some(REPLACED.to_owned()), Some(now));
                    let ended = Run { state: RunState::Failed, finished_at: now, last_error, ..run };
                    self.ports.records.save_run(&ended).await?;
                }
            }
        }
        if resumed.is_none() {
            // Only the last run: what a later one found is newer.
            let failed = last.filter(|run| run.last_error.as_deref() != Some(REPLACED));
            let failed = failed.and_then(|run| Progress::parse(&run.progress).map(|of| (run, of)));
            resumed = failed
                .filter(|(_, progress)| self.is_of_instance(progress))
                .filter(|(run, progress)| match request.resume {
                    Resume::Required => true,
                    Resume::Scheduled(since) => progress.is_full() && run.started_at >= since,
                    Resume::New | Resume::IfUnfinished => false,
                })
                .map(|(run, progress)| (Run { finished_at: None, ..run }, begun_again(progress)));
        }
        Ok(resumed)
    }

    /// Whether what a run has read is of the instance that `CLERK_INSTANCE_ID` names. Without the setting, a key of another
    /// instance is refused anyway.
    pub(crate) fn is_of_instance(&self, progress: &Progress) -> bool {
        let known = Some(&progress.instance).filter(|instance| !instance.is_empty());
        known.zip(self.settings.instance_id.as_ref()).is_none_or(|(known, expected)| known == expected)
    }

    pub(crate) fn new_run(&self, is_dry: bool) -> Run {
        let now = self.ports.clock.now();
        Run {
            id: format!("run_{:x}{:06x}", now.as_millis(), fastrand::u32(..1 << 24)),
            started_at: now,
            saved_at: now,
            finished_at: None,
            state: RunState::Running,
            is_dry,
            progress: String::new(),
            last_error: None,
        }
    }
}

/// Returns the record of a run that began while this machine's clock was ahead, with times that can be right: a later run
/// must not look older. One that is not over ends.
fn at_the_right_time(run: Run, now: Timestamp) -> Run {
    let at = now.minus(Duration::from_millis(1));
    let (state, last_error) = match run.state {
        RunState::Running => (RunState::Failed, Some(AHEAD.to_owned())),
        state => (state, run.last_error.clone()),
    };
    Run { started_at: at, saved_at: at, finished_at: Some(at), state, last_error, ..run }
}

/// Returns the progress of a failed run to go on with: lists that it did not read to their end begin again, because what
/// was read of them may contradict itself. Lists that are done stay done.
fn begun_again(mut progress: Progress) -> Progress {
    for of in progress.resources.iter_mut().filter(|of| !of.is_walked) {
        *of = ResourceProgress::new(&of.table.clone());
    }
    progress
}
