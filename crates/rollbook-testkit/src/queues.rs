//! Short forms of what tests ask a queue.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rollbook_core::queue::{LeaseRequest, LeaseRequestId};

/// A request for leases that repeats no other one of this process, without a limit in bytes.
pub fn request(max: usize, lease_for: Duration, wait: Duration) -> LeaseRequest {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let id = LeaseRequestId { lane: 0, number: LAST.fetch_add(1, Ordering::Relaxed) };
    LeaseRequest { id, max, bytes_max: usize::MAX, lease_for, wait }
}

/// All answers of a batch.
///
/// # Errors
/// The first that failed.
pub fn all_of<T, E>(answers: Vec<Result<T, E>>) -> Result<Vec<T>, E> {
    answers.into_iter().collect()
}
