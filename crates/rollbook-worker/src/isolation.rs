//! How a message that may kill its worker is handled: alone, while no lane has anything else in hand.
//!
//! When a process dies, every lease in it dies too and counts as unsettled. Without this, a lane that
//! works on innocent messages beside the killer would lose them at each death, until they too had been
//! leased as often as is allowed.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, watch};

/// Shared by all lanes of a worker.
pub(crate) struct Isolation {
    /// Whether a lane has a suspect in hand.
    claimed: watch::Sender<bool>,
    /// Read by each lane that has leases in hand, written by the one that has a suspect.
    hands: RwLock<()>,
}

/// The right to have leases in hand.
pub(crate) type Hands<'a> = RwLockReadGuard<'a, ()>;

impl Isolation {
    pub(crate) fn new() -> Self {
        Self { claimed: watch::Sender::new(false), hands: RwLock::new(()) }
    }

    /// Asks for the right to lease: waits while a suspect is in hand.
    pub(crate) async fn enter(&self) -> Hands<'_> {
        // An error would mean that the sender, which `self` owns, is gone.
        _ = self.claimed.subscribe().wait_for(|claimed| !claimed).await;
        self.hands.read().await
    }

    /// Whether the lanes are asked to empty their hands.
    pub(crate) fn is_claimed(&self) -> bool {
        *self.claimed.borrow()
    }

    /// Announces a suspect. `None` where another lane has one: two would wait for each other.
    pub(crate) fn claim(&self) -> Option<Claim<'_>> {
        let was_free = self.claimed.send_if_modified(|claimed| !std::mem::replace(claimed, true));
        // Lazily: a claim that is made and thrown away would end the one that there is.
        was_free.then(|| Claim { isolation: self })
    }
}

/// The one suspect in the worker. Dropping it lets the lanes lease again.
pub(crate) struct Claim<'a> {
    isolation: &'a Isolation,
}

impl Claim<'_> {
    /// Waits until the hands of every lane are empty; the caller has given up its own [`Hands`].
    pub(crate) async fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.isolation.hands.write().await
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
    fn a_suspect_waits_for_empty_hands_and_nobody_leases_meanwhile() {
        let mut context = Context::from_waker(Waker::noop());
        let isolation = Isolation::new();
        let Poll::Ready(hands) = pin!(isolation.enter()).poll(&mut context) else {
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
            drop(hands);
            let Poll::Ready(_alone) = alone.as_mut().poll(&mut context) else {
                panic!("all hands are empty")
            };
            assert!(other.as_mut().poll(&mut context).is_pending());
        }
        drop(claim);
        assert!(other.as_mut().poll(&mut context).is_ready());
        assert!(!isolation.is_claimed());
    }
}
