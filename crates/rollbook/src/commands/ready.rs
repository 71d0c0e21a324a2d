//! `ready`: whether the rows are complete, caught up and fresh, for deployments. Reads only.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use rollbook_core::queue::{DeadLetterFilter, QueueAdmin, QueueStats};
use rollbook_core::retry::Reason;
use rollbook_core::store::PendingCascades;
use rollbook_core::time::{Clock, Timestamp};
use rollbook_operator::words::{duration, many, thousands};
use rollbook_reconciler::Status;
use serde_json::json;

use super::on_all_cores;
use crate::cli::Ready;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::output::{harmless, print_as};
use crate::wire;

/// Maximum age of a walk if workers start none.
const WALK_AGE_MAX: Duration = Duration::from_secs(48 * 3600);

/// Dead letters that one step of their count examines.
const DEAD_STEP: usize = 1_000;
/// Maximum number of steps of their count.
const DEAD_STEPS_MAX: u32 = 1_000;

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
    print_as(arguments.output, &json!({ "ready": reasons.is_empty(), "reasons": reasons }), |_| {
        if reasons.is_empty() { "ready".to_owned() } else { reasons.join("\n") }
    })?;
    match reasons.len() {
        0 => Ok(()),
        1 => bail!("not ready, for 1 reason"),
        count => bail!("not ready, for {count} reasons"),
    }
}

/// Returns why the rows are not ready, one reason per line.
async fn reasons(config: &Config, limits: Limits) -> Vec<String> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let rows = async {
        let store = wire::open_store(config, clock.clone())?;
        let status = Status::read(&*store, 1, 0).await?;
        Ok::<_, anyhow::Error>((status, store.cascades(None, 1).await?))
    };
    let queued = async {
        let queue = wire::open_queue(config, clock.clone())?.admin;
        Ok::<_, anyhow::Error>((queue.stats().await?, queue))
    };
    let (rows, queued) = tokio::join!(rows, queued);
    let since = rows.as_ref().ok().and_then(|(status, _)| walked_at(status));
    let queued = match queued {
        Ok((stats, queue)) if stats.dead > 0 => dead_since(&*queue, since).await.map(|dead| (stats, dead)),
        queued => queued.map(|(stats, _)| (stats, 0)),
    };
    let now = clock.now();
    let unread = |what: &str, why: &dyn Display| vec![format!("{what}: {}", harmless(&format!("{why:#}")))];
    let of_rows = rows.map_or_else(
        |why| unread("store", &why),
        |(status, left)| {
            let cascades = of_cascades(&left, now, limits.message);
            of_rows(&status, now, limits.walk).into_iter().chain(cascades).collect()
        },
    );
    let of_queue = queued.map_or_else(
        |why| unread("queue", &why),
        |(stats, dead)| of_queue(&stats, dead, now, limits.message),
    );
    of_rows.into_iter().chain(of_queue).collect()
}

/// Returns the end of the oldest of the last walks. What a dead letter from before would have written, it has repaired.
fn walked_at(status: &Status) -> Option<Timestamp> {
    status.resources.iter().map(|of| of.last_walk_at).min().flatten()
}

/// Counts the dead letters since a time, without those of another instance, which say nothing about the rows.
async fn dead_since(queue: &dyn QueueAdmin, since: Option<Timestamp>) -> anyhow::Result<u64> {
    let (mut dead, mut steps) = (0, 0);
    for reason in Reason::ALL.into_iter().filter(|reason| *reason != Reason::WrongInstance) {
        let reason = Some(reason.as_str().to_owned());
        let filter = DeadLetterFilter { reason, since, ..DeadLetterFilter::default() };
        let mut after = None;
        while steps < DEAD_STEPS_MAX {
            let step = queue.count_dead_letters(&filter.page(after, DEAD_STEP)).await?;
            (dead, steps, after) = (dead + step.changed as u64, steps + 1, step.next);
            if after.is_none() {
                break;
            }
        }
    }
    Ok(dead)
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
                duration(now.since(at)),
                of.numbers_equal_at.filter(|equal| *equal > at).map_or_else(String::new, |equal| {
                    format!(", its number of rows last equal to Clerk's {} ago", duration(now.since(equal)))
                }),
                duration(walk)
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

/// Child rows of deleted parents: those that could not be changed, and those that wait for too long.
fn of_cascades(left: &PendingCascades, now: Timestamp, max_age: Duration) -> Option<String> {
    if left.rows > 0 {
        return Some(format!(
            "store: {} could not be deleted with the parent. Fix: rollbook doctor",
            many(left.rows, "child row")
        ));
    }
    let noted_at = left.listed.first().and_then(|line| line.noted_at);
    let waits = noted_at.map(|at| now.since(at)).filter(|waits| *waits > max_age)?;
    Some(format!(
        "store: the child rows of {} deleted parents wait for {}, and {} is allowed. Fix: rollbook doctor",
        thousands(left.parents),
        duration(waits),
        duration(max_age)
    ))
}

fn of_queue(stats: &QueueStats, dead: u64, now: Timestamp, max_age: Duration) -> Vec<String> {
    let waits = stats.oldest_received_at.map(|at| now.since(at)).unwrap_or_default();
    let late = (waits > max_age).then(|| {
        format!(
            "queue: the oldest of {} messages waits for {}, and {} is allowed. Fix: rollbook doctor",
            thousands(stats.depth()),
            duration(waits),
            duration(max_age)
        )
    });
    let dead = (dead > 0).then(|| {
        format!(
            "queue: {} dead letters since the last reconciliation. Fix: rollbook dead-letters list, then redrive or \
             discard them, or rollbook reconcile",
            thousands(dead)
        )
    });
    late.into_iter().chain(dead).collect()
}

#[cfg(test)]
mod tests {
    use rollbook_core::drift::Drift;
    use rollbook_core::source::RECONCILED;
    use rollbook_core::store::{PendingCascade, PendingWork};
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
            taken_along: std::collections::BTreeMap::new(),
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
    fn child_rows_that_refuse_their_parents_deletion_or_wait_for_too_long_are_a_reason() {
        let line = |ago| PendingCascade {
            table: "organizations".to_owned(),
            id: "org_1".to_owned(),
            what: PendingWork::Children,
            parent: None,
            noted_at: Some(NOW.minus(ago)),
            attempts: 0,
            next_try_at: NOW,
            last_error: None,
        };
        let of = |parents, rows, ago| {
            of_cascades(&PendingCascades { parents, rows, listed: vec![line(ago)] }, NOW, DAY)
        };
        assert_eq!(of_cascades(&PendingCascades::default(), NOW, DAY), None);
        assert_eq!(of(1, 0, DAY), None, "workers are at it");
        let late = of(2, 0, DAY + Duration::from_secs(60)).expect("a reason");
        assert!(late.starts_with("store: the child rows of 2 deleted parents wait for 24 h 1 min"), "{late}");
        let refused = of(0, 1, Duration::ZERO).expect("a reason");
        assert!(refused.starts_with("store: 1 child row could not be deleted"), "{refused}");
    }

    #[test]
    fn dead_letters_from_before_the_oldest_walk_do_not_count() {
        let mut walked = status(true, Some(DAY));
        assert_eq!(walked_at(&walked), Some(NOW.minus(DAY)));
        walked.resources[3].last_walk_at = Some(NOW.minus(DAY * 2));
        assert_eq!(walked_at(&walked), Some(NOW.minus(DAY * 2)));
        walked.resources[3].last_walk_at = None;
        assert_eq!(walked_at(&walked), None, "all count");
    }

    #[test]
    fn the_queue_is_caught_up_if_its_oldest_message_is_young_enough() {
        let of = |age| {
            let oldest_received_at = Some(NOW.minus(age));
            of_queue(&QueueStats { ready: 2, oldest_received_at, ..QueueStats::default() }, 0, NOW, DAY)
        };
        assert!(of(DAY).is_empty() && of_queue(&QueueStats::default(), 0, NOW, DAY).is_empty());
        let dead = of_queue(&QueueStats::default(), 3, NOW, DAY);
        assert!(
            dead[0].starts_with("queue: 3 dead letters since the last reconciliation. Fix: "),
            "{dead:?}"
        );
        assert!(
            of(DAY + Duration::from_secs(60))[0]
                .starts_with("queue: the oldest of 2 messages waits for 24 h 1 min")
        );
    }
}
