//! Decodes the pages of Clerk on a thread for long work.

use std::collections::HashSet;
use std::thread;
use std::time::Instant;
use std::vec::IntoIter;

use rollbook_core::catalog::Resource;
use rollbook_core::source::{Page, RawObject, SourceError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::readings::Readings;
use crate::settings::{REST_MAX, REST_MIN};

/// Decodes pages one after another, in the order in which they come: one is written while the next is decoded. If several were
/// decoded at the same time, all would be written at the same time too, and the store would be idle before.
pub(crate) struct Decoder {
    turn: Semaphore,
    /// Whether the process also acknowledges deliveries.
    is_background: bool,
}

impl Decoder {
    pub(crate) fn new(is_background: bool) -> Self {
        Self { turn: Semaphore::new(1), is_background }
    }

    /// Decodes a page; in the background in parts, with pauses between them until `stop`. A page keeps a core busy for
    /// milliseconds: on a thread of the runtime, acknowledgements would wait for it.
    pub(crate) async fn decode(
        &self,
        resource: &'static Resource,
        page: Page,
        stop: &CancellationToken,
    ) -> Result<Readings, SourceError> {
        // The semaphore is never closed.
        let _turn = self.turn.acquire().await;
        let mut readings = Readings::new(page.clock);
        readings.subjects.reserve_exact(page.objects.len());
        let mut page = Decoding { resource, open: page.objects.into_iter(), readings };
        loop {
            let (begun, is_background) = (tokio::time::Instant::now(), self.is_background);
            let decoded = tokio::task::spawn_blocking(move || page.go_on(is_background)).await;
            page = decoded.map_err(|_| SourceError::Unavailable("a page was not decoded".to_owned()))?;
            if page.open.as_slice().is_empty() {
                return Ok(page.readings);
            }
            pause_after(begun, stop).await;
        }
    }
}

/// Pauses for as long as the step since `begun` took: what else the process does has its turn.
pub(crate) async fn pause_after(begun: tokio::time::Instant, stop: &CancellationToken) {
    let pause = begun.elapsed().clamp(REST_MIN, REST_MAX);
    stop.run_until_cancelled(tokio::time::sleep(pause)).await;
}

/// A page of which some objects are decoded.
struct Decoding {
    resource: &'static Resource,
    open: IntoIter<RawObject>,
    readings: Readings,
}

impl Decoding {
    /// Decodes the open objects. Each text is freed as soon as it is decoded. In the background it stops after about
    /// [`REST_MIN`], and gives way to other threads after each object: the system would let it run on for milliseconds while a
    /// thread waits that acknowledges.
    fn go_on(mut self, is_background: bool) -> Self {
        let begun = Instant::now();
        for object in self.open.by_ref() {
            self.readings.add(self.resource, object.decode());
            drop(object);
            if is_background {
                thread::yield_now();
                if begun.elapsed() >= REST_MIN {
                    break;
                }
            }
        }
        if self.open.as_slice().is_empty() {
            let subjects = &self.readings.subjects;
            let ids: HashSet<&str> = subjects.iter().map(|subject| subject.id.as_str()).collect();
            self.readings.has_twice = ids.len() < subjects.len();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use rollbook_core::catalog::USERS;
    use serde_json::json;

    use super::*;

    fn page(users: usize) -> Page {
        let user = |number: usize| json!({ "id": format!("user_{number}") });
        let objects = (0..users).map(|number| user(number).as_object().cloned().expect("an object").into());
        Page { objects: objects.collect(), ..Page::default() }
    }

    #[tokio::test]
    async fn other_tasks_have_their_turn_while_a_page_is_decoded() {
        for is_background in [false, true] {
            let (decoder, stop) = (Decoder::new(is_background), CancellationToken::new());
            let mut turns = 0;
            let others = async {
                loop {
                    turns += 1;
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                readings = decoder.decode(&USERS, page(5_000), &stop) => {
                    assert_eq!(readings.expect("a page").subjects.len(), 5_000);
                }
                () = others => unreachable!("it has no end"),
            }
            // On this thread it would have none: the runtime of the test has one thread.
            assert!(turns > 1, "{turns} turns");
        }
    }

    #[tokio::test]
    async fn pages_are_decoded_one_after_another_in_their_order() {
        let (decoder, done) = (Decoder::new(false), Mutex::new(Vec::new()));
        let decode = async |users: usize| {
            let readings =
                decoder.decode(&USERS, page(users), &CancellationToken::new()).await.expect("a page");
            assert_eq!(readings.subjects.len(), users);
            done.lock().expect("a lock").push(users);
        };
        // The first one takes longest.
        tokio::join!(decode(5_000), decode(50), decode(1));
        assert_eq!(*done.lock().expect("a lock"), [5_000, 50, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_is_decoded_in_parts_with_pauses_only_in_the_background() {
        for is_background in [false, true] {
            let (decoder, begun) = (Decoder::new(is_background), tokio::time::Instant::now());
            let readings = decoder.decode(&USERS, page(5_000), &CancellationToken::new()).await;
            assert_eq!(readings.expect("a page").subjects.len(), 5_000);
            // The clock moves in pauses only.
            assert_eq!(begun.elapsed() >= REST_MIN, is_background, "{:?}", begun.elapsed());
        }
    }

    #[tokio::test]
    async fn an_object_that_is_there_twice_is_seen_in_any_part() {
        for is_background in [false, true] {
            let mut twice = page(3_000);
            twice.objects.push(twice.objects[0].clone());
            for (page, has_twice) in [(page(3_000), false), (twice, true), (page(0), false)] {
                let decoder = Decoder::new(is_background);
                let readings = decoder.decode(&USERS, page, &CancellationToken::new()).await.expect("a page");
                assert_eq!(readings.has_twice, has_twice);
            }
        }
    }
}
