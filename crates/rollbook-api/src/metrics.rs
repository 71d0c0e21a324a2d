//! Metrics of the API. Every series exists from the start, at zero.

use std::sync::{Arc, OnceLock};

use axum::http::StatusCode;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, register_histogram_with_registry,
    register_int_counter_vec_with_registry, register_int_counter_with_registry,
    register_int_gauge_vec_with_registry, register_int_gauge_with_registry,
};
use rollbook_core::time::Timestamp;
use rollbook_session::{Keys, Refusal};
use tokio::sync::OwnedSemaphorePermit;

use crate::keys::KeyEvent;

/// Routes, as a label.
pub(crate) mod route {
    /// Names of the routes, each with the statuses of its answers.
    pub(crate) const STATUSES: [(&str, &[u16]); 10] = [
        ("changes", &[200, 400, 401, 405, 409, 410, 503]),
        ("session", &[200, 400, 401, 405, 503]),
        ("context", &[200, 400, 401, 405, 503]),
        ("authorize", &[204, 400, 401, 403, 503]),
        ("user", &[200, 400, 401, 404, 405, 409, 503]),
        ("user_organizations", &[200, 400, 401, 404, 405, 503]),
        ("organization", &[200, 400, 401, 404, 405, 409, 503]),
        ("organization_members", &[200, 400, 401, 404, 405, 503]),
        ("openapi", &[200, 405]),
        (OTHER, &[404]),
    ];
    /// Any other path.
    pub(crate) const OTHER: &str = "other";

    /// The route of a path.
    pub(crate) fn of(path: &str) -> &'static str {
        let Some(path) = path.strip_prefix("/v1/") else { return OTHER };
        let (first, rest) = path.split_once('/').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let is_id = |id: &str| !id.is_empty() && !id.contains('/');
        match (first, rest) {
            ("changes", None) => "changes",
            ("session", None) => "session",
            ("context", None) => "context",
            ("authorize", None) => "authorize",
            ("openapi.json", None) => "openapi",
            ("users", Some(rest)) => match rest.strip_suffix("/organizations") {
                Some(id) if is_id(id) => "user_organizations",
                None if is_id(rest) => "user",
                _ => OTHER,
            },
            ("organizations", Some(rest)) => match rest.strip_suffix("/members") {
                Some(id) if is_id(id) => "organization_members",
                None if is_id(rest) => "organization",
                _ => OTHER,
            },
            _ => OTHER,
        }
    }
}

/// Lengths of tokens, in bytes. A cookie of 4,096 bytes holds a token of 4,077: its name may have 19.
const TOKEN_BYTES: [f64; 8] = [512.0, 1024.0, 1536.0, 2048.0, 3072.0, 4077.0, 8192.0, 16384.0];

/// Way in which a reader waits for changes.
#[derive(Clone, Copy)]
pub(crate) enum ReaderKind {
    /// With an open stream.
    Stream,
    /// With a request that waits.
    LongPoll,
}

/// End of a reading of Clerk's API.
#[derive(Clone, Copy)]
pub(crate) enum Refreshed {
    /// The row is up to date.
    Read,
    /// Clerk or the store gave no usable answer.
    Failed,
    /// Too many readings were under way.
    Refused,
}

/// All metrics of the API.
pub(crate) struct Metrics {
    requests: IntCounterVec,
    readers: IntGaugeVec,
    changes: IntCounter,
    refusals: IntCounterVec,
    token_bytes: Histogram,
    fetches: IntCounterVec,
    keys: KeyCount,
    keys_fetched_at: IntGauge,
    refreshes: IntCounterVec,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register_int_counter_vec_with_registry!(name, help, labels, registry)
        };
        let metrics = Self {
            requests: counter(
                "rollbook_api_requests_total",
                "Requests to the API by route and status of the answer",
                &["route", "status"],
            )?,
            readers: register_int_gauge_vec_with_registry!(
                "rollbook_api_readers",
                "Readers that wait for changes at the API now, by kind",
                &["kind"],
                registry
            )?,
            changes: register_int_counter_with_registry!(
                "rollbook_api_changes_total",
                "Changes in answers of the API",
                registry
            )?,
            refusals: counter(
                "rollbook_session_refusals_total",
                "Requests without a valid session token, by reason",
                &["reason"],
            )?,
            token_bytes: register_histogram_with_registry!(
                "rollbook_token_bytes",
                "Lengths of accepted session tokens",
                TOKEN_BYTES.to_vec(),
                registry
            )?,
            fetches: counter(
                "rollbook_session_key_fetches_total",
                "Fetches of the keys of session tokens by result",
                &["result"],
            )?,
            keys: KeyCount {
                gauge: IntGauge::new("rollbook_session_keys", "Keys with which session tokens are verified")?,
                fixed: Arc::default(),
            },
            keys_fetched_at: register_int_gauge_with_registry!(
                "rollbook_session_keys_fetched_timestamp_seconds",
                "Time of the last successful fetch of the keys of session tokens; 0 before the first",
                registry
            )?,
            refreshes: counter(
                "rollbook_api_refreshes_total",
                "Readings of Clerk's API for requests with max_age by result",
                &["result"],
            )?,
        };
        registry.register(Box::new(metrics.keys.clone()))?;
        metrics.begin();
        Ok(metrics)
    }

    /// Creates every series.
    fn begin(&self) {
        for (route, statuses) in route::STATUSES {
            for status in statuses {
                self.requests.with_label_values(&[route, &status.to_string()]);
            }
        }
        for kind in [ReaderKind::Stream, ReaderKind::LongPoll] {
            self.gauge(kind);
        }
        for refusal in Refusal::ALL {
            self.refusals.with_label_values(&[refusal.name()]);
        }
        for result in [KeyEvent::Fetched(0), KeyEvent::Unanswered, KeyEvent::Unreadable] {
            self.fetches.with_label_values(&[name_of(result)]);
        }
        for result in [Refreshed::Read, Refreshed::Failed, Refreshed::Refused] {
            self.refresh(result);
        }
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, route: &str, status: StatusCode) {
        self.requests.with_label_values(&[route, status.as_str()]).inc();
    }

    /// Counts changes that are sent.
    pub(crate) fn sent(&self, changes: usize) {
        self.changes.inc_by(changes as u64);
    }

    /// Counts a request without a valid session token.
    pub(crate) fn refused(&self, refusal: Refusal) {
        self.refusals.with_label_values(&[refusal.name()]).inc();
    }

    /// Records the length of an accepted token.
    pub(crate) fn accepted(&self, token: &str) {
        #[expect(clippy::cast_precision_loss, reason = "a token has at most 64 KiB")]
        self.token_bytes.observe(token.len() as f64);
    }

    /// Sets the fixed keys. The metric is their number from now on.
    pub(crate) fn fixed_keys(&self, keys: Keys) {
        // The keys of a process are set once.
        drop(self.keys.fixed.set(keys));
    }

    /// Counts a fetch of keys.
    pub(crate) fn fetched(&self, event: KeyEvent, now: Timestamp) {
        self.fetches.with_label_values(&[name_of(event)]).inc();
        if let KeyEvent::Fetched(count) = event {
            self.keys.gauge.set(gauge_value(count));
            self.keys_fetched_at.set(now.as_millis() / 1000);
        }
    }

    /// Counts a reading of Clerk's API.
    pub(crate) fn refreshed(&self, result: Refreshed) {
        self.refresh(result).inc();
    }

    fn refresh(&self, result: Refreshed) -> IntCounter {
        self.refreshes.with_label_values(&[match result {
            Refreshed::Read => "read",
            Refreshed::Failed => "failed",
            Refreshed::Refused => "refused",
        }])
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

/// Number of keys. Fixed keys may be replaced at any time, so they are counted when the metric is read.
#[derive(Clone)]
struct KeyCount {
    gauge: IntGauge,
    fixed: Arc<OnceLock<Keys>>,
}

impl Collector for KeyCount {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(fixed) = self.fixed.get() {
            self.gauge.set(gauge_value(fixed.current().len()));
        }
        self.gauge.collect()
    }
}

fn gauge_value(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn name_of(event: KeyEvent) -> &'static str {
    match event {
        KeyEvent::Fetched(_) => "fetched",
        KeyEvent::Unanswered => "unanswered",
        KeyEvent::Unreadable => "unreadable",
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

#[cfg(test)]
mod tests {
    use super::route::of;

    #[test]
    fn a_path_has_the_name_of_its_route_and_no_id_is_in_it() {
        for (path, route) in [
            ("/v1/changes", "changes"),
            ("/v1/session", "session"),
            ("/v1/context", "context"),
            ("/v1/authorize", "authorize"),
            ("/v1/openapi.json", "openapi"),
            ("/v1/users/user_1", "user"),
            ("/v1/users/organizations", "user"),
            ("/v1/users/user_1/organizations", "user_organizations"),
            ("/v1/organizations/org_1", "organization"),
            ("/v1/organizations/org_1/members", "organization_members"),
            ("/v1/users/", "other"),
            ("/v1/users", "other"),
            ("/v1/users//organizations", "other"),
            ("/v1/users/user_1/", "other"),
            ("/v1/users/user_1/members", "other"),
            ("/v1/users/a/b/organizations", "other"),
            ("/v1/changes/", "other"),
            ("/", "other"),
        ] {
            assert_eq!(of(path), route, "{path}");
        }
        assert!(super::route::STATUSES.iter().any(|(name, _)| *name == super::route::OTHER));
    }
}
