//! Connection metrics, computed at each scrape instead of at each change, so that requests do no extra work.

use std::sync::{Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts};
use rollbook_http::{CloseReason, Connections, State};

/// Collector of the public port's connection metrics.
pub(crate) struct ConnectionMetrics {
    connections: Connections,
    open: IntGaugeVec,
    limit: IntGauge,
    closed: IntCounterVec,
    /// Locked during a scrape, so that two scrapes do not add the same difference.
    updating: Mutex<()>,
}

impl ConnectionMetrics {
    /// Creates the collector; every series exists from the start.
    pub(crate) fn new(connections: Connections) -> Result<Self, prometheus::Error> {
        let open = Opts::new("rollbook_connections", "Open connections of the public port.");
        let limit = Opts::new("rollbook_connections_limit", "Maximum connections of the public port.");
        let closed = Opts::new(
            "rollbook_connections_closed_total",
            "Connections that the public port closed: full (dropped for a new client), by a time limit, or by age.",
        );
        let metrics = Self {
            open: IntGaugeVec::new(open, &["state"])?,
            limit: IntGauge::with_opts(limit)?,
            closed: IntCounterVec::new(closed, &["reason"])?,
            connections,
            updating: Mutex::default(),
        };
        metrics.limit.set(i64::try_from(metrics.connections.limits().connections_max).unwrap_or(i64::MAX));
        metrics.update();
        Ok(metrics)
    }

    fn update(&self) {
        let _updating = self.updating.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = self.connections.counts();
        for (state, count) in State::ALL.into_iter().zip(counts.open) {
            self.open.with_label_values(&[state.label()]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        for (closed, count) in CloseReason::ALL.into_iter().zip(counts.closed) {
            let counter = self.closed.with_label_values(&[closed.label()]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }
}

impl Collector for ConnectionMetrics {
    fn desc(&self) -> Vec<&Desc> {
        [self.open.desc(), self.limit.desc(), self.closed.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.update();
        [self.open.collect(), self.limit.collect(), self.closed.collect()].concat()
    }
}
