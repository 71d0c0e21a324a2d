//! Bulk operations on a queue that fails on the way.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use rollbook_core::delivery::Delivery;
use rollbook_core::queue::{Consumer as _, Producer as _, Settlement};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::time::Timestamp;
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::faults::{Fault, FaultyAdmin};
use rollbook_testkit::memory::queue::MemoryQueue;
use rollbook_testkit::queues::{all_of, request};

use super::*;

/// Two steps and a part of a third.
const DEAD: usize = 2 * STEP + 200;

async fn dead(count: usize, size: usize) -> Arc<MemoryQueue> {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(0)));
    let queue = Arc::new(MemoryQueue::new(10_000, clock));
    let delivery = |number| Delivery {
        id: MessageId::new(format!("msg_{number}")),
        received_at: Timestamp::from_millis(0),
        traceparent: None,
        body: Bytes::from(vec![b'x'; size]),
    };
    let deliveries: Vec<Delivery> = (0..count).map(delivery).collect();
    all_of(queue.enqueue_many(&deliveries).await).expect("they are taken");
    let leases = queue.lease(request(count, Duration::from_secs(60), Duration::ZERO)).await.expect("leases");
    let failure = Failure { reason: Reason::StoreRefused, detail: String::new(), event_type: None };
    let dead = |lease| (lease, Settlement::DeadLetter { failure: failure.clone() });
    let settled = queue.settle_many(&leases.into_iter().map(dead).collect::<Vec<_>>()).await;
    assert_eq!(all_of(settled).expect("they are settled").len(), count);
    queue
}

/// The queue, of which each of these calls fails; calls are counted from zero.
fn failing(
    queue: &Arc<MemoryQueue>,
    error: QueueError,
    calls: impl Fn(usize) -> bool + Send + Sync + 'static,
) -> FaultyAdmin {
    let made = AtomicUsize::new(0);
    FaultyAdmin::new(queue.clone(), move |_| {
        if calls(made.fetch_add(1, Ordering::Relaxed)) { Fault::Fail(error.clone()) } else { Fault::None }
    })
}

async fn operate(queue: &dyn QueueAdmin, change: Change) -> (Result<(), String>, Value) {
    let filter = DeadLetterFilter::default();
    let mut steps = InSteps::new(queue, &filter, change);
    let mut outcome = steps.count(usize::MAX).await;
    if outcome.is_ok() {
        outcome = steps.run(None).await;
    }
    let json = steps.json(false, outcome.as_ref().err());
    (outcome.map_err(|error| steps.stopped(&error).to_string()), json)
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_on_the_way_says_how_far_it_came_and_goes_on_when_run_again() {
    for change in [Change::Redrive, Change::Discard] {
        let queue = dead(DEAD, 1).await;
        let broken = QueueError::Deployment("no rights".to_owned());
        // The count, one step, and then it fails.
        let (outcome, json) = operate(&failing(&queue, broken, |call| call == 2), change).await;
        let why = outcome.expect_err("it fails");
        assert!(why.starts_with(&format!("{STEP} of {DEAD} dead letters are {}", change.done())), "{why}");
        assert!(why.contains("no rights") && why.contains("run the same command again"), "{why}");
        assert_eq!((&json["matching"], &json[change.done()]), (&json!(DEAD), &json!(STEP)));
        assert!(json["error"].as_str().is_some_and(|error| error.contains("no rights")), "{json}");
        assert_eq!(queue.dead().len(), DEAD - STEP);

        let (outcome, json) = operate(&*queue, change).await;
        assert_eq!(outcome, Ok(()));
        assert_eq!(json, json!({ "matching": DEAD - STEP, change.done(): DEAD - STEP, "dry_run": false }));
        assert_eq!(queue.dead().len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_busy_for_a_while_is_asked_again_and_one_that_stays_so_is_not_for_ever() {
    let queue = dead(DEAD, 1).await;
    let busy = QueueError::Unavailable("database is locked".to_owned());
    // Every other call.
    let (outcome, json) =
        operate(&failing(&queue, busy.clone(), |call| call % 2 == 0), Change::Redrive).await;
    assert_eq!((outcome, &json["redriven"]), (Ok(()), &json!(DEAD)));

    let queue = dead(DEAD, 1).await;
    let (outcome, json) = operate(&failing(&queue, busy, |call| call > 1), Change::Redrive).await;
    let why = outcome.expect_err("it stays busy");
    assert!(why.contains("database is locked"), "{why}");
    assert_eq!(json["redriven"], json!(STEP));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_fills_up_on_the_way_says_how_far_it_came() {
    let queue = dead(DEAD, 1).await;
    let full = QueueError::Full { depth: 7, limit: 7 };
    let (outcome, json) = operate(&failing(&queue, full, |call| call == 3), Change::Redrive).await;
    assert!(outcome.expect_err("it is full").starts_with(&format!("{} of {DEAD}", 2 * STEP)));
    assert_eq!(json["redriven"], json!(2 * STEP));
}

#[tokio::test(start_paused = true)]
async fn a_listing_goes_on_behind_a_page_that_large_bodies_cut_short() {
    let queue = dead(20, 1 << 20).await;
    let mut seen = 0;
    each_page(&*queue, &DeadLetterFilter::default(), 15, |page| seen += page.len()).await.expect("a listing");
    assert_eq!(seen, 15, "at most as many as asked for");
    seen = 0;
    each_page(&*queue, &DeadLetterFilter::default(), 100, |page| seen += page.len())
        .await
        .expect("a listing");
    assert_eq!(seen, 20, "and all of them");
}
