//! Errors that may be one row's or everyone's, and how the gate opens again.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rollbook_core::retry::Reason;
use rollbook_core::store::StoreError;
use rollbook_testkit::faults::{Fault, FaultyStore, StoreCall};
use tokio::time::sleep;

use crate::support::{Bench, event, eventually, has_subject, run_until, user};

/// Error of a database about a policy that refuses one row, or all.
fn ambiguous() -> StoreError {
    StoreError::Ambiguous(Box::new(StoreError::Deployment("a policy refuses the row".into())))
}

/// The number of leases that were released.
fn released(bench: &Bench) -> usize {
    let metric = bench.metric(r#"rollbook_settlements_total{reason="none",settlement="release"}"#);
    metric.and_then(|count| count.parse().ok()).expect("a number")
}

#[tokio::test(start_paused = true)]
async fn while_a_store_answers_pings_and_applies_nothing_one_lane_tries_a_few_messages_at_a_time() {
    let mut bench = Bench::new();
    bench.settings.lanes = 3;
    bench.enqueue_users(0..1000).await;
    let full = Arc::new(AtomicBool::new(true));
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let (is_full, noted) = (Arc::clone(&full), Arc::clone(&sizes));
    let store = FaultyStore::new(bench.store.clone(), move |call| match call {
        StoreCall::Apply(changes) if is_full.load(Ordering::SeqCst) => {
            noted.lock().expect("no panic").push(changes.len());
            Fault::Fail(StoreError::Unavailable("disk full".into()))
        }
        _ => Fault::None,
    });
    let worker = bench.worker_with_store(store);
    let drive = async {
        sleep(Duration::from_secs(65)).await;
        let sizes = sizes.lock().expect("no panic").clone();
        let at_first = sizes.iter().filter(|size| **size == 100).count();
        assert!((1..=3).contains(&at_first), "each lane finds out at most once");
        let later = &sizes[at_first..];
        assert!((8..=25).contains(&later.len()) && later.iter().all(|size| *size == 8), "{later:?}");
        assert_eq!(released(&bench), sizes.iter().sum::<usize>());
        assert_eq!(bench.stats().await.leased, 0, "with the gate closed nothing is leased");
        full.store(false, Ordering::SeqCst);
        bench.drained().await;
    };
    run_until(worker, drive).await.expect("a clean end");
    assert_eq!(bench.attempts(), [1; 1000]);
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_other_lanes_wait_until_the_first_batch_is_applied() {
    let mut bench = Bench::new();
    bench.settings.lanes = 3;
    bench.enqueue_users(0..300).await;
    let down = Arc::new(AtomicBool::new(true));
    let (at_once, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (is_down, calls, highest) = (Arc::clone(&down), Arc::clone(&at_once), Arc::clone(&most));
    let gate = rollbook_testkit::faults::Gate::new();
    let held = gate.clone();
    let store = FaultyStore::new(bench.store.clone(), move |call| match call {
        _ if is_down.load(Ordering::SeqCst) => Fault::Fail(StoreError::Unavailable("refused".into())),
        StoreCall::Apply(_) => {
            highest.fetch_max(calls.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            Fault::Wait(held.clone())
        }
        _ => Fault::None,
    });
    let drive = async {
        sleep(Duration::from_secs(30)).await;
        down.store(false, Ordering::SeqCst);
        gate.arrived(1).await;
        sleep(Duration::from_secs(20)).await;
        assert_eq!(most.load(Ordering::SeqCst), 1, "one call");
        assert_eq!(bench.stats().await.leased, 8, "with a small batch");
        gate.open();
        bench.drained().await;
    };
    run_until(bench.worker_with_store(store), drive).await.expect("a clean end");
    assert_eq!(bench.attempts(), [1; 300]);
}

#[tokio::test(start_paused = true)]
async fn an_ambiguous_error_blames_the_rows_without_which_the_others_pass() {
    let mut bench = Bench::new();
    bench.settings.retry.attempts_max = 3;
    bench.enqueue_users(0..60).await;
    let bad = ["user_0", "user_31", "user_58", "user_59"];
    let store = FaultyStore::new(bench.store.clone(), move |call| match call {
        StoreCall::Apply(changes) if bad.iter().any(|id| has_subject(changes, id)) => {
            Fault::Fail(ambiguous())
        }
        _ => Fault::None,
    });
    let drive = async {
        // Each attempt is counted by what others of the table do.
        for number in 100.. {
            bench.enqueue_users(number..number + 1).await;
            sleep(Duration::from_secs(5)).await;
            if bench.queue.dead().len() == 4 {
                break;
            }
        }
        bench.drained().await;
    };
    run_until(bench.worker_with_store(store), drive).await.expect("a clean end");
    assert!(bench.attempts().iter().all(|attempts| *attempts == 1));
    assert!(bench.user_ids().len() > 56);
    let mut dead = bench.queue.dead();
    dead.sort_by(|one, other| one.id.cmp(&other.id));
    let ids: Vec<&str> = dead.iter().map(|letter| letter.id.as_str()).collect();
    assert_eq!(ids, ["msg_0", "msg_31", "msg_58", "msg_59"]);
    for letter in dead {
        assert_eq!((letter.failure.reason, letter.attempts), (Reason::StoreRefused, 3));
        assert_eq!(letter.failure.detail, "a policy refuses the row");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_every_row_blames_the_deployment_and_counts_no_attempt() {
    let mut bench = Bench::new();
    bench.settings.lanes = 3;
    bench.enqueue_users(0..250).await;
    let wrong = Arc::new(AtomicBool::new(true));
    let (is_wrong, calls) = (Arc::clone(&wrong), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&calls);
    let store = FaultyStore::new(bench.store.clone(), move |call| match call {
        StoreCall::Apply(_) if is_wrong.load(Ordering::SeqCst) => {
            counted.fetch_add(1, Ordering::SeqCst);
            Fault::Fail(ambiguous())
        }
        _ => Fault::None,
    });
    let drive = async {
        sleep(Duration::from_secs(60)).await;
        wrong.store(false, Ordering::SeqCst);
        bench.drained().await;
    };
    run_until(bench.worker_with_store(store), drive).await.expect("a clean end");
    assert!(bench.queue.dead().is_empty());
    assert_eq!(bench.attempts(), [1; 250]);
    // Every row of a batch stands alone once: twice as many calls as rows, in three batches and at most 20
    // trials.
    assert!(calls.load(Ordering::SeqCst) < 23 * 200, "{calls:?}");
}

/// Error of a database about a session that ends within a statement: because of a trigger, or an outage.
fn broken() -> StoreError {
    StoreError::Ambiguous(Box::new(StoreError::Unavailable("the connection broke".into())))
}

async fn enqueue_organization(bench: &Bench, number: usize) {
    let data = serde_json::json!({"id": format!("org_{number}")});
    bench.enqueue(&format!("msg_org_{number}"), event("organization.updated", &data)).await;
}

/// Waits as [`Bench::drained`] does, for tests that take hours of test time.
async fn drained(bench: &Bench) {
    while !bench.queue.message_ids().is_empty() {
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_table_that_refuses_every_row_keeps_its_messages_and_holds_up_no_other_table() {
    let mut bench = Bench::new();
    bench.settings.lanes = 2;
    bench.settings.retry.attempts_max = 2;
    // More than a batch, before the others.
    bench.enqueue_users(0..250).await;
    let (refuses, calls) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (is_refused, counted) = (Arc::clone(&refuses), Arc::clone(&calls));
    let store = FaultyStore::new(bench.store.clone(), move |call| match call {
        StoreCall::Apply(changes) if changes.iter().any(|change| change.resource_name() == "users") => {
            counted.fetch_add(1, Ordering::SeqCst);
            if is_refused.load(Ordering::SeqCst) { Fault::Fail(ambiguous()) } else { Fault::None }
        }
        _ => Fault::None,
    });
    let worker = bench.worker_with_store(store);
    let health = worker.store_health();
    let drive = async {
        sleep(Duration::from_secs(300)).await;
        assert_eq!(bench.queue.message_ids().len(), 250, "nothing passes, so it is the deployment's fault");
        assert!(health.outage().is_some());
        for number in 0..50 {
            enqueue_organization(&bench, number).await;
            sleep(Duration::from_secs(30)).await;
            if number > 10 {
                let organizations = bench.store.rows_of(&rollbook_core::catalog::ORGANIZATIONS);
                assert_eq!(organizations.len(), number + 1, "they are applied within half a minute");
            }
        }
        assert_eq!(
            health.blocked(),
            [("users", "the store is not set up right: a policy refuses the row".to_owned())]
        );
        assert!(health.outage().is_none());
        let before = calls.swap(0, Ordering::SeqCst);
        sleep(Duration::from_secs(600)).await;
        assert!(calls.load(Ordering::SeqCst) <= 40, "it is probed by few: {before} before, {calls:?}");
        refuses.store(false, Ordering::SeqCst);
        drained(&bench).await;
    };
    run_until(worker, drive).await.expect("a clean end");
    assert!(bench.queue.dead().is_empty());
    assert!(health.blocked().is_empty());
    assert_eq!(bench.attempts(), [1; 300], "no attempt is counted");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_ends_the_session_becomes_a_dead_letter_and_no_other_spends_an_attempt() {
    for (lanes, attempts_max) in [(1, 12), (3, 3)] {
        let mut bench = Bench::new();
        bench.settings.lanes = lanes;
        bench.settings.retry.attempts_max = attempts_max;
        bench.settings.retry.backoff_max = Duration::from_secs(10);
        bench.enqueue_users(0..150).await;
        let bad = ["user_0", "user_31"];
        let store = FaultyStore::new(bench.store.clone(), move |call| match call {
            StoreCall::Apply(changes) if bad.iter().any(|id| has_subject(changes, id)) => {
                Fault::Fail(broken())
            }
            _ => Fault::None,
        });
        let drive = async {
            for number in 0.. {
                if bench.queue.message_ids().is_empty() {
                    break;
                }
                enqueue_organization(&bench, number).await;
                sleep(Duration::from_secs(20)).await;
            }
        };
        run_until(bench.worker_with_store(store), drive).await.expect("a clean end");
        let mut dead: Vec<_> =
            bench.queue.dead().into_iter().map(|one| (one.id.to_string(), one.attempts)).collect();
        dead.sort();
        assert_eq!(dead, [("msg_0".to_owned(), attempts_max), ("msg_31".to_owned(), attempts_max)]);
        assert!(bench.attempts().iter().all(|attempts| *attempts == 1));
        assert_eq!(bench.user_ids().len(), 148);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_fail_at_random_for_hours_make_no_dead_letter() {
    for failing_percent in [20, 50, 80, 95] {
        let mut bench = Bench::new();
        bench.settings.lanes = 3;
        bench.settings.retry.attempts_max = 4;
        bench.settings.retry.backoff_max = Duration::from_secs(10);
        bench.enqueue_users(0..300).await;
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let store = FaultyStore::new(bench.store.clone(), move |call| match call {
            StoreCall::Apply(_)
                if !is_over.load(Ordering::SeqCst) && fastrand::u8(..100) < failing_percent =>
            {
                // Before the commit, or after it.
                if fastrand::bool() { Fault::Fail(broken()) } else { Fault::FailAfter(broken()) }
            }
            _ => Fault::None,
        });
        let drive = async {
            for number in 0..300 {
                enqueue_organization(&bench, number).await;
                sleep(Duration::from_secs(6)).await;
            }
            over.store(true, Ordering::SeqCst);
            drained(&bench).await;
        };
        run_until(bench.worker_with_store(store), drive).await.expect("a clean end");
        assert!(bench.queue.dead().is_empty(), "{failing_percent} %: {}", bench.queue.dead().len());
        let spent = bench.attempts().into_iter().filter(|attempts| *attempts > 1).count();
        println!("{failing_percent} % of calls fail: {spent} of 600 messages have a further attempt counted");
    }
}

#[tokio::test(start_paused = true)]
async fn a_trial_of_messages_that_cannot_be_read_proves_nothing_and_the_next_one_follows() {
    let bench = Bench::new();
    bench.enqueue("msg_1", user("user_1")).await;
    let down = Arc::new(AtomicBool::new(true));
    let is_down = Arc::clone(&down);
    let store = FaultyStore::new(bench.store.clone(), move |call| match call {
        StoreCall::Apply(_) if is_down.load(Ordering::SeqCst) => {
            Fault::Fail(StoreError::Unavailable("disk full".into()))
        }
        _ => Fault::None,
    });
    let worker = bench.worker_with_store(store);
    let drive = async {
        eventually(|| released(&bench) == 1).await;
        for number in 0..30 {
            bench.enqueue(&format!("msg_bad_{number}"), "no JSON").await;
        }
        down.store(false, Ordering::SeqCst);
        bench.drained().await;
    };
    run_until(worker, drive).await.expect("a clean end");
    assert_eq!(bench.user_ids(), ["user_1"]);
    assert_eq!(bench.queue.dead().len(), 30);
}
