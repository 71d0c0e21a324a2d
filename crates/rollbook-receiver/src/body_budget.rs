//! Memory budget for request bodies, in bytes, shared so that no client's bodies exclude those of others.
//!
//! Constraints:
//!
//! * A part of the budget is reserved for small bodies, which nearly all of Clerk's are: large bodies can't
//!   use it up.
//! * When the budget is used up, the oldest unfinished bodies are evicted for a newer one: a sender that
//!   stalls loses its memory, a fast one does not. A complete body is never evicted.
//! * A body uses one of the two parts. A body that outgrows the reserved part moves to the shared one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::answer::Refusal;

/// Maximum size of a body in the reserved part, in bytes.
pub(crate) const SMALL_BODY_MAX: usize = 32 * 1024;
/// Divisor for the reserved part: one n-th of the budget.
const RESERVED_DIVISOR: usize = 4;

/// Part of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Reserved,
    Shared,
}

/// Memory budget of all bodies.
pub(crate) struct BodyBudget {
    reserved: Arc<Semaphore>,
    shared: Arc<Semaphore>,
    unfinished: Mutex<Unfinished>,
}

#[derive(Default)]
struct Unfinished {
    next: u64,
    /// Unfinished bodies in the order of their start.
    bodies: BTreeMap<u64, Arc<Reading>>,
}

/// An unfinished body, as seen by other bodies.
struct Reading {
    held: AtomicUsize,
    is_reserved: AtomicBool,
    evicted: Notify,
}

/// Budget share of one body while it is read.
pub(crate) struct Share<'a> {
    budget: &'a BodyBudget,
    part: Part,
    permit: Option<OwnedSemaphorePermit>,
    held: usize,
    /// Set from the second frame on: a body that arrives in one frame is never listed.
    listed: Option<(u64, Arc<Reading>)>,
}

impl BodyBudget {
    /// Creates a budget of `bytes`, which must be at least `body_max`.
    pub(crate) fn new(bytes: usize, body_max: usize) -> Self {
        let reserved = (bytes / RESERVED_DIVISOR).min(bytes.saturating_sub(body_max));
        Self {
            reserved: Arc::new(Semaphore::new(reserved)),
            shared: Arc::new(Semaphore::new(bytes - reserved)),
            unfinished: Mutex::default(),
        }
    }

    /// Returns an empty share for a new body.
    pub(crate) const fn share(&self) -> Share<'_> {
        Share { budget: self, part: Part::Reserved, permit: None, held: 0, listed: None }
    }

    const fn part(&self, part: Part) -> &Arc<Semaphore> {
        match part {
            Part::Reserved => &self.reserved,
            Part::Shared => &self.shared,
        }
    }

    fn unfinished(&self) -> MutexGuard<'_, Unfinished> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Evicts the oldest unfinished bodies of one part that are older than `older_than` until `bytes` are free.
    /// Returns whether they hold that much; if not, none is evicted.
    fn evict(&self, part: Part, bytes: usize, older_than: Option<u64>) -> bool {
        let mut unfinished = self.unfinished();
        let (mut found, mut to_evict) = (0, Vec::new());
        for (id, reading) in unfinished.bodies.range(..older_than.unwrap_or(u64::MAX)) {
            if found >= bytes {
                break;
            }
            let held = reading.held.load(Ordering::Relaxed);
            if held > 0 && reading.is_reserved.load(Ordering::Relaxed) == (part == Part::Reserved) {
                found += held;
                to_evict.push(*id);
            }
        }
        if found < bytes {
            return false;
        }
        for reading in to_evict.iter().filter_map(|id| unfinished.bodies.remove(id)) {
            reading.evicted.notify_one();
        }
        true
    }
}

impl Share<'_> {
    /// Adds `bytes` to the share. Waits only for bodies that were evicted.
    ///
    /// # Errors
    /// [`Refusal::NoBodyBudget`]: the budget is used up, and no older body could be evicted.
    pub(crate) async fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let total = self.held + bytes;
        let is_small = self.part == Part::Reserved && total <= SMALL_BODY_MAX;
        if is_small && self.try_take(Part::Reserved, bytes) {
            return Ok(());
        }
        // Moving to the shared part needs memory there for everything already held.
        let wanted = if self.part == Part::Reserved { total } else { bytes };
        if self.try_take(Part::Shared, wanted) {
            return Ok(());
        }
        let older_than = self.listed.as_ref().map(|(id, _)| *id);
        let (part, wanted) = if is_small && self.budget.evict(Part::Reserved, bytes, older_than) {
            (Part::Reserved, bytes)
        } else if self.budget.evict(Part::Shared, wanted, older_than) {
            (Part::Shared, wanted)
        } else {
            return Err(Refusal::NoBodyBudget);
        };
        let permit = Arc::clone(self.budget.part(part)).acquire_many_owned(permits(wanted)?).await;
        self.keep(part, wanted, permit.map_err(|_| Refusal::NoBodyBudget)?);
        Ok(())
    }

    /// Lists the body as unfinished, unless already listed.
    pub(crate) fn list(&mut self) {
        if self.listed.is_none() {
            let reading = Arc::new(Reading {
                held: AtomicUsize::new(self.held),
                is_reserved: AtomicBool::new(self.part == Part::Reserved),
                evicted: Notify::new(),
            });
            let mut unfinished = self.budget.unfinished();
            unfinished.next += 1;
            let id = unfinished.next;
            unfinished.bodies.insert(id, Arc::clone(&reading));
            self.listed = Some((id, reading));
        }
    }

    /// Waits until this body is evicted.
    pub(crate) async fn evicted(&self) {
        match &self.listed {
            Some((_, reading)) => reading.evicted.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Ends the reading. The share stays reserved as long as the permit lives.
    ///
    /// # Errors
    /// Never fails in practice: reserving zero bytes always succeeds.
    pub(crate) fn finish(mut self) -> Result<OwnedSemaphorePermit, Refusal> {
        if self.permit.is_none() {
            self.try_take(Part::Reserved, 0);
        }
        self.permit.take().ok_or(Refusal::NoBodyBudget)
    }

    fn try_take(&mut self, part: Part, bytes: usize) -> bool {
        let semaphore = Arc::clone(self.budget.part(part));
        let permit = permits(bytes).ok().and_then(|count| semaphore.try_acquire_many_owned(count).ok());
        permit.map(|permit| self.keep(part, bytes, permit)).is_some()
    }

    fn keep(&mut self, part: Part, bytes: usize, permit: OwnedSemaphorePermit) {
        match &mut self.permit {
            Some(held) if self.part == part => {
                held.merge(permit);
                self.held += bytes;
            }
            held => {
                *held = Some(permit);
                self.held = bytes;
            }
        }
        self.part = part;
        if let Some((_, reading)) = &self.listed {
            reading.held.store(self.held, Ordering::Relaxed);
            reading.is_reserved.store(part == Part::Reserved, Ordering::Relaxed);
        }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        if let Some((id, _)) = &self.listed {
            self.budget.unfinished().bodies.remove(id);
        }
    }
}

/// Converts to the 32 bits that a semaphore counts in; limits on bodies fit.
fn permits(bytes: usize) -> Result<u32, Refusal> {
    u32::try_from(bytes).map_err(|_| Refusal::TooLarge)
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use tokio::time::{Duration, timeout};

    use super::*;

    const LARGE: usize = SMALL_BODY_MAX + 1;

    /// A budget of three large bodies in the shared part and the size of one in the reserved part.
    fn budget() -> BodyBudget {
        let budget = BodyBudget::new(RESERVED_DIVISOR * LARGE, LARGE);
        assert_eq!(
            (budget.reserved.available_permits(), budget.shared.available_permits()),
            (LARGE, 3 * LARGE)
        );
        budget
    }

    /// Starts a body that holds `bytes` and is not finished.
    async fn unfinished(budget: &BodyBudget, bytes: usize) -> Share<'_> {
        let mut share = budget.share();
        share.grow(bytes).await.expect("free budget");
        share.list();
        share
    }

    async fn complete(budget: &BodyBudget, bytes: usize) -> OwnedSemaphorePermit {
        let mut share = budget.share();
        share.grow(bytes).await.expect("free budget");
        share.finish().expect("a permit")
    }

    async fn is_evicted(share: &Share<'_>) -> bool {
        timeout(Duration::from_millis(1), share.evicted()).await.is_ok()
    }

    #[tokio::test]
    async fn large_bodies_leave_the_reserved_part_to_small_ones() {
        let budget = budget();
        let _large =
            [complete(&budget, LARGE).await, complete(&budget, LARGE).await, complete(&budget, LARGE).await];
        assert_eq!(budget.share().grow(LARGE).await, Err(Refusal::NoBodyBudget));
        let _small = complete(&budget, SMALL_BODY_MAX).await;
        assert_eq!(budget.share().grow(1).await, Ok(()), "one byte of the reserved part is left");
        assert_eq!(budget.share().grow(2).await, Err(Refusal::NoBodyBudget));
    }

    #[tokio::test]
    async fn a_body_that_outgrows_the_reserved_part_releases_it() {
        let budget = budget();
        let mut share = unfinished(&budget, SMALL_BODY_MAX).await;
        assert_eq!(budget.reserved.available_permits(), 1);
        share.grow(1).await.expect("free budget");
        assert_eq!(
            (budget.reserved.available_permits(), budget.shared.available_permits()),
            (LARGE, 2 * LARGE)
        );
        drop(share);
        assert_eq!(budget.shared.available_permits(), 3 * LARGE);
    }

    #[tokio::test]
    async fn the_oldest_unfinished_body_is_evicted_for_a_newer_one_which_waits_for_its_memory() {
        let budget = budget();
        let complete = complete(&budget, LARGE).await;
        let (oldest, younger) = (unfinished(&budget, LARGE).await, unfinished(&budget, LARGE).await);
        let mut newest = budget.share();
        let mut grows = std::pin::pin!(newest.grow(LARGE));
        assert_eq!(poll_once(grows.as_mut()).await, Poll::Pending);
        assert_eq!((is_evicted(&oldest).await, is_evicted(&younger).await), (true, false));
        drop(oldest);
        assert_eq!(timeout(Duration::from_secs(20), grows).await, Ok(Ok(())));
        drop((complete, younger));
    }

    #[tokio::test]
    async fn the_oldest_body_evicts_neither_a_younger_nor_a_complete_one() {
        let budget = budget();
        let _complete = (complete(&budget, LARGE).await, complete(&budget, LARGE).await);
        let mut oldest = unfinished(&budget, SMALL_BODY_MAX).await;
        let younger = unfinished(&budget, LARGE).await;
        assert_eq!(oldest.grow(2).await, Err(Refusal::NoBodyBudget));
        assert!(!is_evicted(&younger).await);
    }

    async fn poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
    }
}
