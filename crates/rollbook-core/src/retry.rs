//! Retry policy: whether a message that could not be applied is retried later or becomes a dead letter.

use std::time::Duration;

crate::named! {
    /// Reason why a message failed. The list is closed, so that it can be a metric's label and a filter's value.
    pub enum Reason {
        /// The body is not valid JSON.
        InvalidJson = "invalid_json",
        /// The body is nested too deeply to be parsed safely.
        TooDeep = "too_deep",
        /// The body is JSON, but not an event: no type, no timestamp, or no object in `data`.
        NotAnEvent = "not_an_event",
        /// The event's `data` has no id.
        MissingId = "missing_id",
        /// The event is of another Clerk instance than the configured one.
        WrongInstance = "wrong_instance",
        /// The store refused the values.
        StoreRefused = "store_refused",
        /// The store hit a time limit with this message alone, while others succeeded.
        StoreTimeout = "store_timeout",
        /// The message was leased the maximum number of times without a settlement: it crashes or stalls its worker.
        CrashLoop = "crash_loop",
        /// The queue's own entry cannot be read back.
        CorruptEntry = "corrupt_entry",
    }
}

impl Reason {
    /// Returns whether retrying cannot help, because the result depends on the body alone.
    pub const fn is_permanent(self) -> bool {
        !matches!(self, Self::StoreRefused | Self::StoreTimeout)
    }
}

/// One failure of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Reason of the failure.
    pub reason: Reason,
    /// Description for a person: what was wrong and where. Contains no value of the body.
    pub detail: String,
    /// Event type, if the body could be read that far.
    pub event_type: Option<String>,
}

/// Policy of retries and dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Maximum delay after the first failed attempt. It doubles with each further one.
    pub backoff: Duration,
    /// Upper bound of all delays.
    pub backoff_max: Duration,
    /// Maximum number of leases of a message before it becomes a dead letter. At least one.
    pub attempts_max: u32,
}

/// Decision of [`RetryPolicy::decide`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Retry after this delay.
    Retry(Duration),
    /// Move the message to the dead letters.
    DeadLetter,
}

impl RetryPolicy {
    /// Decides after attempt number `attempt` (from one) failed with `reason`. The delay is between zero and
    /// the exponential limit ("full jitter"), so that messages which failed together are not retried
    /// together. `jitter` in `0.0..1.0` selects the delay in that range.
    pub fn decide(&self, attempt: u32, reason: Reason, jitter: f64) -> Decision {
        if reason.is_permanent() || attempt >= self.attempts_max {
            return Decision::DeadLetter;
        }
        Decision::Retry(self.backoff_limit(attempt).mul_f64(jitter.clamp(0.0, 1.0)))
    }

    /// Returns the maximum delay after attempt number `attempt`.
    pub fn backoff_limit(&self, attempt: u32) -> Duration {
        let doubled =
            2_u32.checked_pow(attempt.saturating_sub(1)).and_then(|times| self.backoff.checked_mul(times));
        doubled.map_or(self.backoff_max, |wait| wait.min(self.backoff_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: RetryPolicy = RetryPolicy {
        backoff: Duration::from_secs(2),
        backoff_max: Duration::from_secs(600),
        attempts_max: 12,
    };

    #[test]
    fn the_limit_doubles_from_two_seconds_to_ten_minutes() {
        let limits: Vec<u64> = (1..=11).map(|attempt| POLICY.backoff_limit(attempt).as_secs()).collect();
        assert_eq!(limits, [2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
    }

    #[test]
    fn the_last_attempt_parks_and_the_one_before_does_not() {
        assert_eq!(POLICY.decide(12, Reason::StoreRefused, 0.5), Decision::DeadLetter);
        assert_eq!(POLICY.decide(11, Reason::StoreRefused, 0.5), Decision::Retry(Duration::from_secs(300)));
    }

    #[test]
    fn a_permanent_failure_is_parked_at_the_first_attempt() {
        for reason in Reason::ALL.into_iter().filter(|reason| reason.is_permanent()) {
            assert_eq!(POLICY.decide(1, reason, 0.5), Decision::DeadLetter);
        }
    }

    #[test]
    fn every_reason_round_trips_through_its_name() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
        }
    }

    proptest! {
        #[test]
        fn a_delay_never_exceeds_the_limit(attempt in 1_u32.., jitter in 0.0..1.0_f64, seconds in 0_u64..1 << 40) {
            let policy = RetryPolicy { backoff: Duration::from_secs(seconds), attempts_max: u32::MAX, ..POLICY };
            match policy.decide(attempt, Reason::StoreRefused, jitter) {
                Decision::Retry(wait) => prop_assert!(wait <= policy.backoff_max),
                Decision::DeadLetter => prop_assert_eq!(attempt, u32::MAX),
            }
        }
    }
}
