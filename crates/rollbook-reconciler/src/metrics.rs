//! Metrics of the reconciliation. They are read from the records in the store, so that every process that
//! shows them shows the same.

use prometheus::{Gauge, IntGaugeVec, Opts, Registry};
use rollbook_core::catalog::SUBSCRIPTION_ITEMS;
use rollbook_core::drift::Drift;
use rollbook_core::source::RECONCILED;
use rollbook_core::store::{HeldState, Reconciliation, Run, RunState, StoreError};

use crate::begin::{RUNS, RUNS_MAX};
use crate::progress::Progress;

/// Metrics of the reconciliation.
#[derive(Clone)]
pub struct ReconcileMetrics {
    drift: IntGaugeVec,
    last_success: Gauge,
    held: IntGaugeVec,
    count_difference: IntGaugeVec,
}

impl ReconcileMetrics {
    /// Registers the metrics, at zero for every value of a label.
    ///
    /// # Errors
    /// A metric of the same name is registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let drift = Opts::new(
            "rollbook_reconcile_drift",
            "Differences between Clerk's API and the rows that the last finished reconciliation found.",
        );
        let last_success = Opts::new(
            "rollbook_reconcile_last_success_timestamp_seconds",
            "End of the last reconciliation that left no difference, in seconds since 1970; zero if there was none.",
        );
        let held = Opts::new(
            "rollbook_reconcile_held",
            "Objects that wait for an operator: deletions that the brake holds, wrongly deleted rows, and rows that could not be changed.",
        );
        let count_difference = Opts::new(
            "rollbook_count_difference",
            "Objects at Clerk less living rows, at the last count. Webhooks under way make it differ from zero for a while.",
        );
        let metrics = Self {
            drift: IntGaugeVec::new(drift, &["resource", "kind"])?,
            last_success: Gauge::with_opts(last_success)?,
            held: IntGaugeVec::new(held, &["kind"])?,
            count_difference: IntGaugeVec::new(count_difference, &["resource"])?,
        };
        registry.register(Box::new(metrics.drift.clone()))?;
        registry.register(Box::new(metrics.last_success.clone()))?;
        registry.register(Box::new(metrics.held.clone()))?;
        registry.register(Box::new(metrics.count_difference.clone()))?;
        for kind in Drift::COUNTED {
            for resource in RECONCILED.into_iter().chain([&SUBSCRIPTION_ITEMS]) {
                metrics.drift.with_label_values(&[resource.table, kind.as_str()]).set(0);
            }
        }
        for resource in RECONCILED {
            metrics.count_difference.with_label_values(&[resource.table]).set(0);
        }
        for kind in Drift::COUNTED {
            metrics.held.with_label_values(&[kind.as_str()]).set(0);
        }
        Ok(metrics)
    }

    /// Reads the records.
    ///
    /// # Errors
    /// The store gave no answer. The metrics keep their values.
    pub async fn refresh(&self, records: &dyn Reconciliation) -> Result<(), StoreError> {
        let mut runs = records.runs(RUNS).await?;
        let is_full = |run: &Run| Progress::parse(&run.progress).is_some_and(|progress| progress.is_full());
        if runs.len() == RUNS && !runs.iter().any(|run| run.state == RunState::Complete && is_full(run)) {
            runs = records.runs(RUNS_MAX).await?;
        }
        let is_over = |run: &&Run| matches!(run.state, RunState::Complete | RunState::Held) && !run.is_dry;
        let mut finished: Vec<(&Run, Progress)> = runs
            .iter()
            .filter(is_over)
            .filter_map(|run| Some((run, Progress::parse(&run.progress)?)))
            .collect();
        let success = finished.iter().find(|(run, of)| run.state == RunState::Complete && of.is_full());
        let success = success.and_then(|(run, _)| run.finished_at);
        // Oldest first: the last run of each resource counts.
        finished.reverse();
        for of in finished.iter().flat_map(|(_, progress)| &progress.resources) {
            for (kind, number) in &of.drift {
                self.drift.with_label_values(&[of.table.as_str(), kind]).set(gauge(*number));
            }
        }
        if let Some(at) = success {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 have 41 bits")]
            self.last_success.set(at.as_millis() as f64 / 1000.0);
        }
        let counts = records.count_held(None).await?;
        for kind in Drift::COUNTED {
            let waiting = counts.iter().filter(|of| of.kind == kind && of.state == HeldState::Waiting);
            self.held.with_label_values(&[kind.as_str()]).set(gauge(waiting.map(|of| of.count).sum()));
        }
        Ok(())
    }

    /// Shows no difference: another process counts.
    pub fn counts_elsewhere(&self) {
        self.counted(&RECONCILED.map(|resource| (resource.table, 0)));
    }

    /// Shows the result of a count.
    pub fn counted(&self, differences: &[(&'static str, i64)]) {
        for (table, difference) in differences {
            self.count_difference.with_label_values(&[table]).set(*difference);
        }
    }
}

fn gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
