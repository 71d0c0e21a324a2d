//! Short forms for calls to a queue in tests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rollbook_core::queue::{LeaseRequest, LeaseRequestId};

/// Returns a lease request with an id that is unique in this process, and without a limit in bytes.
pub fn request(max: usize, lease_for: Duration, wait: Duration) -> LeaseRequest {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let id = LeaseRequestId { lane: 0, number: LAST.fetch_add(1, Ordering::Relaxed) };
    LeaseRequest { id, max, bytes_max: usize::MAX, lease_for, wait }
}

/// Returns all results of a batch.
///
/// # Errors
/// The first error.
pub fn all_of<T, E>(answers: Vec<Result<T, E>>) -> Result<Vec<T>, E> {
    answers.into_iter().collect()
}
