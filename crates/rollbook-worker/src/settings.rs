//! The limits of the worker.

use std::time::Duration;

use rollbook_core::retry::RetryPolicy;

/// What may be set. Every limit has its reason beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Batches that are worked on at once; zero counts as one. Three keep the store busy while one of
    /// them is read and another is settled; more gain nothing where the store has one writer.
    pub lanes: usize,
    /// The most messages in one batch; zero counts as one. A larger batch shares its commits among
    /// more messages, and holds more of them back when it fails.
    pub batch_max: usize,
    /// How long a lease lasts. Much longer than a batch takes: a lease that runs out is worked on twice.
    pub lease_for: Duration,
    /// How long one request waits for a first message: stop is noticed within this time. Not zero: an
    /// idle lane would ask without a pause.
    pub lease_wait: Duration,
    /// How long a lane waits after a batch that was not full, so that arrivals collect into the next one.
    /// It is the most that applying is late by at a quiet time, and at a thousand deliveries a second it
    /// leaves the disk to the acknowledgements instead of to a commit for every message. Zero for none.
    pub lease_linger: Duration,
    /// When a refused message is tried again, and when it is parked.
    pub retry: RetryPolicy,
    /// The Clerk instance whose events are taken; `None` takes those of any.
    pub instance_id: Option<String>,
    /// The first wait before a store or queue that is away is asked again. It doubles with each
    /// failure, and every wait is between half and the whole of its limit.
    pub gate_backoff: Duration,
    /// The longest such wait.
    pub gate_backoff_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lanes: 3,
            batch_max: 100,
            lease_for: Duration::from_secs(60),
            lease_wait: Duration::from_secs(1),
            lease_linger: Duration::from_millis(8),
            retry: RetryPolicy {
                backoff: Duration::from_secs(2),
                backoff_max: Duration::from_secs(600),
                attempts_max: 12,
            },
            instance_id: None,
            gate_backoff: Duration::from_millis(200),
            gate_backoff_max: Duration::from_secs(10),
        }
    }
}
