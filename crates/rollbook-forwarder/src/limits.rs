//! Limits of a forward.

use std::time::Duration;

use rollbook_core::retry::RetryPolicy;

/// Limits of a board.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Backoff, and the number of attempts that count.
    pub(crate) retry: RetryPolicy,
    /// Time since the first failure after which a change becomes a dead letter.
    pub(crate) give_up_after: Duration,
    /// Number of blocked subjects at which no more is read.
    pub(crate) blocked_max: usize,
    /// Number of changes that wait at which no more is read.
    pub(crate) waiting_max: usize,
    /// Number of dead letters at which no more is read.
    pub(crate) failed_max: u64,
    /// Number of changes that are neither settled nor recorded at which no more is read.
    pub(crate) fresh_max: usize,
}
