//! Group commit without a timer: while one batch is on its way to the queue, arrivals collect; when it
//! returns, they go as the next. Under load the next stands ready at the queue's door before the first
//! returns, so that the disk never waits for us.
//!
//! Constraints:
//!
//! * At most [`IN_FLIGHT_MAX`] calls at once, and a second one only when it is worth its commit: a quiet
//!   system has one, and two small commits are never made of what could be one.
//! * A call to the queue is never cancelled. The requests that wait for it may be, at any moment.
//! * A delivery whose request is gone by the time a batch is made is left out of it: it was never
//!   acknowledged, and Svix sends it again.
//! * What a waiting delivery holds (its place, its room) it holds until the queue has answered or it
//!   was left out, however long ago its request gave up. So the limits bound the batcher too.
//! * A storage that broke ends the loop: nothing may be acknowledged by it any more.

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
pub(crate) struct Waiting {
    pub(crate) delivery: Delivery,
    pub(crate) asker: Asker,
}

/// Who waits, and what is held for them meanwhile.
pub(crate) struct Asker {
    /// Gets the queue's answer.
    pub(crate) answer: oneshot::Sender<Result<Enqueued, Refusal>>,
    /// The place among those that wait.
    pub(crate) place: OwnedSemaphorePermit,
    /// The room that the body takes.
    pub(crate) room: OwnedSemaphorePermit,
}

/// The loop between the requests and the queue.
pub(crate) struct Batcher {
    pub(crate) arrivals: mpsc::Receiver<Waiting>,
    pub(crate) producer: Arc<dyn Producer>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) batch_max: usize,
    pub(crate) batch_bytes_max: usize,
}

/// Calls to the queue at once: one at the disk, one at its door. A third would only split the second.
const IN_FLIGHT_MAX: usize = 2;
/// The least that a second call must carry. Below it, waiting for the first costs less than a commit.
const SECOND_MIN: usize = 8;

/// A call that has returned: its askers and the answer to each.
type Landed = (Vec<Asker>, Vec<Result<Enqueued, QueueError>>);

impl Batcher {
    /// Runs until nobody can send any more and all that was sent is answered.
    ///
    /// # Errors
    /// [`QueueError::Broken`]. Who still waits learns it from the end of their channel.
    pub(crate) async fn run(mut self) -> Result<(), QueueError> {
        let mut arrived = Vec::new();
        let mut calls = JoinSet::new();
        let (mut last, mut outage, mut open) = (0, Outage::default(), true);
        while open || !arrived.is_empty() || !calls.is_empty() {
            let is_worth_a_call = match calls.len() {
                0 => !arrived.is_empty(),
                IN_FLIGHT_MAX.. => false,
                _ => arrived.len() >= SECOND_MIN.max(last / 2).min(self.batch_max),
            };
            if is_worth_a_call {
                last = self.call(&mut arrived, &mut calls);
                continue;
            }
            let room = self.batch_max - arrived.len();
            tokio::select! {
                biased;
                Some(landed) = calls.join_next() => land(landed, &mut outage)?,
                count = self.arrivals.recv_many(&mut arrived, room), if open && room > 0 => open = count > 0,
            }
        }
        Ok(())
    }

    /// Begins a call with what has arrived and is still waited for, as far as it fits. Returns how much that is.
    fn call(&self, arrived: &mut Vec<Waiting>, calls: &mut JoinSet<Landed>) -> usize {
        let fits = fitting(arrived.iter().map(|waiting| waiting.delivery.body.len()), self.batch_bytes_max);
        let (deliveries, askers): (Vec<_>, Vec<_>) = arrived
            .drain(..fits)
            .filter(|waiting| !waiting.asker.answer.is_closed())
            .map(|waiting| (waiting.delivery, waiting.asker))
            .unzip();
        let size = deliveries.len();
        if size > 0 {
            let (producer, metrics) = (Arc::clone(&self.producer), Arc::clone(&self.metrics));
            calls.spawn(async move { (askers, enqueue(&*producer, &metrics, &deliveries).await) });
        }
        size
    }
}

/// How many of these go together in one call: the first, and as many more as have room in `bytes_max`.
fn fitting(sizes: impl Iterator<Item = usize>, bytes_max: usize) -> usize {
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
    // Nobody can know which delivery has no answer, so none is acknowledged.
    let what = format!("it gave {} answers for {} deliveries", answers.len(), deliveries.len());
    vec![Err(QueueError::Unavailable(what)); deliveries.len()]
}

/// Ends a call.
fn land(landed: Result<Landed, JoinError>, outage: &mut Outage) -> Result<(), QueueError> {
    // Calls are never aborted, so this is a panic, and no acknowledgement can be trusted after one.
    let (askers, answers) = landed.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    outage.note(&answers);
    let broken = answers.iter().find(|answer| matches!(answer, Err(QueueError::Broken(_)))).cloned();
    answer(answers, askers);
    broken.map_or(Ok(()), |answer| answer.map(drop))
}

/// Hands out a batch's answers. An asker that has gone meanwhile misses nothing: what is durable is
/// found as a duplicate when Svix sends it again.
fn answer(answers: Vec<Result<Enqueued, QueueError>>, askers: Vec<Asker>) {
    for (asker, answer) in askers.into_iter().zip(answers) {
        let told = answer.map_err(|error| match error {
            QueueError::Full { .. } => Refusal::QueueFull,
            QueueError::NoRoom(_) => Refusal::QueueNoRoom,
            _ => Refusal::QueueUnavailable,
        });
        _ = asker.answer.send(told);
        // Only now: the delivery waits no longer.
        drop((asker.place, asker.room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_carries_no_more_bytes_than_its_limit_but_always_one_delivery() {
        let of = |sizes: &[usize]| fitting(sizes.iter().copied(), 100);
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[50, 50, 1]), 2, "exactly as many as fit");
        assert_eq!(of(&[50, 51]), 1);
        assert_eq!(of(&[101, 1]), 1, "one that is larger than the limit goes alone");
        assert_eq!(of(&[0; 101]), 100, "an empty body counts as a byte");
    }
}
