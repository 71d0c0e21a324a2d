//! Isolation: a message that may kill its worker is processed alone, while no lane holds another lease.
//!
//! When a process dies, all its leases end unsettled. Without isolation, innocent messages in other lanes
//! would lose an attempt at each crash, until they too had used all their attempts.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, watch};

/// Isolation state that all lanes of a worker share.
pub(crate) struct Isolation {
    /// Whether a lane holds a suspect.
    claimed: watch::Sender<bool>,
    /// Read-locked by each lane that holds leases, write-locked by the one that holds a suspect.
    holders: RwLock<()>,
}

/// Right to hold leases.
pub(crate) type LeaseGuard<'a> = RwLockReadGuard<'a, ()>;

impl Isolation {
    pub(crate) fn new() -> Self {
        Self { claimed: watch::Sender::new(false), holders: RwLock::new(()) }
    }

    /// Waits for the right to hold leases: not while a lane holds a suspect.
    pub(crate) async fn enter(&self) -> LeaseGuard<'_> {
        // An error would mean that the sender, which `self` owns, was dropped.
        _ = self.claimed.subscribe().wait_for(|claimed| !claimed).await;
        self.holders.read().await
    }

    /// Returns whether the lanes must give up their leases.
    pub(crate) fn is_claimed(&self) -> bool {
        *self.claimed.borrow()
    }

    /// Announces a suspect. Returns `None` if another lane has one: the two would wait for each other.
    pub(crate) fn claim(&self) -> Option<Claim<'_>> {
        let was_free = self.claimed.send_if_modified(|claimed| !std::mem::replace(claimed, true));
        // Lazily: creating and dropping a second claim would end the existing one.
        was_free.then(|| Claim { isolation: self })
    }
}

/// Claim on the worker's only suspect. Dropping it lets the lanes lease again.
pub(crate) struct Claim<'a> {
    isolation: &'a Isolation,
}

impl Claim<'_> {
    /// Waits until no lane holds a lease; the caller has given up its own [`LeaseGuard`].
    pub(crate) async fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.isolation.holders.write().await
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.isolation.claimed.send_replace(false);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn a_suspect_waits_until_no_lane_holds_leases_and_none_leases_meanwhile() {
        let mut context = Context::from_waker(Waker::noop());
        let isolation = Isolation::new();
        let Poll::Ready(holders) = pin!(isolation.enter()).poll(&mut context) else {
            panic!("nothing to wait for")
        };
        let claim = isolation.claim().expect("the first suspect");
        assert!(isolation.claim().is_none());
        assert!(isolation.is_claimed());

        let mut other = pin!(isolation.enter());
        {
            let mut alone = pin!(claim.alone());
            assert!(alone.as_mut().poll(&mut context).is_pending());
            assert!(other.as_mut().poll(&mut context).is_pending());
            drop(holders);
            let Poll::Ready(_alone) = alone.as_mut().poll(&mut context) else {
                panic!("all holders are empty")
            };
            assert!(other.as_mut().poll(&mut context).is_pending());
        }
        drop(claim);
        assert!(other.as_mut().poll(&mut context).is_ready());
        assert!(!isolation.is_claimed());
    }
}
