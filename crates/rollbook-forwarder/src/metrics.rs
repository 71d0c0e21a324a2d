//! Metrics of forwards. Counters are of this process; the gauges are read from the store, so every process shows the same.

use std::sync::Arc;

use prometheus::{
    GaugeVec, IntCounter, IntCounterVec, IntGaugeVec, Registry, register_gauge_vec_with_registry,
    register_int_counter_vec_with_registry, register_int_gauge_vec_with_registry,
};
use rollbook_core::store::{ChangesError, ChangesQuery, Position};

use crate::ports::Ports;
use crate::settings::ForwardSettings;
use crate::verdict::Verdict;

/// Metrics of all forwards of a process.
#[derive(Clone)]
pub(crate) struct Metrics {
    deliveries: IntCounterVec,
    position: IntGaugeVec,
    blocked: IntGaugeVec,
    waiting: IntGaugeVec,
    dead_letters: IntGaugeVec,
    stopped: IntGaugeVec,
    full: IntGaugeVec,
    last_status: IntGaugeVec,
    lag: GaugeVec,
}

/// Counters of one forward.
#[derive(Clone)]
pub(crate) struct Counters {
    outcomes: Vec<(&'static str, IntCounter)>,
    name: String,
    last_status: IntGaugeVec,
}

impl Counters {
    pub(crate) fn count(&self, verdict: &Verdict) {
        let outcome = verdict.outcome();
        if let Some((_, counter)) = self.outcomes.iter().find(|(name, _)| Some(*name) == outcome) {
            counter.inc();
            self.last_status.with_label_values(&[&self.name]).set(verdict.status().into());
        }
    }
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            register_int_gauge_vec_with_registry!(name, help, &["forward"], registry)
        };
        Ok(Self {
            deliveries: register_int_counter_vec_with_registry!(
                "rollbook_forward_deliveries_total",
                "Requests of forwards by outcome",
                &["forward", "outcome"],
                registry
            )?,
            position: gauge(
                "rollbook_forward_position",
                "Position up to which a forward has delivered or recorded every change",
            )?,
            blocked: gauge(
                "rollbook_forward_blocked_subjects",
                "Subjects of a forward that wait after a failure",
            )?,
            waiting: gauge("rollbook_forward_waiting_changes", "Changes of blocked subjects of a forward")?,
            dead_letters: gauge("rollbook_forward_dead_letters", "Dead letters of a forward")?,
            stopped: gauge(
                "rollbook_forward_stopped",
                "Whether a forward stopped until an operator starts it again",
            )?,
            full: gauge(
                "rollbook_forward_full",
                "Whether a forward reads no more: it has the maximum of blocked subjects, waiting changes or dead letters",
            )?,
            last_status: gauge(
                "rollbook_forward_last_status",
                "HTTP status of the last answer to a forward; 0 if there was none",
            )?,
            lag: register_gauge_vec_with_registry!(
                "rollbook_feed_lag_seconds",
                "Age of the oldest change that a consumer has neither delivered nor recorded",
                &["consumer"],
                registry
            )?,
        })
    }

    /// Adds a forward, with all its metrics at zero.
    pub(crate) fn add(&self, name: &str) -> Counters {
        let Self { position, blocked, waiting, dead_letters, stopped, full, last_status, .. } = self;
        for gauge in [position, blocked, waiting, dead_letters, stopped, full, last_status] {
            gauge.with_label_values(&[name]);
        }
        self.lag.with_label_values(&[name]);
        let counter = |outcome| (outcome, self.deliveries.with_label_values(&[name, outcome]));
        Counters {
            outcomes: Verdict::OUTCOMES.into_iter().map(counter).collect(),
            name: name.to_owned(),
            last_status: last_status.clone(),
        }
    }

    /// Reads the gauges from the store.
    pub(crate) async fn refresh(
        &self,
        ports: &Ports,
        all: &[Arc<ForwardSettings>],
    ) -> Result<(), ChangesError> {
        for forward in ports.forwards.forwards().await? {
            let Some(settings) = all.iter().find(|of| of.name == forward.name) else { continue };
            let label = &[forward.name.as_str()];
            let set = |gauge: &IntGaugeVec, value: u64| {
                gauge.with_label_values(label).set(i64::try_from(value).unwrap_or(i64::MAX));
            };
            set(&self.position, forward.position);
            set(&self.blocked, forward.blocked);
            set(&self.waiting, forward.waiting);
            set(&self.dead_letters, forward.failed);
            set(&self.stopped, u64::from(forward.stopped.is_some()));
            set(&self.full, u64::from(settings.full(&forward).is_some()));
            self.lag.with_label_values(label).set(lag(ports, forward.position).await?);
        }
        Ok(())
    }
}

/// Age in seconds of the first line after a position; zero at the end of the feed.
async fn lag(ports: &Ports, position: Position) -> Result<f64, ChangesError> {
    let after = |after| ChangesQuery { after, limit: 1, ..ChangesQuery::default() };
    let page = match ports.changes.changes(&after(position)).await {
        // The oldest line that is kept is younger than the one that is missing.
        Err(ChangesError::Removed { oldest, .. }) => ports.changes.changes(&after(oldest - 1)).await,
        Err(ChangesError::Ahead { .. }) => return Ok(0.0),
        page => page,
    }?;
    Ok(page.lines.first().map_or(0.0, |line| ports.clock.now().since(line.at).as_secs_f64()))
}
