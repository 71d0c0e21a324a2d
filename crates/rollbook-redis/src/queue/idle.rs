//! Polling of idle shards.
//!
//! All lanes of a process together poll a shard as often as one lane would: the lane that polls claims the
//! shard, and the others wait until its pause has passed. While the listener (`listener.rs`) reports new and
//! due messages, a poll only finds what a lost notification hides, so the pauses are long. Otherwise polls
//! find everything: the pauses are short, and an idle process polls at most about 60 times per second.

use std::sync::Mutex;
use std::time::Duration;

use rollbook_core::lock::lock;
use rollbook_core::queue::QueueError;
use tokio::time::Instant;

/// First pause where there can be no listener; it doubles up to the maximum.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// Maximum pause without a listener: messages are found within this time.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Pause per shard with many shards and no listener, up to the maximum for all of them.
const PAUSE_PER_SHARD: Duration = Duration::from_millis(16);
const PAUSE_MAX_ALL_SHARDS: Duration = Duration::from_secs(1);
/// Minimum pause per shard with a listener: an idle process polls at most once per second.
const LISTENING_PAUSE_PER_SHARD: Duration = Duration::from_secs(1);

/// Pauses between polls of an idle shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pauses {
    first: Duration,
    max: Duration,
}

impl Pauses {
    /// Returns the pauses while no listener reports messages; `can_listen` if there will be one.
    pub(super) fn without_listener(shards: usize, can_listen: bool) -> Self {
        let shards = u32::try_from(shards).unwrap_or(u32::MAX);
        let max = PAUSE_PER_SHARD.saturating_mul(shards).clamp(PAUSE_MAX, PAUSE_MAX_ALL_SHARDS);
        Self { first: if can_listen { max } else { PAUSE_FIRST }, max }
    }

    /// Returns the pauses while a listener reports messages; `poll` is the configured one.
    pub(super) fn with_listener(shards: usize, poll: Duration) -> Self {
        let shards = u32::try_from(shards).unwrap_or(u32::MAX);
        let pause = poll.max(LISTENING_PAUSE_PER_SHARD.saturating_mul(shards));
        Self { first: pause, max: pause }
    }
}

/// Idle state of a shard.
#[derive(Default)]
pub(super) struct Idle(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Number of reasons so far for which a poll may find messages.
    news: u64,
    /// State of an idle shard; empty while messages may be due.
    state: Option<State>,
}

struct State {
    cursors: Option<Cursors>,
    poll_at: Instant,
    pause: Duration,
    /// Error of the last poll.
    failure: Option<QueueError>,
}

/// Entries after which the listener expects others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursors {
    /// Entry of the stream of new messages.
    pub(super) new: String,
    /// Entry of the stream of notifications.
    pub(super) bell: String,
}

impl Idle {
    /// Ends the idle state: messages may be due.
    pub(super) fn end(&self) {
        let mut inner = lock(&self.0);
        inner.news += 1;
        inner.state = None;
    }

    /// Returns whether the caller should poll this shard now. One caller gets `true`; the others get `false` until the
    /// next poll is due.
    pub(super) fn claim(&self, now: Instant) -> bool {
        match &mut lock(&self.0).state {
            None => true,
            Some(state) if state.poll_at <= now => {
                state.poll_at = now + state.pause;
                true
            }
            Some(_) => false,
        }
    }

    /// Number of reasons for a poll so far; see [`Self::begin`].
    pub(super) fn news(&self) -> u64 {
        lock(&self.0).news
    }

    /// Records a poll that found nothing due; only new messages can be due before `next_due_after`. If there
    /// were other `news` than before the poll, the shard is polled again at once: the poll may have missed it.
    pub(super) fn begin(
        &self,
        now: Instant,
        news: u64,
        cursors: Cursors,
        next_due_after: Option<Duration>,
        pauses: Pauses,
    ) {
        let mut inner = lock(&self.0);
        let pause = inner.state.as_ref().map_or(pauses.first, |before| before.pause * 2);
        let pause = pause.clamp(pauses.first, pauses.max);
        let wait =
            if inner.news == news { next_due_after.unwrap_or(pause).min(pause) } else { Duration::ZERO };
        inner.state = Some(State { cursors: Some(cursors), poll_at: now + wait, pause, failure: None });
    }

    /// Records a failed poll. Returns whether the poll before had succeeded.
    pub(super) fn fail(&self, now: Instant, error: QueueError, pauses: Pauses) -> bool {
        let state = &mut lock(&self.0).state;
        let is_new = state.as_ref().is_none_or(|state| state.failure.is_none());
        let poll_at = now + pauses.max;
        *state = Some(State { cursors: None, poll_at, pause: pauses.first, failure: Some(error) });
        is_new
    }

    /// Error of the last poll.
    pub(super) fn failure(&self) -> Option<QueueError> {
        lock(&self.0).state.as_ref().and_then(|state| state.failure.clone())
    }

    /// Time of the next poll; `None` means at once.
    pub(super) fn poll_at(&self) -> Option<Instant> {
        lock(&self.0).state.as_ref().map(|state| state.poll_at)
    }

    /// Entries after which the listener expects others, if known.
    pub(super) fn cursors(&self) -> Option<Cursors> {
        lock(&self.0).state.as_ref().and_then(|state| state.cursors.clone())
    }

    /// Records a new entry: one lane polls at once.
    pub(super) fn record_new_entry(&self, now: Instant, entry: String) {
        self.record(now, |cursors| cursors.new = entry);
    }

    /// Records that a message is due at `due_at`: one lane polls then.
    pub(super) fn record_bell(&self, due_at: Instant, entry: String) {
        self.record(due_at, |cursors| cursors.bell = entry);
    }

    fn record(&self, poll_at: Instant, advance: impl FnOnce(&mut Cursors)) {
        let mut inner = lock(&self.0);
        inner.news += 1;
        let Some(state) = &mut inner.state else { return };
        state.poll_at = state.poll_at.min(poll_at);
        if let Some(cursors) = &mut state.cursors {
            advance(cursors);
        }
    }

    /// Makes the next poll due at `at`, unless it is due before: a notification may be lost.
    pub(super) fn poll_by(&self, at: Instant) {
        if let Some(state) = &mut lock(&self.0).state {
            state.poll_at = state.poll_at.min(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursors(new: &str) -> Cursors {
        Cursors { new: new.to_owned(), bell: "0-0".to_owned() }
    }

    #[test]
    fn an_idle_process_polls_at_a_bounded_rate() {
        for (shards, can_listen, first, max) in [
            (1, true, 250, 250),
            (1, false, 20, 250),
            (15, false, 20, 250),
            (16, false, 20, 256),
            (62, true, 992, 992),
            (63, false, 20, 1_000),
        ] {
            let pauses = Pauses::without_listener(shards, can_listen);
            assert_eq!((pauses.first.as_millis(), pauses.max.as_millis()), (first, max), "{shards}");
        }
        for (shards, pause) in [(1, 20), (20, 20), (21, 21), (64, 64)] {
            let pauses = Pauses::with_listener(shards, Duration::from_secs(20));
            assert_eq!((pauses.first.as_secs(), pauses.max.as_secs()), (pause, pause), "{shards}");
        }
    }

    #[test]
    fn one_lane_polls_and_the_others_wait_until_the_pause_has_passed() {
        let (idle, pauses) = (Idle::default(), Pauses::without_listener(1, false));
        let mut now = Instant::now();
        assert!(idle.claim(now) && idle.claim(now), "every lane polls while messages may be due");
        for pause in [20, 40, 80, 160, 250, 250] {
            idle.begin(now, idle.news(), cursors("1-0"), None, pauses);
            let pause = Duration::from_millis(pause);
            assert!(!idle.claim(now) && !idle.claim(now + pause - Duration::from_millis(1)));
            now += pause;
            assert!(idle.claim(now));
            assert!(!idle.claim(now), "one lane is enough");
        }
        idle.begin(now, idle.news(), cursors("1-0"), Some(Duration::from_millis(3)), pauses);
        now += Duration::from_millis(3);
        assert!(idle.claim(now), "messages are due by then");
        idle.record_new_entry(now, "2-0".to_owned());
        assert!(idle.claim(now) && !idle.claim(now));
        assert_eq!(idle.cursors(), Some(cursors("2-0")));
        idle.end();
        assert_eq!((idle.cursors(), idle.poll_at()), (None, None));
    }

    #[test]
    fn a_pause_becomes_long_at_once_with_a_listener_and_short_without_one() {
        let (idle, now) = (Idle::default(), Instant::now());
        let long = Pauses::with_listener(1, Duration::from_secs(20));
        let pause_of = |pauses| {
            idle.begin(now, idle.news(), cursors("1-0"), None, pauses);
            idle.poll_at().map(|at| at - now)
        };
        assert_eq!(pause_of(Pauses::without_listener(1, true)), Some(PAUSE_MAX));
        assert_eq!(pause_of(long), Some(Duration::from_secs(20)));
        assert_eq!(pause_of(Pauses::without_listener(1, true)), Some(PAUSE_MAX));
    }

    #[test]
    fn a_notification_during_a_poll_is_not_lost_and_causes_one_more_poll() {
        let (idle, pauses) = (Idle::default(), Pauses::with_listener(1, Duration::from_secs(20)));
        let now = Instant::now();
        idle.begin(now, idle.news(), cursors("1-0"), None, pauses);
        let notifications: [&dyn Fn(); 3] = [
            &|| idle.record_new_entry(now, "2-0".to_owned()),
            &|| idle.record_bell(now + Duration::from_secs(1), "2-0".to_owned()),
            &|| idle.end(),
        ];
        for notify in notifications {
            let news = idle.news();
            notify();
            idle.begin(now, news, cursors("1-0"), None, pauses);
            assert!(idle.claim(now), "the poll may have been answered before");
            idle.begin(now, idle.news(), cursors("1-0"), None, pauses);
            assert!(!idle.claim(now + Duration::from_secs(19)), "one more poll is enough");
        }
    }
}
