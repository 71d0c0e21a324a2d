//! Room for pages in memory, and the number of objects of a page that keeps it small.
//!
//! A page of few large objects is as fast as one of many small ones: the network decides. So the number of objects is
//! halved where a page is large, and grows again slowly.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use rollbook_core::source::{Page, PageRequest, Position, RawObject};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Maximum size of the pages that are requested or wait for their turn, in KiB. These are texts; at most
/// [`DECODED_MAX`] pages are decoded at the same time.
const ROOM_KIB: u32 = 26 * 1024;
/// Assumed size of a page before the first one, in KiB: 500 users with little metadata.
const PAGE_KIB: u32 = 1024;
/// Maximum number of pages that are decoded, compared and written at the same time.
const DECODED_MAX: usize = 4;
/// Maximum size of an answer, as a multiple of the room that was taken for it. A larger one is asked for again with
/// fewer objects, so that pages that become large all at once do not take more memory than this.
const EXCESS: u32 = 4;
/// Size of a page above which the next one has half as many objects, in KiB.
const LARGE_KIB: u32 = 4 * 1024;
/// Size of a page below which more objects fit, in KiB.
const SMALL_KIB: u32 = LARGE_KIB / 4;
/// Share by which the assumed size of a page declines with each smaller page, as a divisor.
const DECLINE: u32 = 16;
/// Number of small pages in a row after which a page has twice as many objects.
const SMALL_MIN: u32 = 16;

/// Room for the pages of one list. Whoever requests a page takes room for it first, as much as the largest page so
/// far needed, and returns it when the page is done. One page always has room.
pub(crate) struct PageRoom {
    kib: Semaphore,
    /// Size of the largest page so far with the present number of objects, in KiB.
    largest: AtomicU32,
    /// Minimum room of a page, so that there is room for so many pages as may be read at the same time.
    share: u32,
    turns: Semaphore,
    /// Present number of objects of a page.
    limit: AtomicUsize,
    /// Least and largest number of objects of a page.
    limits: (usize, usize),
    /// Number of small pages in a row.
    small: AtomicU32,
}

impl PageRoom {
    /// Creates the room for at most `pages` pages, each of at least `limits.0` and at most `limits.1` objects. Those of a
    /// run in the background are compared and written one after another.
    pub(crate) fn new(pages: usize, limits: (usize, usize), is_background: bool) -> Self {
        let pages = u32::try_from(pages).unwrap_or(u32::MAX).clamp(1, ROOM_KIB);
        Self {
            kib: Semaphore::new(ROOM_KIB as usize),
            largest: AtomicU32::new(PAGE_KIB),
            share: ROOM_KIB / pages,
            turns: Semaphore::new(if is_background { 1 } else { DECODED_MAX }),
            limit: AtomicUsize::new(limits.1.max(limits.0)),
            limits,
            small: AtomicU32::new(0),
        }
    }

    fn size(&self) -> u32 {
        self.largest.load(Ordering::Relaxed).clamp(self.share, ROOM_KIB)
    }

    /// Waits for the room of a page. The semaphore is never closed.
    pub(crate) async fn reserve(&self) -> Option<SemaphorePermit<'_>> {
        self.kib.acquire_many(self.size()).await.ok()
    }

    /// Takes the room of a page. `None` if there is none now.
    pub(crate) fn try_reserve(&self) -> Option<SemaphorePermit<'_>> {
        self.kib.try_acquire_many(self.size()).ok()
    }

    /// Waits for a turn to take a page. The semaphore is never closed.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }

    /// Returns the request for a page at this position, with the present limits. The least number of objects has no
    /// limit of bytes here: it can't be made smaller.
    pub(crate) fn request(&self, position: Position) -> PageRequest {
        let limit = self.limit();
        let bytes_max =
            if limit <= self.limits.0 { usize::MAX } else { (self.size() * EXCESS) as usize * 1024 };
        PageRequest { position, limit, bytes_max }
    }

    /// Returns the present number of objects of a page.
    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Notes that a page of at most `limit` objects was too large. Returns whether fewer objects can be asked for.
    pub(crate) fn is_too_large(&self, limit: usize) -> bool {
        self.halve(limit);
        limit > self.limits.0
    }

    /// Halves the number of objects, once for all pages that had this one.
    fn halve(&self, limit: usize) {
        let half = (limit / 2).max(self.limits.0);
        self.small.store(0, Ordering::Relaxed);
        if self.limit.compare_exchange(limit, half, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            && half < limit
        {
            let size = self.largest.load(Ordering::Relaxed);
            self.largest.store((size / 2).max(PAGE_KIB), Ordering::Relaxed);
        }
    }

    /// Notes the size of a page that was asked for with this limit.
    pub(crate) fn note(&self, page: &Page, limit: usize) {
        let kib = kib(bytes_of(page));
        self.grow(kib);
        if kib > LARGE_KIB {
            self.halve(limit);
        } else if kib > SMALL_KIB {
            self.small.store(0, Ordering::Relaxed);
        } else if self.small.fetch_add(1, Ordering::Relaxed) + 1 >= SMALL_MIN && limit < self.limits.1 {
            self.small.store(0, Ordering::Relaxed);
            let twice = limit.saturating_mul(2).min(self.limits.1);
            _ = self.limit.compare_exchange(limit, twice, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Notes the first object of a list: a page may be as many times as large. The first pages are many at once, so they
    /// must not be large already.
    pub(crate) fn note_first(&self, page: &Page) {
        let of_page = |limit: usize| kib(bytes_of(page).saturating_mul(limit));
        while self.limit() > self.limits.0 && of_page(self.limit()) > LARGE_KIB {
            self.halve(self.limit());
        }
        self.grow(of_page(self.limit()));
    }

    /// Raises the size of the largest page. It declines slowly, so that one large page does not slow down a whole list.
    fn grow(&self, kib: u32) {
        let larger = |known: u32| Some(kib.max(known - known / DECLINE).max(PAGE_KIB));
        _ = self.largest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, larger);
    }
}

fn bytes_of(page: &Page) -> usize {
    page.objects.iter().map(RawObject::len).sum()
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LIMITS: (usize, usize) = (1, 500);

    fn page(bytes: usize) -> Page {
        let object = json!({ "id": "x".repeat(bytes) });
        Page { objects: vec![object.as_object().cloned().expect("an object").into()], ..Page::default() }
    }

    fn pages(room: &PageRoom) -> usize {
        std::iter::from_fn(|| room.try_reserve()).collect::<Vec<_>>().len()
    }

    fn bytes_max(room: &PageRoom) -> usize {
        room.request(Position::Offset(0)).bytes_max
    }

    #[test]
    fn there_is_room_for_the_number_of_pages_while_they_are_small() {
        for number in [1, 3, 26] {
            assert_eq!(pages(&PageRoom::new(number, LIMITS, false)), number);
        }
        assert_eq!(pages(&PageRoom::new(1000, LIMITS, false)), 26, "26 MiB of pages of a MiB");
    }

    #[test]
    fn large_pages_are_read_in_smaller_numbers_and_one_always_has_room() {
        let room = PageRoom::new(40, LIMITS, false);
        room.note(&page((4 << 20) - 100), 500);
        assert_eq!(pages(&room), 6);
        room.note(&page(100), 500);
        assert_eq!(pages(&room), 6, "the large page counts still");
        (0..100).for_each(|_| room.note(&page(100), 500));
        assert_eq!(pages(&room), 26, "and is forgotten in time");
        room.note(&page(40 << 20), 500);
        assert_eq!(pages(&room), 1);
    }

    #[test]
    fn the_first_object_says_how_many_a_page_may_have() {
        let room = PageRoom::new(40, LIMITS, false);
        room.note_first(&page(2_000));
        assert_eq!((room.limit(), pages(&room)), (500, 26));
        room.note_first(&page(1 << 20));
        assert_eq!((room.limit(), pages(&room)), (3, 8));
        room.note_first(&page(8 << 20));
        assert_eq!((room.limit(), pages(&room)), (1, 3));
    }

    #[test]
    fn a_large_page_halves_the_number_of_objects_once_and_small_ones_let_it_grow_slowly() {
        let room = PageRoom::new(40, LIMITS, false);
        (0..3).for_each(|_| room.note(&page(5 << 20), 500));
        assert_eq!(room.limit(), 250, "pages that were requested together count once");
        for limit in [250, 125, 62, 31, 15, 7, 3] {
            assert!(room.is_too_large(limit), "{limit}");
        }
        assert!(room.limit() == 1 && bytes_max(&room) == usize::MAX, "the client's own limit is left");
        assert!(!room.is_too_large(1) && room.limit() == 1);
        for expected in [2, 4, 8, 16, 32, 64, 128, 256, 500, 500] {
            (0..SMALL_MIN).for_each(|_| room.note(&page(100), room.limit()));
            assert_eq!(room.limit(), expected);
        }
        (0..SMALL_MIN - 1).for_each(|_| room.note(&page(100), room.limit()));
        room.note(&page(5 << 20), 500);
        (0..SMALL_MIN - 1).for_each(|_| room.note(&page(100), room.limit()));
        assert_eq!(room.limit(), 250, "small pages in a row");
    }

    #[test]
    fn the_answers_under_way_are_limited_to_four_times_the_room() {
        let room = PageRoom::new(40, LIMITS, false);
        assert_eq!(pages(&room) * bytes_max(&room), (4 * 26) << 20);
        room.note(&page((4 << 20) - 100), 500);
        assert_eq!(pages(&room) * bytes_max(&room), (4 * 24) << 20, "six pages of 4 MiB");
    }
}
