//! Limits of the ops port: few connections, one request on each, and the oldest is dropped for a new client.
//!
//! A client that holds connections therefore can't block the port: not with idle connections, unread
//! responses or slow requests. A scraper that opens a new connection each time costs little.

use std::time::Duration;

use axum::Router;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use rollbook_http::{HEAD_LENGTH_MAX, Limits, Port};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const PORT: Port = Port {
    name: "ops",
    limits: Limits {
        // Enough for some scrapers, a kubelet and an operator.
        connections_max: 64,
        head_length_max: HEAD_LENGTH_MAX,
        header_timeout: Duration::from_secs(10),
        // No connection becomes idle: each closes with its response.
        idle_timeout: Duration::from_secs(10),
        write_timeout: Duration::from_secs(10),
        age_max: Duration::ZERO,
    },
    drain_timeout: Duration::from_secs(1),
};

/// Serves every connection of `listener` with `router` until `stop`.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let router = TowerToHyperService::new(router);
    let answer = move |request, _| {
        let answered = router.call(request);
        async move { answered.await.unwrap_or_else(|never| match never {}) }
    };
    PORT.serve(listener, stop, answer).await;
}
