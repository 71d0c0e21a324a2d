//! Pace of the requests of all callers together.
//!
//! Requests leave evenly (GCRA), with a burst of at most a second's share. In no ten seconds do more leave than the
//! budget allows for ten seconds and the burst, and never more than the instance's limit. After a 429 the rate
//! halves, and recovers steadily: from half to full in [`RECOVERY`] / 2.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::key::Environment;

/// Period of Clerk's rate limit.
const PERIOD: Duration = Duration::from_secs(10);
/// Maximum share of the limit that is used. The network bunches up requests that left evenly.
const SHARE_MAX: f64 = 0.95;
/// Time in which the rate would grow from nothing to full.
const RECOVERY: Duration = Duration::from_secs(60);
/// Minimum share of the full rate, however many 429s come.
const SHARE_MIN: f64 = 1.0 / 32.0;
/// Time for which a 429 without `Retry-After` holds all callers.
const HOLD_DEFAULT: Duration = Duration::from_secs(1);
/// Maximum time for which `Retry-After` is obeyed. Clerk's periods are ten seconds and an hour.
const HOLD_MAX: Duration = Duration::from_secs(3600);

/// Pace of the requests of all callers together.
pub(crate) struct Pacer {
    /// Requests per second.
    full_rate: f64,
    /// Time in which an idle client collects its burst.
    burst: Duration,
    /// Callers wait here in order of arrival. The first one waits for the time.
    queue: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

struct State {
    /// Time at which the next request leaves if no burst is left.
    next: Instant,
    /// Time before which no request leaves.
    held_until: Instant,
    /// Share of the full rate at `slowed_at`, from which it grows.
    share: f64,
    slowed_at: Instant,
    /// Requests that were sent before do not slow down again.
    answered_at: Option<Instant>,
}

impl Pacer {
    /// Pace of this share of an instance's rate limit.
    pub(crate) fn new(environment: Environment, budget: f64) -> Self {
        let limit = f64::from(environment.requests_per_ten_seconds());
        let rate = limit * budget.min(SHARE_MAX) / PERIOD.as_secs_f64();
        let burst = rate.min(limit - rate * PERIOD.as_secs_f64()).max(1.0);
        let now = Instant::now();
        let state = State { next: now, held_until: now, share: 1.0, slowed_at: now, answered_at: None };
        Self {
            full_rate: rate,
            burst: Duration::from_secs_f64(burst / rate),
            queue: tokio::sync::Mutex::default(),
            state: Mutex::new(state),
        }
    }

    /// Returns the number of requests per second that the budget allows.
    pub(crate) const fn requests_per_second(&self) -> f64 {
        self.full_rate
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interval(&self, state: &State, now: Instant) -> Duration {
        Duration::from_secs_f64(1.0 / (self.full_rate * state.share_at(now)))
    }

    /// Waits until a request may leave. A caller that is dropped meanwhile uses up nothing.
    ///
    /// # Errors
    /// `Retry-After` holds all requests for longer than `patience`: the time that is left.
    pub(crate) async fn turn(&self, patience: Duration) -> Result<(), Duration> {
        let _first = self.queue.lock().await;
        loop {
            let wait_until = {
                let mut state = self.state();
                let now = Instant::now();
                let held = state.held_until.saturating_duration_since(now);
                if held > patience {
                    return Err(held);
                }
                let interval = self.interval(&state, now);
                let earliest = state.next.checked_sub(self.burst.saturating_sub(interval)).unwrap_or(now);
                let earliest = earliest.max(state.held_until);
                if earliest <= now {
                    state.next = state.next.max(now) + interval;
                    return Ok(());
                }
                earliest
            };
            // A hold that came meanwhile is seen after the sleep.
            sleep_until(wait_until).await;
        }
    }

    /// Holds all requests for this time, as `Retry-After` asks.
    pub(crate) fn hold(&self, time: Duration) {
        let mut state = self.state();
        let until = Instant::now() + time.min(HOLD_MAX);
        state.held_until = state.held_until.max(until);
        // No burst is left at the end of the hold.
        state.next = state.next.max(until + self.burst);
    }

    /// Slows down after a 429 to a request that left at `sent_at`. Returns the new rate per second, if it changed.
    pub(crate) fn slow_down(&self, sent_at: Instant, retry_after: Option<Duration>) -> Option<f64> {
        self.hold(retry_after.unwrap_or(HOLD_DEFAULT));
        let mut state = self.state();
        let now = Instant::now();
        // Requests that were under way together are one excess.
        if state.answered_at.is_some_and(|answered_at| answered_at >= sent_at) {
            return None;
        }
        state.share = (state.share_at(now) / 2.0).max(SHARE_MIN);
        state.slowed_at = state.held_until;
        state.answered_at = Some(now);
        Some(self.full_rate * state.share)
    }
}

impl State {
    /// Returns the share of the full rate at this time.
    fn share_at(&self, now: Instant) -> f64 {
        let recovered = now.saturating_duration_since(self.slowed_at).as_secs_f64() / RECOVERY.as_secs_f64();
        (self.share + recovered).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::JoinSet;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(120);

    /// Takes turns for this time, and returns when each began, since the start.
    async fn turns(pacer: &Pacer, time: Duration) -> Vec<Duration> {
        let start = Instant::now();
        let mut turns = Vec::new();
        while start.elapsed() < time {
            pacer.turn(PATIENCE).await.expect("not held");
            turns.push(start.elapsed());
        }
        turns
    }

    /// The largest number of turns in any ten seconds.
    fn most_in_a_period(turns: &[Duration]) -> usize {
        let within = |from: Duration| turns.iter().filter(|at| **at >= from && **at < from + PERIOD).count();
        turns.iter().map(|from| within(*from)).max().unwrap_or_default()
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_the_limit_is_used_evenly_with_a_burst_of_a_second() {
        let pacer = Pacer::new(Environment::Production, 0.5);
        let turns = turns(&pacer, Duration::from_secs(30)).await;
        let burst = turns.iter().filter(|at| at.is_zero()).count();
        assert_eq!(burst, 50);
        assert!((545..=550).contains(&most_in_a_period(&turns)), "{}", most_in_a_period(&turns));
        assert!((1540..=1551).contains(&turns.len()), "{}", turns.len());
    }

    #[tokio::test(start_paused = true)]
    async fn the_full_budget_never_exceeds_the_limit_of_either_environment() {
        for (environment, limit) in [(Environment::Production, 1000), (Environment::Development, 100)] {
            let pacer = Pacer::new(environment, 1.0);
            let turns = turns(&pacer, Duration::from_secs(30)).await;
            let most = most_in_a_period(&turns);
            assert!(most <= limit && most * 10 >= limit * 9, "{most} of {limit}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn callers_share_one_pace_and_leave_in_order() {
        let pacer = Arc::new(Pacer::new(Environment::Development, 0.5));
        let start = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..25 {
            let pacer = Arc::clone(&pacer);
            callers.spawn(async move { pacer.turn(PATIENCE).await.map(|()| start.elapsed()) });
        }
        let last = callers.join_all().await.into_iter().map(|at| at.expect("not held")).max().expect("25");
        assert!((3900..=4100).contains(&last.as_millis()), "5 at once, then 5 per second: {last:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_gives_up_uses_up_no_turn() {
        let pacer = Pacer::new(Environment::Development, 0.5);
        for _ in 0..5 {
            pacer.turn(PATIENCE).await.expect("the burst");
        }
        for _ in 0..100 {
            let turn = pacer.turn(PATIENCE);
            assert!(tokio::time::timeout(Duration::from_millis(1), turn).await.is_err());
        }
        let start = Instant::now();
        pacer.turn(PATIENCE).await.expect("not held");
        assert!(start.elapsed() <= Duration::from_millis(200), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_holds_every_caller_even_one_that_waits_already_and_leaves_no_burst() {
        let pacer = Arc::new(Pacer::new(Environment::Production, 0.5));
        for _ in 0..50 {
            pacer.turn(PATIENCE).await.expect("the burst");
        }
        let start = Instant::now();
        let waiting = async {
            pacer.turn(PATIENCE).await.expect("not held for longer");
            start.elapsed()
        };
        // The first branch is polled first, so that it waits already.
        let (waited, ()) = tokio::join!(biased; waiting, async { pacer.hold(Duration::from_secs(7)) });
        assert!(waited >= Duration::from_secs(7), "{waited:?}");
        let turns = turns(&pacer, Duration::from_secs(1)).await;
        assert!(turns.len() <= 52, "{}", turns.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_longer_than_the_patience_is_an_error_at_once() {
        let pacer = Pacer::new(Environment::Production, 0.5);
        pacer.hold(Duration::from_secs(121));
        let start = Instant::now();
        assert_eq!(pacer.turn(PATIENCE).await, Err(Duration::from_secs(121)));
        assert_eq!(start.elapsed(), Duration::ZERO);
        pacer.hold(Duration::from_secs(1_000_000));
        assert_eq!(pacer.turn(PATIENCE).await, Err(HOLD_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_halves_the_rate_once_for_requests_under_way_together_and_it_recovers() {
        let pacer = Pacer::new(Environment::Production, 0.5);
        let share = || pacer.state().share_at(Instant::now());
        let sent_at = Instant::now();
        tokio::time::advance(Duration::from_millis(300)).await;
        for _ in 0..10 {
            pacer.slow_down(sent_at, None);
        }
        assert!((share() - 0.5).abs() < 1e-9, "{}", share());
        tokio::time::advance(Duration::from_millis(1)).await;
        pacer.slow_down(Instant::now(), Some(Duration::from_secs(5)));
        assert!((share() - 0.25).abs() < 1e-9, "{}", share());
        tokio::time::advance(Duration::from_secs(5)).await;
        let turns = turns(&pacer, Duration::from_secs(1)).await;
        assert!((12..=15).contains(&turns.len()), "a quarter of 50: {}", turns.len());
        tokio::time::advance(Duration::from_secs(14)).await;
        assert!((share() - 0.5).abs() < 0.01, "{}", share());
        tokio::time::advance(Duration::from_secs(31)).await;
        assert!((share() - 1.0).abs() < 1e-9, "{}", share());
        for _ in 0..20 {
            tokio::time::advance(Duration::from_millis(1)).await;
            pacer.slow_down(Instant::now(), Some(Duration::ZERO));
        }
        assert!((share() - SHARE_MIN).abs() < 0.001, "{}", share());
    }
}
