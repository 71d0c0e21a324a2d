//! Metrics of cascades.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use rollbook_core::store::CascadeStep;

/// Metrics of cascades.
pub(crate) struct CascadeMetrics {
    pending: IntGaugeVec,
    rows: IntCounterVec,
}

impl CascadeMetrics {
    /// Registers the metrics, at zero for every value of a label.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let pending = Opts::new(
            "rollbook_cascades_pending",
            "Work left after deletions: parents with child rows that are not processed yet, and rows that could not be changed and are retried.",
        );
        let rows = Opts::new(
            "rollbook_cascade_rows_total",
            "Child rows of deleted parents that the background task processed: repaired, or refused.",
        );
        let cascades = Self {
            pending: IntGaugeVec::new(pending, &["what"])?,
            rows: IntCounterVec::new(rows, &["outcome"])?,
        };
        registry.register(Box::new(cascades.pending.clone()))?;
        registry.register(Box::new(cascades.rows.clone()))?;
        cascades.count(&CascadeStep::default());
        Ok(cascades)
    }

    /// Counts the result of one turn.
    pub(crate) fn count(&self, done: &CascadeStep) {
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.pending.with_label_values(&["parents"]).set(gauge(done.parents_left));
        self.pending.with_label_values(&["rows"]).set(gauge(done.rows_left));
        self.rows.with_label_values(&["repaired"]).inc_by(done.rows);
        self.rows.with_label_values(&["refused"]).inc_by(done.refused);
    }
}
