//! Reconciliation inside a worker: the schedule, and the metrics.
//!
//! Deliveries wait for neither, and no failure of them ends the process: not a panic, not missing root certificates.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounterVec, Opts, Registry};
use rollbook_core::store::FullStore;
use rollbook_core::time::Clock;
use rollbook_reconciler::{ReconcileMetrics, Reconciler, Schedule};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::wire::{self, CODE_BROKEN, CODE_TIMEOUT, CODE_UNREACHABLE, Observer};

/// Results of requests to Clerk that are counted from the start, at zero.
const CODES: [&str; 12] = [
    "200",
    "400",
    "401",
    "402",
    "403",
    "404",
    "422",
    "429",
    "500",
    CODE_UNREACHABLE,
    CODE_TIMEOUT,
    CODE_BROKEN,
];
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
    /// Registers the metrics. With a key and `reconcile_every`, the process keeps the schedule.
    ///
    /// # Errors
    /// A metric is registered already.
    pub(crate) fn new(
        config: &Config,
        store: Arc<dyn FullStore>,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = ReconcileMetrics::new(registry)?;
        let observer = requests(registry)?;
        let settings = &config.settings;
        let scheduled = match settings.reconcile_every.filter(|_| settings.clerk_secret_key.is_some()) {
            Some(every) => {
                let schedule = Schedule { every, check_every: settings.reconcile_check_every };
                match wire::reconciler(config, store.clone(), clock, observer) {
                    Ok(reconciler) => Some((reconciler, schedule)),
                    Err(error) => {
                        tracing::error!("no reconciliation runs in this process: {error:#}");
                        None
                    }
                }
            }
            None => None,
        };
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

/// Counts requests to Clerk by result.
fn requests(registry: &Registry) -> Result<Observer, prometheus::Error> {
    let help = "Requests to Clerk's API, by status code; unreachable, timeout or broken without an answer.";
    let requests = IntCounterVec::new(Opts::new("rollbook_reconcile_requests_total", help), &["code"])?;
    for code in CODES {
        requests.with_label_values(&[code]);
    }
    registry.register(Box::new(requests.clone()))?;
    Ok(Arc::new(move |code: &str| requests.with_label_values(&[code]).inc()))
}
