//! Metrics of the receiver. Every series exists from the start, at zero: an alert on a series that appears
//! with the first fault would miss that fault.

use hyper::StatusCode;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounterVec, Registry, register_gauge_with_registry,
    register_histogram_with_registry, register_int_counter_vec_with_registry,
};
use rollbook_core::queue::BATCH_SIZE_BUCKETS;
use rollbook_core::signature::VerifyError;
use rollbook_core::time::Timestamp;

use crate::reason::Reason;
use crate::skew::Skew;

/// Outcomes of a delivery, in addition to the labels of [`VerifyError`].
pub(crate) mod outcome {
    /// Now durable.
    pub(crate) const QUEUED: &str = "queued";
    /// Already durable.
    pub(crate) const DUPLICATE: &str = "duplicate";
    /// The body exceeds the length limit.
    pub(crate) const TOO_LARGE: &str = "too_large";
    /// The body arrived too slowly.
    pub(crate) const TOO_SLOW: &str = "too_slow";
    /// The body was incomplete, or the client disconnected before its answer.
    pub(crate) const TORN: &str = "torn";
    /// The queue holds the maximum number of messages.
    pub(crate) const QUEUE_FULL: &str = "queue_full";
    /// The queue's memory or disk is full.
    pub(crate) const QUEUE_NO_ROOM: &str = "queue_no_room";
    /// The queue failed or did not answer in time.
    pub(crate) const QUEUE_UNAVAILABLE: &str = "queue_unavailable";
    /// The memory budget for bodies or the permits for waiting deliveries were used up.
    pub(crate) const OVERLOADED: &str = "overloaded";

    /// All outcomes above.
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

/// Histogram buckets in seconds, up to the 15 s after which Svix gives up.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 8.0, 10.0, 15.0];

/// Statuses of requests that are refused before they count as deliveries.
const REFUSED: [StatusCode; 4] = [
    StatusCode::BAD_REQUEST,
    StatusCode::NOT_FOUND,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
];

/// All metrics of the receiver.
pub(crate) struct Metrics {
    deliveries: IntCounterVec,
    refused: IntCounterVec,
    /// Time from the end of a request's head to its answer, of verified deliveries.
    pub(crate) ack_seconds: Histogram,
    /// Duration of one call to the queue.
    pub(crate) enqueue_seconds: Histogram,
    /// Deliveries in one call to the queue.
    pub(crate) batch_size: Histogram,
    last_delivery: Gauge,
    refusals: IntCounterVec,
    skew: Skew,
}

impl Metrics {
    /// Registers all metrics.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let (name, help) = ("rollbook_deliveries_total", "Requests to the webhook path, by outcome.");
        let deliveries = register_int_counter_vec_with_registry!(name, help, &["outcome"], registry)?;
        for label in outcome::ALL.into_iter().chain(VerifyError::LABELS) {
            deliveries.with_label_values(&[label]);
        }
        let refused = register_int_counter_vec_with_registry!(
            "rollbook_requests_refused_total",
            "Requests that are not deliveries: unreadable (400), unknown path (404) or method (405), head too long (431).",
            &["status"],
            registry
        )?;
        for status in REFUSED {
            refused.with_label_values(&[status.as_str()]);
        }
        let seconds = |name: &str, help: &str| {
            register_histogram_with_registry!(name, help, SECONDS.to_vec(), registry)
        };
        let skew = Skew::new()?;
        registry.register(Box::new(skew.clone()))?;
        Ok(Self {
            deliveries,
            refused,
            ack_seconds: seconds(
                "rollbook_ack_seconds",
                "Time from the end of a request's head to its answer, of verified deliveries.",
            )?,
            enqueue_seconds: seconds("rollbook_enqueue_seconds", "Duration of one call to the queue.")?,
            batch_size: register_histogram_with_registry!(
                HistogramOpts::new("rollbook_batch_size", "Messages handled in one batch.")
                    .const_label("stage", "enqueue")
                    .buckets(BATCH_SIZE_BUCKETS.to_vec()),
                registry
            )?,
            last_delivery: register_gauge_with_registry!(
                "rollbook_last_delivery_timestamp_seconds",
                "Time of the last verified delivery; zero before the first.",
                registry
            )?,
            refusals: refusals(registry)?,
            skew,
        })
    }

    /// Records a verified delivery: its time, and how far the sender's clock is ahead, in milliseconds.
    pub(crate) fn verified(&self, now: Timestamp, skew_millis: i64) {
        self.last_delivery.set(seconds(now.as_millis()));
        self.skew.accepted(seconds(skew_millis));
    }

    /// Records a delivery refused only for its timestamp: how far the sender's clock is ahead, in
    /// milliseconds.
    pub(crate) fn refused_for_timestamp(&self, skew_millis: i64) {
        self.skew.refused(seconds(skew_millis));
    }

    /// Counts a refused request that is, or may be, a delivery damaged in transit.
    pub(crate) fn refusal(&self, reason: Reason) {
        self.refusals.with_label_values(&[reason.label()]).inc();
    }

    /// Counts a request refused before it counts as a delivery.
    pub(crate) fn refused(&self, status: StatusCode) {
        self.refused.with_label_values(&[status.as_str()]).inc();
    }

    /// Starts to count one delivery; its outcome is `torn` unless [`Tally::end`] is called.
    pub(crate) fn tally(&self) -> Tally<'_> {
        Tally { metrics: self, outcome: outcome::TORN }
    }
}

fn refusals(registry: &Registry) -> Result<IntCounterVec, prometheus::Error> {
    let help = "Refused requests that are, or may be, deliveries, by reason.";
    let name = "rollbook_refusals_total";
    let refusals = register_int_counter_vec_with_registry!(name, help, &["reason"], registry)?;
    for reason in Reason::ALL {
        refusals.with_label_values(&[reason.label()]);
    }
    Ok(refusals)
}

#[expect(clippy::cast_precision_loss, reason = "exact for every date until the year 287396")]
fn seconds(millis: i64) -> f64 {
    millis as f64 / 1000.0
}

/// Counts one delivery on drop, and therefore also after a disconnect: hyper then drops the request's future
/// at any point.
pub(crate) struct Tally<'a> {
    metrics: &'a Metrics,
    outcome: &'static str,
}

impl Tally<'_> {
    /// Sets the outcome and counts the delivery.
    pub(crate) fn end(mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        self.metrics.deliveries.with_label_values(&[self.outcome]).inc();
    }
}
