//! Metrics of the API. Every series exists from the start, at zero.

use axum::http::StatusCode;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use tokio::sync::OwnedSemaphorePermit;

/// Routes, as a label.
pub(crate) mod route {
    /// `/v1/changes`.
    pub(crate) const CHANGES: &str = "changes";
    /// `/v1/openapi.json`.
    pub(crate) const OPENAPI: &str = "openapi";
    /// Any other path.
    pub(crate) const OTHER: &str = "other";

    /// The route of a path.
    pub(crate) fn of(path: &str) -> &'static str {
        match path {
            "/v1/changes" => CHANGES,
            "/v1/openapi.json" => OPENAPI,
            _ => OTHER,
        }
    }
}

/// Statuses of each route.
const STATUSES: [(&str, &[u16]); 3] = [
    (route::CHANGES, &[200, 400, 401, 405, 409, 410, 503]),
    (route::OPENAPI, &[200, 405]),
    (route::OTHER, &[404]),
];

/// Way in which a reader waits for changes.
#[derive(Clone, Copy)]
pub(crate) enum ReaderKind {
    /// With an open stream.
    Stream,
    /// With a request that waits.
    LongPoll,
}

/// All metrics of the API.
pub(crate) struct Metrics {
    requests: IntCounterVec,
    readers: IntGaugeVec,
    changes: IntCounter,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = IntCounterVec::new(
            Opts::new("rollbook_api_requests_total", "Requests to the API by route and status of the answer"),
            &["route", "status"],
        )?;
        let readers = IntGaugeVec::new(
            Opts::new("rollbook_api_readers", "Readers that wait for changes at the API now, by kind"),
            &["kind"],
        )?;
        let changes = IntCounter::new("rollbook_api_changes_total", "Changes in answers of the API")?;
        for (route, statuses) in STATUSES {
            for status in statuses {
                requests.with_label_values(&[route, &status.to_string()]);
            }
        }
        let metrics = Self { requests, readers, changes };
        for kind in [ReaderKind::Stream, ReaderKind::LongPoll] {
            metrics.gauge(kind);
        }
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.readers.clone()))?;
        registry.register(Box::new(metrics.changes.clone()))?;
        Ok(metrics)
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, route: &str, status: StatusCode) {
        self.requests.with_label_values(&[route, status.as_str()]).inc();
    }

    /// Counts changes that are sent.
    pub(crate) fn sent(&self, changes: usize) {
        self.changes.inc_by(changes as u64);
    }

    /// Counts a reader as waiting for as long as the result exists.
    pub(crate) fn reading(&self, kind: ReaderKind, permit: OwnedSemaphorePermit) -> Reading {
        let gauge = self.gauge(kind);
        gauge.inc();
        Reading { gauge, _permit: permit }
    }

    fn gauge(&self, kind: ReaderKind) -> IntGauge {
        self.readers.with_label_values(&[match kind {
            ReaderKind::Stream => "stream",
            ReaderKind::LongPoll => "long_poll",
        }])
    }
}

/// A reader that waits, and its permit.
pub(crate) struct Reading {
    gauge: IntGauge,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}
