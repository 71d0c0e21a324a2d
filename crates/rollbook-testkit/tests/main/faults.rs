//! The fault wrappers behave as configured.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{
    Consumer as _, Enqueued, Lease, LeaseRequest, LeaseRequestId, Producer, QueueAdmin as _, QueueError,
};
use rollbook_core::store::{Ledger as _, Store as _, StoreError};
use rollbook_core::time::{Clock as _, Timestamp};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::faults::{Fault, FaultyProducer, FaultyStore, Gate, QueueCall, StoreCall};
use rollbook_testkit::memory::queue::MemoryQueue;
use rollbook_testkit::memory::store::MemoryStore;
use rollbook_testkit::queues::{all_of, request};

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_millis(1000)))
}

fn delivery() -> Delivery {
    Delivery {
        id: MessageId::new("a"),
        received_at: Timestamp::from_millis(1),
        traceparent: None,
        body: "{}".into(),
    }
}

/// Returns a queue, and a producer for it that always has this fault.
fn faulty(fault: Fault<QueueError>) -> (Arc<MemoryQueue>, FaultyProducer) {
    let queue = Arc::new(MemoryQueue::new(10, clock()));
    let producer = FaultyProducer::new(queue.clone(), move |call| {
        assert!(matches!(call, QueueCall::Enqueue([_])));
        fault.clone()
    });
    (queue, producer)
}

#[test]
fn a_manual_clock_moves_only_when_a_test_moves_it() {
    let clock = clock();
    clock.advance(Duration::from_millis(5));
    assert_eq!(clock.now(), Timestamp::from_millis(1005));
    clock.set(Timestamp::from_millis(3));
    assert_eq!(clock.now(), Timestamp::from_millis(3));
}

#[tokio::test]
async fn a_failed_call_has_no_effect_and_a_lost_answer_hides_an_effect() {
    let unreachable = QueueError::Unavailable("unreachable".into());
    for (fault, waits) in [(Fault::Fail(unreachable.clone()), 0), (Fault::FailAfter(unreachable.clone()), 1)]
    {
        let (queue, producer) = faulty(fault);
        assert_eq!(producer.enqueue_many(&[delivery()]).await, [Err(unreachable.clone())]);
        assert_eq!(queue.message_ids().len(), waits);
    }
}

#[tokio::test]
async fn a_call_waits_at_its_gate_until_the_gate_opens() {
    let gate = Gate::new();
    let (queue, producer) = faulty(Fault::Wait(gate.clone()));
    let open = async {
        gate.arrived(1).await;
        assert_eq!(queue.message_ids(), []);
        gate.open();
    };
    let deliveries = [delivery()];
    let (answers, ()) = tokio::join!(producer.enqueue_many(&deliveries), open);
    assert_eq!(answers, [Ok(Enqueued::Queued)]);
}

#[tokio::test]
#[should_panic(expected = "a fault that the test asked for")]
async fn a_call_panics_if_the_script_says_so() {
    let (_, producer) = faulty(Fault::Panic);
    _ = producer.enqueue_many(&[delivery()]).await;
}

#[tokio::test]
async fn a_fault_affects_only_the_call_that_it_is_for() {
    let store = FaultyStore::new(Arc::new(MemoryStore::new(clock())), |call| match call {
        StoreCall::Ping => Fault::Fail(StoreError::Unavailable("unreachable".into())),
        _ => Fault::None,
    });
    assert!(store.ping().await.is_err());
    assert_eq!(store.apply_many(&[]).await, Ok(Vec::new()));
    assert_eq!(store.delivery(&MessageId::new("a")).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_lease_call_of_the_model_returns_a_message_that_becomes_due() {
    let clock = clock();
    let queue = MemoryQueue::new(10, clock.clone());
    all_of(queue.enqueue_many(&[delivery()]).await).expect("there is room");
    let lease_for = Duration::from_secs(60);
    let request = request(1, lease_for, Duration::from_secs(90));
    assert_eq!(queue.lease(request.clone()).await.expect("one waits").len(), 1);
    assert_eq!(queue.stats().await.map(|stats| stats.leased), Ok(1));
    let pass = async {
        tokio::time::sleep(lease_for / 2).await;
        clock.advance(lease_for);
    };
    // A repeated request would get its own leases again; a new request gets the messages that become due.
    let other = LeaseRequest { id: LeaseRequestId { lane: 1, number: 0 }, ..request };
    let (leases, ()) = tokio::join!(queue.lease(other), pass);
    assert_eq!(leases.expect("the lease has run out")[0].unsettled, 1);
}

#[tokio::test]
async fn a_repeated_request_gets_its_leases_again_and_releases_those_that_no_longer_fit() {
    let queue = MemoryQueue::new(10, clock());
    let deliveries = ["a", "b", "c", "d"].map(|id| Delivery { id: MessageId::new(id), ..delivery() });
    all_of(queue.enqueue_many(&deliveries).await).expect("there is room");
    let ids = |leases: &[Lease]| leases.iter().map(|lease| lease.id.to_string()).collect::<Vec<_>>();
    let first = request(3, Duration::from_secs(60), Duration::ZERO);
    let taken = queue.lease(first.clone()).await.expect("leases");
    assert_eq!(ids(&taken), ["a", "b", "c"]);
    let again = queue.lease(first.clone()).await.expect("leases");
    assert_eq!(ids(&again), ["a", "b", "c"]);
    assert!(again.iter().zip(&taken).all(|(one, other)| one.token == other.token && one.attempt == 1));
    let fewer = queue.lease(LeaseRequest { max: 1, ..first }).await.expect("leases");
    assert_eq!(ids(&fewer), ["a"]);
    let next = queue.lease(request(9, Duration::from_secs(60), Duration::ZERO)).await.expect("leases");
    assert_eq!(ids(&next).len(), 3, "b and c were released, and nothing is in two hands");
    assert!(next.iter().all(|lease| (lease.attempt, lease.unsettled) == (1, 0)), "{next:?}");
}
