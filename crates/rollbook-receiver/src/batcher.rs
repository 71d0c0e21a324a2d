//! Group commit without a timer: while one batch is being written to the queue, new deliveries collect; when
//! the call returns, they form the next batch. Under load the next call is already waiting at the queue
//! before the first one returns, so that the disk is never idle.
//!
//! Constraints:
//!
//! * At most [`IN_FLIGHT_MAX`] calls run at once, and a second one only if it is large enough to be worth its
//!   commit: a quiet system has one call, and one possible commit is never split into two small ones.
//! * A call to the queue is never cancelled. The requests that wait for it may be cancelled at any time.
//! * A delivery of a request that was cancelled before its batch is formed is left out: it was never
//!   acknowledged, and Svix sends it again.
//! * A waiting delivery keeps its permits (slot and body memory) until the queue has answered or it was left
//!   out, even if its request gave up earlier. The limits therefore also bound the batcher.
//! * Broken storage ends the loop: it must not acknowledge anything any more.

use std::sync::Arc;

use rollbook_core::delivery::Delivery;
use rollbook_core::queue::{Enqueued, Producer, QueueError};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::answer::Refusal;
use crate::metrics::Metrics;
use crate::outage::Outage;

/// A verified delivery that waits for the queue.
pub(crate) struct WaitingDelivery {
    pub(crate) delivery: Delivery,
    pub(crate) request: PendingRequest,
}

/// A request that waits for its response, and its permits.
pub(crate) struct PendingRequest {
    /// Channel for the queue's answer.
    pub(crate) answer: oneshot::Sender<Result<Enqueued, Refusal>>,
    /// Permit among the deliveries that wait for the queue.
    pub(crate) permit: OwnedSemaphorePermit,
    /// Permit for the memory of the body.
    pub(crate) body_permit: OwnedSemaphorePermit,
}

/// Loop between the requests and the queue.
pub(crate) struct Batcher {
    pub(crate) arrivals: mpsc::Receiver<WaitingDelivery>,
    pub(crate) producer: Arc<dyn Producer>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) batch_max: usize,
    pub(crate) batch_bytes_max: usize,
}

/// Maximum concurrent calls to the queue: one at the disk, one waiting. A third would only split the second.
const IN_FLIGHT_MAX: usize = 2;
/// Minimum deliveries of a second call. Below it, waiting for the first call costs less than a commit.
const SECOND_CALL_MIN: usize = 8;

/// A finished call: the requests and the result for each.
type FinishedCall = (Vec<PendingRequest>, Vec<Result<Enqueued, QueueError>>);

impl Batcher {
    /// Runs until all senders are dropped and everything received is answered.
    ///
    /// # Errors
    /// [`QueueError::Broken`]. Requests that still wait see their channel closed.
    pub(crate) async fn run(mut self) -> Result<(), QueueError> {
        let mut arrived = Vec::new();
        let mut calls = JoinSet::new();
        let (mut last, mut outage, mut open) = (0, Outage::default(), true);
        while open || !arrived.is_empty() || !calls.is_empty() {
            let is_worth_a_call = match calls.len() {
                0 => !arrived.is_empty(),
                IN_FLIGHT_MAX.. => false,
                _ => arrived.len() >= SECOND_CALL_MIN.max(last / 2).min(self.batch_max),
            };
            if is_worth_a_call {
                last = self.call(&mut arrived, &mut calls);
                continue;
            }
            let free = self.batch_max - arrived.len();
            tokio::select! {
                biased;
                Some(finished) = calls.join_next() => finish_call(finished, &mut outage)?,
                count = self.arrivals.recv_many(&mut arrived, free), if open && free > 0 => open = count > 0,
            }
        }
        Ok(())
    }

    /// Starts a call with the deliveries that fit and are still wanted. Returns their number.
    fn call(&self, arrived: &mut Vec<WaitingDelivery>, calls: &mut JoinSet<FinishedCall>) -> usize {
        let fits =
            count_fitting(arrived.iter().map(|waiting| waiting.delivery.body.len()), self.batch_bytes_max);
        let (deliveries, requests): (Vec<_>, Vec<_>) = arrived
            .drain(..fits)
            .filter(|waiting| !waiting.request.answer.is_closed())
            .map(|waiting| (waiting.delivery, waiting.request))
            .unzip();
        let size = deliveries.len();
        if size > 0 {
            let (producer, metrics) = (Arc::clone(&self.producer), Arc::clone(&self.metrics));
            calls.spawn(async move { (requests, enqueue(&*producer, &metrics, &deliveries).await) });
        }
        size
    }
}

/// Number of deliveries in one call: the first one, and further ones as long as the sum is within
/// `bytes_max`.
fn count_fitting(sizes: impl Iterator<Item = usize>, bytes_max: usize) -> usize {
    let mut bytes = 0_usize;
    sizes
        .take_while(|size| {
            let is_first = bytes == 0;
            bytes = bytes.saturating_add((*size).max(1));
            is_first || bytes <= bytes_max
        })
        .count()
}

async fn enqueue(
    producer: &dyn Producer,
    metrics: &Metrics,
    deliveries: &[Delivery],
) -> Vec<Result<Enqueued, QueueError>> {
    let started = Instant::now();
    let answers = producer.enqueue_many(deliveries).await;
    metrics.enqueue_seconds.observe(started.elapsed().as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "a batch is far smaller than 2^52")]
    metrics.batch_size.observe(deliveries.len() as f64);
    if answers.len() == deliveries.len() {
        return answers;
    }
    // The missing answers can't be assigned, so no delivery is acknowledged.
    let what = format!("the queue returned {} answers for {} deliveries", answers.len(), deliveries.len());
    vec![Err(QueueError::Unavailable(what)); deliveries.len()]
}

/// Handles a finished call.
fn finish_call(finished: Result<FinishedCall, JoinError>, outage: &mut Outage) -> Result<(), QueueError> {
    // Calls are never aborted, so an error is a panic; after a panic no acknowledgement can be trusted.
    let (requests, answers) = finished.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    outage.note(&answers);
    let broken = answers.iter().find(|answer| matches!(answer, Err(QueueError::Broken(_)))).cloned();
    answer(answers, requests);
    broken.map_or(Ok(()), |answer| answer.map(drop))
}

/// Sends each request its result. A request that was cancelled loses nothing: when Svix sends a durable
/// delivery again, it is found as a duplicate.
fn answer(answers: Vec<Result<Enqueued, QueueError>>, requests: Vec<PendingRequest>) {
    for (request, answer) in requests.into_iter().zip(answers) {
        let result = answer.map_err(|error| match error {
            QueueError::Full { .. } => Refusal::QueueFull,
            QueueError::OutOfSpace(_) => Refusal::QueueNoRoom,
            _ => Refusal::QueueUnavailable,
        });
        _ = request.answer.send(result);
        // Released only now: the delivery no longer waits.
        drop((request.permit, request.body_permit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_carries_no_more_bytes_than_its_limit_but_always_one_delivery() {
        let of = |sizes: &[usize]| count_fitting(sizes.iter().copied(), 100);
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[50, 50, 1]), 2, "exactly at the limit");
        assert_eq!(of(&[50, 51]), 1);
        assert_eq!(of(&[101, 1]), 1, "a delivery larger than the limit goes alone");
        assert_eq!(of(&[0; 101]), 100, "an empty body counts as a byte");
    }
}
