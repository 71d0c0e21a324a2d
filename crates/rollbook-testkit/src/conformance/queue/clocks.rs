//! A clock that was ahead and is corrected, and an audit of an undamaged queue.

use std::time::Duration;

use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{Audit, DeadLetterFilter, Settled, Settlement};

use super::{DUE_WITHIN, LEASE_FOR, Queue, QueueHarness, RETRY_AFTER, TICK, almost, failure, ids, retry};

/// Step that is much longer than any lease or backoff.
const STEP: Duration = Duration::from_secs(2 * 60 * 60);

pub async fn a_retry_is_due_although_the_clock_was_ahead_when_it_began(queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["a"]).await;
    let lease = queue.lease_one().await;
    queue.settle(&lease, retry()).await;
    queue.harness.step_back(STEP);
    let again = queue.lease_one().await;
    assert_eq!((again.id.as_str(), again.attempt), ("a", 2));
}

pub async fn a_redriven_message_is_due_although_the_clock_was_ahead(queue: Queue<impl QueueHarness>) {
    queue.park(&["a"]).await;
    assert_eq!(queue.redrive(&DeadLetterFilter::default(), 10).await, 1);
    queue.enqueue(&["released"]).await;
    for lease in queue.lease(2).await {
        queue.settle(&lease, Settlement::Release).await;
    }
    queue.harness.step_back(STEP);
    let mut given = ids(&queue.lease(10).await);
    given.sort();
    assert_eq!(given, ["a", "released"]);
}

pub async fn a_lease_ends_in_time_although_the_clock_was_ahead_when_it_began(
    queue: Queue<impl QueueHarness>,
) {
    queue.enqueue(&["dead worker", "slow worker"]).await;
    let leases = queue.lease(2).await;
    queue.harness.step_back(STEP);
    queue.assert_nothing_is_due().await;
    let slow =
        leases.iter().find(|lease| lease.id.as_str() == "slow worker").expect("a lease of the slow worker");
    queue.harness.advance(almost(LEASE_FOR));
    queue.assert_nothing_is_due().await;
    assert_eq!(queue.settle(slow, Settlement::Ack).await, Settled::Done, "the lease is still valid");
    queue.harness.advance(TICK);
    let again = queue.lease_one().await;
    assert_eq!((again.id.as_str(), again.unsettled), ("dead worker", 1));
}

pub async fn a_small_correction_of_the_clock_changes_no_due_time(queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["a"]).await;
    let lease = queue.lease_one().await;
    let back = DUE_WITHIN.saturating_sub(RETRY_AFTER);
    queue.settle(&lease, Settlement::Retry { after: RETRY_AFTER, failure: failure() }).await;
    queue.harness.step_back(back);
    queue.assert_nothing_is_due().await;
    queue.harness.advance(almost(DUE_WITHIN));
    queue.assert_nothing_is_due().await;
    queue.harness.advance(TICK);
    assert_eq!(queue.lease_one().await.id.as_str(), "a");
}

pub async fn an_audit_of_a_sound_queue_finds_nothing(queue: Queue<impl QueueHarness>) {
    queue.park(&["dead", "redriven"]).await;
    queue.enqueue(&["leased", "retried", "released", "expired", "done"]).await;
    for lease in queue.lease(5).await {
        match lease.id.as_str() {
            "retried" => _ = queue.settle(&lease, retry()).await,
            "released" => _ = queue.settle(&lease, Settlement::Release).await,
            "done" => _ = queue.settle(&lease, Settlement::Ack).await,
            _ => {}
        }
    }
    let only = DeadLetterFilter { id: Some(MessageId::new("redriven")), ..DeadLetterFilter::default() };
    assert_eq!(queue.redrive(&only, 10).await, 1);
    queue.harness.advance(LEASE_FOR);
    queue.enqueue(&["new"]).await;
    let (stats, dead) = (queue.stats().await, queue.dead_ids(&DeadLetterFilter::default()).await);
    for repair in [false, true] {
        let audit = queue.harness.admin().audit(repair).await.expect("an audit");
        assert_eq!(audit, Audit { messages: stats.depth(), ..Audit::default() }, "repair: {repair}");
        assert!(audit.is_clean());
    }
    assert_eq!(queue.stats().await, stats, "an audit changes nothing");
    assert_eq!(queue.dead_ids(&DeadLetterFilter::default()).await, dead);
}
