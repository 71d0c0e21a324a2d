//! The private HTTP face: `/metrics`, `/livez`, `/readyz`, `/healthz`.
//!
//! Constraints:
//!
//! * A probe reads. Nothing here writes to the queue or the store.
//! * Everything that asks a part has a time limit ([`CHECK_TIMEOUT`]); a part that does not answer
//!   takes nothing but its own lines away.
//! * A part that works less well than it should is ready and says so: [`Condition::Degraded`] where what it
//!   acknowledges could be lost, [`Condition::Impaired`] where some of its work fails.
//! * Liveness is progress, not existence, and never depends on a system outside the process: whoever
//!   wires the parts puts loops into `live` and dependencies into `ready`.
//! * It listens on an address of its own, never on that of the webhooks: it has no login.

mod connections;
mod health;
mod metrics;
mod process;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::Registry;
use rollbook_core::protection::Protection;
use rollbook_core::queue::QueueAdmin;
use rollbook_core::time::Clock;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::metrics::Metrics;

/// How long one part may take to say how it is. Prometheus gives a scrape 10 s by default.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Says how one part is.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Returns at once or waits for the part; [`CHECK_TIMEOUT`] is kept by the caller. Must only read.
    async fn check(&self) -> Condition;

    /// How the connection to the part is protected; `None` where there is none, or none yet. Asks nobody.
    fn protection(&self) -> Option<Protection> {
        None
    }
}

/// How a part is. The texts say what is wrong, in a few words for a person: no secret, no personal data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// As it should be.
    Well,
    /// It does its work, and what it acknowledges could still be lost: its durability is degraded.
    Degraded(String),
    /// It does some of its work: some calls fail, or the last ones failed a while ago.
    Impaired(String),
    /// It failed when it was last used, and nothing has shown since that it works. It counts as ready, so that work
    /// comes which can show it, and not as up.
    Unproven(String),
    /// It does not do its work.
    Failing(String),
}

impl Condition {
    /// Whether it does its work.
    pub const fn is_ready(&self) -> bool {
        !matches!(self, Self::Failing(_))
    }

    /// What `rollbook_up` says.
    pub const fn is_up(&self) -> bool {
        matches!(self, Self::Well | Self::Degraded(_) | Self::Impaired(_))
    }

    /// The worse of two conditions of one part; both texts where both are degraded or impaired.
    fn worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::Degraded(one), Self::Degraded(other)) => Self::Degraded(format!("{one}; {other}")),
            (failing @ Self::Failing(_), _) | (_, failing @ Self::Failing(_)) => failing,
            (unproven @ Self::Unproven(_), _) | (_, unproven @ Self::Unproven(_)) => unproven,
            (Self::Impaired(one), Self::Impaired(other)) => Self::Impaired(format!("{one}; {other}")),
            (Self::Impaired(impaired), Self::Degraded(degraded))
            | (Self::Degraded(degraded), Self::Impaired(impaired)) => {
                Self::Impaired(format!("{impaired}; degraded: {degraded}"))
            }
            (Self::Well, condition) | (condition, Self::Well) => condition,
        }
    }

    fn no_answer() -> Self {
        Self::Failing(format!("no answer within {CHECK_TIMEOUT:?}"))
    }
}

/// A part of the process that has a state of its own.
#[derive(Clone)]
pub struct Part {
    /// Its name in the answers and in `rollbook_up{part}`.
    pub name: &'static str,
    /// Says how it is.
    pub probe: Arc<dyn Probe>,
}

/// The queue, which this face asks itself: one answer serves its gauges and its health.
pub struct WatchedQueue {
    /// Where to ask.
    pub admin: Arc<dyn QueueAdmin>,
    /// How many messages may wait in it.
    pub depth_max: u64,
}

/// The ops face, ready to serve.
pub struct Ops {
    live: Health,
    metrics: Metrics,
    stopping: CancellationToken,
}

impl Ops {
    /// Puts the face together. `registry` holds the metrics of the other faces; those of this one are
    /// added to it. A `queue` is a part on which readiness depends; without it there are no gauges of it.
    ///
    /// # Errors
    /// A metric of this face is registered already.
    pub fn new(
        registry: Registry,
        queue: Option<WatchedQueue>,
        live: Vec<Part>,
        ready: Vec<Part>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::new(registry, queue, Health::new(ready), clock)?;
        Ok(Self { live: Health::new(live), metrics, stopping: CancellationToken::new() })
    }

    /// Answers 503 to the question of readiness from the moment that this is cancelled: the process has
    /// been told to stop, and what is sent to it should go elsewhere.
    pub fn ready_until(mut self, stopping: CancellationToken) -> Self {
        self.stopping = stopping;
        self
    }

    /// Shows these parts too, in `rollbook_up{part}` and by name, though readiness does not depend on them.
    pub fn watching(mut self, parts: Vec<Part>) -> Self {
        self.metrics.watched = Health::new(parts);
        self
    }

    /// Judges the queue by this too: what the process itself met when it used the queue. The worst of the
    /// conditions is shown.
    pub fn judging_queue_by(mut self, used: Arc<dyn Probe>) -> Self {
        self.metrics.queue_used.push(used);
        self
    }

    /// Answers until `stop`, then lets running answers end, but not for long.
    ///
    /// # Errors
    /// The listener failed for good.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
        let router = Router::new()
            .route("/metrics", get(render_metrics))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/healthz", get(|| async { "ok\n" }))
            .with_state(Arc::new(self));
        connections::serve(listener, router, stop).await
    }
}

async fn render_metrics(State(ops): State<Arc<Ops>>) -> Response {
    match ops.metrics.render().await {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics can't be rendered");
            (StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be rendered\n").into_response()
        }
    }
}

async fn livez(State(ops): State<Arc<Ops>>) -> Response {
    health::answer(&ops.live.check().await, &[], false)
}

async fn readyz(State(ops): State<Arc<Ops>>) -> Response {
    let (ready, watched) = ops.metrics.check().await;
    health::answer(&ready, &watched, ops.stopping.is_cancelled())
}
