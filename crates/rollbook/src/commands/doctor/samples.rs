//! Reads the metrics of a running process.

use rollbook_core::time::Timestamp;

/// Metric with the time of the last delivery.
pub(super) const LAST_DELIVERY: &str = "rollbook_last_delivery_timestamp_seconds";

/// Returns the timestamp for a metric's value in seconds.
#[expect(
    clippy::cast_possible_truncation,
    reason = "`as` saturates, and any number of milliseconds is a valid timestamp"
)]
pub(super) fn timestamp(seconds: f64) -> Timestamp {
    Timestamp::from_millis((seconds * 1000.0) as i64)
}

/// Returns the value of one series.
pub(super) fn sample(metrics: &str, series: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}
