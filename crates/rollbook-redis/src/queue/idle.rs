//! When a shard in which nothing was due is looked at again.
//!
//! A process looks at a shard as often as one lane would, however many lanes it has: who looks claims it, and the others
//! wait until that look's pause has passed. With many shards the pause is longer, so that an idle process asks no more
//! often than some 60 times a second.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rollbook_core::queue::QueueError;
use tokio::time::Instant;

/// How often a shard is looked at where nothing tells of new messages: the first time, then twice as long each time.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// What is released, redriven or due again rings no bell: it is noticed after this time at the latest.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// With many shards after this time, which is as much for each of them.
const PAUSE_OF_A_SHARD: Duration = Duration::from_millis(16);
const PAUSE_MAX_OF_ALL: Duration = Duration::from_secs(1);

/// How long an idle shard is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pauses {
    first: Duration,
    max: Duration,
}

impl Pauses {
    /// `has_bell` where a read that blocks tells of new messages.
    pub(super) fn of(shards: usize, has_bell: bool) -> Self {
        let shards = u32::try_from(shards).unwrap_or(u32::MAX);
        let max = PAUSE_OF_A_SHARD.saturating_mul(shards).clamp(PAUSE_MAX, PAUSE_MAX_OF_ALL);
        Self { first: if has_bell { max } else { PAUSE_FIRST }, max }
    }
}

/// Whether a shard is idle.
#[derive(Default)]
pub(super) struct Idle(Mutex<Option<State>>);

struct State {
    /// Where its stream of new messages was when nothing was due. Empty where that is not known.
    cursor: String,
    look_at: Instant,
    pause: Duration,
    /// Why the last look failed.
    failure: Option<QueueError>,
}

impl Idle {
    fn state(&self) -> MutexGuard<'_, Option<State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something may be due.
    pub(super) fn end(&self) {
        *self.state() = None;
    }

    /// Returns whether the caller should poll this shard now. One caller gets `true`; the others get `false` until the
    /// next poll is due.
    pub(super) fn claim(&self, now: Instant) -> bool {
        match &mut *self.state() {
            None => true,
            Some(state) if state.look_at <= now => {
                state.look_at = now + state.pause;
                true
            }
            Some(_) => false,
        }
    }

    /// Nothing is due, and nothing will be before this time unless it is new.
    pub(super) fn begin(
        &self,
        now: Instant,
        cursor: String,
        next_due_after: Option<Duration>,
        pauses: Pauses,
    ) {
        let mut state = self.state();
        let pause = state.as_ref().map_or(pauses.first, |before| (before.pause * 2).min(pauses.max));
        let look_at = now + next_due_after.unwrap_or(pause).min(pause);
        *state = Some(State { cursor, look_at, pause, failure: None });
    }

    /// The shard can't be looked at. Returns whether that is new.
    pub(super) fn fail(&self, now: Instant, error: QueueError, pauses: Pauses) -> bool {
        let mut state = self.state();
        let is_new = state.as_ref().is_none_or(|state| state.failure.is_none());
        let look_at = now + pauses.max;
        *state = Some(State { cursor: String::new(), look_at, pause: pauses.first, failure: Some(error) });
        is_new
    }

    /// Why the last look failed.
    pub(super) fn failure(&self) -> Option<QueueError> {
        self.state().as_ref().and_then(|state| state.failure.clone())
    }

    /// When it is looked at next; `None` at once.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.state().as_ref().map(|state| state.look_at)
    }

    /// Behind which entry new messages come, where that is known.
    pub(super) fn cursor(&self) -> Option<String> {
        self.state().as_ref().map(|state| state.cursor.clone()).filter(|cursor| !cursor.is_empty())
    }

    /// This entry is new: one lane looks at once.
    pub(super) fn rang(&self, now: Instant, entry: String) {
        if let Some(state) = &mut *self.state() {
            state.cursor = entry;
            state.look_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_process_looks_a_bounded_number_of_times_a_second() {
        for (shards, has_bell, first, max) in [
            (1, true, 250, 250),
            (1, false, 20, 250),
            (15, false, 20, 250),
            (16, false, 20, 256),
            (62, true, 992, 992),
            (63, true, 1_000, 1_000),
            (64, false, 20, 1_000),
        ] {
            let pauses = Pauses::of(shards, has_bell);
            assert_eq!((pauses.first.as_millis(), pauses.max.as_millis()), (first, max), "{shards}");
        }
    }

    #[test]
    fn one_lane_looks_and_the_others_do_not_until_the_pause_has_passed() {
        let (idle, pauses) = (Idle::default(), Pauses::of(1, false));
        let mut now = Instant::now();
        assert!(idle.claim(now) && idle.claim(now), "where something may be due all look");
        for pause in [20, 40, 80, 160, 250, 250] {
            idle.begin(now, "1-0".to_owned(), None, pauses);
            let pause = Duration::from_millis(pause);
            assert!(!idle.claim(now) && !idle.claim(now + pause - Duration::from_millis(1)));
            now += pause;
            assert!(idle.claim(now));
            assert!(!idle.claim(now), "one is enough");
        }
        idle.begin(now, "1-0".to_owned(), Some(Duration::from_millis(3)), pauses);
        now += Duration::from_millis(3);
        assert!(idle.claim(now), "what is due by then");
        idle.rang(now, "2-0".to_owned());
        assert!(idle.claim(now) && !idle.claim(now));
        assert_eq!(idle.cursor().as_deref(), Some("2-0"));
        idle.end();
        assert_eq!((idle.cursor(), idle.look_at()), (None, None));
    }
}
