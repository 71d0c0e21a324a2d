//! Enqueueing: admission, duplicates, limits and durability.

use bytes::Bytes;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::Enqueued::{Duplicate, Queued};
use rollbook_core::queue::{DeadLetterFilter, QueueError, Settled, Settlement};
use rollbook_core::time::Timestamp;
use tokio::task::JoinSet;

use super::{DEPTH_MAX, LEASE_FOR, Queue, QueueHarness, dead_letter, ids, numbered, retry};
use crate::queues::all_of;

pub async fn enqueue_is_idempotent_while_a_message_lives(queue: Queue<impl QueueHarness>) {
    assert_eq!(queue.enqueue(&["a"]).await, [Queued]);
    let received_at = queue.now();
    queue.harness.advance(LEASE_FOR);
    assert_eq!(queue.enqueue(&["a"]).await, [Duplicate], "while the message waits");
    let lease = queue.lease_one().await;
    assert_eq!(lease.received_at, received_at, "the first arrival counts");
    assert_eq!(queue.enqueue(&["a"]).await, [Duplicate], "while the message is leased");
    assert_eq!(queue.settle(&lease, retry()).await, Settled::Done);
    assert_eq!(queue.enqueue(&["a"]).await, [Duplicate], "during the backoff");
    queue.assert_nothing_is_due().await;
    assert_eq!(queue.stats().await.depth(), 1);
}

pub async fn the_same_id_twice_in_one_batch_waits_once(queue: Queue<impl QueueHarness>) {
    assert_eq!(queue.enqueue(&["a", "b", "a", "a"]).await, [Queued, Queued, Duplicate, Duplicate]);
    assert_eq!(ids(&queue.lease(10).await).len(), 2);
}

pub async fn an_acknowledged_id_may_come_again(queue: Queue<impl QueueHarness>) {
    for _ in 0..2 {
        assert_eq!(queue.enqueue(&["a"]).await, [Queued]);
        let lease = queue.lease_one().await;
        assert_eq!(lease.attempt, 1);
        assert_eq!(queue.settle(&lease, Settlement::Ack).await, Settled::Done);
        queue.assert_nothing_is_due().await;
    }
}

async fn fill<H: QueueHarness>(queue: &Queue<H>, count: u64) {
    let ids = numbered(count);
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    assert_eq!(queue.enqueue(&ids).await, vec![Queued; ids.len()]);
}

pub async fn a_full_queue_takes_what_fits_and_refuses_the_rest(queue: Queue<impl QueueHarness>) {
    fill(&queue, DEPTH_MAX - 1).await;
    let full = || Err(QueueError::Full { depth: DEPTH_MAX, limit: DEPTH_MAX });
    assert_eq!(queue.answers(&["a", "b"]).await, [Ok(Queued), full()]);
    assert_eq!(queue.stats().await.depth(), DEPTH_MAX);
    assert_eq!(queue.answers(&["b"]).await, [full()]);
    let found = queue.harness.admin().message(&MessageId::new("b")).await;
    assert_eq!(found, Ok(None), "a refused delivery is not stored");
}

pub async fn exactly_as_many_as_the_limit_fit(queue: Queue<impl QueueHarness>) {
    fill(&queue, DEPTH_MAX).await;
    assert_eq!(queue.stats().await.ready, DEPTH_MAX);
}

pub async fn a_full_queue_still_answers_duplicates(queue: Queue<impl QueueHarness>) {
    fill(&queue, DEPTH_MAX - 1).await;
    assert_eq!(
        queue.enqueue(&["msg_0000", "a", "a", "msg_0001"]).await,
        [Duplicate, Queued, Duplicate, Duplicate]
    );
    assert_eq!(queue.enqueue(&["a", "msg_0002"]).await, [Duplicate, Duplicate]);
    let answers = queue.answers(&["new", "a", "new", "msg_0003"]).await;
    assert!(answers[0].is_err() && answers[2].is_err(), "{answers:?}");
    assert_eq!((&answers[1], &answers[3]), (&Ok(Duplicate), &Ok(Duplicate)), "next to a refused one");
}

pub async fn dead_and_finished_messages_leave_room(queue: Queue<impl QueueHarness>) {
    fill(&queue, DEPTH_MAX).await;
    let leases = queue.lease(2).await;
    assert!(queue.try_enqueue(&["a"]).await.is_err(), "leased messages count");
    queue.settle(&leases[0], Settlement::Ack).await;
    queue.settle(&leases[1], dead_letter()).await;
    assert_eq!(queue.enqueue(&["a", "b"]).await, [Queued, Queued]);
    let again = leases[1].id.as_str();
    assert!(queue.try_enqueue(&[again]).await.is_err(), "a redelivered dead letter needs room");
    assert_eq!(
        queue.dead_ids(&DeadLetterFilter::default()).await,
        [again],
        "the dead letter stays if there is no room"
    );
}

pub async fn empty_batches_are_fine(queue: Queue<impl QueueHarness>) {
    assert_eq!(queue.enqueue(&[]).await, []);
    assert_eq!(queue.harness.consumer().settle_many(&[]).await, []);
    fill(&queue, DEPTH_MAX).await;
    assert_eq!(queue.enqueue(&[]).await, []);
}

pub async fn answers_come_in_the_order_asked(queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["m", "c", "x"]).await;
    let answers = queue.enqueue(&["z", "x", "a", "m", "k", "c"]).await;
    assert_eq!(answers, [Queued, Duplicate, Queued, Duplicate, Queued, Duplicate]);

    let leases = queue.lease(10).await;
    assert_eq!(leases.len(), 6);
    for lost in [1, 4] {
        queue.settle(&leases[lost], Settlement::Ack).await;
    }
    let settlements: Vec<_> = leases.into_iter().rev().map(|lease| (lease, Settlement::Ack)).collect();
    let settled =
        all_of(queue.harness.consumer().settle_many(&settlements).await).expect("the queue settles");
    let lost: Vec<usize> = (0..6).filter(|index| settled[*index] == Settled::LeaseLost).collect();
    assert_eq!(lost, [1, 4]);
}

pub async fn bodies_are_kept_byte_for_byte(mut queue: Queue<impl QueueHarness>) {
    let every_byte: Vec<u8> = (0..=u8::MAX).collect();
    let mebibyte: Vec<u8> = every_byte.iter().copied().cycle().take(1 << 20).collect();
    let bodies = [Vec::new(), every_byte, mebibyte, b"\0".to_vec(), "\u{feff}{\"é\": 1}\r\n".into()];
    let delivery = |(index, body): (usize, Vec<u8>)| Delivery {
        // The longest id, with all characters that an id may have.
        id: MessageId::new(format!("msg_-AZaz09{index:0>width$}", width = MessageId::LENGTH_MAX - 11)),
        received_at: Timestamp::from_millis(1_785_312_000_015),
        traceparent: None,
        body: Bytes::from(body),
    };
    let deliveries: Vec<Delivery> = bodies.into_iter().enumerate().map(delivery).collect();
    all_of(queue.harness.producer().enqueue_many(&deliveries).await).expect("the queue takes any bytes");
    queue.harness.reopen().await;
    let mut leases = queue.lease(10).await;
    leases.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(leases.len(), deliveries.len());
    for (lease, sent) in leases.iter().zip(&deliveries) {
        assert_eq!((&lease.id, lease.received_at), (&sent.id, sent.received_at));
        assert!(lease.body == sent.body, "{} bytes have changed", sent.body.len());
    }
}

pub async fn enqueued_messages_survive_a_reopen(mut queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["a", "b"]).await;
    queue.harness.reopen().await;
    assert_eq!(queue.enqueue(&["b", "c"]).await, [Duplicate, Queued]);
    let mut ids = ids(&queue.lease(10).await);
    ids.sort();
    assert_eq!(ids, ["a", "b", "c"]);
}

pub async fn one_id_from_many_at_once_waits_once(queue: Queue<impl QueueHarness>) {
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let (producer, delivery) = (queue.harness.producer(), queue.delivery("a"));
        tasks.spawn(async move {
            all_of(producer.enqueue_many(&[delivery]).await).expect("the queue accepts the delivery")[0]
        });
    }
    let answers = tasks.join_all().await;
    assert_eq!(answers.iter().filter(|answer| **answer == Queued).count(), 1, "{answers:?}");
    queue.lease_one().await;
}
