//! Deliveries over real HTTP, as Svix makes them: signed anew for each attempt, and retried until the
//! receiver answers 2xx.
//!
//! Constraints:
//!
//! * Any 2xx within the timeout is success, everything else a failure. Redirects are not followed.
//! * If an answer is lost, the receiver may have accepted the attempt. It is retried all the same, with the
//!   same id, as Svix does.
//! * Svix waits seconds, then hours, and respects `Retry-After`. This sender waits milliseconds, at most
//!   [`DeliverSettings::backoff_max`], so that a history is delivered in seconds.
//!
//! The benches use the sender as load generator: connections are kept alive, and a request costs one
//! signature and a few small headers.

mod report;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use rollbook_core::signature::SigningSecret;
use rollbook_core::time::{Clock, Timestamp};
use rollbook_http::client::{Answer, Connection, RequestError};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use self::report::{Latencies, Report};
use self::report::{Outcome, Tally};
use crate::event::Event;

/// Timeout of Svix for one attempt.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

const SVIX_ID: HeaderName = HeaderName::from_static("svix-id");
const SVIX_TIMESTAMP: HeaderName = HeaderName::from_static("svix-timestamp");
const SVIX_SIGNATURE: HeaderName = HeaderName::from_static("svix-signature");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue = HeaderValue::from_static("Svix-Webhooks/1.0 (rollbook simulator)");

/// Webhook endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Address of the receiver.
    pub address: SocketAddr,
    /// Request path, such as `/webhooks/clerk`.
    pub path: String,
    /// Secret that signs the deliveries.
    pub secret: SigningSecret,
}

/// Settings of one delivery run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliverSettings {
    /// Number of open connections; each carries one request at a time. At least one.
    pub connections: usize,
    /// Timeout of one attempt.
    pub request_timeout: Duration,
    /// Delay after the first failure of a delivery. It doubles with each further failure.
    pub backoff: Duration,
    /// Maximum delay between two attempts.
    pub backoff_max: Duration,
    /// Time after the first attempt at which a delivery is given up.
    pub give_up_after: Duration,
    /// Maximum number of deliveries started per second, evenly spaced. `None` means no limit.
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

/// Callback with the number of acknowledged deliveries so far. Any connection calls it, after each
/// acknowledgement.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// Delivers `events` in the order of `order` (see [`crate::history::History::schedule`]) over several
/// connections. Returns when each delivery is acknowledged or given up. Cancelling it closes the connections.
///
/// # Panics
/// Panics if `order` has an index that is not in `events`.
pub async fn deliver(
    endpoint: &Endpoint,
    events: &[Event],
    order: &[usize],
    clock: Arc<dyn Clock>,
    settings: &DeliverSettings,
    progress: Progress,
) -> Report {
    assert!(
        order.iter().all(|event| *event < events.len()),
        "the order has an index that is not in `events`"
    );
    let shared = Arc::new(Shared {
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
    let mut tasks = JoinSet::new();
    for _ in 0..settings.connections.clamp(1, order.len().max(1)) {
        tasks.spawn(DeliveryTask { shared: shared.clone(), connection: None, tally: Tally::default() }.run());
    }
    let mut total = Tally::default();
    while let Some(task) = tasks.join_next().await {
        match task {
            Ok(tally) => total.add(tally),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Tasks are not aborted while `deliver` waits for them.
            Err(_) => {}
        }
    }
    total.into_report(order, shared.started.elapsed())
}

/// Makes one attempt to deliver an event, signed at `now`. An answer with any status is `Ok`.
///
/// # Errors
/// The answer is not complete within the timeout.
pub async fn post(
    connection: &mut Connection,
    path: &str,
    event: &Event,
    secret: &SigningSecret,
    now: Timestamp,
) -> Result<Answer, RequestError> {
    let id = event.id.as_str();
    let value =
        |text: String| HeaderValue::try_from(text).map_err(|error| RequestError::Request(error.into()));
    let headers = HeaderMap::from_iter([
        (CONTENT_TYPE, JSON),
        (USER_AGENT, AGENT),
        (SVIX_ID, value(id.to_owned())?),
        (SVIX_TIMESTAMP, HeaderValue::from(now.as_millis() / 1000)),
        (SVIX_SIGNATURE, value(secret.sign(id, now, &event.body))?),
    ]);
    connection.request(Method::POST, path, headers, event.body.clone()).await
}

/// State that all delivery tasks share.
struct Shared {
    endpoint: Endpoint,
    events: Vec<Event>,
    order: Vec<usize>,
    clock: Arc<dyn Clock>,
    settings: DeliverSettings,
    progress: Progress,
    /// Next index into `order` that no task has taken.
    next: AtomicUsize,
    acknowledged: AtomicU64,
    started: Instant,
}

impl Shared {
    /// Earliest start of the delivery at index `place`.
    fn due(&self, place: usize) -> Option<Instant> {
        let rate = u64::from(self.settings.rate_per_second?.get());
        let place = u64::try_from(place).unwrap_or(u64::MAX);
        Some(self.started + Duration::from_micros(place.saturating_mul(1_000_000) / rate))
    }
}

/// One connection, reopened whenever it breaks, and the results of its deliveries.
struct DeliveryTask {
    shared: Arc<Shared>,
    connection: Option<Connection>,
    tally: Tally,
}

impl DeliveryTask {
    async fn run(mut self) -> Tally {
        let shared = self.shared.clone();
        loop {
            let place = shared.next.fetch_add(1, Ordering::Relaxed);
            let Some(event) = shared.order.get(place) else { return self.tally };
            if let Some(due) = shared.due(place) {
                tokio::time::sleep_until(due).await;
            }
            let outcome = self.deliver(&shared.events[*event]).await;
            if outcome.is_acknowledged() {
                (shared.progress)(shared.acknowledged.fetch_add(1, Ordering::Relaxed) + 1);
            }
            self.tally.outcomes.push((place, outcome));
        }
    }

    /// Retries until the delivery is acknowledged or given up.
    async fn deliver(&mut self, event: &Event) -> Outcome {
        let settings = self.shared.settings.clone();
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

    async fn exchange(&mut self, event: &Event) -> Result<Answer, RequestError> {
        let endpoint = &self.shared.endpoint;
        let connection = match self.connection.take().filter(Connection::is_open) {
            Some(open) => open,
            None => Connection::connect(endpoint.address, self.shared.settings.request_timeout).await?,
        };
        let connection = self.connection.insert(connection);
        post(connection, &endpoint.path, event, &endpoint.secret, self.shared.clock.now()).await
    }
}
