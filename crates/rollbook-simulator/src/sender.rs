//! Deliveries over real HTTP, as Svix makes them: signed anew for each attempt, and tried again until
//! the receiver has answered 2xx.
//!
//! Constraints:
//!
//! * Any 2xx within the timeout is success, everything else a failure; redirects are not followed.
//! * An attempt whose answer was lost may have been taken. It is sent again all the same, with the
//!   same id, as Svix does.
//! * Svix waits seconds, then hours, and heeds `Retry-After`; this one waits milliseconds, at most
//!   [`DeliverSettings::backoff_max`], so that a history is through in seconds.
//!
//! It is also the load generator of the benches: connections are kept, and a request costs one
//! signature and a few small headers.

mod connection;
mod report;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rollbook_core::signature::SigningSecret;
use rollbook_core::time::Clock;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use self::connection::{ANSWER_MAX, Answer, Connection, SendError};
pub use self::report::{Latencies, Report};
use self::report::{Outcome, Tally};
use crate::history::Event;

/// How long Svix waits for an answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// A webhook endpoint, as Svix knows it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// The path to post to, such as `/webhooks/clerk`.
    pub path: String,
    /// What to sign with.
    pub secret: SigningSecret,
}

/// How a history is delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliverSettings {
    /// How many connections are open at once; each carries one request at a time. At least one.
    pub connections: usize,
    /// How long one attempt may take.
    pub request_timeout: Duration,
    /// The wait after the first failure of a delivery; it doubles with each further one.
    pub backoff: Duration,
    /// The longest wait between two attempts.
    pub backoff_max: Duration,
    /// How long after its first attempt a delivery is not tried again.
    pub give_up_after: Duration,
    /// At most this many deliveries begin in a second, evenly spaced; `None` for as fast as it goes.
    pub rate_per_second: Option<NonZeroU32>,
}

impl Default for DeliverSettings {
    fn default() -> Self {
        Self {
            connections: 16,
            request_timeout: REQUEST_TIMEOUT,
            backoff: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            give_up_after: Duration::from_secs(60),
            rate_per_second: None,
        }
    }
}

/// Told how many deliveries have been acknowledged so far, after each one, from any of the connections.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// Delivers `events` in the order of `order` (see [`crate::history::History::schedule`]) over several
/// connections, and returns when each delivery is acknowledged or given up. Cancelling it closes the
/// connections.
///
/// # Panics
/// `order` names a place that `events` does not have.
pub async fn deliver(
    endpoint: &Endpoint,
    events: &[Event],
    order: &[usize],
    clock: Arc<dyn Clock>,
    settings: &DeliverSettings,
    progress: Progress,
) -> Report {
    assert!(order.iter().all(|event| *event < events.len()), "the order names an event that is not there");
    let work = Arc::new(Work {
        endpoint: endpoint.clone(),
        events: events.to_vec(),
        order: order.to_vec(),
        clock,
        settings: settings.clone(),
        progress,
        next: AtomicUsize::new(0),
        acknowledged: AtomicU64::new(0),
        started: Instant::now(),
    });
    let mut lines = JoinSet::new();
    for _ in 0..settings.connections.clamp(1, order.len().max(1)) {
        lines.spawn(Line { work: work.clone(), connection: None, tally: Tally::default() }.run());
    }
    let mut total = Tally::default();
    while let Some(line) = lines.join_next().await {
        match line {
            Ok(tally) => total.add(tally),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Nobody aborts a line while we wait for it.
            Err(_) => {}
        }
    }
    total.into_report(order, work.started.elapsed())
}

/// What all lines share.
struct Work {
    endpoint: Endpoint,
    events: Vec<Event>,
    order: Vec<usize>,
    clock: Arc<dyn Clock>,
    settings: DeliverSettings,
    progress: Progress,
    /// The next place in `order` that no line has taken.
    next: AtomicUsize,
    acknowledged: AtomicU64,
    started: Instant,
}

impl Work {
    /// When the delivery at this place may begin.
    fn due(&self, place: usize) -> Option<Instant> {
        let rate = u64::from(self.settings.rate_per_second?.get());
        let place = u64::try_from(place).unwrap_or(u64::MAX);
        Some(self.started + Duration::from_micros(place.saturating_mul(1_000_000) / rate))
    }
}

/// One connection, made again whenever it breaks, and the deliveries that went over it.
struct Line {
    work: Arc<Work>,
    connection: Option<Connection>,
    tally: Tally,
}

impl Line {
    async fn run(mut self) -> Tally {
        let work = self.work.clone();
        loop {
            let place = work.next.fetch_add(1, Ordering::Relaxed);
            let Some(event) = work.order.get(place) else { return self.tally };
            if let Some(due) = work.due(place) {
                tokio::time::sleep_until(due).await;
            }
            let outcome = self.deliver(&work.events[*event]).await;
            if outcome.is_acknowledged() {
                (work.progress)(work.acknowledged.fetch_add(1, Ordering::Relaxed) + 1);
            }
            self.tally.outcomes.push((place, outcome));
        }
    }

    /// Tries until the delivery is acknowledged or its time is up.
    async fn deliver(&mut self, event: &Event) -> Outcome {
        let settings = self.work.settings.clone();
        let started = Instant::now();
        let mut backoff = settings.backoff;
        loop {
            let outcome = self.attempt(event).await;
            if outcome.is_acknowledged() || started.elapsed() + backoff > settings.give_up_after {
                return outcome;
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(settings.backoff_max);
        }
    }

    async fn attempt(&mut self, event: &Event) -> Outcome {
        self.tally.attempts += 1;
        let started = Instant::now();
        let answer = match self.exchange(event).await {
            Ok(answer) => answer,
            Err(error) => {
                self.tally.last_error = Some(error.to_string());
                return Outcome::Unanswered;
            }
        };
        let outcome = Outcome::of(&answer);
        if outcome.is_acknowledged() {
            self.tally.latencies.push(started.elapsed());
        }
        outcome
    }

    async fn exchange(&mut self, event: &Event) -> Result<Answer, SendError> {
        let endpoint = &self.work.endpoint;
        let connection = match self.connection.take().filter(Connection::is_open) {
            Some(open) => open,
            None => Connection::connect(endpoint.address, self.work.settings.request_timeout).await?,
        };
        let connection = self.connection.insert(connection);
        connection.post(&endpoint.path, event, &endpoint.secret, self.work.clock.now()).await
    }
}
