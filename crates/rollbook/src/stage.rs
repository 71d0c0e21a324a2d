//! Current step of a start, shown to clients and probes while the process is not ready.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rollbook_core::delivery::Delivery;
use rollbook_core::queue::{Enqueued, Producer, QueueError};
use rollbook_ops::{Condition, Probe};
use tokio::time::Instant;

/// Current step of a start.
#[derive(Clone, Default)]
pub(crate) struct Stage(Arc<Mutex<Option<Doing>>>);

struct Doing {
    what: String,
    since: Instant,
}

impl Stage {
    /// Records the beginning of a step.
    pub(crate) fn begin(&self, what: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Doing { what, since: Instant::now() });
    }

    /// Describes the current step and its duration.
    pub(crate) fn text(&self) -> String {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Doing { what, since }) => format!("{what} for {} s", since.elapsed().as_secs()),
            None => "starting".to_owned(),
        }
    }
}

#[async_trait]
impl Probe for Stage {
    async fn check(&self) -> Condition {
        Condition::Failing(self.text())
    }
}

/// Refuses every delivery.
#[async_trait]
impl Producer for Stage {
    async fn enqueue_many(&self, deliveries: &[Delivery]) -> Vec<Result<Enqueued, QueueError>> {
        vec![Err(QueueError::Unavailable(format!("the process is {}", self.text()))); deliveries.len()]
    }
}
