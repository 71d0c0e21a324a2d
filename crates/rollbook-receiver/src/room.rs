//! Room for bodies, in bytes, shared so that nobody's bytes keep out somebody else's.
//!
//! Constraints:
//!
//! * A part of the room is reserved for small bodies, which nearly all of Clerk's are: large ones cannot use it up.
//! * When there is no room, the oldest bodies that are still being read yield to a newer one: a sender that
//!   stalls loses its room, one that sends swiftly does not. A body that has come whole never yields.
//! * A body holds room in one of the two parts. One that outgrows the reserved part moves to the other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::answer::Refusal;

/// The largest body that may use the reserved part, in bytes.
pub(crate) const SMALL_BODY_MAX: usize = 32 * 1024;
/// Which share of the room is reserved for small bodies: one of so many parts.
const RESERVED_PART: usize = 4;

/// One of the two parts of the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Reserved,
    Shared,
}

/// The room of all bodies.
pub(crate) struct Room {
    reserved: Arc<Semaphore>,
    shared: Arc<Semaphore>,
    unfinished: Mutex<Unfinished>,
}

#[derive(Default)]
struct Unfinished {
    next: u64,
    /// In the order in which they began.
    bodies: BTreeMap<u64, Arc<Reading>>,
}

/// A body that is being read, as others see it.
struct Reading {
    held: AtomicUsize,
    is_reserved: AtomicBool,
    must_yield: Notify,
}

/// What one body holds while it is read.
pub(crate) struct Share<'a> {
    room: &'a Room,
    part: Part,
    permit: Option<OwnedSemaphorePermit>,
    held: usize,
    /// There from its second piece on: a body that comes in one piece is never in the list.
    listed: Option<(u64, Arc<Reading>)>,
}

impl Room {
    /// Room for so many bytes, which are at least `body_max`.
    pub(crate) fn new(bytes: usize, body_max: usize) -> Self {
        let reserved = (bytes / RESERVED_PART).min(bytes.saturating_sub(body_max));
        Self {
            reserved: Arc::new(Semaphore::new(reserved)),
            shared: Arc::new(Semaphore::new(bytes - reserved)),
            unfinished: Mutex::default(),
        }
    }

    /// Nothing yet, for a body that begins.
    pub(crate) const fn share(&self) -> Share<'_> {
        Share { room: self, part: Part::Reserved, permit: None, held: 0, listed: None }
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

    /// Asks the oldest unfinished bodies, as far as they are older than `than`, to yield so many bytes of one
    /// part. Returns whether they hold as many; if not, nobody is asked.
    fn ask_to_yield(&self, part: Part, bytes: usize, than: Option<u64>) -> bool {
        let mut unfinished = self.unfinished();
        let (mut found, mut yielding) = (0, Vec::new());
        for (id, reading) in unfinished.bodies.range(..than.unwrap_or(u64::MAX)) {
            if found >= bytes {
                break;
            }
            let held = reading.held.load(Ordering::Relaxed);
            if held > 0 && reading.is_reserved.load(Ordering::Relaxed) == (part == Part::Reserved) {
                found += held;
                yielding.push(*id);
            }
        }
        if found < bytes {
            return false;
        }
        for reading in yielding.iter().filter_map(|id| unfinished.bodies.remove(id)) {
            reading.must_yield.notify_one();
        }
        true
    }
}

impl Share<'_> {
    /// Takes room for so many bytes more. Waits only for bodies that were asked to yield.
    ///
    /// # Errors
    /// [`Refusal::NoRoom`]: there is none, and no older body that could yield.
    pub(crate) async fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let total = self.held + bytes;
        let is_small = self.part == Part::Reserved && total <= SMALL_BODY_MAX;
        if is_small && self.try_take(Part::Reserved, bytes) {
            return Ok(());
        }
        // Moving to the shared part needs room there for what is held already.
        let wanted = if self.part == Part::Reserved { total } else { bytes };
        if self.try_take(Part::Shared, wanted) {
            return Ok(());
        }
        let than = self.listed.as_ref().map(|(id, _)| *id);
        let (part, wanted) = if is_small && self.room.ask_to_yield(Part::Reserved, bytes, than) {
            (Part::Reserved, bytes)
        } else if self.room.ask_to_yield(Part::Shared, wanted, than) {
            (Part::Shared, wanted)
        } else {
            return Err(Refusal::NoRoom);
        };
        let permit = Arc::clone(self.room.part(part)).acquire_many_owned(permits(wanted)?).await;
        self.keep(part, wanted, permit.map_err(|_| Refusal::NoRoom)?);
        Ok(())
    }

    /// Lists the body as unfinished, unless it is listed already.
    pub(crate) fn list(&mut self) {
        if self.listed.is_none() {
            let reading = Arc::new(Reading {
                held: AtomicUsize::new(self.held),
                is_reserved: AtomicBool::new(self.part == Part::Reserved),
                must_yield: Notify::new(),
            });
            let mut unfinished = self.room.unfinished();
            unfinished.next += 1;
            let id = unfinished.next;
            unfinished.bodies.insert(id, Arc::clone(&reading));
            self.listed = Some((id, reading));
        }
    }

    /// Waits until this body has to yield.
    pub(crate) async fn must_yield(&self) {
        match &self.listed {
            Some((_, reading)) => reading.must_yield.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Ends the reading. What the body holds stays held as long as the permit.
    ///
    /// # Errors
    /// None that can happen: taking no bytes always succeeds.
    pub(crate) fn finish(mut self) -> Result<OwnedSemaphorePermit, Refusal> {
        if self.permit.is_none() {
            self.try_take(Part::Reserved, 0);
        }
        self.permit.take().ok_or(Refusal::NoRoom)
    }

    fn try_take(&mut self, part: Part, bytes: usize) -> bool {
        let semaphore = Arc::clone(self.room.part(part));
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
            self.room.unfinished().bodies.remove(id);
        }
    }
}

/// A semaphore counts in 32 bits, and so do the limits on bodies.
fn permits(bytes: usize) -> Result<u32, Refusal> {
    u32::try_from(bytes).map_err(|_| Refusal::TooLarge)
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use tokio::time::{Duration, timeout};

    use super::*;

    const LARGE: usize = SMALL_BODY_MAX + 1;

    /// Room for four large bodies in the shared part and as many bytes as one of them has in the reserved part.
    fn room() -> Room {
        let room = Room::new(RESERVED_PART * LARGE, LARGE);
        assert_eq!((room.reserved.available_permits(), room.shared.available_permits()), (LARGE, 3 * LARGE));
        room
    }

    /// A body that holds so many bytes and is still being read.
    async fn unfinished(room: &Room, bytes: usize) -> Share<'_> {
        let mut share = room.share();
        share.grow(bytes).await.expect("room");
        share.list();
        share
    }

    async fn whole(room: &Room, bytes: usize) -> OwnedSemaphorePermit {
        let mut share = room.share();
        share.grow(bytes).await.expect("room");
        share.finish().expect("a permit")
    }

    async fn yields(share: &Share<'_>) -> bool {
        timeout(Duration::from_millis(1), share.must_yield()).await.is_ok()
    }

    #[tokio::test]
    async fn large_bodies_leave_the_reserved_part_to_small_ones() {
        let room = room();
        let _large = [whole(&room, LARGE).await, whole(&room, LARGE).await, whole(&room, LARGE).await];
        assert_eq!(room.share().grow(LARGE).await, Err(Refusal::NoRoom));
        let _small = whole(&room, SMALL_BODY_MAX).await;
        assert_eq!(room.share().grow(1).await, Ok(()), "a byte of the reserved part is left");
        assert_eq!(room.share().grow(2).await, Err(Refusal::NoRoom));
    }

    #[tokio::test]
    async fn one_that_outgrows_the_reserved_part_gives_it_back() {
        let room = room();
        let mut share = unfinished(&room, SMALL_BODY_MAX).await;
        assert_eq!(room.reserved.available_permits(), 1);
        share.grow(1).await.expect("room");
        assert_eq!((room.reserved.available_permits(), room.shared.available_permits()), (LARGE, 2 * LARGE));
        drop(share);
        assert_eq!(room.shared.available_permits(), 3 * LARGE);
    }

    #[tokio::test]
    async fn the_oldest_unfinished_body_yields_to_a_newer_one_which_waits_for_its_room() {
        let room = room();
        let whole = whole(&room, LARGE).await;
        let (oldest, younger) = (unfinished(&room, LARGE).await, unfinished(&room, LARGE).await);
        let mut newest = room.share();
        let mut grows = std::pin::pin!(newest.grow(LARGE));
        assert_eq!(futures_poll(grows.as_mut()).await, Poll::Pending);
        assert_eq!((yields(&oldest).await, yields(&younger).await), (true, false));
        drop(oldest);
        assert_eq!(timeout(Duration::from_secs(20), grows).await, Ok(Ok(())));
        drop((whole, younger));
    }

    #[tokio::test]
    async fn the_oldest_does_not_displace_a_younger_one_nor_a_whole_one() {
        let room = room();
        let _whole = (whole(&room, LARGE).await, whole(&room, LARGE).await);
        let mut oldest = unfinished(&room, SMALL_BODY_MAX).await;
        let younger = unfinished(&room, LARGE).await;
        assert_eq!(oldest.grow(2).await, Err(Refusal::NoRoom));
        assert!(!yields(&younger).await);
    }

    async fn futures_poll<F: Future>(mut future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
    }
}
