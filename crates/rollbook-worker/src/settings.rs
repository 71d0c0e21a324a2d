//! Limits of the worker.

use std::time::Duration;

use rollbook_core::retry::RetryPolicy;

/// Settings of a worker. Each limit has its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Number of batches in progress at once; zero counts as one. Three keep the store busy while one is
    /// parsed and another is settled. More gain nothing if the store has one writer.
    pub lanes: usize,
    /// Maximum messages per batch; zero counts as one. A larger batch shares its commits among more messages,
    /// and delays more of them when it fails.
    pub batch_max: usize,
    /// Maximum bytes of bodies leased at once over all lanes: each lane requests its share. The first message
    /// of a batch is leased whatever its size. This limit bounds the memory of a worker, which also holds the
    /// parsed bodies: about six times as much.
    pub lease_bytes_max: usize,
    /// Duration of a lease. Much longer than a batch takes: a message with an expired lease is processed twice.
    pub lease_for: Duration,
    /// Maximum time that one request waits for a first message. A request to stop is noticed within this
    /// time. Zero would make an idle lane ask without a pause.
    pub lease_wait: Duration,
    /// Wait of a lane after a batch that was not full, so that arrivals collect for the next one. The wait
    /// delays a message by at most this time. At a thousand deliveries per second it saves the disk a commit
    /// for every message. Zero means no wait.
    pub lease_linger: Duration,
    /// Schedule of retries of a refused message, and the limit after which it becomes a dead letter.
    pub retry: RetryPolicy,
    /// Clerk instance of the accepted events; `None` accepts events of any instance.
    pub instance_id: Option<String>,
    /// First wait before the next attempt to reach a store or queue. It doubles with each failure, and every
    /// wait is between half of its limit and all of it.
    pub gate_backoff: Duration,
    /// Maximum of this wait.
    pub gate_backoff_max: Duration,
    /// Retention.
    pub upkeep: UpkeepSettings,
}

/// Retention: what is removed by age, and in which steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpkeepSettings {
    /// Time for which the ledger keeps an entry; `None`: without limit.
    pub ledger_kept_for: Option<Duration>,
    /// Time for which a deleted row keeps its content; `None`: without limit.
    pub deleted_kept_for: Option<Duration>,
    /// Interval between two rounds.
    pub interval: Duration,
    /// Maximum ledger entries, and rows, per step. A step is one transaction, and deliveries wait for at most one.
    pub step_max: usize,
    /// Pause between two steps: the store is free for deliveries meanwhile.
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
