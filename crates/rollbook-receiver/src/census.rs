//! Counts connections for Prometheus when it asks, instead of with each change: a request pays nothing for it.

use std::sync::{Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts};
use rollbook_http::{Closed, Connections, State};

/// The connections of the public port, as metrics.
pub(crate) struct Census {
    connections: Connections,
    open: IntGaugeVec,
    limit: IntGauge,
    closed: IntCounterVec,
    /// Held by one scrape at a time, so that no two add the same difference.
    taking: Mutex<()>,
}

impl Census {
    /// Every series is there from the start.
    pub(crate) fn new(connections: Connections) -> Result<Self, prometheus::Error> {
        let open = Opts::new("rollbook_connections", "Open connections of the public port.");
        let limit = Opts::new("rollbook_connections_limit", "Maximum connections of the public port.");
        let closed = Opts::new(
            "rollbook_connections_closed_total",
            "Connections that the public port ended: full (dropped for a new client), by a time limit, or by age.",
        );
        let census = Self {
            open: IntGaugeVec::new(open, &["state"])?,
            limit: IntGauge::with_opts(limit)?,
            closed: IntCounterVec::new(closed, &["reason"])?,
            connections,
            taking: Mutex::default(),
        };
        census.limit.set(i64::try_from(census.connections.limits().connections_max).unwrap_or(i64::MAX));
        census.take();
        Ok(census)
    }

    fn take(&self) {
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = self.connections.counts();
        for (state, count) in State::ALL.into_iter().zip(counts.open) {
            self.open.with_label_values(&[state.label()]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        for (closed, count) in Closed::ALL.into_iter().zip(counts.closed) {
            let counter = self.closed.with_label_values(&[closed.label()]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }
}

impl Collector for Census {
    fn desc(&self) -> Vec<&Desc> {
        [self.open.desc(), self.limit.desc(), self.closed.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.take();
        [self.open.collect(), self.limit.collect(), self.closed.collect()].concat()
    }
}
