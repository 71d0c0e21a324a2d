//! `reconcile`: reads Clerk's API, compares and repairs; shows runs; approves what one holds
//! (see [`rollbook_reconciler`]).

mod progress;
mod report;
mod status;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use rollbook_core::catalog::find_resource;
use rollbook_core::source::SourceError;
use rollbook_core::store::{FullStore, RunState};
use rollbook_operator::words::many;
use rollbook_reconciler::{
    LOCK_FOR, Progress, ReconcileError, Reconciler, ResourceView, Resume, RunReport, RunRequest, RunView,
    Status,
};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::on_all_cores;
use super::subjects::NothingKnown;
use crate::cli::{OfRuns, Output, ReconcileCommand, RunArguments};
use crate::clock::SystemClock;
use crate::config::{Config, Problems};
use crate::output::{harmless, print, print_as, print_json, say};
use crate::signals::Signals;
use crate::wire;

/// Runs that the status shows.
const RUNS: usize = 10;
/// Pause between two tries to take the lock of a run that was killed.
const LOCK_PAUSE: Duration = Duration::from_secs(1);
/// A run in progress saves its position within this time.
const SAVED_WITHIN: Duration = Duration::from_secs(5);
/// Fix of an outage or a stop, for a run with a record.
const RESUME: &str = "nothing was deleted because of it; go on with: rollbook reconcile --resume";
/// Fix of an outage or a stop, for everything else.
pub(super) const AGAIN: &str = "run the same command again";

/// Runs the command.
pub(crate) fn run(config: &Config, command: &ReconcileCommand) -> anyhow::Result<()> {
    let RunArguments { dry_run, only, resume, .. } = &command.run;
    if command.other.is_some() && (*dry_run || *resume || !only.is_empty()) {
        let fix = "give --dry-run, --only and --resume to rollbook reconcile alone";
        let wrong = "a flag of a run is given together with another command";
        return Err(Problems::one("reconcile", wrong, fix).into());
    }
    on_all_cores(async {
        match &command.other {
            None => walk(config, &command.run).await,
            Some(OfRuns::Status { limit, output }) => show_status(config, *limit as usize, *output).await,
            Some(OfRuns::Approve { run, output }) => approve(config, run, *output).await,
        }
    })
}

/// Opens the reconciler of a command.
pub(super) fn open(config: &Config) -> anyhow::Result<(Reconciler, Arc<dyn FullStore>)> {
    // A missing key is a wrong configuration, before the store is opened.
    config.secret_key()?;
    let store = wire::open_store(config, Arc::new(SystemClock))?;
    let source = wire::clerk_api(config, Arc::new(|_: &str| {}))?;
    let reconciler = wire::reconciler(config, source, store.clone(), Arc::new(SystemClock));
    Ok((reconciler, store))
}

/// Runs work that a signal stops in order.
pub(super) async fn until_signal<T>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, ReconcileError>>,
) -> anyhow::Result<Result<T, ReconcileError>> {
    let signals = Signals::listen()?;
    Ok(tokio::select! {
        done = work => done,
        () = signals.relay(stop.clone()) => Err(ReconcileError::Stopped),
    })
}

async fn walk(config: &Config, arguments: &RunArguments) -> anyhow::Result<()> {
    let (reconciler, store) = open(config)?;
    let request = RunRequest {
        only: arguments.only.iter().filter_map(|table| find_resource(table)).collect(),
        is_dry: arguments.dry_run,
        resume: if arguments.resume { Resume::Required } else { Resume::New },
    };
    let stop = CancellationToken::new();
    let (sender, seen) = watch::channel(Progress::default());
    let running = when_free(&reconciler, &*store, &request, &stop, &sender);
    let ended = until_signal(&stop, progress::shown(running, seen.clone())).await?;
    let output = arguments.output;
    match ended {
        Ok(report) => done(report, output),
        Err(error) => {
            // A run shows its progress once it has a record.
            let reached = seen.borrow().clone();
            let has_record = !request.is_dry && !reached.resources.is_empty();
            let (error, fix) = explained(&error, if has_record { RESUME } else { AGAIN });
            let record = if has_record { last_run(&*store).await } else { None };
            failed(record, &reached, request.is_dry, (&error, fix), output)?;
            Err(with_fix(&error, fix))
        }
    }
}

/// Returns the record of the run that has just ended. Without an answer of the store there is none.
async fn last_run(store: &dyn FullStore) -> Option<RunView> {
    store.runs(1).await.ok()?.into_iter().next().map(RunView::from)
}

/// Prints what a run has reached that did not reach its end.
fn failed(
    record: Option<RunView>,
    reached: &Progress,
    is_dry: bool,
    (error, fix): (&str, Option<&str>),
    output: Output,
) -> anyhow::Result<()> {
    let resources: Vec<ResourceView> = reached.resources.iter().map(ResourceView::from).collect();
    match (output, record) {
        (Output::Text, record) => {
            let resources = record.map_or(resources, |run| run.resources);
            if resources.iter().any(|of| of.read > 0) {
                print(&report::reached(&resources))?;
            }
        }
        (Output::Json, Some(run)) => {
            let mut value = serde_json::to_value(&run)?;
            (value["error"], value["fix"]) = (json!(error), json!(fix));
            print_json(&value)?;
        }
        (Output::Json, None) => print_json(&json!({
            "run": null, "state": RunState::Failed.as_str(), "dry_run": is_dry, "instance": null,
            "started_at": null, "saved_at": null, "finished_at": null, "error": error, "fix": fix,
            "resources": resources,
        }))?,
    }
    Ok(())
}

/// Prints a run that reached its end.
fn done(report: RunReport, output: Output) -> anyhow::Result<()> {
    let view = RunView::from(report);
    let mut value = serde_json::to_value(&view)?;
    value["fix"] = json!((view.state == RunState::Held).then_some(report::STATUS));
    print_as(output, &value, |_| report::text(&view))?;
    match view.state {
        RunState::Held if view.dry_run => bail!("a reconciliation would hold something for you"),
        RunState::Held => bail!("something waits for you. Fix: {}", report::STATUS),
        _ => Ok(()),
    }
}

/// Performs the run. A process that was killed holds the lock for a while: then the run waits for it.
async fn when_free(
    reconciler: &Reconciler,
    store: &dyn FullStore,
    request: &RunRequest,
    stop: &CancellationToken,
    watch: &watch::Sender<Progress>,
) -> Result<RunReport, ReconcileError> {
    let (begun, mut first_saved) = (Instant::now(), None);
    loop {
        let result = reconciler.run(request, stop, watch.clone()).await;
        let Err(error @ ReconcileError::Busy(_)) = result else { return result };
        let saved_at = store.runs(1).await?.first().map(|run| run.saved_at);
        match first_saved {
            None => {
                first_saved = Some(saved_at);
                say("another process has the lock of a reconciliation; waiting, in case that it was killed");
            }
            Some(first) if first != saved_at || begun.elapsed() > LOCK_FOR + SAVED_WITHIN => {
                return Err(error);
            }
            Some(_) => {}
        }
        if stop.run_until_cancelled(tokio::time::sleep(LOCK_PAUSE)).await.is_none() {
            return Err(ReconcileError::Stopped);
        }
    }
}

/// Returns the text of an error, and how to fix it where the text does not say it. `again` is the fix of an outage.
pub(super) fn explained(error: &ReconcileError, again: &'static str) -> (String, Option<&'static str>) {
    let fix = match error {
        ReconcileError::Source(SourceError::Refused(_)) if again == RESUME => {
            Some("check the secret key (rollbook doctor), then go on with: rollbook reconcile --resume")
        }
        ReconcileError::Source(SourceError::Refused(_)) => Some("check the secret key: rollbook doctor"),
        ReconcileError::Lists(_) if again == RESUME => {
            Some("what each list says; then go on with the others: rollbook reconcile --resume")
        }
        ReconcileError::Lists(_) => Some("what each list says; then run it again: rollbook reconcile"),
        ReconcileError::Busy(_) => Some("wait until it is done: rollbook reconcile status"),
        error if error.is_temporary() => Some(again),
        _ => None,
    };
    (harmless(&error.to_string()), fix)
}

/// An error of a command, with its fix.
pub(super) fn with_fix(error: &str, fix: Option<&'static str>) -> anyhow::Error {
    fix.map_or_else(|| anyhow!("{error}"), |fix| anyhow!("{error}. Fix: {fix}"))
}

async fn show_status(config: &Config, limit: usize, output: Output) -> anyhow::Result<()> {
    let store = wire::open_store(config, Arc::new(SystemClock))?;
    let status = Status::read(&*store, RUNS, limit).await?;
    Ok(print_as(output, &status, status::text)?)
}

async fn approve(config: &Config, run: &str, output: Output) -> anyhow::Result<()> {
    let (reconciler, _) = open(config)?;
    let stop = CancellationToken::new();
    let approved = match until_signal(&stop, reconciler.approve(run, &stop)).await? {
        Ok(approved) => approved,
        Err(error @ ReconcileError::UnknownRun) => return Err(NothingKnown(error.to_string()).into()),
        Err(error) => {
            let (error, fix) = explained(&error, AGAIN);
            return Err(with_fix(&error, fix));
        }
    };
    let result = json!({
        "run": run, "deleted": approved.deleted, "alive": approved.alive, "refused": approved.refused,
        "unproven": approved.unproven, "pending": approved.pending, "taken_along": approved.taken_along,
    });
    print_as(output, &result, |_| report::approved(&approved))?;
    if approved.refused > 0 {
        bail!(
            "{} could not be deleted: change the trigger or constraint that the log names, then approve again",
            many(approved.refused, "row")
        );
    }
    if approved.unproven > 0 {
        bail!(
            "{} rows were not deleted, and go on waiting: Clerk's answers do not prove now that their objects are absent, or \
             the rows were written in the last minutes. Fix: approve again in ten minutes, or let the next run decide: \
             rollbook reconcile",
            approved.unproven
        );
    }
    if approved.pending > 0 {
        bail!(
            "the child rows of the deleted rows are not all marked as deleted yet ({} left): workers continue. Fix: \
             rollbook doctor names what refuses it",
            approved.pending
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rollbook_core::store::StoreError;

    use super::*;

    #[test]
    fn every_error_is_one_sentence_and_only_a_temporary_one_is_tried_again() {
        let reason = || "Postgres at db:5432: connection refused: check that it runs".to_owned();
        for error in [
            SourceError::Unavailable(reason()).into(),
            SourceError::Unreadable(reason()).into(),
            SourceError::Refused(reason()).into(),
            SourceError::NotEnabled(reason()).into(),
            StoreError::Unavailable(reason()).into(),
            StoreError::Deployment(reason()).into(),
            ReconcileError::WrongInstance {
                found: reason(),
                expected: reason(),
                known_by: "the run before read",
            },
            ReconcileError::ForeignRows(20),
            ReconcileError::Contradiction { table: "users", detail: "a page has no total" },
            ReconcileError::Busy(LOCK_FOR),
            ReconcileError::LockLost,
            ReconcileError::Stopped,
        ] {
            let (text, fix) = explained(&error, RESUME);
            assert!(!text.ends_with(['.', '?', '!']), "{text}");
            let is_again = error.is_temporary() && !matches!(error, ReconcileError::Busy(_));
            assert_eq!(fix == Some(RESUME), is_again, "{text}");
        }
    }
}
