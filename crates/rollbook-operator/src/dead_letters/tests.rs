//! Bulk operations on a queue that fails in between.

use std::sync::Arc;
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
use serde_json::json;

use super::*;

/// Dead letters of two steps and a part of a third.
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

async fn park(queue: &MemoryQueue, ids: &[&str], reason: Reason) {
    for id in ids {
        let body = Bytes::from_static(b"x");
        let received_at = Timestamp::from_millis(0);
        let delivery = Delivery { id: MessageId::new(*id), received_at, traceparent: None, body };
        all_of(queue.enqueue_many(&[delivery]).await).expect("it is taken");
        let leases = queue.lease(request(1, Duration::from_secs(60), Duration::ZERO)).await.expect("leases");
        let failure = Failure { reason, detail: String::new(), event_type: Some("user.created".to_owned()) };
        let settle =
            leases.into_iter().map(|lease| (lease, Settlement::DeadLetter { failure: failure.clone() }));
        all_of(queue.settle_many(&settle.collect::<Vec<_>>()).await).expect("it is settled");
    }
}

fn ids(letters: &[DeadLetterView]) -> Vec<&str> {
    letters.iter().map(|letter| letter.id.as_str()).collect()
}

#[tokio::test]
async fn a_follower_returns_each_dead_letter_once_also_one_that_appears_before_the_last() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(100_000)));
    let queue = MemoryQueue::new(100, clock.clone());
    let (mut follower, all) = (Follower::default(), DeadLetterFilter::default());
    assert_eq!(ids(&follower.turn(&queue, &all).await.expect("it reads")), [""; 0]);
    park(&queue, &["msg_1", "msg_2"], Reason::TooDeep).await;
    assert_eq!(ids(&follower.turn(&queue, &all).await.expect("it reads")), ["msg_1", "msg_2"]);
    assert_eq!(ids(&follower.turn(&queue, &all).await.expect("it reads")), [""; 0]);
    // The clock of another server is five seconds behind.
    clock.set(Timestamp::from_millis(95_000));
    park(&queue, &["msg_3"], Reason::TooDeep).await;
    assert_eq!(ids(&follower.turn(&queue, &all).await.expect("it reads")), ["msg_3"]);
    assert_eq!(ids(&follower.turn(&queue, &all).await.expect("it reads")), [""; 0]);
}

#[tokio::test]
async fn a_list_has_the_newest_first_and_a_summary_the_largest_group_first() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(0)));
    let queue = MemoryQueue::new(1_000, clock);
    park(&queue, &["msg_1"], Reason::TooDeep).await;
    park(&queue, &["msg_2", "msg_3"], Reason::StoreRefused).await;
    let all = DeadLetterFilter::default();
    assert_eq!(ids(&list(&queue, &all, 2).await.expect("it reads")), ["msg_3", "msg_2"]);
    let summary = summary(&queue, &all).await.expect("it reads");
    let groups: Vec<(Reason, u64)> = summary.groups.iter().map(|group| (group.reason, group.count)).collect();
    assert_eq!((summary.total, summary.others), (3, 0));
    assert_eq!(groups, [(Reason::StoreRefused, 2), (Reason::TooDeep, 1)]);
}

/// A queue in which these calls fail. Calls are counted from zero.
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

async fn operate(queue: &dyn QueueAdmin, change: Change) -> BulkResult {
    let limits = BulkLimits { total: usize::MAX, per_second: None, dry_run: false };
    super::change(queue, &DeadLetterFilter::default(), change, limits, &|_| ()).await
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_fails_reports_its_progress_and_continues_when_run_again() {
    for change in [Change::Redrive, Change::Discard] {
        let queue = dead(DEAD, 1).await;
        let broken = QueueError::Deployment("no rights".to_owned());
        // The count, one step, and then the failure.
        let result = operate(&failing(&queue, broken, |call| call == 2), change).await;
        assert_eq!((result.matching, result.done()), (DEAD, STEP));
        let json = serde_json::to_value(&result).expect("JSON");
        assert_eq!((&json["matching"], &json[change.done()]), (&json!(DEAD), &json!(STEP)));
        assert!(json["error"].as_str().is_some_and(|error| error.contains("no rights")), "{json}");
        assert_eq!(queue.dead().len(), DEAD - STEP);

        let json = serde_json::to_value(operate(&*queue, change).await).expect("JSON");
        assert_eq!(json, json!({ "matching": DEAD - STEP, change.done(): DEAD - STEP, "dry_run": false }));
        assert_eq!(queue.dead().len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_queue_is_asked_again_for_a_limited_number_of_times() {
    let queue = dead(DEAD, 1).await;
    let busy = QueueError::Unavailable("database is locked".to_owned());
    // Every other call.
    let result = operate(&failing(&queue, busy.clone(), |call| call % 2 == 0), Change::Redrive).await;
    assert_eq!((result.error, result.redriven), (None, Some(DEAD)));

    let queue = dead(DEAD, 1).await;
    let result = operate(&failing(&queue, busy, |call| call > 1), Change::Redrive).await;
    let why = result.error.expect("it stays busy");
    assert!(why.contains("database is locked"), "{why}");
    assert_eq!(result.redriven, Some(STEP));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_fills_up_ends_the_operation_with_its_progress() {
    let queue = dead(DEAD, 1).await;
    let full = QueueError::Full { depth: 7, limit: 7 };
    let result = operate(&failing(&queue, full, |call| call == 3), Change::Redrive).await;
    assert!(result.error.is_some(), "it is full");
    assert_eq!(result.redriven, Some(2 * STEP));
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_counts_and_changes_nothing() {
    let queue = dead(3, 1).await;
    let limits = BulkLimits { total: 2, per_second: None, dry_run: true };
    let result = change(&*queue, &DeadLetterFilter::default(), Change::Discard, limits, &|_| ()).await;
    let json = serde_json::to_value(&result).expect("JSON");
    assert_eq!(json, json!({ "matching": 2, "discarded": 0, "dry_run": true }));
    assert_eq!(queue.dead().len(), 3);
}

#[tokio::test]
async fn a_listing_continues_after_a_page_that_large_bodies_shortened() {
    let queue = dead(20, 1 << 20).await;
    let filter = DeadLetterFilter::default();
    let listed = async |limit| list(&*queue, &filter, limit).await.expect("a listing").len();
    assert_eq!(listed(15).await, 15, "at most as many as requested");
    assert_eq!(listed(100).await, 20, "and all of them");
}

#[tokio::test]
async fn the_body_is_shown_only_on_request() {
    let queue = dead(1, 3).await;
    let json = async |with_body| {
        let letter = show(&*queue, "msg_0", with_body).await.expect("a queue").expect("a dead letter");
        serde_json::to_value(letter).expect("JSON")
    };
    assert_eq!(json(true).await["body"], "xxx");
    assert_eq!(json(false).await.get("body"), None);
    assert!(show(&*queue, "msg_other", false).await.expect("a queue").is_none());
}
