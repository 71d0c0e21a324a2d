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
    /// The most bytes of bodies that are leased at once, over all lanes: each lane asks for its share. The first
    /// message of a batch is taken whatever its size. This limit bounds the memory of a worker, which also holds
    /// what is made of the bodies: about six times as much.
    pub lease_bytes_max: usize,
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
    /// The first wait before a store or queue that is unreachable is asked again. It doubles with each
    /// failure, and every wait is between half and the whole of its limit.
    pub gate_backoff: Duration,
    /// The longest such wait.
    pub gate_backoff_max: Duration,
    /// What time takes away.
    pub upkeep: UpkeepSettings,
}

/// What time takes away, and how gently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpkeepSettings {
    /// How long the ledger keeps a line; `None` for good.
    pub ledger_kept_for: Option<Duration>,
    /// How long a deleted row keeps its content; `None` for good.
    pub deleted_kept_for: Option<Duration>,
    /// How often it is looked for what is due.
    pub interval: Duration,
    /// The most lines and rows in one step, which is one transaction: applying waits for no longer than that.
    pub step_max: usize,
    /// The pause between two steps, which leaves the store to applying.
    pub pause: Duration,
}

impl Default for UpkeepSettings {
    fn default() -> Self {
        Self {
            ledger_kept_for: Some(Duration::from_secs(7 * 24 * 60 * 60)),
            deleted_kept_for: None,
            interval: Duration::from_secs(60),
            step_max: 1000,
            pause: Duration::from_millis(20),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lanes: 3,
            batch_max: 100,
            lease_bytes_max: 16 * 1024 * 1024,
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
            upkeep: UpkeepSettings::default(),
        }
    }
}
