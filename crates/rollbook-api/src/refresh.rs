//! Reading of rows at Clerk when the mirror is older than a request wants (`max_age`).
//!
//! Constraints:
//!
//! * Requests for one id share one reading, however many there are. A request that begins later than `max_age` after the
//!   reading began does not share it.
//! * The result of a reading, also that there is no such object, is remembered, so that the next request within `max_age`
//!   needs none. The memory has a limit.
//! * A client that disconnects ends no reading that others wait for.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rollbook_core::catalog::Resource;
use rollbook_core::time::{Clock, Timestamp};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use crate::metrics::{Metrics, Refreshed};
use crate::outage::Failures;
use crate::ports::{Refresh, RefreshError};
use crate::problem::Problem;

/// Maximum number of readings that are under way or wait, each of another id.
pub const REFRESHES_MAX: usize = 64;
/// Maximum number of readings under way. Clerk's rate limit is shared with the team's application.
const AT_ONCE: usize = 4;
/// Maximum time of a reading, with its wait.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of results that are remembered.
const REMEMBERED_MAX: usize = 10_000;

/// Table and id.
type Key = (&'static str, String);

/// Readings of the process.
pub(crate) struct Refreshes {
    port: Arc<dyn Refresh>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    places: Arc<Semaphore>,
    running: Semaphore,
    failures: Failures,
}

#[derive(Default)]
struct State {
    flights: HashMap<Key, Weak<Flight>>,
    /// Times at which successful readings began.
    read_at: HashMap<Key, Timestamp>,
    /// Keys of `read_at`, the oldest first.
    order: VecDeque<Key>,
}

/// One reading, which several requests wait for.
struct Flight {
    began_at: Timestamp,
    result: OnceCell<Result<(), RefreshError>>,
    _place: OwnedSemaphorePermit,
}

impl State {
    /// Returns the reading of this id, if requests wait for it.
    fn flight(&self, key: &Key) -> Option<Arc<Flight>> {
        self.flights.get(key)?.upgrade()
    }

    fn remember(&mut self, key: &Key, at: Timestamp) {
        if self.read_at.insert(key.clone(), at).is_none() {
            self.order.push_back(key.clone());
        }
        while self.order.len() > REMEMBERED_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.read_at.remove(&oldest);
            }
        }
    }
}

impl Refreshes {
    pub(crate) fn new(port: Arc<dyn Refresh>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self {
            port,
            clock,
            metrics,
            state: Mutex::default(),
            places: Arc::new(Semaphore::new(REFRESHES_MAX)),
            running: Semaphore::new(AT_ONCE),
            failures: Failures::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of the state is complete before the lock is given back.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time of the last reading of an object.
    pub(crate) fn read_at(&self, resource: &'static Resource, id: &str) -> Option<Timestamp> {
        self.state().read_at.get(&(resource.table, id.to_owned())).copied()
    }

    /// Brings the row up to date by a reading that begins at `since` or later.
    pub(crate) async fn refresh(
        &self,
        resource: &'static Resource,
        id: &str,
        since: Timestamp,
    ) -> Result<(), Problem> {
        let key = (resource.table, id.to_owned());
        loop {
            let flight = self.join(&key, since)?;
            let Some(flight) = flight else { return Ok(()) };
            let result =
                flight.result.get_or_init(|| self.read(resource, &key, flight.began_at)).await.clone();
            if flight.began_at >= since {
                return result.map_err(|_| Problem::clerk_unavailable());
            }
            // A reading that began too early has ended: the next one begins now.
        }
    }

    /// Joins the reading under way, or begins one. Returns `None` if one has ended that began late enough.
    fn join(&self, key: &Key, since: Timestamp) -> Result<Option<Arc<Flight>>, Problem> {
        let mut state = self.state();
        if state.read_at.get(key).is_some_and(|at| *at >= since) {
            return Ok(None);
        }
        if let Some(flight) = state.flight(key).filter(|flight| !flight.result.initialized()) {
            return Ok(Some(flight));
        }
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| {
            self.metrics.refreshed(Refreshed::Refused);
            Problem::too_many_refreshes(REFRESHES_MAX)
        })?;
        let flight = Flight { began_at: self.clock.now(), result: OnceCell::new(), _place: place };
        let flight = Arc::new(flight);
        if state.flights.len() >= REFRESHES_MAX {
            state.flights.retain(|_, flight| flight.strong_count() > 0);
        }
        state.flights.insert(key.clone(), Arc::downgrade(&flight));
        Ok(Some(flight))
    }

    async fn read(
        &self,
        resource: &'static Resource,
        key: &Key,
        began_at: Timestamp,
    ) -> Result<(), RefreshError> {
        let reading = async {
            // The semaphore is never closed.
            let _running = self.running.acquire().await;
            self.port.refresh(resource, &key.1).await
        };
        let result = tokio::time::timeout(TIMEOUT, reading)
            .await
            .unwrap_or_else(|_| Err(RefreshError(format!("no answer within {} s", TIMEOUT.as_secs()))));
        match &result {
            Ok(()) => {
                self.state().remember(key, began_at);
                self.metrics.refreshed(Refreshed::Read);
                if self.failures.worked() {
                    tracing::info!("api reads rows at Clerk again");
                }
            }
            Err(error) => {
                self.metrics.refreshed(Refreshed::Failed);
                if self.failures.failed(&error.0) {
                    tracing::warn!(%error, table = key.0, "api can't read a row at Clerk (max_age)");
                }
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use futures_util::poll;
    use prometheus::Registry;
    use rollbook_core::catalog::USERS;
    use rollbook_testkit::clock::ManualClock;

    use super::*;

    /// Clerk that answers nothing before a permit is added.
    struct SlowClerk {
        calls: AtomicUsize,
        permits: Semaphore,
    }

    #[async_trait]
    impl Refresh for SlowClerk {
        async fn refresh(&self, _: &'static Resource, _: &str) -> Result<(), RefreshError> {
            self.calls.fetch_add(1, Ordering::SeqCst);
            self.permits.acquire().await.expect("it is never closed").forget();
            Ok(())
        }
    }

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn refreshes() -> (Refreshes, Arc<SlowClerk>) {
        let clerk = Arc::new(SlowClerk { calls: AtomicUsize::new(0), permits: Semaphore::new(0) });
        let metrics = Arc::new(Metrics::new(&Registry::new()).expect("metrics"));
        (Refreshes::new(clerk.clone(), Arc::new(ManualClock::new(NOW)), metrics), clerk)
    }

    #[tokio::test]
    async fn more_readings_than_allowed_are_refused_and_a_reading_under_way_is_shared() {
        let (refreshes, clerk) = refreshes();
        let read = |number: usize| {
            let refreshes = &refreshes;
            async move { refreshes.refresh(&USERS, &format!("user_{number}"), NOW).await }
        };
        let mut waiting: Vec<_> = (0..REFRESHES_MAX).map(|number| Box::pin(read(number))).collect();
        for one in &mut waiting {
            assert!(poll!(one).is_pending());
        }
        assert_eq!(clerk.calls.load(Ordering::SeqCst), AT_ONCE, "the others wait");
        let problem = read(REFRESHES_MAX).await.expect_err("there is no place");
        assert_eq!(problem.document()["type"], "urn:rollbook:problem:too-many-refreshes");
        let mut shared = pin!(read(0));
        assert!(poll!(&mut shared).is_pending(), "it needs no place");
        clerk.permits.add_permits(REFRESHES_MAX);
        for done in futures_util::future::join_all(waiting).await {
            done.expect("it is read");
        }
        shared.await.expect("it was read");
        assert_eq!(clerk.calls.load(Ordering::SeqCst), REFRESHES_MAX, "each id once");
        clerk.permits.add_permits(1);
        read(REFRESHES_MAX).await.expect("there are places again");
    }

    #[tokio::test]
    async fn a_client_that_disconnects_ends_no_reading_that_others_wait_for() {
        let (refreshes, clerk) = refreshes();
        let read = || refreshes.refresh(&USERS, "user_1", NOW);
        let (mut leaving, mut staying) = (Box::pin(read()), Box::pin(read()));
        assert!(poll!(&mut leaving).is_pending() && poll!(&mut staying).is_pending());
        drop(leaving);
        clerk.permits.add_permits(1);
        staying.await.expect("it is read");
        assert_eq!(refreshes.read_at(&USERS, "user_1"), Some(NOW));
        drop(read().await);
        assert_eq!(clerk.calls.load(Ordering::SeqCst), 2, "one that was dropped, and one that was not");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_that_gets_no_answer_ends() {
        let (refreshes, _) = refreshes();
        let began_at = tokio::time::Instant::now();
        let problem = refreshes.refresh(&USERS, "user_1", NOW).await.expect_err("no answer");
        assert_eq!(problem.document()["type"], "urn:rollbook:problem:clerk-unavailable");
        assert_eq!((began_at.elapsed(), refreshes.read_at(&USERS, "user_1")), (TIMEOUT, None));
    }

    #[test]
    fn a_limited_number_of_readings_is_remembered() {
        let mut state = State::default();
        let key = |number: usize| ("users", format!("user_{number}"));
        for number in 0..=REMEMBERED_MAX {
            state.remember(&key(number), Timestamp::from_millis(1));
        }
        state.remember(&key(REMEMBERED_MAX), Timestamp::from_millis(2));
        assert_eq!((state.read_at.len(), state.order.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
        assert_eq!(state.read_at.get(&key(0)), None, "the oldest is forgotten");
        assert_eq!(state.read_at.get(&key(REMEMBERED_MAX)), Some(&Timestamp::from_millis(2)));
    }
}
