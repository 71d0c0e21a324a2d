//! Errors that end a worker.

use rollbook_core::queue::QueueError;
use rollbook_core::store::StoreError;

/// Reason why a worker ended without a request to stop. The process must exit: its state is unreliable, and its leases
/// expire.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The queue's storage broke.
    #[error("worker lane {lane}: {error}")]
    Queue {
        /// Number of the lane, from zero.
        lane: usize,
        /// Always [`QueueError::Broken`].
        error: QueueError,
    },
    /// The store's storage broke.
    #[error("worker lane {lane}: {error}")]
    Store {
        /// Number of the lane, from zero.
        lane: usize,
        /// Always [`StoreError::Broken`].
        error: StoreError,
    },
    /// A lane panicked. Its messages are leased again; a message that causes a panic each time becomes a dead letter.
    #[error("worker lane {lane} panicked: this is a fault in Rollbook; start it again")]
    Panicked {
        /// Number of the lane, from zero.
        lane: usize,
    },
    /// A lane returned without a request to stop.
    #[error("worker lane {lane} ended without a stop request: this is a fault in Rollbook; start it again")]
    Ended {
        /// Number of the lane, from zero.
        lane: usize,
    },
}
