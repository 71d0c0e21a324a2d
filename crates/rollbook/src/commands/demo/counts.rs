//! Outcomes that the worker counted, read from its metrics as Prometheus would.

use prometheus::Registry;
use prometheus::proto::LabelPair;
use rollbook_core::catalog;
use rollbook_core::change::Applied;

/// Label of events without a table.
const NO_TABLE: &str = "none";

/// Outcomes of the changes of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Table; `None` for event types that have none, or that are never stored.
    pub(crate) table: Option<&'static str>,
    /// Number of changes with each outcome, in the order of [`Applied::ALL`].
    pub(crate) outcomes: [u64; Applied::ALL.len()],
}

/// Returns the outcomes of all changes by table, in the order of the catalog.
pub(crate) fn applied(registry: &Registry) -> Vec<Counts> {
    let tables = catalog::RESOURCES.iter().map(|resource| Some(resource.table)).chain([None]);
    let mut counts: Vec<Counts> = tables.map(|table| Counts { table, outcomes: [0; 6] }).collect();
    for family in registry.gather().iter().filter(|family| family.name() == "rollbook_applied_total") {
        for metric in family.get_metric() {
            let labels = metric.get_label();
            let label = |name: &str| labels.iter().find(|label| label.name() == name).map(LabelPair::value);
            let (Some(table), Some(outcome)) = (label("resource"), label("outcome").and_then(Applied::parse))
            else {
                continue;
            };
            let of_table = counts.iter_mut().find(|counts| counts.table.unwrap_or(NO_TABLE) == table);
            let place = Applied::ALL.iter().position(|applied| *applied == outcome);
            if let (Some(counts), Some(place)) = (of_table, place) {
                counts.outcomes[place] = whole(metric.get_counter().get_value());
            }
        }
    }
    counts
}

/// Returns the value of a counter as a whole number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it counts changes from zero")]
fn whole(counter: f64) -> u64 {
    counter as u64
}

#[cfg(test)]
mod tests {
    use prometheus::{IntCounterVec, Opts};

    use super::*;

    #[test]
    fn counts_are_found_by_table_and_outcome() {
        let registry = Registry::new();
        let opts = Opts::new("rollbook_applied_total", "Changes applied.");
        let counter = IntCounterVec::new(opts, &["resource", "outcome"]).expect("a valid name");
        registry.register(Box::new(counter.clone())).expect("a free name");
        counter.with_label_values(&["users", "stale"]).inc_by(7);
        counter.with_label_values(&["none", "ignored"]).inc_by(3);
        let counts = applied(&registry);
        let of = |table| counts.iter().find(|counts| counts.table == table).expect("every table").outcomes;
        assert_eq!(of(Some("users")), [0, 0, 0, 7, 0, 0]);
        assert_eq!(of(None), [0, 0, 0, 0, 0, 3]);
        assert_eq!(of(Some("organizations")), [0; 6]);
    }
}
