//! What the receiver counts. Every series is there from the start, at zero: an alarm on a series that
//! appears with the first fault misses that fault.

use hyper::StatusCode;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounterVec, Opts, Registry};
use rollbook_core::queue::BATCH_SIZE_BUCKETS;
use rollbook_core::signature::VerifyError;
use rollbook_core::time::Timestamp;

use crate::refusals::Reason;
use crate::skew::Skew;

/// The outcomes of a delivery beside the labels of [`VerifyError`].
pub(crate) mod outcome {
    /// Durable.
    pub(crate) const QUEUED: &str = "queued";
    /// Durable before.
    pub(crate) const DUPLICATE: &str = "duplicate";
    /// The body is too long.
    pub(crate) const TOO_LARGE: &str = "too_large";
    /// The body took too long.
    pub(crate) const TOO_SLOW: &str = "too_slow";
    /// The client broke the body, or went away before its answer.
    pub(crate) const TORN: &str = "torn";
    /// As many messages wait as may.
    pub(crate) const QUEUE_FULL: &str = "queue_full";
    /// No memory or no disk space is left where the queue is kept.
    pub(crate) const QUEUE_NO_ROOM: &str = "queue_no_room";
    /// The queue failed, or did not answer in time.
    pub(crate) const QUEUE_UNAVAILABLE: &str = "queue_unavailable";
    /// There was no room for the body, or no place among those that wait for the queue.
    pub(crate) const OVERLOADED: &str = "overloaded";

    /// All of them.
    pub(crate) const ALL: [&str; 9] = [
        QUEUED,
        DUPLICATE,
        TOO_LARGE,
        TOO_SLOW,
        TORN,
        QUEUE_FULL,
        QUEUE_NO_ROOM,
        QUEUE_UNAVAILABLE,
        OVERLOADED,
    ];
}

/// Seconds, up to the 15 s after which Svix gives up.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 8.0, 10.0, 15.0];

/// The statuses of requests that are refused before they are taken for deliveries.
const REFUSED: [StatusCode; 4] = [
    StatusCode::BAD_REQUEST,
    StatusCode::NOT_FOUND,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
];

/// The receiver's instruments.
pub(crate) struct Metrics {
    deliveries: IntCounterVec,
    refused: IntCounterVec,
    /// From the end of a request's head to its answer, of verified deliveries.
    pub(crate) ack_seconds: Histogram,
    /// One call to the queue.
    pub(crate) enqueue_seconds: Histogram,
    /// Deliveries in one call to the queue.
    pub(crate) batch_size: Histogram,
    last_delivery: Gauge,
    refusals: IntCounterVec,
    skew: Skew,
}

impl Metrics {
    /// Registers them all.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let deliveries = IntCounterVec::new(
            Opts::new("rollbook_deliveries_total", "Requests to the webhook path, by what became of them."),
            &["outcome"],
        )?;
        for label in outcome::ALL.into_iter().chain(VerifyError::LABELS) {
            deliveries.with_label_values(&[label]);
        }
        let refused = IntCounterVec::new(
            Opts::new(
                "rollbook_requests_refused_total",
                "Requests that are no deliveries: not readable (400), of another path (404) or method (405), with a head too long (431).",
            ),
            &["status"],
        )?;
        for status in REFUSED {
            refused.with_label_values(&[status.as_str()]);
        }
        let seconds = |name, help| HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        let metrics = Self {
            deliveries,
            refused,
            ack_seconds: Histogram::with_opts(seconds(
                "rollbook_ack_seconds",
                "Time from the end of a request's head to its answer, of verified deliveries.",
            ))?,
            enqueue_seconds: Histogram::with_opts(seconds(
                "rollbook_enqueue_seconds",
                "Time that one call to the queue took.",
            ))?,
            batch_size: Histogram::with_opts(
                HistogramOpts::new("rollbook_batch_size", "Messages handled in one batch.")
                    .const_label("stage", "enqueue")
                    .buckets(BATCH_SIZE_BUCKETS.to_vec()),
            )?,
            last_delivery: Gauge::new(
                "rollbook_last_delivery_timestamp_seconds",
                "When the last verified delivery came; zero before the first.",
            )?,
            refusals: refusals(registry)?,
            skew: Skew::new()?,
        };
        registry.register(Box::new(metrics.deliveries.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.ack_seconds.clone()))?;
        registry.register(Box::new(metrics.enqueue_seconds.clone()))?;
        registry.register(Box::new(metrics.batch_size.clone()))?;
        registry.register(Box::new(metrics.last_delivery.clone()))?;
        registry.register(Box::new(metrics.skew.clone()))?;
        Ok(metrics)
    }

    /// Notes a verified delivery: the moment, and how far its sender's clock is ahead in milliseconds.
    pub(crate) fn verified(&self, now: Timestamp, skew_millis: i64) {
        self.last_delivery.set(seconds(now.as_millis()));
        self.skew.taken(seconds(skew_millis));
    }

    /// Notes a delivery that is refused for its time alone, and how far its sender's clock is ahead in milliseconds.
    pub(crate) fn refused_for_its_time(&self, skew_millis: i64) {
        self.skew.refused(seconds(skew_millis));
    }

    /// Counts a request that is, or may be, a genuine delivery that something on its way spoilt.
    pub(crate) fn refusal(&self, reason: Reason) {
        self.refusals.with_label_values(&[reason.label()]).inc();
    }

    /// Counts a request that was refused before it was taken for a delivery.
    pub(crate) fn refused(&self, status: StatusCode) {
        self.refused.with_label_values(&[status.as_str()]).inc();
    }

    /// Begins to count one delivery, which is torn unless its [`Tally`] learns better.
    pub(crate) fn tally(&self) -> Tally<'_> {
        Tally { metrics: self, outcome: outcome::TORN }
    }
}

fn refusals(registry: &Registry) -> Result<IntCounterVec, prometheus::Error> {
    let help = "Requests that are, or may be, deliveries and are refused, by the reason.";
    let refusals = IntCounterVec::new(Opts::new("rollbook_refusals_total", help), &["reason"])?;
    for reason in Reason::ALL {
        refusals.with_label_values(&[reason.label()]);
    }
    registry.register(Box::new(refusals.clone()))?;
    Ok(refusals)
}

#[expect(clippy::cast_precision_loss, reason = "exact for every date until the year 287396")]
fn seconds(millis: i64) -> f64 {
    millis as f64 / 1000.0
}

/// Counts one delivery when it is dropped, and so also when its client goes away: hyper then drops
/// the request's future wherever it stands.
pub(crate) struct Tally<'a> {
    metrics: &'a Metrics,
    outcome: &'static str,
}

impl Tally<'_> {
    /// Ends the count with this outcome.
    pub(crate) fn end(mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        self.metrics.deliveries.with_label_values(&[self.outcome]).inc();
    }
}
