//! The trace context of a delivery stays with its message.

use std::collections::BTreeMap;

use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::Enqueued::{self, Duplicate, Queued};
use rollbook_core::queue::{DeadLetterFilter, Lease, Settled, Settlement};
use rollbook_core::trace::Traceparent;

use super::{LEASE_FOR, Queue, QueueHarness, RETRY_AFTER, dead_letter, numbered, retry};
use crate::queues::all_of;

/// Returns a trace context that is unique per number, or `None` for zero.
fn trace(number: u8) -> Option<Traceparent> {
    let mut bytes = *b"every byte is another: 1,";
    bytes[0] = number;
    Traceparent::from_bytes(&bytes).filter(|_| number > 0)
}

impl<H: QueueHarness> Queue<H> {
    fn traced(&self, id: &str, traceparent: Option<Traceparent>) -> Delivery {
        Delivery { traceparent, ..self.delivery(id) }
    }

    async fn enqueue_traced(&self, id: &str, traceparent: Option<Traceparent>) -> Enqueued {
        let answers = self.harness.producer().enqueue_many(&[self.traced(id, traceparent)]).await;
        all_of(answers).expect("the queue takes deliveries")[0]
    }

    /// Returns the lease of a queued message and its trace context, which must be the same in the operator's
    /// view and in the lease.
    async fn lease_with_trace(&self, id: &str) -> (Lease, Option<Traceparent>) {
        let found =
            self.harness.admin().message(&MessageId::new(id)).await.expect("the queue finds messages");
        let found = found.expect("a queued message").traceparent;
        let lease = self.lease_one().await;
        assert_eq!(lease.traceparent, found, "lease (left) and operator's view (right)");
        assert_eq!(lease.body, self.delivery(id).body, "the body does not contain the trace");
        (lease, found)
    }

    async fn dead_trace(&self) -> Option<Traceparent> {
        let letters = self.dead_letters(&DeadLetterFilter::default()).await;
        let [letter] = letters.as_slice() else { panic!("there is one dead letter: {letters:?}") };
        assert_eq!(
            letter.body,
            self.delivery(letter.id.as_str()).body,
            "the body does not contain the trace"
        );
        letter.traceparent
    }
}

pub async fn a_message_has_the_trace_that_it_came_in_or_none(mut queue: Queue<impl QueueHarness>) {
    let ids = numbered(9);
    // Messages with and without a trace context alternate. Some bodies are compressible, others are not.
    let traces = [trace(1), None, trace(2), trace(1), None, None, trace(255), None, trace(3)];
    let deliveries = ids.iter().zip(traces).enumerate().map(|(number, (id, traceparent))| Delivery {
        body: "the body ".repeat(number * number).into(),
        ..queue.traced(id, traceparent)
    });
    let deliveries: Vec<Delivery> = deliveries.collect();
    all_of(queue.harness.producer().enqueue_many(&deliveries).await).expect("the queue takes deliveries");
    queue.harness.reopen().await;
    let page = queue.harness.admin().messages(None, 100).await.expect("the queue lists messages");
    let listed: BTreeMap<String, _> = page
        .messages
        .into_iter()
        .map(|found| (found.id.to_string(), (found.traceparent, found.body)))
        .collect();
    let given = queue.lease(100).await;
    let leased: BTreeMap<String, _> =
        given.into_iter().map(|lease| (lease.id.to_string(), (lease.traceparent, lease.body))).collect();
    let sent: BTreeMap<String, _> =
        deliveries.into_iter().map(|sent| (sent.id.to_string(), (sent.traceparent, sent.body))).collect();
    assert_eq!((&leased, &listed), (&sent, &sent));
}

pub async fn a_trace_is_kept_by_every_return_to_the_queue(mut queue: Queue<impl QueueHarness>) {
    for (id, sent) in [("traced", trace(1)), ("untraced", None)] {
        queue.enqueue_traced(id, sent).await;
        // The second round covers messages that are queued again: an engine may treat them differently.
        for _ in 0..2 {
            for settlement in [retry(), Settlement::Release] {
                let (lease, found) = queue.lease_with_trace(id).await;
                assert_eq!(found, sent, "{id} before {settlement:?}");
                assert_eq!(queue.settle(&lease, settlement).await, Settled::Done);
                queue.harness.advance(RETRY_AFTER);
            }
            queue.lease_one().await;
            queue.harness.advance(LEASE_FOR);
        }
        queue.harness.reopen().await;
        let (lease, found) = queue.lease_with_trace(id).await;
        assert_eq!(found, sent, "{id} after expired leases");
        assert_eq!(queue.settle(&lease, Settlement::Ack).await, Settled::Done);
    }
}

pub async fn a_dead_letter_keeps_its_trace_and_a_redriven_one_too(mut queue: Queue<impl QueueHarness>) {
    for (id, sent) in [("traced", trace(1)), ("untraced", None)] {
        queue.enqueue_traced(id, sent).await;
        for _ in 0..2 {
            let lease = queue.lease_one().await;
            assert_eq!(queue.settle(&lease, dead_letter()).await, Settled::Done);
            queue.harness.reopen().await;
            assert_eq!(queue.dead_trace().await, sent, "{id}");
            assert_eq!(queue.redrive(&DeadLetterFilter::default(), 1).await, 1);
        }
        let (lease, found) = queue.lease_with_trace(id).await;
        assert_eq!(found, sent, "{id}");
        assert_eq!(queue.settle(&lease, Settlement::Ack).await, Settled::Done);
    }
}

pub async fn a_duplicate_brings_no_trace_and_a_redelivered_dead_letter_its_own(
    queue: Queue<impl QueueHarness>,
) {
    for (first, second) in [(trace(1), trace(2)), (trace(1), None), (None, trace(2))] {
        assert_eq!(queue.enqueue_traced("a", first).await, Queued);
        assert_eq!(queue.enqueue_traced("a", second).await, Duplicate);
        let (lease, found) = queue.lease_with_trace("a").await;
        assert_eq!(found, first, "the first arrival counts");
        queue.settle(&lease, dead_letter()).await;
        assert_eq!(queue.dead_trace().await, first);
        assert_eq!(queue.enqueue_traced("a", second).await, Queued);
        let (lease, found) = queue.lease_with_trace("a").await;
        assert_eq!(found, second, "the redelivery is a new message");
        queue.settle(&lease, Settlement::Ack).await;
    }
}
