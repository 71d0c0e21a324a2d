//! Reconciliation inside a worker: the schedule, and the metrics.
//!
//! Deliveries wait for neither, and no failure of them ends the process: not a panic, not missing root certificates.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Registry, register_int_counter_vec_with_registry};
use rollbook_core::store::FullStore;
use rollbook_core::time::Clock;
use rollbook_reconciler::{ReconcileMetrics, Reconciler, Schedule};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::wire::{self, CODE_BROKEN, CODE_TIMEOUT, CODE_UNREACHABLE, ClerkApi, Observer};

/// Statuses of Clerk's answers that are counted from the start, at zero.
const STATUSES: [&str; 9] = ["200", "400", "401", "402", "403", "404", "422", "429", "500"];
/// Interval at which a process without a schedule reads the records of runs.
const REFRESH: Duration = Duration::from_secs(20);
/// Pause after a panic.
const RESTART: Duration = Duration::from_secs(60);
/// Time for a run to end after the stop: a request to Clerk may take longer, and the drain must not wait for it.
const STOP: Duration = Duration::from_secs(3);

/// Reconciliation of one process.
pub(crate) struct Reconciliation {
    store: Arc<dyn FullStore>,
    metrics: ReconcileMetrics,
    scheduled: Option<(Reconciler, Schedule)>,
}

impl Reconciliation {
    /// Registers the metrics. With a client of Clerk's API, and `reconcile_every` or `reconcile_check_every`, the process
    /// keeps the schedule.
    ///
    /// # Errors
    /// A metric is registered already.
    pub(crate) fn new(
        config: &Config,
        source: Option<Arc<ClerkApi>>,
        store: Arc<dyn FullStore>,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = ReconcileMetrics::new(registry)?;
        let settings = &config.settings;
        let schedule =
            Schedule { every: settings.reconcile_every, check_every: settings.reconcile_check_every };
        let is_scheduled = schedule.every.is_some() || schedule.check_every.is_some();
        let scheduled = source
            .filter(|_| is_scheduled)
            .map(|source| (wire::reconciler(config, source, store.clone(), clock).in_background(), schedule));
        Ok(Self { store, metrics, scheduled })
    }

    /// Keeps the schedule until `stop`. Without one, the metrics show the runs of other processes.
    pub(crate) async fn run(self, stop: CancellationToken) {
        while let Some((reconciler, schedule)) = self.scheduled.clone() {
            let (metrics, keeping) = (self.metrics.clone(), stop.clone());
            // Dropping the set aborts the task.
            let mut kept = JoinSet::new();
            kept.spawn(async move { reconciler.keep_schedule(schedule, metrics, keeping).await });
            tokio::select! {
                ended = kept.join_next() => if matches!(ended, Some(Ok(()))) { return },
                () = cut_off(&stop) => return,
            }
            tracing::error!("the reconciliation panicked; deliveries continue, and it is restarted");
            if stop.run_until_cancelled(tokio::time::sleep(RESTART)).await.is_none() {
                return;
            }
        }
        let mut wait = Duration::ZERO;
        while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
            wait = REFRESH;
            let refreshed = stop.run_until_cancelled(self.metrics.refresh(&*self.store)).await;
            if let Some(Err(error)) = refreshed {
                tracing::debug!(%error, "the metrics of the reconciliation keep their values");
            }
        }
    }
}

/// Returns when a run has had its time to end after `stop`. Its position is saved once a second, and its lock ends by
/// itself.
async fn cut_off(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(STOP).await;
}

/// Returns the client of Clerk's API that all parts of this process share, and counts its requests by result. `None`
/// without a key, or without root certificates, which is logged.
///
/// # Errors
/// The metric is registered already.
pub(crate) fn source(
    config: &Config,
    registry: &Registry,
) -> Result<Option<Arc<ClerkApi>>, prometheus::Error> {
    let help = "Requests to Clerk's API, by status code; unreachable, timeout or broken without an answer.";
    let name = "rollbook_reconcile_requests_total";
    let requests = register_int_counter_vec_with_registry!(name, help, &["code"], registry)?;
    for code in STATUSES.into_iter().chain([CODE_UNREACHABLE, CODE_TIMEOUT, CODE_BROKEN]) {
        requests.with_label_values(&[code]);
    }
    if config.settings.clerk_secret_key.is_none() {
        return Ok(None);
    }
    let observer: Observer = Arc::new(move |code: &str| requests.with_label_values(&[code]).inc());
    Ok(wire::clerk_api(config, observer)
        .inspect_err(|error| tracing::error!("no reconciliation runs in this process: {error:#}"))
        .ok())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;
    use rollbook_core::catalog::{Resource, USERS};
    use rollbook_core::source::{Fetched, Instance, Lookup, Page, PageRequest, Source, SourceError, Window};
    use rollbook_core::store::RunState;
    use rollbook_core::time::Timestamp;
    use rollbook_reconciler::{Ports, Settings};
    use rollbook_testkit::clock::ManualClock;
    use rollbook_testkit::events::{START, user};
    use rollbook_testkit::memory::clerk::MemoryClerk;
    use rollbook_testkit::memory::store::MemoryStore;
    use tokio::time::Instant;

    use super::*;

    /// Result of the next requests for the instance.
    #[derive(Clone, Copy)]
    enum Fault {
        /// The first ones panic, as many as this.
        Panics(u32),
        /// The requests get no answer.
        Hangs,
    }

    /// Clerk's API behind a client that panics or hangs.
    struct Faulty {
        clerk: MemoryClerk,
        fault: Fault,
        asked: Arc<AtomicU32>,
    }

    #[async_trait]
    impl Source for Faulty {
        async fn instance(&self) -> Result<Instance, SourceError> {
            let before = self.asked.fetch_add(1, Ordering::Relaxed);
            match self.fault {
                Fault::Panics(first) => assert!(before >= first, "this panic is meant"),
                Fault::Hangs => std::future::pending().await,
            }
            self.clerk.instance().await
        }

        async fn count(&self, resource: &'static Resource, window: Window) -> Result<u64, SourceError> {
            self.clerk.count(resource, window).await
        }

        async fn page(
            &self,
            resource: &'static Resource,
            request: &PageRequest,
        ) -> Result<Page, SourceError> {
            self.clerk.page(resource, request).await
        }

        async fn recently_updated_users(&self, offset: u64, limit: usize) -> Result<Page, SourceError> {
            self.clerk.recently_updated_users(offset, limit).await
        }

        async fn fetch(
            &self,
            resource: &'static Resource,
            lookups: &[Lookup],
        ) -> Result<Vec<Fetched>, SourceError> {
            self.clerk.fetch(resource, lookups).await
        }
    }

    /// A process with a schedule. Returns its store and the number of requests for the instance too.
    fn process(fault: Fault) -> (Reconciliation, Arc<MemoryStore>, Arc<AtomicU32>) {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START)));
        let (store, asked) = (Arc::new(MemoryStore::new(clock.clone())), Arc::new(AtomicU32::new(0)));
        let clerk = MemoryClerk::new(clock.clone());
        clerk.change(|objects| objects.put(&USERS, &user("user_1", START)));
        let source = Arc::new(Faulty { clerk, fault, asked: asked.clone() });
        let ports =
            Ports { source, store: store.clone(), rows: store.clone(), records: store.clone(), clock };
        let schedule = Schedule { every: Some(Duration::from_secs(86_400)), check_every: None };
        let metrics = ReconcileMetrics::new(&Registry::new()).expect("metrics");
        let scheduled = Some((Reconciler::new(ports, Settings::default()), schedule));
        (Reconciliation { store: store.clone(), metrics, scheduled }, store, asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_schedule_that_panics_starts_again_after_a_minute_each_time_and_the_process_goes_on() {
        let (process, store, asked) = process(Fault::Panics(2));
        let (stop, began_at) = (CancellationToken::new(), Instant::now());
        let mut running = JoinSet::new();
        running.spawn(process.run(stop.clone()));
        let last = async || {
            let runs = rollbook_core::store::Reconciliation::runs(&*store, 1).await.expect("runs");
            runs.first().map(|run| run.state)
        };
        while last().await != Some(RunState::Complete) {
            assert!(
                began_at.elapsed() < RESTART * 5 && running.try_join_next().is_none(),
                "no run after a panic"
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(began_at.elapsed() >= RESTART * 2, "{:?}", began_at.elapsed());
        assert_eq!(asked.load(Ordering::Relaxed), 3, "two panics, and the run");
        stop.cancel();
        running.join_next().await.expect("one task").expect("it ends in order");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_during_the_pause_after_a_panic_ends_it_at_once() {
        let (process, _, asked) = process(Fault::Panics(u32::MAX));
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(process.run(stop.clone()));
        while asked.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let stopped_at = Instant::now();
        stop.cancel();
        running.join_next().await.expect("one task").expect("it ends in order");
        assert_eq!(stopped_at.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_waits_for_clerk_ends_at_once_with_the_stop() {
        let (process, _, asked) = process(Fault::Hangs);
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(process.run(stop.clone()));
        while asked.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let stopped_at = Instant::now();
        stop.cancel();
        running.join_next().await.expect("one task").expect("it ends in order");
        assert_eq!(stopped_at.elapsed(), Duration::ZERO);
    }
}
