//! The beginning of a run: a new one, or the record of one that did not reach its end.

use rollbook_core::catalog::{Resource, SUBSCRIPTION_ITEMS};
use rollbook_core::source::RECONCILED;
use rollbook_core::store::{Run, RunState};
use tracing::info;

use crate::error::ReconcileError;
use crate::progress::{Progress, ResourceProgress};
use crate::reconciler::{Reconciler, Resume, RunRequest};

/// Runs that are searched for an unfinished run.
pub(crate) const RUNS: usize = 20;
/// Reason of the failure of a run that a later one replaced.
const REPLACED: &str = "a later run took its place";

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
        let runs = self.ports.records.runs(RUNS).await?;
        let last = runs.iter().find(|run| !run.is_dry).filter(|run| run.state == RunState::Failed).cloned();
        let mut resumed = None;
        for run in runs.into_iter().filter(|run| run.state == RunState::Running) {
            match Progress::parse(&run.progress) {
                Some(progress) if resumed.is_none() && request.resume != Resume::New => {
                    resumed = Some((run, progress));
                }
                _ => {
                    let (last_error, now) = (Some(REPLACED.to_owned()), Some(self.ports.clock.now()));
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
                .filter(|(run, progress)| match request.resume {
                    Resume::Required => true,
                    Resume::Scheduled(since) => progress.is_full() && run.started_at >= since,
                    Resume::New | Resume::IfUnfinished => false,
                })
                .map(|(run, progress)| (run, begun_again(progress)));
        }
        Ok(resumed)
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

/// Returns the progress of a failed run to go on with: lists that it did not read to their end begin again, because what
/// was read of them may contradict itself. Lists that are done stay done.
fn begun_again(mut progress: Progress) -> Progress {
    for of in progress.resources.iter_mut().filter(|of| !of.is_walked) {
        *of = ResourceProgress::new(&of.table.clone());
    }
    progress
}
