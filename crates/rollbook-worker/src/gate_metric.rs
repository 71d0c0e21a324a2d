//! Gauge of the gate: why it is closed.

use prometheus::{IntGaugeVec, Opts, Registry};
use rollbook_core::store::StoreError;

/// Reasons, by the class of the store's error.
const REASONS: [&str; 6] = ["unreachable", "slow", "deployment", "unreadable", "refused", "broken"];

/// Gauge `rollbook_gate_closed`. Clones are the same gauge.
#[derive(Clone)]
pub(crate) struct GateMetric(IntGaugeVec);

impl GateMetric {
    /// Registers the gauge, at zero for every reason.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let help = "1: no message is leased, because the store applies nothing, by reason.";
        let gauge = IntGaugeVec::new(Opts::new("rollbook_gate_closed", help), &["reason"])?;
        registry.register(Box::new(gauge.clone()))?;
        let metric = Self(gauge);
        metric.set(None);
        Ok(metric)
    }

    /// Shows the error that closed the gate; `None` if it is open.
    pub(crate) fn set(&self, error: Option<&StoreError>) {
        let current = error.map(|error| reason(error.innermost()));
        for reason in REASONS {
            self.0.with_label_values(&[reason]).set(i64::from(current == Some(reason)));
        }
    }
}

const fn reason(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable(_) => "unreachable",
        StoreError::Slow { .. } => "slow",
        StoreError::Deployment(_) => "deployment",
        StoreError::Unreadable(_) => "unreadable",
        StoreError::Event(_) | StoreError::Ambiguous(_) => "refused",
        StoreError::Broken(_) => "broken",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reason_of_the_last_error_is_shown() {
        let metric = GateMetric::new(&Registry::new()).expect("a free name");
        let shown = || REASONS.map(|reason| metric.0.with_label_values(&[reason]).get());
        assert_eq!(shown(), [0; 6]);
        metric.set(Some(&StoreError::Unavailable("refused".to_owned())));
        let inner = StoreError::Deployment("no right".to_owned());
        metric.set(Some(&StoreError::Ambiguous(Box::new(inner))));
        assert_eq!(shown(), [0, 0, 1, 0, 0, 0]);
        metric.set(None);
        assert_eq!(shown(), [0; 6]);
    }
}
