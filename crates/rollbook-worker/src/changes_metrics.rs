//! Metrics of the change feed.

use std::time::Duration;

use prometheus::{Gauge, Registry};
use rollbook_core::store::SequenceStep;

/// Metrics of the change feed.
pub(crate) struct ChangesMetrics {
    position: Gauge,
    pending: Gauge,
}

impl ChangesMetrics {
    /// Registers the metrics.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let position =
            Gauge::new("rollbook_changes_position", "Position of the last line of the change feed.")?;
        let help =
            "Age of the oldest committed change without a position in the change feed; 0 if there is none.";
        let pending = Gauge::new("rollbook_changes_pending_seconds", help)?;
        registry.register(Box::new(position.clone()))?;
        registry.register(Box::new(pending.clone()))?;
        Ok(Self { position, pending })
    }

    /// Shows the result of one step.
    pub(crate) fn note(&self, step: &SequenceStep) {
        if let Some(last) = step.last {
            // A position has less than 53 bits.
            #[expect(clippy::cast_precision_loss, reason = "see above")]
            self.position.set(last as f64);
        }
        self.pending.set(if step.has_more { step.waited_for.as_secs_f64() } else { 0.0 });
    }

    /// Shows how long no step has succeeded.
    pub(crate) fn failing_for(&self, time: Duration) {
        self.pending.set(time.as_secs_f64());
    }
}
