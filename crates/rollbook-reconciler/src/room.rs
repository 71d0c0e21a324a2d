//! Room for pages in memory.

use std::sync::atomic::{AtomicU32, Ordering};

use rollbook_core::source::{Page, RawObject};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Maximum size of the pages that are requested or wait for their turn, in KiB. These are texts; at most
/// [`DECODED_MAX`] pages are decoded at the same time.
const ROOM_KIB: u32 = 40 * 1024;
/// Assumed size of a page before the first one, in KiB: 500 users with little metadata.
const PAGE_KIB: u32 = 1024;
/// Maximum number of pages that are decoded, compared and written at the same time.
const DECODED_MAX: usize = 4;

/// Room for the pages of one list. Whoever requests a page takes room for it first, as much as the largest page so
/// far needed, and returns it when the page is done. One page always has room.
pub(crate) struct PageRoom {
    kib: Semaphore,
    /// Size of the largest page so far, in KiB.
    largest: AtomicU32,
    /// Minimum room of a page, so that there is room for so many pages as may be read at the same time.
    share: u32,
    turns: Semaphore,
}

impl PageRoom {
    /// Creates the room for at most `pages` pages.
    pub(crate) fn new(pages: usize) -> Self {
        let pages = u32::try_from(pages).unwrap_or(u32::MAX).clamp(1, ROOM_KIB);
        Self {
            kib: Semaphore::new(ROOM_KIB as usize),
            largest: AtomicU32::new(PAGE_KIB),
            share: ROOM_KIB / pages,
            turns: Semaphore::new(DECODED_MAX),
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

    /// Waits for a turn to decode a page. The semaphore is never closed.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }

    /// Notes the size of a page, which stands for `times` of its objects.
    pub(crate) fn note(&self, page: &Page, times: usize) {
        let bytes = page.objects.iter().map(RawObject::len).sum::<usize>() * times;
        self.largest.fetch_max(u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn page(bytes: usize) -> Page {
        let object = json!({ "id": "x".repeat(bytes) });
        Page { objects: vec![object.as_object().cloned().expect("an object").into()], ..Page::default() }
    }

    fn pages(room: &PageRoom) -> usize {
        std::iter::from_fn(|| room.try_reserve()).collect::<Vec<_>>().len()
    }

    #[test]
    fn there_is_room_for_the_number_of_pages_while_they_are_small() {
        for number in [1, 3, 40] {
            assert_eq!(pages(&PageRoom::new(number)), number);
        }
        assert_eq!(pages(&PageRoom::new(1000)), 40, "40 MiB of pages of a MiB");
    }

    #[test]
    fn large_pages_are_read_in_smaller_numbers_and_one_always_has_room() {
        let room = PageRoom::new(40);
        room.note(&page(4 << 20), 1);
        assert_eq!(pages(&room), 9);
        room.note(&page(100), 1);
        assert_eq!(pages(&room), 9, "the largest page counts");
        room.note(&page(1 << 20), 500);
        assert_eq!(pages(&room), 1);
    }
}
