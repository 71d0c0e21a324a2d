//! Checks of Clerk's API: the secret key, its instance, Clerk's clock, and the reconciliation that uses them.

use std::sync::Arc;

use rollbook_core::source::{Instance, Source as _, SourceError};
use rollbook_core::store::{Freshness, FullStore, RunState, StoreError};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_operator::words::{duration, thousands};
use rollbook_reconciler::{CLOCK_SKEW_MAX, RunView, Status};

use super::finding::{Finding, Findings, failed, ok, skipped, warning};
use super::{ASK_TIMEOUT, in_time};
use crate::config::{Config, SECRET_KEY_FIX};
use crate::faces::Faces;
use crate::wire;

const KEY: &str = "clerk_key";
const INSTANCE: &str = "clerk_instance";
const CLOCK: &str = "clerk_clock";
const RECONCILE: &str = "reconcile";

/// Number of runs that are searched for the instance of the rows.
const RUNS: usize = 20;

/// Checks the key and the last reconciliation, with one request to Clerk.
pub(super) async fn api(config: &Config, needs: Faces, clock: &Arc<dyn Clock>) -> Findings {
    if !needs.worker {
        return vec![skipped(KEY, "only a worker uses one")];
    }
    let status = status(config, clock).await;
    if config.settings.clerk_secret_key.is_none() {
        let missing = format!(
            "off, because CLERK_SECRET_KEY is not set: users from before the endpoint existed, and events that never arrived, \
             stay missing. To have them read from Clerk's API, {SECRET_KEY_FIX}"
        );
        let other = status.filter(|status| !status.runs.is_empty() || !status.waiting.is_empty());
        let runs = other.map(|status| last_run(config, &status, clock.now()));
        return std::iter::once(skipped(KEY, missing)).chain(runs).collect();
    }
    let api = match wire::clerk_api(config, Arc::new(|_: &str| {})) {
        Ok(api) => api,
        Err(error) => {
            return vec![failed(KEY, format!("{error:#}"), "install root certificates (ca-certificates)")];
        }
    };
    let asked_at = clock.now();
    let asked = in_time(async { Ok::<_, String>(api.instance().await) }).await;
    let now = asked_at.plus(clock.now().since(asked_at) / 2);
    let runs = status.as_ref().map_or(&[][..], |status| &status.runs);
    let known = known_instances(config, clock).await;
    let mut findings = match asked {
        Ok(Ok(instance)) => vec![
            ok(KEY, format!("Clerk accepts it; it is of a {} instance", instance.environment)),
            judge_instance(&instance.id, config.settings.clerk_instance_id.as_deref(), &known, runs),
            judge_clock(now, &instance),
        ],
        Ok(Err(error @ SourceError::Refused(_))) => {
            vec![failed(KEY, error.to_string(), format!("{SECRET_KEY_FIX}; the key in use may be revoked"))]
        }
        Ok(Err(error)) => vec![unanswered(error.to_string())],
        Err(why) => vec![unanswered(why)],
    };
    findings.extend(match lacking(config, clock).await {
        Some(lacking) => {
            let found = format!("no reconciliation can run, and deliveries are applied: {lacking}");
            Some(failed(RECONCILE, found, "grant the rights; workers begin by themselves then"))
        }
        None => status.map(|status| last_run(config, &status, clock.now())),
    });
    findings
}

fn unanswered(why: String) -> Finding {
    let fix = "check that this machine reaches clerk_api_url; deliveries are applied without it";
    warning(KEY, why, fix)
}

/// Reads the records. `None` if the store does not answer, which its own check reports.
async fn status(config: &Config, clock: &Arc<dyn Clock>) -> Option<Status> {
    let store: Arc<dyn FullStore> = wire::open_store(config, clock.clone()).ok()?;
    in_time(Status::read(&*store, RUNS, 0)).await.ok()
}

/// Rights on the records of runs that the role lacks. `None` also if the store does not answer, which its own check reports.
async fn lacking(config: &Config, clock: &Arc<dyn Clock>) -> Option<String> {
    let store = wire::open_store(config, clock.clone()).ok()?;
    match tokio::time::timeout(ASK_TIMEOUT, store.check_records()).await {
        Ok(Err(StoreError::Deployment(lacking))) => Some(lacking),
        _ => None,
    }
}

/// Returns the instances that the store remembers of events and runs.
async fn known_instances(config: &Config, clock: &Arc<dyn Clock>) -> Vec<String> {
    let Ok(store) = wire::open_store(config, clock.clone()) else { return Vec::new() };
    let records = in_time(store.freshness()).await.unwrap_or_default();
    records.iter().filter_map(Freshness::instance).map(str::to_owned).collect()
}

/// Judges as a run does.
fn judge_instance(found: &str, configured: Option<&str>, known: &[String], runs: &[RunView]) -> Finding {
    let of_run = runs.iter().find_map(|run| run.instance.as_deref());
    let (expected, known_by) = match (configured, known, of_run) {
        (Some(id), _, _) => (id, "CLERK_INSTANCE_ID"),
        (None, [_, _, ..], _) => {
            let known = known.join(", ");
            let found = format!(
                "the rows of the store come from several Clerk instances: {known}. No reconciliation runs"
            );
            let fix = "set CLERK_INSTANCE_ID to the instance that this store is for, for the workers too";
            return failed(INSTANCE, found, fix);
        }
        (None, [id], _) => (id.as_str(), "the store, by its events and runs,"),
        (None, [], Some(id)) => (id, "the last reconciliation"),
        (None, [], None) => {
            let found = format!("{found}; nothing to compare it with before the first reconciliation");
            return ok(INSTANCE, found);
        }
    };
    if found == expected {
        return ok(INSTANCE, format!("{found}, as {known_by} says"));
    }
    let found = format!("the key is of {found}, and {known_by} says {expected}: no reconciliation runs");
    failed(INSTANCE, found, "set the secret key of the rows' instance, or the right CLERK_INSTANCE_ID")
}

fn judge_clock(now: Timestamp, instance: &Instance) -> Finding {
    let (ahead, behind) = (now.since(instance.clock), instance.clock.since(now));
    let skew = ahead.max(behind);
    let way = if ahead > behind { "ahead of" } else { "behind" };
    if skew <= CLOCK_SKEW_MAX {
        return ok(CLOCK, format!("within {} s of Clerk's clock", CLOCK_SKEW_MAX.as_secs()));
    }
    let found = format!("this machine's clock is {} {way} Clerk's", duration(skew));
    warning(CLOCK, found, "set it by NTP: timedatectl set-ntp true")
}

/// Returns the run to judge: the last of all resources, or where none is known the last of any.
fn judged(runs: &[RunView]) -> Option<&RunView> {
    runs.iter().find(|run| run.is_full()).or_else(|| runs.first())
}

/// Judges the last run and the objects that wait for approval.
fn last_run(config: &Config, status: &Status, now: Timestamp) -> Finding {
    let every = config.settings.reconcile_every.filter(|_| config.settings.clerk_secret_key.is_some());
    let waiting: u64 = status.waiting.iter().map(|waiting| waiting.count).sum();
    if waiting > 0 {
        let found = format!("{} objects wait for you", thousands(waiting));
        let fix = "rollbook reconcile status names them, with the command that settles them";
        return warning(RECONCILE, found, fix);
    }
    let Some(run) = judged(&status.runs) else {
        if every.is_some() {
            return ok(RECONCILE, "none has run yet: a worker begins the first one by itself");
        }
        let found = "none has run yet, and workers start none (reconcile_every)";
        return warning(RECONCILE, found, "rollbook reconcile");
    };
    let ended = run.finished_at.unwrap_or(run.saved_at);
    let ago = now.since(ended);
    let why = run.error.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    let found = format!("the last run was {} ago: {}{why}", duration(ago), run.state.as_str());
    let is_late = every.is_some_and(|every| ago > every * 2);
    match run.state {
        RunState::Failed => warning(RECONCILE, found, "remove the reason, then: rollbook reconcile"),
        _ if is_late => {
            let fix = "check that a worker is running with CLERK_SECRET_KEY (rollbook serve or work)";
            warning(RECONCILE, found, fix)
        }
        RunState::Running if run.error.is_some() => {
            warning(RECONCILE, found, "rollbook reconcile --resume continues it")
        }
        RunState::Complete | RunState::Held | RunState::Running => ok(RECONCILE, found),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rollbook_core::source::RECONCILED;
    use rollbook_reconciler::{ResourceProgress, ResourceView};

    use super::super::finding::State;
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn run(instance: Option<&str>) -> RunView {
        RunView {
            run: "run_1".to_owned(),
            state: RunState::Complete,
            dry_run: false,
            instance: instance.map(str::to_owned),
            started_at: NOW,
            saved_at: NOW,
            finished_at: Some(NOW),
            error: None,
            resources: Vec::new(),
        }
    }

    #[test]
    fn the_instance_of_the_key_is_compared_with_the_setting_before_the_last_run() {
        for (configured, last, state) in [
            (None, None, State::Ok),
            (Some("ins_1"), Some("ins_2"), State::Ok),
            (Some("ins_2"), Some("ins_1"), State::Failed),
            (None, Some("ins_1"), State::Ok),
            (None, Some("ins_2"), State::Failed),
        ] {
            let finding = judge_instance("ins_1", configured, &[], &[run(None), run(last)]);
            assert_eq!(finding.state, state, "{finding:?}");
        }
    }

    #[test]
    fn the_run_to_judge_is_the_last_of_all_resources_where_one_is_known() {
        let resources = || RECONCILED.map(|of| ResourceView::from(&ResourceProgress::new(of.table))).into();
        let full =
            |id: &str, dry_run| RunView { run: id.to_owned(), dry_run, resources: resources(), ..run(None) };
        assert!(judged(&[]).is_none());
        for (runs, expected) in [
            (vec![run(None), full("run_2", true), full("run_3", false), full("run_4", false)], "run_3"),
            (vec![run(None), full("run_2", true)], "run_1"),
        ] {
            assert_eq!(judged(&runs).expect("a run").run, expected);
        }
    }

    #[test]
    fn the_instance_of_the_key_is_compared_with_those_that_the_store_remembers_as_a_run_does() {
        for (configured, known, state) in [
            (None, &["ins_1"][..], State::Ok),
            (None, &["ins_2"], State::Failed),
            (None, &["ins_1", "ins_2"], State::Failed),
            (Some("ins_1"), &["ins_2"], State::Ok),
            (Some("ins_2"), &["ins_1"], State::Failed),
        ] {
            let known: Vec<String> = known.iter().map(|id| (*id).to_owned()).collect();
            let finding = judge_instance("ins_1", configured, &known, &[]);
            assert_eq!(finding.state, state, "{finding:?}");
        }
    }

    #[test]
    fn a_clock_that_differs_by_more_than_a_minute_is_a_warning_either_way() {
        for (off, state) in [(60, State::Ok), (61, State::Warning), (600, State::Warning)] {
            let off = Duration::from_secs(off);
            for clock in [NOW.plus(off), NOW.minus(off)] {
                let (id, environment) = ("ins_1".to_owned(), "production".to_owned());
                let finding = judge_clock(NOW, &Instance { id, environment, clock });
                assert_eq!(finding.state, state, "{finding:?}");
            }
        }
    }
}
