//! Polling of idle shards.
//!
//! All lanes of a process together poll a shard as often as one lane would: the lane that polls claims the
//! shard, and the others wait until its pause has passed. With many shards the pause is longer, so that an
//! idle process polls at most about 60 times per second.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rollbook_core::queue::QueueError;
use tokio::time::Instant;

/// First pause without a blocking read for new messages; it doubles up to the maximum.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// Maximum pause. Released, redriven and again due messages do not wake a blocking read: they are found
/// within this time.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Pause per shard with many shards, up to the maximum for all of them.
const PAUSE_PER_SHARD: Duration = Duration::from_millis(16);
const PAUSE_MAX_ALL_SHARDS: Duration = Duration::from_secs(1);

/// Pauses between polls of an idle shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pauses {
    first: Duration,
    max: Duration,
}

impl Pauses {
    /// Returns the pauses; `has_blocking_read` if a blocking read reports new messages.
    pub(super) fn of(shards: usize, has_blocking_read: bool) -> Self {
        let shards = u32::try_from(shards).unwrap_or(u32::MAX);
        let max = PAUSE_PER_SHARD.saturating_mul(shards).clamp(PAUSE_MAX, PAUSE_MAX_ALL_SHARDS);
        Self { first: if has_blocking_read { max } else { PAUSE_FIRST }, max }
    }
}

/// Idle state of a shard; empty while messages may be due.
#[derive(Default)]
pub(super) struct Idle(Mutex<Option<State>>);

struct State {
    /// Last entry of the stream of new messages at the last poll. Empty if unknown.
    cursor: String,
    poll_at: Instant,
    pause: Duration,
    /// Error of the last poll.
    failure: Option<QueueError>,
}

impl Idle {
    fn state(&self) -> MutexGuard<'_, Option<State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the idle state: messages may be due.
    pub(super) fn end(&self) {
        *self.state() = None;
    }

    /// Returns whether the caller should poll this shard now. One caller gets `true`; the others get `false` until the
    /// next poll is due.
    pub(super) fn claim(&self, now: Instant) -> bool {
        match &mut *self.state() {
            None => true,
            Some(state) if state.poll_at <= now => {
                state.poll_at = now + state.pause;
                true
            }
            Some(_) => false,
        }
    }

    /// Records a poll that found nothing due; only new messages can be due before `next_due_after`.
    pub(super) fn begin(
        &self,
        now: Instant,
        cursor: String,
        next_due_after: Option<Duration>,
        pauses: Pauses,
    ) {
        let mut state = self.state();
        let pause = state.as_ref().map_or(pauses.first, |before| (before.pause * 2).min(pauses.max));
        let poll_at = now + next_due_after.unwrap_or(pause).min(pause);
        *state = Some(State { cursor, poll_at, pause, failure: None });
    }

    /// Records a failed poll. Returns whether the poll before had succeeded.
    pub(super) fn fail(&self, now: Instant, error: QueueError, pauses: Pauses) -> bool {
        let mut state = self.state();
        let is_new = state.as_ref().is_none_or(|state| state.failure.is_none());
        let poll_at = now + pauses.max;
        *state = Some(State { cursor: String::new(), poll_at, pause: pauses.first, failure: Some(error) });
        is_new
    }

    /// Error of the last poll.
    pub(super) fn failure(&self) -> Option<QueueError> {
        self.state().as_ref().and_then(|state| state.failure.clone())
    }

    /// Time of the next poll; `None` means at once.
    pub(super) fn poll_at(&self) -> Option<Instant> {
        self.state().as_ref().map(|state| state.poll_at)
    }

    /// Entry after which new messages follow, if known.
    pub(super) fn cursor(&self) -> Option<String> {
        self.state().as_ref().map(|state| state.cursor.clone()).filter(|cursor| !cursor.is_empty())
    }

    /// Records a new entry: one lane polls at once.
    pub(super) fn record_new_entry(&self, now: Instant, entry: String) {
        if let Some(state) = &mut *self.state() {
            state.cursor = entry;
            state.poll_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_process_polls_at_a_bounded_rate() {
        for (shards, has_blocking_read, first, max) in [
            (1, true, 250, 250),
            (1, false, 20, 250),
            (15, false, 20, 250),
            (16, false, 20, 256),
            (62, true, 992, 992),
            (63, true, 1_000, 1_000),
            (64, false, 20, 1_000),
        ] {
            let pauses = Pauses::of(shards, has_blocking_read);
            assert_eq!((pauses.first.as_millis(), pauses.max.as_millis()), (first, max), "{shards}");
        }
    }

    #[test]
    fn one_lane_polls_and_the_others_wait_until_the_pause_has_passed() {
        let (idle, pauses) = (Idle::default(), Pauses::of(1, false));
        let mut now = Instant::now();
        assert!(idle.claim(now) && idle.claim(now), "every lane polls while messages may be due");
        for pause in [20, 40, 80, 160, 250, 250] {
            idle.begin(now, "1-0".to_owned(), None, pauses);
            let pause = Duration::from_millis(pause);
            assert!(!idle.claim(now) && !idle.claim(now + pause - Duration::from_millis(1)));
            now += pause;
            assert!(idle.claim(now));
            assert!(!idle.claim(now), "one lane is enough");
        }
        idle.begin(now, "1-0".to_owned(), Some(Duration::from_millis(3)), pauses);
        now += Duration::from_millis(3);
        assert!(idle.claim(now), "messages are due by then");
        idle.record_new_entry(now, "2-0".to_owned());
        assert!(idle.claim(now) && !idle.claim(now));
        assert_eq!(idle.cursor().as_deref(), Some("2-0"));
        idle.end();
        assert_eq!((idle.cursor(), idle.poll_at()), (None, None));
    }
}
