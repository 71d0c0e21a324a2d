//! Handling of one request: routing, verification, enqueueing, response.
//!
//! Checks run from cheap to expensive, so that unauthenticated clients cause little work: path, headers,
//! announced length, body within its time and memory, signature. Only then is a permit taken among the
//! deliveries that wait for the queue. Only the answer to a verified delivery leaves its connection open.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::HeaderName;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::Enqueued;
use rollbook_core::signature::{SignedHeaders, VerifyError, verify};
use rollbook_core::time::Clock;
use rollbook_core::trace::{TraceId, Traceparent};
use rollbook_http::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Level, debug, enabled};

use crate::answer::{self, Answer, Refusal};
use crate::batcher::{PendingRequest, WaitingDelivery};
use crate::body::{self, BufferedBody};
use crate::body_budget::BodyBudget;
use crate::metrics::Metrics;
use crate::paths::{HEALTH, WebhookPaths};
use crate::reason::Refused;
use crate::refusals::Refusals;
use crate::secrets::EndpointSecrets;
use crate::settings::Settings;

/// Header with the trace of a request. Not signed.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Pages in addition to deliveries, such as health checks: `None` for a path that has none. A page is never a delivery's answer.
pub type OtherPages = Arc<dyn Fn(&Parts) -> Option<Page> + Send + Sync>;
/// Page that is being made.
pub type Page = Pin<Box<dyn Future<Output = Response<Bytes>> + Send>>;

/// Fields of a verified delivery for the log.
struct Verified {
    id: MessageId,
    trace_id: Option<TraceId>,
}

/// State shared by all requests.
pub(crate) struct Handler {
    paths: WebhookPaths,
    secrets: EndpointSecrets,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    refusals: Refusals,
    batcher: mpsc::Sender<WaitingDelivery>,
    /// Permits for verified deliveries that wait for the queue.
    permits: Arc<Semaphore>,
    body_budget: BodyBudget,
    body: body::Limits,
    shutting_down: CancellationToken,
    tolerance: Duration,
    request_timeout: Duration,
    enqueue_timeout: Duration,
    pages: Option<OtherPages>,
}

impl Handler {
    /// Creates a handler that sends to `batcher`; the channel must hold `settings.in_flight_max` deliveries. Requests for
    /// other paths are answered by `pages`.
    pub(crate) fn new(
        settings: &Settings,
        secrets: EndpointSecrets,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        batcher: mpsc::Sender<WaitingDelivery>,
        shutting_down: CancellationToken,
        pages: Option<OtherPages>,
    ) -> Self {
        Self {
            paths: settings.webhook_paths.clone(),
            secrets,
            clock,
            refusals: Refusals::new(Arc::clone(&metrics), settings.webhook_paths.clone()),
            metrics,
            batcher,
            permits: Arc::new(Semaphore::new(settings.in_flight_max)),
            body_budget: BodyBudget::new(settings.buffered_max, settings.body_max),
            body: body::Limits {
                length_max: settings.body_max,
                timeout: settings.body_timeout.min(settings.request_timeout),
                window: settings.body_window,
                rate_min: settings.body_rate_min,
            },
            shutting_down,
            tolerance: settings.tolerance,
            request_timeout: settings.request_timeout,
            enqueue_timeout: settings.enqueue_timeout,
            pages,
        }
    }

    /// Answers a request after its head was read. During a shutdown each answer closes its connection, so
    /// that the client reconnects to another instance.
    pub(crate) async fn answer(&self, request: Request<Incoming>, connection: &Connection) -> Answer {
        let answer = self.route(request, connection).await;
        if self.shutting_down.is_cancelled() { answer::and_close(answer) } else { answer }
    }

    async fn route(&self, request: Request<Incoming>, connection: &Connection) -> Answer {
        let (head, body) = request.into_parts();
        if !self.paths.contains(head.uri.path())
            && let Some(page) = self.pages.as_ref().and_then(|pages| pages(&head))
        {
            return answer::and_close(page.await.map(Full::new));
        }
        let answer = match head.uri.path() {
            path if self.paths.contains(path) && head.method == Method::POST => {
                return self.deliver(&head.headers, body, connection).await;
            }
            path if self.paths.contains(path) => {
                self.refusals.note(Refused::Method, self.clock.now());
                Refusal::Method("POST").answer()
            }
            HEALTH if matches!(head.method, Method::GET | Method::HEAD) => {
                return answer::and_close(self.health());
            }
            HEALTH => Refusal::Method("GET, HEAD").answer(),
            _ => {
                if read_headers(&head.headers).is_ok() {
                    self.refusals.note(Refused::Path, self.clock.now());
                }
                answer::not_found(&self.paths)
            }
        };
        self.metrics.refused(answer.status());
        answer::and_close(answer)
    }

    /// Counts a request that hyper could not parse and has answered by itself.
    pub(crate) fn unreadable(&self, status: StatusCode) {
        self.metrics.refused(status);
        self.refusals.note(Refused::Unreadable(status), self.clock.now());
    }

    fn health(&self) -> Answer {
        if self.shutting_down.is_cancelled() {
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
        let mut verified = None;
        let result = match self.read(headers, body, started).await {
            Ok((signed, body)) => {
                self.verify_and_enqueue(signed, headers, body, started, (connection, &mut verified)).await
            }
            Err(refusal) => Err(refusal),
        };
        let (outcome, answer) = match result {
            Ok(enqueued) => (answer::outcome_of(enqueued), answer::durable(enqueued)),
            Err(refusal) => (refusal.outcome(), refusal.answer()),
        };
        let logged = verified.as_ref();
        debug!(
            svix_id = logged.map(|logged| logged.id.as_str()),
            trace_id = logged.and_then(|logged| logged.trace_id).map(tracing::field::display),
            outcome,
            "delivery"
        );
        tally.end(outcome);
        if connection.is_answering() { answer } else { answer::and_close(answer) }
    }

    /// Reads the headers; reads the body only if they are those of a delivery.
    async fn read<'a>(
        &self,
        headers: &'a HeaderMap,
        body: Incoming,
        started: Instant,
    ) -> Result<(SignedHeaders<'a>, BufferedBody), Refusal> {
        let signed = read_headers(headers).map_err(|error| {
            self.refusals.note(Refused::Unverified(error), self.clock.now());
            Refusal::Unverified(error)
        })?;
        let body = body::read(body, self.body, &self.body_budget, started).await.inspect_err(|refusal| {
            let refused = match refusal {
                Refusal::TooLarge => Refused::BodyTooLarge(self.body.length_max),
                Refusal::TooSlow => Refused::BodyTooSlow,
                Refusal::Incomplete => Refused::BodyTorn,
                _ => return,
            };
            self.refusals.note(refused, self.clock.now());
        })?;
        Ok((signed, body))
    }

    /// Verifies and enqueues a delivery. `verified` is for the log and set only after verification: unverified
    /// fields may contain anything.
    async fn verify_and_enqueue(
        &self,
        signed: SignedHeaders<'_>,
        headers: &HeaderMap,
        body: BufferedBody,
        started: Instant,
        (connection, verified): (&Connection, &mut Option<Verified>),
    ) -> Result<Enqueued, Refusal> {
        let now = self.clock.now();
        let known = self.secrets.current();
        let genuine = verify(&known.secrets, &signed, &body.bytes, now, self.tolerance).map_err(|error| {
            if matches!(error, VerifyError::TooOld | VerifyError::TooNew) {
                self.metrics.refused_for_timestamp(signed.ahead_of(now));
            }
            self.refusals.note(Refused::Unverified(error), now);
            Refusal::Unverified(error)
        })?;
        connection.authenticated();
        connection.answer_begins();
        known.note(genuine, now);
        self.metrics.verified(now, genuine.ahead_millis);
        let (id, traceparent) = (signed.message_id(), traceparent(headers));
        if enabled!(Level::DEBUG) {
            *verified = Some(Verified { id: id.clone(), trace_id: traceparent.map(Traceparent::trace_id) });
        }
        let delivery = Delivery { id, received_at: now, traceparent, body: body.bytes };
        let result = self.enqueue(delivery, body.permit, started).await;
        self.metrics.ack_seconds.observe(started.elapsed().as_secs_f64());
        result
    }

    async fn enqueue(
        &self,
        delivery: Delivery,
        body_permit: OwnedSemaphorePermit,
        started: Instant,
    ) -> Result<Enqueued, Refusal> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| Refusal::TooManyWaiting)?;
        let (answer, answered) = oneshot::channel();
        let waiting = WaitingDelivery { delivery, request: PendingRequest { answer, permit, body_permit } };
        // The channel has as many slots as there are permits, so it is never full: sending fails only after
        // the batcher has ended.
        self.batcher.try_send(waiting).map_err(|_| Refusal::QueueUnavailable)?;
        let deadline = (started + self.request_timeout).min(Instant::now() + self.enqueue_timeout);
        match timeout_at(deadline, answered).await {
            Ok(Ok(result)) => result,
            // No answer in time, or the batcher ended before answering.
            Ok(Err(_)) | Err(_) => Err(Refusal::QueueUnavailable),
        }
    }
}

/// Reads the three headers of a delivery.
fn read_headers(headers: &HeaderMap) -> Result<SignedHeaders<'_>, VerifyError> {
    SignedHeaders::read(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}

/// Trace of a request, from its `traceparent` header; `None` for two headers, which are ambiguous.
fn traceparent(headers: &HeaderMap) -> Option<Traceparent> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { Traceparent::parse(value.as_bytes()) }
}
