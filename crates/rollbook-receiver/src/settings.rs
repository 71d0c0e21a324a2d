//! Limits of the receiver.

use std::time::Duration;

use tokio::sync::Semaphore;

use crate::paths::WebhookPaths;

/// Maximum of every time limit; larger settings mean "unlimited". Adding a limit to a timestamp must not
/// overflow.
const SPAN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Default of `body_window`: long enough to retransmit a lost packet several times.
pub const BODY_WINDOW: Duration = Duration::from_secs(3);

/// Limits of the receiver. No limit can be switched off: a count of zero means one, and a duration of more
/// than a day means a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Paths that accept deliveries.
    pub webhook_paths: WebhookPaths,
    /// Maximum time for a request head, from its first byte; for the first request, from the accept. After it
    /// the connection is closed without an answer.
    pub header_timeout: Duration,
    /// Maximum idle time between an answer and the next request; then the connection is closed. Must be
    /// longer than the 60 s for which nginx and AWS's load balancers keep idle connections, otherwise
    /// their requests can arrive on a connection that is being closed.
    pub idle_timeout: Duration,
    /// Age after which a connection closes with its next answer.
    pub connection_age_max: Duration,
    /// Maximum time for the body, from the end of the head; then 408.
    pub body_timeout: Duration,
    /// Minimum rate of a body in bytes per second, over each `body_window`; below it 408.
    pub body_rate_min: usize,
    /// Interval over which `body_rate_min` is measured.
    pub body_window: Duration,
    /// Maximum time from the end of a request's head to its answer; then 408 or 503, depending on the stage.
    /// Must be less than the 15 s after which Svix gives up. Also the maximum time that a client may leave an
    /// answer unread.
    pub request_timeout: Duration,
    /// Maximum time that a verified delivery waits for the queue; then 503.
    pub enqueue_timeout: Duration,
    /// Time for which a stop continues to accept deliveries, so that load balancers notice it before requests
    /// are refused. Zero: no delay.
    pub stop_delay: Duration,
    /// Maximum time that a stop waits for requests in progress; then their connections are closed.
    pub drain_timeout: Duration,
    /// Maximum difference between the sender's clock and the local clock, in both directions.
    pub tolerance: Duration,
    /// Maximum length of a body, in bytes; above it 413. At most 4 GiB.
    pub body_max: usize,
    /// Maximum bytes of all bodies held at one time; above it 503. At least `body_max`. A quarter is reserved
    /// for small bodies, and unfinished bodies are evicted for newer ones.
    pub buffered_max: usize,
    /// Maximum number of open connections. Above it, the oldest one without a verified delivery is dropped
    /// for a new client. A connection may hold up to 64 KiB in addition to its body, while it sends that much
    /// and is not read.
    pub connections_max: usize,
    /// Maximum number of verified deliveries that wait for the queue; above it 503.
    pub in_flight_max: usize,
    /// Maximum deliveries in one call to the queue.
    pub batch_max: usize,
    /// Maximum bytes of bodies in one call to the queue; a larger body goes alone. A call must pass the
    /// network link to the queue within its time limit.
    pub batch_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            webhook_paths: WebhookPaths::default(),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            connection_age_max: Duration::from_secs(10 * 60),
            body_rate_min: 1024,
            body_window: BODY_WINDOW,
            body_timeout: Duration::from_secs(8),
            request_timeout: Duration::from_secs(12),
            enqueue_timeout: Duration::from_secs(8),
            stop_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(25),
            tolerance: Duration::from_secs(300),
            body_max: 1024 * 1024,
            buffered_max: 64 * 1024 * 1024,
            connections_max: 4096,
            in_flight_max: 1024,
            batch_max: 256,
            batch_bytes_max: 4 * 1024 * 1024,
        }
    }
}

impl Settings {
    /// Clamps every limit to its range, so that no configuration can make the timers and semaphores behind
    /// the numbers panic.
    pub(crate) fn bounded(self) -> Self {
        let span = |span: Duration| span.min(SPAN_MAX);
        let count = |count: usize| count.clamp(1, Semaphore::MAX_PERMITS);
        // A semaphore grants at most this many permits (bytes) at once.
        let body_max = self.body_max.min(u32::MAX as usize);
        Self {
            header_timeout: span(self.header_timeout),
            idle_timeout: span(self.idle_timeout),
            connection_age_max: span(self.connection_age_max),
            body_window: span(self.body_window),
            body_timeout: span(self.body_timeout),
            request_timeout: span(self.request_timeout),
            enqueue_timeout: span(self.enqueue_timeout),
            stop_delay: span(self.stop_delay),
            drain_timeout: span(self.drain_timeout),
            body_max,
            buffered_max: count(self.buffered_max.max(body_max)),
            connections_max: count(self.connections_max),
            in_flight_max: count(self.in_flight_max),
            batch_max: count(self.batch_max),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_their_bounds_and_answer_before_svix_gives_up() {
        let settings = Settings::default();
        assert_eq!(settings.clone().bounded(), settings);
        assert!(settings.request_timeout < Duration::from_secs(15));
        assert!(settings.enqueue_timeout < Duration::from_secs(10));
        assert!(
            settings.idle_timeout > Duration::from_secs(60),
            "load balancers keep idle connections for 60 s"
        );
        assert!(settings.drain_timeout > settings.request_timeout);
    }

    #[test]
    fn limits_out_of_range_are_clamped_to_the_nearest_valid_values() {
        let least = Settings {
            body_max: 0,
            buffered_max: 0,
            connections_max: 0,
            in_flight_max: 0,
            batch_max: 0,
            ..Settings::default()
        };
        let least = least.bounded();
        assert_eq!((least.buffered_max, least.connections_max, least.in_flight_max), (1, 1, 1));
        assert_eq!((least.body_max, least.batch_max), (0, 1));

        let most = Settings {
            header_timeout: Duration::MAX,
            body_max: usize::MAX,
            connections_max: usize::MAX,
            ..Settings::default()
        };
        let most = most.bounded();
        assert_eq!(most.header_timeout, SPAN_MAX);
        assert!(u32::try_from(most.body_max).is_ok() && most.buffered_max >= most.body_max);
        assert_eq!(most.connections_max, Semaphore::MAX_PERMITS);
    }
}
