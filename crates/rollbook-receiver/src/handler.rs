//! One request: which route, is it genuine, and what became of it.
//!
//! Checks go from cheap to dear, so that what a stranger can make us do is little: the path, the headers, the
//! announced length, the body within its time and room, the signature; only then is a place taken
//! among those that wait for the queue. Only the answer to a genuine delivery leaves its connection open.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::HeaderName;
use hyper::{HeaderMap, Method, Request, StatusCode};
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::Enqueued;
use rollbook_core::signature::{SignedHeaders, SigningSecrets, VerifyError, verify};
use rollbook_core::time::Clock;
use rollbook_core::trace::{TraceId, Traceparent};
use rollbook_http::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Level, debug, enabled};

use crate::answer::{self, Answer, Refusal};
use crate::batcher::{Asker, Waiting};
use crate::body::{self, Held};
use crate::metrics::Metrics;
use crate::refusals::{Refusals, Refused};
use crate::room::Room;
use crate::settings::Settings;

/// Where Svix posts to.
const DELIVERIES: &str = "/webhooks/clerk";
/// The same, as many a person and a proxy writes it.
const DELIVERIES_SLASH: &str = "/webhooks/clerk/";
const HEALTH: &str = "/healthz";
/// Which trace a request is part of. It is not signed.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What the log tells of a delivery that is genuine.
struct Genuine {
    id: MessageId,
    trace_id: Option<TraceId>,
}

/// What all requests share.
pub(crate) struct Handler {
    secrets: SigningSecrets,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    refusals: Refusals,
    batcher: mpsc::Sender<Waiting>,
    /// Places for verified deliveries that wait for the queue.
    places: Arc<Semaphore>,
    room: Room,
    body: body::Limits,
    leaving: CancellationToken,
    tolerance: Duration,
    request_timeout: Duration,
    enqueue_timeout: Duration,
}

impl Handler {
    /// A handler that sends to `batcher`, whose channel must hold `settings.in_flight_max` deliveries.
    pub(crate) fn new(
        settings: &Settings,
        secrets: SigningSecrets,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        batcher: mpsc::Sender<Waiting>,
        leaving: CancellationToken,
    ) -> Self {
        Self {
            secrets,
            clock,
            refusals: Refusals::new(Arc::clone(&metrics)),
            metrics,
            batcher,
            places: Arc::new(Semaphore::new(settings.in_flight_max)),
            room: Room::new(settings.buffered_max, settings.body_max),
            body: body::Limits {
                length_max: settings.body_max,
                timeout: settings.body_timeout.min(settings.request_timeout),
                window: settings.body_window,
                rate_min: settings.body_rate_min,
            },
            leaving,
            tolerance: settings.tolerance,
            request_timeout: settings.request_timeout,
            enqueue_timeout: settings.enqueue_timeout,
        }
    }

    /// Answers a request whose head has just been read. Once the process leaves, each answer ends its
    /// connection, so that the client makes the next one elsewhere.
    pub(crate) async fn answer(&self, request: Request<Incoming>, connection: &Connection) -> Answer {
        let answer = self.route(request, connection).await;
        if self.leaving.is_cancelled() { answer::and_close(answer) } else { answer }
    }

    async fn route(&self, request: Request<Incoming>, connection: &Connection) -> Answer {
        let (head, body) = request.into_parts();
        let refusal = match head.uri.path() {
            DELIVERIES | DELIVERIES_SLASH if head.method == Method::POST => {
                return self.deliver(&head.headers, body, connection).await;
            }
            DELIVERIES | DELIVERIES_SLASH => {
                self.refusals.note(Refused::Method, self.clock.now());
                Refusal::Method("POST")
            }
            HEALTH if matches!(head.method, Method::GET | Method::HEAD) => {
                return answer::and_close(self.health());
            }
            HEALTH => Refusal::Method("GET, HEAD"),
            _ => {
                if read_headers(&head.headers).is_ok() {
                    self.refusals.note(Refused::Path, self.clock.now());
                }
                Refusal::NotFound
            }
        };
        let answer = refusal.answer();
        self.metrics.refused(answer.status());
        answer::and_close(answer)
    }

    /// Notes that hyper has refused by itself what is no request that can be read.
    pub(crate) fn unreadable(&self, status: StatusCode) {
        self.metrics.refused(status);
        self.refusals.note(Refused::Unreadable(status), self.clock.now());
    }

    fn health(&self) -> Answer {
        if self.leaving.is_cancelled() {
            Refusal::Stopping.answer()
        } else if self.batcher.is_closed() {
            Refusal::QueueUnavailable.answer()
        } else {
            answer::healthy()
        }
    }

    async fn deliver(&self, headers: &HeaderMap, body: Incoming, connection: &Connection) -> Answer {
        let tally = self.metrics.tally();
        let started = Instant::now();
        let mut genuine = None;
        let result = match self.read(headers, body, started).await {
            Ok((signed, held)) => {
                self.judge(signed, headers, held, started, (connection, &mut genuine)).await
            }
            Err(refusal) => Err(refusal),
        };
        let (outcome, answer) = match result {
            Ok(enqueued) => (answer::outcome_of(enqueued), answer::durable(enqueued)),
            Err(refusal) => (refusal.outcome(), refusal.answer()),
        };
        let told = genuine.as_ref();
        debug!(
            svix_id = told.map(|told| told.id.as_str()),
            trace_id = told.and_then(|told| told.trace_id).map(tracing::field::display),
            outcome,
            "delivery"
        );
        tally.end(outcome);
        if connection.is_answering() { answer } else { answer::and_close(answer) }
    }

    /// Reads the headers, and only where they are those of a delivery the body.
    async fn read<'a>(
        &self,
        headers: &'a HeaderMap,
        body: Incoming,
        started: Instant,
    ) -> Result<(SignedHeaders<'a>, Held), Refusal> {
        let signed = read_headers(headers).map_err(|error| {
            self.refusals.note(Refused::NotGenuine(error), self.clock.now());
            Refusal::NotGenuine(error)
        })?;
        let held = body::read(body, self.body, &self.room, started).await.inspect_err(|refusal| {
            let refused = match refusal {
                Refusal::TooLarge => Refused::BodyTooLarge(self.body.length_max),
                Refusal::TooSlow => Refused::BodyTooSlow,
                Refusal::Torn => Refused::BodyTorn,
                _ => return,
            };
            self.refusals.note(refused, self.clock.now());
        })?;
        Ok((signed, held))
    }

    /// `genuine` is for the log, and set once it is: what is not verified may say anything.
    async fn judge(
        &self,
        signed: SignedHeaders<'_>,
        headers: &HeaderMap,
        held: Held,
        started: Instant,
        (connection, genuine): (&Connection, &mut Option<Genuine>),
    ) -> Result<Enqueued, Refusal> {
        let now = self.clock.now();
        let skew = verify(&self.secrets, &signed, &held.bytes, now, self.tolerance).map_err(|error| {
            if matches!(error, VerifyError::TooOld | VerifyError::TooNew) {
                self.metrics.refused_for_its_time(signed.ahead_of(now));
            }
            self.refusals.note(Refused::NotGenuine(error), now);
            Refusal::NotGenuine(error)
        })?;
        connection.trust();
        connection.answering();
        self.metrics.verified(now, skew);
        let (id, traceparent) = (signed.message_id(), traceparent(headers));
        if enabled!(Level::DEBUG) {
            *genuine = Some(Genuine { id: id.clone(), trace_id: traceparent.map(Traceparent::trace_id) });
        }
        let delivery = Delivery { id, received_at: now, traceparent, body: held.bytes };
        let result = self.enqueue(delivery, held.room, started).await;
        self.metrics.ack_seconds.observe(started.elapsed().as_secs_f64());
        result
    }

    async fn enqueue(
        &self,
        delivery: Delivery,
        room: OwnedSemaphorePermit,
        started: Instant,
    ) -> Result<Enqueued, Refusal> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Refusal::TooManyWaiting)?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { delivery, asker: Asker { answer, place, room } };
        // The channel has as many slots as there are places, so it is never full: this fails only
        // once the batcher has ended.
        self.batcher.try_send(waiting).map_err(|_| Refusal::QueueUnavailable)?;
        let deadline = (started + self.request_timeout).min(Instant::now() + self.enqueue_timeout);
        match timeout_at(deadline, answered).await {
            Ok(Ok(result)) => result,
            // No answer in time, or a batcher that ended before it could give one.
            Ok(Err(_)) | Err(_) => Err(Refusal::QueueUnavailable),
        }
    }
}

/// The three headers that a delivery has.
fn read_headers(headers: &HeaderMap) -> Result<SignedHeaders<'_>, VerifyError> {
    SignedHeaders::read(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}

/// The trace that a request says it is part of. Two are none: which of them is meant, nobody can tell.
fn traceparent(headers: &HeaderMap) -> Option<Traceparent> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { Traceparent::parse(value.as_bytes()) }
}
