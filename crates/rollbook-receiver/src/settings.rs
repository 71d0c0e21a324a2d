//! The receiver's limits.

use std::time::Duration;

use tokio::sync::Semaphore;

/// No limit in time is longer than this: a larger setting means "for ever", and adding one to a moment
/// must not overflow.
const SPAN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a body may stay below its minimum speed, by default: a lost packet is sent again several times in it.
pub const BODY_WINDOW: Duration = Duration::from_secs(3);

/// The receiver's limits. None of them can be switched off; a count of zero means one, and a span of
/// more than a day means a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time for a request's head, from its first byte; for a connection's first request, from the accept. Then
    /// the connection is closed without an answer.
    pub header_timeout: Duration,
    /// Time that a connection may idle between an answer and the next request. Then it is closed. Longer than
    /// the 60 s for which nginx and AWS's load balancers keep theirs, else their requests meet the close.
    pub idle_timeout: Duration,
    /// Age from which on a connection ends with its next answer.
    pub connection_age_max: Duration,
    /// How long the body may take, counted from the end of the head. Then 408.
    pub body_timeout: Duration,
    /// Minimum speed of a body, in bytes a second, over each `body_window`. Then 408.
    pub body_rate_min: usize,
    /// How long a body may stay below its minimum speed.
    pub body_window: Duration,
    /// How long a request may take from the end of its head to its answer: less than the 15 s after which
    /// Svix gives up. Then 408 or 503, by what it waits for. Also how long a client may leave an answer
    /// unread before its connection is dropped.
    pub request_timeout: Duration,
    /// How long a verified delivery waits for the queue. Then 503.
    pub enqueue_timeout: Duration,
    /// How long a stop goes on taking deliveries, so that whoever sends them here learns of it and goes
    /// elsewhere before anyone is refused. Zero: not at all.
    pub stop_delay: Duration,
    /// How long a stop waits for the requests that are under way. Then they are cut off.
    pub drain_timeout: Duration,
    /// How far the sender's clock may be from ours, either way.
    pub tolerance: Duration,
    /// The longest body, in bytes. Then 413. At most 4 GiB.
    pub body_max: usize,
    /// The most bytes of bodies held at one time, over all requests. Then 503. Not less than `body_max`. A
    /// quarter is reserved for small bodies, and bodies that are still coming yield to newer ones.
    pub buffered_max: usize,
    /// The most connections at one time. Then the oldest that carries no genuine delivery is dropped for a new
    /// one. Each may hold up to 64 KiB beside its body, while it sends that much and is not read.
    pub connections_max: usize,
    /// The most verified deliveries that wait for the queue at one time. Then 503.
    pub in_flight_max: usize,
    /// The most deliveries in one call to the queue.
    pub batch_max: usize,
    /// The most bytes of bodies in one call to the queue; a larger body goes alone. A call must pass the link to
    /// the queue within its time limit.
    pub batch_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
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
    /// The same limits where they make sense, the nearest that do where not: whatever a configuration
    /// holds, the timers and semaphores behind these numbers can't panic.
    pub(crate) fn bounded(self) -> Self {
        let span = |span: Duration| span.min(SPAN_MAX);
        let count = |count: usize| count.clamp(1, Semaphore::MAX_PERMITS);
        // A semaphore hands out at most this many permits, here bytes, at once.
        let body_max = self.body_max.min(u32::MAX as usize);
        Self {
            header_timeout: span(self.header_timeout),
            idle_timeout: span(self.idle_timeout),
            connection_age_max: span(self.connection_age_max),
            body_rate_min: self.body_rate_min,
            body_window: span(self.body_window),
            body_timeout: span(self.body_timeout),
            request_timeout: span(self.request_timeout),
            enqueue_timeout: span(self.enqueue_timeout),
            stop_delay: span(self.stop_delay),
            drain_timeout: span(self.drain_timeout),
            tolerance: self.tolerance,
            body_max,
            buffered_max: count(self.buffered_max.max(body_max)),
            connections_max: count(self.connections_max),
            in_flight_max: count(self.in_flight_max),
            batch_max: count(self.batch_max),
            batch_bytes_max: self.batch_bytes_max,
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
        assert!(settings.idle_timeout > Duration::from_secs(60), "balancers keep theirs for so long");
        assert!(settings.drain_timeout > settings.request_timeout);
    }

    #[test]
    fn absurd_limits_become_the_nearest_possible_ones() {
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
