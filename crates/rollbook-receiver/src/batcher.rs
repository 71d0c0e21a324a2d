//! Group commit without a timer: while one batch is on its way to the queue, arrivals collect; when it
//! returns, they go as the next.
//!
//! Constraints:
//!
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
use tokio::time::Instant;
use tracing::{info, warn};

use crate::answer::Refusal;
use crate::metrics::Metrics;

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
}

impl Batcher {
    /// Runs until nobody can send any more and all that was sent is answered.
    ///
    /// # Errors
    /// [`QueueError::Broken`]. Who still waits learns it from the end of their channel.
    pub(crate) async fn run(mut self) -> Result<(), QueueError> {
        let mut arrived = Vec::new();
        let mut failing = false;
        while self.arrivals.recv_many(&mut arrived, self.batch_max).await > 0 {
            let (deliveries, askers): (Vec<_>, Vec<_>) = arrived
                .drain(..)
                .filter(|waiting| !waiting.asker.answer.is_closed())
                .map(|waiting| (waiting.delivery, waiting.asker))
                .unzip();
            if deliveries.is_empty() {
                continue;
            }
            let result = self.enqueue(&deliveries).await;
            report(&result, &mut failing);
            answer(&result, askers);
            if let Err(error @ QueueError::Broken(_)) = result {
                return Err(error);
            }
        }
        Ok(())
    }

    async fn enqueue(&self, deliveries: &[Delivery]) -> Result<Vec<Enqueued>, QueueError> {
        let started = Instant::now();
        let result = self.producer.enqueue_many(deliveries).await;
        self.metrics.enqueue_seconds.observe(started.elapsed().as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a batch is far smaller than 2^52")]
        self.metrics.batch_size.observe(deliveries.len() as f64);
        match result {
            // Whose answer is missing can't be known, so nobody gets one.
            Ok(answers) if answers.len() != deliveries.len() => Err(QueueError::Unavailable(format!(
                "it gave {} answers for {} deliveries",
                answers.len(),
                deliveries.len()
            ))),
            result => result,
        }
    }
}

/// Hands out a batch's answers. An asker that has gone meanwhile misses nothing: what is durable is
/// found as a duplicate when Svix sends it again.
fn answer(result: &Result<Vec<Enqueued>, QueueError>, askers: Vec<Asker>) {
    for (index, asker) in askers.into_iter().enumerate() {
        let told = match result {
            Ok(answers) => Ok(answers[index]),
            Err(QueueError::Full { .. }) => Err(Refusal::QueueFull),
            Err(_) => Err(Refusal::QueueUnavailable),
        };
        _ = asker.answer.send(told);
        // Only now: the delivery waits no longer.
        drop((asker.place, asker.room));
    }
}

/// Says when the queue begins to fail and when that has ended, not every time between.
fn report(result: &Result<Vec<Enqueued>, QueueError>, failing: &mut bool) {
    match result {
        Ok(_) if *failing => info!("the queue takes deliveries again"),
        Err(error) if !*failing => warn!(%error, "deliveries are answered 503, Svix will send them again"),
        _ => {}
    }
    *failing = result.is_err();
}
