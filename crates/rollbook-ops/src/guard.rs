//! The ops port where strangers reach it: on the port for deliveries, or alone on a public one.
//!
//! A stranger learns a status code of `/livez` and `/readyz`, which load balancers need. Which part fails, and why, is for
//! clients with a token, and so are `/metrics` and `/about`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use axum::response::IntoResponse as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::Ops;

/// Time for which one check answers all strangers, so that they can't make the process ask queue and store more often.
pub const BRIEF_FOR: Duration = Duration::from_secs(1);
/// Maximum size of a page, in bytes. The metrics are some hundred KiB.
const PAGE_MAX: usize = 4 << 20;
/// Paths in addition to those of deliveries. The receiver answers `/healthz` itself: it knows when it stops.
const PATHS: [&str; 4] = ["/livez", "/readyz", "/metrics", "/about"];

/// Decides which clients see everything.
pub trait Guard: Send + Sync {
    /// Returns whether the value of a header `Authorization` proves the right. Must take as long for a wrong token as for a
    /// right one.
    fn admits(&self, authorization: &[u8]) -> bool;
}

/// A guard, and the status that strangers were last shown.
pub(crate) struct Guarded {
    guard: Arc<dyn Guard>,
    pub(crate) live: Brief,
    pub(crate) ready: Brief,
}

impl Guarded {
    pub(crate) fn by(guard: Arc<dyn Guard>) -> Self {
        Self { guard, live: Brief::default(), ready: Brief::default() }
    }

    /// Returns whether a request proves the right. A request with two headers proves nothing.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let admitted = values.next().is_some_and(|value| self.guard.admits(value.as_bytes()));
        admitted && values.next().is_none()
    }

    /// Returns the refusal of a request without the right.
    pub(crate) fn refusal(&self, headers: &HeaderMap) -> Option<Response<Body>> {
        let refused =
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], "a token is required\n");
        (!self.admits(headers)).then(|| refused.into_response())
    }
}

/// Last status of a check.
#[derive(Default)]
pub(crate) struct Brief(Mutex<Option<(Instant, StatusCode)>>);

impl Brief {
    /// Answers with the status of the last check. If that is old, this request checks again, and the others wait for it.
    pub(crate) async fn answer(&self, check: impl Future<Output = Response<Body>>) -> Response<Body> {
        let mut last = self.0.lock().await;
        let status = match *last {
            Some((at, status)) if at.elapsed() < BRIEF_FOR => status,
            _ => {
                let status = check.await.status();
                *last = Some((Instant::now(), status));
                status
            }
        };
        let text = if status.is_success() { "{\"status\":\"ok\"}\n" } else { "{\"status\":\"failing\"}\n" };
        (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
    }
}

/// Pages of the ops port, for a server of another crate to answer with.
#[derive(Clone)]
pub struct Pages(TowerToHyperService<Router>);

impl Pages {
    /// Returns whether a path is one of these pages.
    pub fn has(path: &str) -> bool {
        PATHS.contains(&path)
    }

    /// Answers a request without its body.
    pub async fn answer(&self, head: Parts) -> Response<Bytes> {
        let is_head = head.method == Method::HEAD;
        let answered = self.0.call(Request::from_parts(head, Body::empty())).await;
        let (mut head, body) = answered.unwrap_or_else(|never| match never {}).into_parts();
        let body = to_bytes(body, PAGE_MAX).await.unwrap_or_else(|_| {
            head.status = StatusCode::INTERNAL_SERVER_ERROR;
            Bytes::new()
        });
        if !is_head {
            head.headers.remove(header::CONTENT_LENGTH);
        }
        Response::from_parts(head, body)
    }
}

impl Ops {
    /// Returns the pages, to be served next to others.
    #[must_use]
    pub fn pages(self) -> Pages {
        Pages(TowerToHyperService::new(self.router()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn strangers_cause_one_check_in_its_time_and_learn_only_the_status() {
        let (brief, checks) = (Brief::default(), AtomicUsize::new(0));
        let check = |status: StatusCode| {
            let checked = checks.fetch_add(1, Ordering::Relaxed);
            (status, format!("password in check {checked}")).into_response()
        };
        let ask = async |status| {
            let answer = brief.answer(async { check(status) }).await;
            let (status, body) = (answer.status(), to_bytes(answer.into_body(), PAGE_MAX).await);
            (status, body.expect("a body"), checks.load(Ordering::Relaxed))
        };
        let ok = (StatusCode::OK, Bytes::from_static(b"{\"status\":\"ok\"}\n"), 1);
        assert_eq!(ask(StatusCode::OK).await, ok);
        tokio::time::advance(Duration::from_millis(999)).await;
        assert_eq!(ask(StatusCode::SERVICE_UNAVAILABLE).await, ok);
        tokio::time::advance(Duration::from_millis(1)).await;
        let failing = Bytes::from_static(b"{\"status\":\"failing\"}\n");
        assert_eq!(ask(StatusCode::SERVICE_UNAVAILABLE).await, (StatusCode::SERVICE_UNAVAILABLE, failing, 2));
    }

    #[tokio::test]
    async fn two_headers_prove_nothing() {
        struct Anyone;
        impl Guard for Anyone {
            fn admits(&self, _: &[u8]) -> bool {
                true
            }
        }
        let guarded = Guarded::by(Arc::new(Anyone));
        let mut headers = HeaderMap::new();
        assert!(!guarded.admits(&headers));
        headers.append(header::AUTHORIZATION, header::HeaderValue::from_static("Bearer a"));
        assert!(guarded.admits(&headers));
        headers.append(header::AUTHORIZATION, header::HeaderValue::from_static("Bearer a"));
        assert!(!guarded.admits(&headers));
    }
}
