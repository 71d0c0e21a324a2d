//! Leases: exclusivity, expiry and settlement.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rollbook_core::delivery::Delivery;
use rollbook_core::queue::{Lease, LeaseRequest, Settled, Settlement};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::{
    DEPTH_MAX, LEASE_FOR, Queue, QueueHarness, RETRY_AFTER, TICK, almost, dead_letter, ids, numbered, retry,
    settlements,
};
use crate::queues::{all_of, request};

/// Long enough for any engine to wake up, and far shorter than [`LONG_WAIT`].
const WAKE_TIMEOUT: Duration = Duration::from_secs(10);
const LONG_WAIT: Duration = Duration::from_secs(60);
const SHORT_WAIT: Duration = Duration::from_millis(50);

pub async fn lease_returns_at_most_max(queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["a", "b", "c"]).await;
    assert_eq!(queue.lease(2).await.len(), 2);
    assert_eq!(queue.lease(2).await.len(), 1);
    assert_eq!(queue.lease(2).await.len(), 0);
}

pub async fn the_message_due_longest_comes_first(queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["retried"]).await;
    let lease = queue.lease_one().await;
    queue.settle(&lease, retry()).await;
    for id in ["b", "a"] {
        queue.harness.advance(TICK);
        queue.enqueue(&[id]).await;
    }
    queue.harness.advance(RETRY_AFTER);
    queue.enqueue(&["last"]).await;
    assert_eq!(ids(&queue.lease(3).await), ["b", "a", "retried"]);
    assert_eq!(ids(&queue.lease(3).await), ["last"]);
}

pub async fn a_leased_message_is_invisible(queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["a"]).await;
    queue.lease_one().await;
    queue.assert_nothing_is_due().await;
    queue.harness.advance(almost(LEASE_FOR));
    queue.assert_nothing_is_due().await;
}

pub async fn an_expired_lease_is_offered_again(queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["a"]).await;
    let first = queue.lease_one().await;
    queue.harness.advance(LEASE_FOR);
    let second = queue.lease_one().await;
    assert_eq!((&second.id, &second.body), (&first.id, &first.body));
    assert_ne!(second.token, first.token);
    assert_eq!((first.attempt, second.attempt), (1, 1), "no worker counted the attempt");
}

pub async fn an_expired_lease_may_be_settled_until_another_worker_takes_the_message(
    queue: Queue<impl QueueHarness>,
) {
    for settlement in settlements() {
        let id = settlement.label();
        queue.enqueue(&[id]).await;
        let lease = queue.lease_one().await;
        queue.harness.advance(LEASE_FOR * 2);
        assert_eq!(queue.settle(&lease, settlement.clone()).await, Settled::Done, "{id}");
        queue.harness.advance(RETRY_AFTER);
        if !matches!(settlement, Settlement::Ack | Settlement::DeadLetter { .. }) {
            let lease = queue.lease_one().await;
            queue.settle(&lease, Settlement::Ack).await;
        }
        queue.assert_nothing_is_due().await;
    }
}

pub async fn a_lost_lease_can_not_settle(queue: Queue<impl QueueHarness>) {
    for settlement in settlements() {
        let id = settlement.label();
        queue.enqueue(&[id]).await;
        let lost = queue.lease_one().await;
        queue.harness.advance(LEASE_FOR);
        let held = queue.lease_one().await;
        let before = queue.stats().await;
        assert_eq!(queue.settle(&lost, settlement).await, Settled::LeaseLost, "{id}");
        assert_eq!(queue.stats().await, before, "{id} changed something");
        queue.assert_nothing_is_due().await;
        assert_eq!(queue.settle(&held, Settlement::Ack).await, Settled::Done, "{id} broke the other lease");
    }
}

pub async fn a_lease_ends_once(queue: Queue<impl QueueHarness>) {
    for first in settlements() {
        for second in settlements() {
            let id = format!("{}_{}", first.label(), second.label());
            queue.enqueue(&[&id]).await;
            let lease = queue.lease_one().await;
            let both = vec![(lease.clone(), first.clone()), (lease.clone(), second.clone())];
            let settled =
                all_of(queue.harness.consumer().settle_many(&both).await).expect("the queue settles");
            assert_eq!(settled, [Settled::Done, Settled::LeaseLost], "{id} in one batch");
            assert_eq!(queue.settle(&lease, second.clone()).await, Settled::LeaseLost, "{id} later");
            queue.harness.advance(RETRY_AFTER);
            for lease in queue.lease(10).await {
                queue.settle(&lease, Settlement::Ack).await;
            }
        }
    }
}

async fn count_attempt(queue: &Queue<impl QueueHarness>, lease: &Lease) -> Settled {
    queue.harness.consumer().count_attempt(lease).await.expect("the queue counts")
}

pub async fn an_attempt_is_counted_by_a_settlement_or_when_its_worker_says_so(
    queue: Queue<impl QueueHarness>,
) {
    queue.enqueue(&["a"]).await;
    for _ in 0..3 {
        assert_eq!(queue.lease_one().await.attempt, 1, "a lost answer does not count as an attempt");
        queue.harness.advance(LEASE_FOR);
    }
    for attempt in 1..=3 {
        let lease = queue.lease_one().await;
        assert_eq!(lease.attempt, attempt, "although no attempt was settled");
        assert_eq!(count_attempt(&queue, &lease).await, Settled::Done);
        queue.harness.advance(LEASE_FOR);
    }
    let lease = queue.lease_one().await;
    assert_eq!(lease.attempt, 4);
    queue.settle(&lease, retry()).await;
    queue.harness.advance(RETRY_AFTER);
    let lease = queue.lease_one().await;
    assert_eq!(lease.attempt, 5);
    count_attempt(&queue, &lease).await;
    queue.settle(&lease, Settlement::Release).await;
    assert_eq!(queue.lease_one().await.attempt, 5, "a release undoes the count");
}

pub async fn counting_an_attempt_twice_counts_it_once(queue: Queue<impl QueueHarness>) {
    for (id, settlement) in [("expires", None), ("retried", Some(retry()))] {
        queue.enqueue(&[id]).await;
        let lease = queue.lease_one().await;
        for _ in 0..2 {
            assert_eq!(count_attempt(&queue, &lease).await, Settled::Done);
        }
        match settlement {
            None => queue.harness.advance(LEASE_FOR),
            Some(settlement) => {
                queue.settle(&lease, settlement).await;
                queue.harness.advance(RETRY_AFTER);
            }
        }
        let lease = queue.lease_one().await;
        assert_eq!(lease.attempt, 2, "{id}");
        queue.settle(&lease, Settlement::Ack).await;
        queue.enqueue(&[id]).await;
        let lease = queue.lease_one().await;
        assert_eq!(lease.attempt, 1, "{id}: nothing is left of the message before");
        queue.settle(&lease, Settlement::Ack).await;
    }
}

pub async fn an_attempt_of_a_lost_lease_is_not_counted(queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["a"]).await;
    let lost = queue.lease_one().await;
    queue.harness.advance(LEASE_FOR);
    let held = queue.lease_one().await;
    assert_eq!(count_attempt(&queue, &lost).await, Settled::LeaseLost);
    queue.settle(&held, retry()).await;
    assert_eq!(count_attempt(&queue, &held).await, Settled::LeaseLost, "the lease is settled");
    queue.harness.advance(RETRY_AFTER);
    assert_eq!(queue.lease_one().await.attempt, 2);
}

/// Enqueues messages with bodies of these sizes in bytes, each later than the one before.
async fn enqueue_sized(queue: &Queue<impl QueueHarness>, sizes: &[(&str, usize)]) {
    for (id, size) in sizes {
        // Incompressible bytes.
        let body: Vec<u8> = (0..*size)
            .flat_map(|index| index.wrapping_mul(2_654_435_761).to_be_bytes())
            .take(*size)
            .collect();
        let delivery = Delivery { body: Bytes::from(body), ..queue.delivery(id) };
        all_of(queue.harness.producer().enqueue_many(&[delivery]).await)
            .expect("the queue accepts the delivery");
        queue.harness.advance(TICK);
    }
}

async fn lease_bytes(queue: &Queue<impl QueueHarness>, bytes_max: usize) -> Vec<String> {
    let request = LeaseRequest { bytes_max, ..request(10, LEASE_FOR, Duration::ZERO) };
    ids(&queue.harness.consumer().lease(request).await.expect("the queue gives leases"))
}

pub async fn a_lease_holds_no_more_bytes_than_asked_for(queue: Queue<impl QueueHarness>) {
    enqueue_sized(&queue, &[("a", 1000), ("b", 1000), ("c", 1000), ("d", 10)]).await;
    assert_eq!(lease_bytes(&queue, 2000).await, ["a", "b"]);
    assert_eq!(lease_bytes(&queue, 1009).await, ["c"], "one byte is short for the last");
    assert_eq!(lease_bytes(&queue, 10).await, ["d"]);
    queue.harness.advance(LEASE_FOR);
    assert_eq!(lease_bytes(&queue, 2999).await, ["a", "b"], "redelivered messages are limited too");
    assert_eq!(lease_bytes(&queue, 1010).await, ["c", "d"]);
}

pub async fn a_message_larger_than_the_limit_in_bytes_is_leased_alone(queue: Queue<impl QueueHarness>) {
    enqueue_sized(&queue, &[("large", 5000), ("small", 1)]).await;
    assert_eq!(lease_bytes(&queue, 100).await, ["large"]);
    assert_eq!(lease_bytes(&queue, 0).await, ["small"]);
    queue.harness.advance(LEASE_FOR);
    assert_eq!(lease_bytes(&queue, 0).await.len(), 1);
    assert_eq!(lease_bytes(&queue, 0).await.len(), 1);
}

pub async fn attempts_and_leases_survive_a_reopen(mut queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["a"]).await;
    let lease = queue.lease_one().await;
    queue.harness.reopen().await;
    queue.assert_nothing_is_due().await;
    queue.harness.advance(LEASE_FOR);
    let again = queue.lease_one().await;
    assert_eq!((again.attempt, again.unsettled), (1, 1));
    assert_eq!(queue.settle(&lease, Settlement::Ack).await, Settled::LeaseLost);
    queue.harness.reopen().await;
    assert_eq!(
        queue.settle(&again, Settlement::Ack).await,
        Settled::Done,
        "the token alone identifies the lease"
    );
}

pub async fn release_does_not_count(queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["a"]).await;
    for _ in 0..3 {
        let lease = queue.lease_one().await;
        assert_eq!(lease.attempt, 1);
        assert_eq!(queue.settle(&lease, Settlement::Release).await, Settled::Done);
    }
}

pub async fn a_postponed_message_is_invisible_until_due_and_counts_no_attempt(
    queue: Queue<impl QueueHarness>,
) {
    queue.enqueue(&["a"]).await;
    for _ in 0..3 {
        let lease = queue.lease_one().await;
        assert_eq!(lease.attempt, 1);
        let postpone = Settlement::Postpone { after: RETRY_AFTER };
        assert_eq!(queue.settle(&lease, postpone).await, Settled::Done);
        queue.assert_nothing_is_due().await;
        queue.harness.advance(RETRY_AFTER);
    }
    assert_eq!(queue.lease_one().await.attempt, 1);
}

pub async fn retry_is_invisible_until_due(queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["a"]).await;
    let lease = queue.lease_one().await;
    // The backoff counts from the settlement, not from the lease.
    queue.harness.advance(RETRY_AFTER);
    assert_eq!(queue.settle(&lease, retry()).await, Settled::Done);
    queue.harness.advance(almost(RETRY_AFTER));
    queue.assert_nothing_is_due().await;
    assert_eq!(queue.stats().await.delayed, 1);
    queue.harness.advance(TICK);
    let lease = queue.lease_one().await;
    assert_eq!(lease.attempt, 2);
    let at_once = Settlement::Retry { after: Duration::ZERO, failure: super::failure() };
    queue.settle(&lease, at_once).await;
    assert_eq!(queue.lease_one().await.attempt, 3);
}

pub async fn the_unsettled_count_grows_by_expiry_is_kept_by_release_and_reset_by_retry(
    queue: Queue<impl QueueHarness>,
) {
    queue.enqueue(&["a"]).await;
    let expire = async |count| {
        let lease = queue.lease_one().await;
        assert_eq!(lease.unsettled, count);
        queue.harness.advance(LEASE_FOR);
    };
    expire(0).await;
    expire(1).await;
    let lease = queue.lease_one().await;
    queue.settle(&lease, Settlement::Release).await;
    expire(2).await;
    let lease = queue.lease_one().await;
    assert_eq!(lease.unsettled, 3);
    queue.settle(&lease, retry()).await;
    queue.harness.advance(RETRY_AFTER);
    expire(0).await;
    assert_eq!(queue.lease_one().await.unsettled, 1);
}

pub async fn two_workers_never_hold_one_message(queue: Queue<impl QueueHarness>) {
    const WORKERS: usize = 4;
    let all = numbered(DEPTH_MAX);
    queue.enqueue(&all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let barrier = Arc::new(Barrier::new(WORKERS));
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (consumer, barrier) = (queue.harness.consumer(), Arc::clone(&barrier));
        workers.spawn(async move {
            let mut held: Vec<Lease> = Vec::new();
            barrier.wait().await;
            for _ in 0..DEPTH_MAX {
                let request = request(3, LEASE_FOR, Duration::ZERO);
                held.extend(consumer.lease(request).await.expect("the queue gives leases"));
            }
            held
        });
    }
    let mut held = ids(&workers.join_all().await.concat());
    held.sort();
    assert_eq!(held, all);
}

pub async fn lease_waits_for_a_message_and_wakes_when_one_comes(queue: Queue<impl QueueHarness>) {
    let request = request(10, LEASE_FOR, LONG_WAIT);
    let consumer = queue.harness.consumer();
    let enqueue = async {
        // The lease call starts first and finds nothing.
        tokio::task::yield_now().await;
        queue.enqueue(&["a"]).await
    };
    let both = async { tokio::join!(consumer.lease(request), enqueue) };
    let (leases, _) = timeout(WAKE_TIMEOUT, both).await.expect("the lease wakes when a message comes");
    assert_eq!(ids(&leases.expect("the queue gives leases")), ["a"]);
}

pub async fn lease_wakes_when_a_message_is_released(queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["a"]).await;
    let held = queue.lease_one().await;
    let request = request(10, LEASE_FOR, LONG_WAIT);
    let consumer = queue.harness.consumer();
    let release = async {
        tokio::task::yield_now().await;
        queue.settle(&held, Settlement::Release).await
    };
    let both = async { tokio::join!(consumer.lease(request), release) };
    let (leases, settled) =
        timeout(WAKE_TIMEOUT, both).await.expect("the lease wakes when a message is released");
    assert_eq!(settled, Settled::Done);
    assert_eq!(ids(&leases.expect("the queue gives leases")), ["a"]);
}

pub async fn lease_on_an_empty_queue_ends_after_the_wait(queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["dead"]).await;
    let lease = queue.lease_one().await;
    queue.settle(&lease, dead_letter()).await;
    let asked_at = Instant::now();
    let request = request(10, LEASE_FOR, SHORT_WAIT);
    let leases = timeout(WAKE_TIMEOUT, queue.harness.consumer().lease(request)).await;
    let leases = leases.expect("the lease ends after its wait").expect("the queue gives leases");
    assert_eq!(ids(&leases), Vec::<String>::new());
    assert!(asked_at.elapsed() >= SHORT_WAIT, "the call waited {:?}", asked_at.elapsed());
}
