//! The feed as Server-Sent Events.
//!
//! Constraints:
//!
//! * The id of an event is a position up to which the reader has everything that it selected. A client that resumes with it
//!   (`Last-Event-ID`) therefore gets every change exactly once.
//! * A heartbeat has an id too: it moves the position of a reader who selects rare changes, and it finds a client that
//!   has gone.
//! * One page is in memory for each stream. The next one is read when the client has taken the last one.
//! * A stream ends within a heartbeat after its token was removed.
//! * While the store does not answer, the stream lasts and heartbeats go on: a client need not reconnect to a store that
//!   is unreachable.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use rollbook_core::live::Live;
use rollbook_core::store::{ChangesQuery, Generation, Position};
use rollbook_operator::changes::generation_name;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::feed::{Feed, NoPage, Page};
use crate::metrics::{Metrics, Reading};
use crate::parameters::EXPANDED_MAX;
use crate::problem::Problem;
use crate::tokens::{TokenDigest, Tokens};

/// Lines of a page of a stream.
const PAGE: usize = 200;
/// Time after which a client reconnects, in milliseconds.
const RECONNECT_AFTER: u32 = 2_000;
/// Pause before the store is asked again after an error.
const AGAIN: Duration = Duration::from_secs(1);

/// A stream of one reader.
pub(crate) struct Stream {
    pub(crate) feed: Arc<Feed>,
    pub(crate) query: ChangesQuery,
    pub(crate) expand: bool,
    /// Generation of the feed: that of the first page, if the reader does not name it.
    pub(crate) generation: Option<Generation>,
    pub(crate) heartbeat: Duration,
    pub(crate) access: Access,
    pub(crate) stopping: CancellationToken,
    pub(crate) metrics: Arc<Metrics>,
    /// Held while the stream is open.
    pub(crate) _reading: Reading,
}

/// Token of a reader, and the tokens that are valid.
pub(crate) struct Access {
    pub(crate) tokens: Live<Tokens>,
    pub(crate) token: TokenDigest,
}

impl Access {
    fn is_valid(&self) -> bool {
        self.tokens.current().contain(self.token)
    }
}

/// Next piece of a stream.
enum Next {
    Page(Page),
    Heartbeat { last: Position },
    Problem(Problem),
}

impl Stream {
    /// Reads the first page, so that a position that can't be read is an error answer, and returns the body.
    pub(crate) async fn open(mut self) -> Result<Body, Problem> {
        self.query.limit = if self.expand { EXPANDED_MAX } else { PAGE };
        let first = self.feed.read(&self.query, self.expand, self.generation).await?;
        self.generation = Some(first.feed);
        if first.is_at_end() {
            self.feed.check_is_on().await?;
        }
        let mut text = format!("retry: {RECONNECT_AFTER}\n\n");
        self.query.after = first.through;
        self.write_page(&mut text, &first);
        self.write_heartbeat(&mut text, first.last);
        let state = (self, Some(Bytes::from(text)), false);
        Ok(Body::from_stream(stream::unfold(state, |(mut reader, first, ended)| async move {
            if let Some(first) = first {
                return Some((Ok::<_, std::convert::Infallible>(first), (reader, None, false)));
            }
            if ended {
                return None;
            }
            let stopping = reader.stopping.clone();
            let next = stopping.run_until_cancelled(reader.next()).await?;
            let is_valid = reader.access.is_valid();
            let next = if is_valid { next } else { Next::Problem(Problem::unauthorized(true)) };
            let mut text = String::new();
            let ended = matches!(next, Next::Problem(_));
            match next {
                Next::Page(page) => reader.write_page(&mut text, &page),
                Next::Heartbeat { last } => reader.write_heartbeat(&mut text, last),
                Next::Problem(problem) => {
                    // Writing to a String can't fail.
                    let _ = write!(text, "event: problem\ndata: {}\n\n", problem.document());
                }
            }
            Some((Ok(Bytes::from(text)), (reader, None, ended)))
        })))
    }

    /// Waits for selected lines, at most until the next heartbeat.
    async fn next(&mut self) -> Next {
        let due = Instant::now() + self.heartbeat;
        let mut last = self.query.after;
        loop {
            match self.feed.read(&self.query, self.expand, self.generation).await {
                Ok(page) => {
                    self.query.after = page.through;
                    last = page.last;
                    if !page.changes.is_empty() {
                        return Next::Page(page);
                    }
                    if page.through < page.last && Instant::now() < due {
                        continue;
                    }
                }
                Err(NoPage::Store(_)) => sleep(AGAIN).await,
                Err(NoPage::Refused(problem)) => return Next::Problem(problem),
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Heartbeat { last };
            }
            if self.feed.wait(self.query.after, left).await.is_err() {
                sleep(AGAIN.min(left)).await;
            }
        }
    }

    fn write_page(&self, text: &mut String, page: &Page) {
        self.metrics.sent(page.changes.len());
        for line in &page.changes {
            // A line is always valid JSON: its keys are texts.
            let data = serde_json::to_string(line).unwrap_or_default();
            let _ = write!(text, "id: {}\nevent: change\ndata: {data}\n\n", line.change.position);
        }
    }

    fn write_heartbeat(&self, text: &mut String, last: Position) {
        let through = self.query.after;
        let data = json!({ "through": through, "last": last, "feed": self.generation.map(generation_name) });
        let _ = write!(text, "id: {through}\nevent: heartbeat\ndata: {data}\n\n");
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::StreamExt as _;
    use prometheus::Registry;
    use rollbook_core::catalog::ORGANIZATIONS;
    use rollbook_core::store::{FullStore, Store as _, StoreError};
    use rollbook_core::time::Timestamp;
    use rollbook_testkit::clock::ManualClock;
    use rollbook_testkit::events::{START, change_of, event, user};
    use rollbook_testkit::faults::{Fault, FaultyStore, StoreCall};
    use rollbook_testkit::memory::store::MemoryStore;
    use tokio::sync::{Semaphore, watch};

    use super::*;
    use crate::metrics::ReaderKind;

    const HEARTBEAT: Duration = Duration::from_secs(15);

    async fn create_user(store: &MemoryStore, number: i64) {
        let event = event("user.created", START + number, &user(&format!("user_{number}"), START));
        let change = change_of(&format!("msg_{number}"), &event);
        store.apply_many(&[change]).await.expect("the store in memory applies");
    }

    fn memory() -> Arc<MemoryStore> {
        Arc::new(MemoryStore::new(Arc::new(ManualClock::new(Timestamp::from_millis(START)))))
    }

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn tokens(text: &str) -> Live<Tokens> {
        Live::new(Tokens::parse(text).expect("a token"))
    }

    async fn body(store: Arc<dyn FullStore>, stopping: CancellationToken) -> Body {
        body_for(store, stopping, tokens(TOKEN)).await
    }

    async fn body_for(store: Arc<dyn FullStore>, stopping: CancellationToken, tokens: Live<Tokens>) -> Body {
        let token = tokens.current().find(format!("Bearer {TOKEN}").as_bytes()).expect("it is valid");
        let metrics = Arc::new(Metrics::new(&Registry::new()).expect("all names are free"));
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a permit");
        let stream = Stream {
            feed: Arc::new(Feed::new(store.clone(), store, 1)),
            query: ChangesQuery { resources: vec![&ORGANIZATIONS], ..ChangesQuery::default() },
            expand: false,
            generation: None,
            heartbeat: HEARTBEAT,
            access: Access { tokens, token },
            stopping,
            _reading: metrics.reading(ReaderKind::Stream, permit),
            metrics,
        };
        stream.open().await.expect("the position is there")
    }

    fn heartbeat(through: u64) -> String {
        let data = format!(r#"{{"feed":"0000000000000001","last":{through},"through":{through}}}"#);
        format!("id: {through}\nevent: heartbeat\ndata: {data}\n\n")
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_is_sent_in_time_and_moves_the_position_over_lines_that_are_not_selected() {
        let (store, stopping) = (memory(), CancellationToken::new());
        let mut stream = pin!(body(store.clone(), stopping.clone()).await.into_data_stream());
        let mut next = async || {
            let bytes = stream.next().await?.expect("it never fails");
            Some(String::from_utf8(bytes.to_vec()).expect("text"))
        };
        assert_eq!(next().await, Some(format!("retry: {RECONNECT_AFTER}\n\n{}", heartbeat(0))));
        for number in 1..=3 {
            let (began, changed) = (Instant::now(), HEARTBEAT / 3);
            let (text, ()) = tokio::join!(next(), async {
                sleep(changed).await;
                create_user(&store, number).await;
            });
            assert_eq!(text, Some(heartbeat(number.unsigned_abs())));
            assert_eq!(began.elapsed(), HEARTBEAT, "an unselected change moves no heartbeat");
        }
        stopping.cancel();
        assert_eq!(next().await, None, "a stop ends the stream");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_its_token_is_removed_and_goes_on_while_it_is_one_of_several() {
        let (store, valid) = (memory(), tokens(TOKEN));
        let mut stream =
            pin!(body_for(store, CancellationToken::new(), valid.clone()).await.into_data_stream());
        let mut next = async || {
            let bytes = stream.next().await?.expect("it never fails");
            Some(String::from_utf8(bytes.to_vec()).expect("text"))
        };
        next().await;
        let other = "other-token-other-token-other-token";
        valid.replace(Tokens::parse(&format!("{other} {TOKEN}")).expect("tokens"));
        assert_eq!(next().await, Some(heartbeat(0)));
        valid.replace(Tokens::parse(other).expect("a token"));
        let began = Instant::now();
        let ended = next().await.expect("a last event");
        assert!(ended.starts_with("event: problem\n") && ended.contains("401"), "{ended}");
        assert!(began.elapsed() <= HEARTBEAT);
        assert_eq!(next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_go_on_while_the_store_does_not_answer() {
        let (store, fails) = (memory(), watch::Sender::new(false));
        let seen = fails.subscribe();
        let faulty = Arc::new(FaultyStore::new(store.clone(), move |call| match call {
            StoreCall::Read if *seen.borrow() => Fault::Fail(StoreError::Unavailable("refused".to_owned())),
            _ => Fault::None,
        }));
        let mut stream = pin!(body(faulty, CancellationToken::new()).await.into_data_stream());
        let mut next = async || stream.next().await.expect("it goes on").expect("it never fails");
        next().await;
        fails.send_replace(true);
        create_user(&store, 1).await;
        for _ in 0..3 {
            let began = Instant::now();
            assert_eq!(next().await, heartbeat(0), "the position does not move");
            assert!(began.elapsed() <= HEARTBEAT + 2 * AGAIN, "{:?}", began.elapsed());
        }
        fails.send_replace(false);
        assert_eq!(next().await, heartbeat(1));
    }
}
