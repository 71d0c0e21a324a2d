//! Log of outages: what fails and why, not once for each request.
//!
//! Constraints:
//!
//! * A reason is logged when it appears, also if another one was logged before it in the same outage.
//! * A reason is logged at most once in [`PAUSE`], and so is the end of an outage: calls that fail and succeed in turn write
//!   a limited number of lines.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rollbook_core::store::StoreError;
use tokio::time::Instant;

/// Least time between two lines of one reason, and between two lines that say that an outage is over.
const PAUSE: Duration = Duration::from_secs(60);
/// Maximum number of reasons that are logged within [`PAUSE`].
const REASONS_MAX: usize = 16;

/// Failures of calls of one kind. The caller writes the lines.
#[derive(Default)]
pub(crate) struct Failures(Mutex<State>);

#[derive(Default)]
struct State {
    /// Reasons that were logged in this outage or within [`PAUSE`], the oldest first.
    logged: Vec<(String, Instant)>,
    /// Time of the first failure since the last success.
    began_at: Option<Instant>,
    /// Whether a failure was logged, and its end was not.
    is_announced: bool,
    ended_at: Option<Instant>,
}

impl Failures {
    /// Records a failure. Returns whether it is to be logged.
    pub(crate) fn failed(&self, reason: &str) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.failed(reason, Instant::now())
    }

    /// Records a success. Returns whether the end of an outage is to be logged.
    pub(crate) fn worked(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.worked(Instant::now())
    }
}

impl State {
    fn failed(&mut self, reason: &str, now: Instant) -> bool {
        let began_at = *self.began_at.get_or_insert(now);
        let is_recent = |at: Instant| now.saturating_duration_since(at) < PAUSE;
        self.logged.retain(|(_, at)| *at >= began_at || is_recent(*at));
        if self.logged.iter().any(|(known, _)| known == reason) {
            return false;
        }
        if self.logged.len() >= REASONS_MAX {
            if self.logged.first().is_some_and(|(_, at)| is_recent(*at)) {
                return false;
            }
            self.logged.remove(0);
        }
        self.logged.push((reason.to_owned(), now));
        self.is_announced = true;
        true
    }

    fn worked(&mut self, now: Instant) -> bool {
        self.began_at = None;
        let is_recent = self.ended_at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE);
        if !self.is_announced || is_recent {
            return false;
        }
        (self.is_announced, self.ended_at) = (false, Some(now));
        true
    }
}

/// Outage of the store for calls of one kind. A role may lack rights on some tables only, so each kind has its own.
pub(crate) struct Outage {
    what: &'static str,
    failures: Failures,
}

impl Outage {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, failures: Failures::default() }
    }

    /// Logs a failure with a new reason, and the first success after it.
    pub(crate) fn log(&self, error: Option<&StoreError>) {
        match error {
            Some(error) if self.failures.failed(&error.to_string()) => {
                tracing::warn!(%error, "api can't read {} in the store", self.what);
            }
            None if self.failures.worked() => tracing::info!("api reads {} in the store again", self.what),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_reason_is_logged_when_it_appears_and_not_again_in_the_same_outage() {
        let (mut state, now) = (State::default(), Instant::now());
        assert!(!state.worked(now), "nothing failed");
        assert!(state.failed("no answer", now));
        assert!(!state.failed("no answer", now + SECOND));
        assert!(state.failed("401: the key is revoked", now + 2 * SECOND), "another reason is news");
        for seconds in [3, 61, 3_600] {
            let at = now + seconds * SECOND;
            assert!(!state.failed("no answer", at) && !state.failed("401: the key is revoked", at));
        }
        assert!(state.worked(now + 3_601 * SECOND));
        assert!(!state.worked(now + 3_602 * SECOND), "the end is logged once");
        assert!(state.failed("no answer", now + 3_603 * SECOND), "a new outage");
    }

    #[test]
    fn calls_that_fail_and_succeed_in_turn_write_two_lines_a_minute() {
        let (mut state, start) = (State::default(), Instant::now());
        let mut lines = 0;
        for half in 0..600 {
            let now = start + half * SECOND / 2;
            lines += usize::from(state.failed("a row is deleted here and present at Clerk", now));
            lines += usize::from(state.worked(now));
        }
        assert_eq!(lines, 2 * 5, "in five minutes");
    }

    #[test]
    fn a_limited_number_of_reasons_is_logged_in_a_minute_and_later_ones_are_not_lost() {
        let (mut state, now) = (State::default(), Instant::now());
        let logged = (0..100).filter(|number| state.failed(&format!("reason {number}"), now)).count();
        assert_eq!((logged, state.logged.len()), (REASONS_MAX, REASONS_MAX));
        assert!(state.failed("reason 99", now + PAUSE), "the outage lasts, and the reason is new");
        assert_eq!(state.logged.len(), REASONS_MAX);
    }
}
