//! `ready`: whether the rows are complete, caught up and fresh, for deployments. Reads only.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use rollbook_core::queue::QueueStats;
use rollbook_core::time::{Clock, Timestamp};
use rollbook_operator::words::{span, thousands};
use rollbook_reconciler::Status;
use serde_json::json;

use super::on_all_cores;
use crate::cli::{Output, Ready};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::output::{harmless, print, print_json};
use crate::wire;

/// Maximum age of a walk if workers start none.
const WALK_AGE_MAX: Duration = Duration::from_secs(48 * 3600);

/// Limits of age: of the oldest message, and of the last walk or check that found a table in sync.
#[derive(Clone, Copy)]
struct Limits {
    message: Duration,
    walk: Duration,
}

/// Runs the command.
///
/// # Errors
/// The rows are not ready.
pub(crate) fn run(config: &Config, arguments: &Ready) -> anyhow::Result<()> {
    let every = config.settings.reconcile_every.map_or(WALK_AGE_MAX, |every| every * 2);
    let limits = Limits { message: arguments.max_age, walk: arguments.max_walk_age.unwrap_or(every) };
    let reasons = on_all_cores(async { Ok(reasons(config, limits).await) })?;
    match arguments.output {
        Output::Json => print_json(&json!({ "ready": reasons.is_empty(), "reasons": reasons }))?,
        Output::Text if reasons.is_empty() => print("ready")?,
        Output::Text => print(&reasons.join("\n"))?,
    }
    match reasons.len() {
        0 => Ok(()),
        1 => bail!("not ready, for 1 reason"),
        count => bail!("not ready, for {count} reasons"),
    }
}

/// Returns why the rows are not ready, one reason per line.
async fn reasons(config: &Config, limits: Limits) -> Vec<String> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let status = async {
        let store = wire::open_store(config, clock.clone())?;
        Ok::<_, anyhow::Error>(Status::read(&*store, 1, 0).await?)
    };
    let queued = async {
        let queue = wire::open_queue(config, clock.clone())?;
        Ok::<_, anyhow::Error>(queue.admin.stats().await?)
    };
    let (status, queued) = tokio::join!(status, queued);
    let now = clock.now();
    let unread = |what: &str, why: &dyn Display| vec![format!("{what}: {}", harmless(&format!("{why:#}")))];
    let of_rows =
        status.map_or_else(|why| unread("store", &why), |status| of_rows(&status, now, limits.walk));
    let of_queue =
        queued.map_or_else(|why| unread("queue", &why), |stats| of_queue(&stats, now, limits.message));
    of_rows.into_iter().chain(of_queue).collect()
}

fn of_rows(status: &Status, now: Timestamp, walk: Duration) -> Vec<String> {
    let mut reasons = Vec::new();
    for of in &status.resources {
        let resource = of.resource;
        match (of.complete_since, of.last_walk_at) {
            (_, None) => reasons.push(format!("{resource}: never reconciled. Fix: rollbook reconcile")),
            (None, Some(_)) => reasons.push(format!(
                "{resource}: its last reconciliation left differences. Fix: rollbook reconcile status"
            )),
            (Some(_), Some(at)) if now.since(of.in_sync_at().unwrap_or(at)) > walk => reasons.push(format!(
                "{resource}: last reconciled {} ago{}, and {} is allowed. Fix: rollbook reconcile",
                age(now.since(at)),
                of.numbers_equal_at.filter(|equal| *equal > at).map_or_else(String::new, |equal| {
                    format!(", its number of rows last equal to Clerk's {} ago", age(now.since(equal)))
                }),
                age(walk)
            )),
            _ => {}
        }
    }
    let held: u64 = status.waiting.iter().map(|waiting| waiting.count).sum();
    if held > 0 {
        reasons.push(format!("held: {} wait for you. Fix: rollbook reconcile status", thousands(held)));
    }
    reasons
}

fn of_queue(stats: &QueueStats, now: Timestamp, max_age: Duration) -> Vec<String> {
    let waits = stats.oldest_received_at.map(|at| now.since(at)).unwrap_or_default();
    if waits <= max_age {
        return Vec::new();
    }
    vec![format!(
        "queue: the oldest of {} messages waits for {}, and {} is allowed. Fix: rollbook doctor",
        thousands(stats.depth()),
        age(waits),
        age(max_age)
    )]
}

fn age(age: Duration) -> String {
    span(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use rollbook_core::drift::Drift;
    use rollbook_core::source::RECONCILED;
    use rollbook_reconciler::{LastWalk, Waiting};

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn status(complete: bool, walked_ago: Option<Duration>) -> Status {
        let resource = |resource: &'static str| LastWalk {
            resource,
            complete_since: complete.then_some(Timestamp::from_seconds(1)),
            last_walk_at: walked_ago.map(|ago| NOW.minus(ago)),
            drift: Some(0),
            numbers_equal_at: None,
        };
        let resources = RECONCILED.into_iter().map(|of| resource(of.table)).collect();
        Status { runs: Vec::new(), waiting: Vec::new(), resources }
    }

    #[test]
    fn rows_are_ready_if_every_resource_is_complete_and_fresh_and_nothing_is_held() {
        let reasons = |status: &Status| of_rows(status, NOW, DAY);
        assert!(reasons(&status(true, Some(DAY))).is_empty(), "exactly as old as is allowed");
        let late = reasons(&status(true, Some(DAY + Duration::from_secs(60))));
        assert_eq!(late.len(), RECONCILED.len());
        assert!(late[0].contains("last reconciled 24 h 1 min ago, and 24 h is allowed"), "{late:?}");
        for (status, words) in
            [(status(false, None), "never"), (status(false, Some(DAY)), "left differences")]
        {
            let found = reasons(&status);
            assert!(found.len() == RECONCILED.len() && found[0].contains(words), "{found:?}");
        }
        let mut held = status(true, Some(DAY));
        let (run, resource, fix) = ("run_1".to_owned(), "users".to_owned(), String::new());
        held.waiting.push(Waiting {
            run,
            resource,
            kind: Drift::NotDeleted,
            count: 31,
            ids: Vec::new(),
            fix,
        });
        assert_eq!(reasons(&held), ["held: 31 wait for you. Fix: rollbook reconcile status"]);
    }

    #[test]
    fn a_check_that_found_equal_numbers_is_as_good_as_a_walk_once_there_was_one() {
        let checked = |mut status: Status, ago: Duration| {
            status.resources.iter_mut().for_each(|of| of.numbers_equal_at = Some(NOW.minus(ago)));
            of_rows(&status, NOW, DAY)
        };
        let (minute, old) = (Duration::from_secs(60), DAY * 9);
        assert!(checked(status(true, Some(old)), DAY).is_empty());
        let late = checked(status(true, Some(old)), DAY + minute);
        let words = "users: last reconciled 9 d ago, its number of rows last equal to Clerk's 24 h 1 min ago, and 24 h";
        assert!(late.iter().any(|reason| reason.contains(words)), "{late:?}");
        assert!(!checked(status(true, Some(DAY + minute)), old)[0].contains("equal"), "the walk is newer");
        for status in [status(false, None), status(false, Some(minute))] {
            assert_eq!(
                checked(status, minute).len(),
                RECONCILED.len(),
                "a check does not replace a backfill"
            );
        }
    }

    #[test]
    fn the_queue_is_caught_up_if_its_oldest_message_is_young_enough() {
        let of = |age| {
            let oldest_received_at = Some(NOW.minus(age));
            of_queue(&QueueStats { ready: 2, oldest_received_at, ..QueueStats::default() }, NOW, DAY)
        };
        assert!(of(DAY).is_empty() && of_queue(&QueueStats::default(), NOW, DAY).is_empty());
        assert!(
            of(DAY + Duration::from_secs(60))[0]
                .starts_with("queue: the oldest of 2 messages waits for 24 h 1 min")
        );
    }
}
