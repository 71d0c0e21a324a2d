//! Ops port: the private HTTP server for `/metrics`, `/livez`, `/readyz`, `/healthz` and `/about`.
//!
//! Constraints:
//!
//! * A probe only reads. Nothing here writes to the queue or the store.
//! * Every check has a time limit ([`CHECK_TIMEOUT`]); a component that does not answer affects only its own
//!   lines.
//! * A component that works with a weakness is ready and reports the weakness: [`Condition::Degraded`] if
//!   acknowledged data could be lost, [`Condition::Impaired`] if some of its work fails.
//! * Liveness means progress and never depends on a system outside the process: the caller puts loops into
//!   `live` and dependencies into `ready`.
//! * The ops port has its own listen address and no authentication, unless it has a [`Guard`]. Then strangers may reach it:
//!   without a token they get a status and nothing else, and cause at most one check in [`BRIEF_FOR`].

mod connections;
mod guard;
mod health;
mod metrics;
mod process;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::Registry;
use rollbook_core::protection::Protection;
use rollbook_core::queue::QueueAdmin;
use rollbook_core::time::Clock;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::guard::Guarded;
use crate::health::{Health, Since};
use crate::metrics::Metrics;

pub use crate::guard::{BRIEF_FOR, Guard, Pages};

/// Maximum time of one component's check. Prometheus allows 10 s per scrape by default.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Reports the condition of one component.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Checks the component; may wait for it. The caller enforces [`CHECK_TIMEOUT`]. Must only read.
    async fn check(&self) -> Condition;

    /// Number of calls that the process has made so far, for a probe that observes the use of a component. While
    /// it does not change, an earlier check may still hold.
    fn calls(&self) -> u64 {
        0
    }

    /// Protection of the connection to the component; `None` without a connection. Must not ask the component.
    fn protection(&self) -> Option<Protection> {
        None
    }
}

/// Describes the process: what it runs, and which data it uses.
#[async_trait]
pub trait About: Send + Sync {
    /// Returns the description. No secrets, no personal data. Must only read, and end within a few seconds.
    async fn about(&self) -> serde_json::Value;
}

/// Condition of a component. Each text says in a few words what is wrong: no secrets, no personal data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The component works.
    Healthy,
    /// The component works, but acknowledged data could be lost: its durability is degraded.
    Degraded(String),
    /// The component does part of its work: some calls fail, or the last calls failed a while ago.
    Impaired(String),
    /// The component failed when it was last used and has not been used successfully since. It counts as
    /// ready, so that it gets work that can prove it, and as down in `rollbook_up`.
    Unproven(String),
    /// The component does not work.
    Failing(String),
}

impl Condition {
    /// Returns whether the component counts as ready.
    pub const fn is_ready(&self) -> bool {
        !matches!(self, Self::Failing(_))
    }

    /// Returns whether `rollbook_up` is 1.
    pub const fn is_up(&self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded(_) | Self::Impaired(_))
    }

    /// Returns the worse of two conditions of one component; joins the texts if both are degraded or impaired.
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
            (Self::Healthy, condition) | (condition, Self::Healthy) => condition,
        }
    }

    fn no_answer() -> Self {
        Self::Failing(format!("no answer within {CHECK_TIMEOUT:?}"))
    }
}

/// A component of the process that reports its own condition.
#[derive(Clone)]
pub struct Component {
    /// Name in the responses and in `rollbook_up{part}`.
    pub name: &'static str,
    /// Check of the component.
    pub probe: Arc<dyn Probe>,
}

/// The queue, checked by the ops port itself: one query serves both its gauges and its health.
pub struct WatchedQueue {
    /// Port for queue queries.
    pub admin: Arc<dyn QueueAdmin>,
    /// Maximum number of messages that may wait in the queue.
    pub depth_max: u64,
    /// Time for which the figures of an empty queue hold while this process does not use it. Providers bill
    /// each command to a queue on a server.
    pub idle_check: Duration,
}

/// The ops port, ready to serve.
pub struct Ops {
    live: Health,
    metrics: Metrics,
    stopping: CancellationToken,
    about: Option<Arc<dyn About>>,
    guarded: Option<Guarded>,
}

impl Ops {
    /// Creates the ops port. `registry` holds the metrics of the other crates; the metrics of this port are
    /// added to it. Readiness depends on `queue`; without it there are no queue gauges.
    ///
    /// # Errors
    /// Fails if a metric of this port is already registered.
    pub fn new(
        registry: Registry,
        queue: Option<WatchedQueue>,
        live: Vec<Component>,
        ready: Vec<Component>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::new(registry, queue, Health::new(ready), clock)?;
        Ok(Self {
            live: Health::new(live),
            metrics,
            stopping: CancellationToken::new(),
            about: None,
            guarded: None,
        })
    }

    /// Reports not ready (503) once `stopping` is cancelled: the process is shutting down, and new requests
    /// should go to another instance.
    pub fn ready_until(mut self, stopping: CancellationToken) -> Self {
        self.stopping = stopping;
        self
    }

    /// Shows this description of the process at `/about`. Without one, `/about` is answered 404.
    pub fn described_by(mut self, about: Arc<dyn About>) -> Self {
        self.about = Some(about);
        self
    }

    /// Shows metrics, the description and the parts' conditions only to clients that this guard admits.
    pub fn guarded_by(mut self, guard: Arc<dyn Guard>) -> Self {
        self.guarded = Some(Guarded::by(guard));
        self
    }

    /// Shows these components in `rollbook_up{part}` and in the responses; readiness does not depend on them.
    pub fn watching(mut self, parts: Vec<Component>) -> Self {
        self.metrics.watched = Health::new(parts);
        self
    }

    /// Adds a probe of the queue: results that the process saw when it used the queue. The worst condition is shown.
    pub fn with_queue_probe(mut self, used: Arc<dyn Probe>) -> Self {
        self.metrics.queue_used.push(used);
        self
    }

    /// Serves until `stop`, then gives running responses a short time to finish.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        connections::serve(listener, self.router(), stop).await;
    }

    fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(render_metrics))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/about", get(about))
            .with_state(Arc::new(self))
    }

    /// Returns the refusal of a request for what only an admitted client may see.
    fn refusal(&self, headers: &HeaderMap) -> Option<Response> {
        self.guarded.as_ref().and_then(|guarded| guarded.refusal(headers))
    }

    async fn readiness(&self) -> Response {
        let (ready, watched) = self.metrics.check().await;
        health::answer(&ready, &watched, &self.metrics.since(), self.stopping.is_cancelled())
    }
}

async fn render_metrics(State(ops): State<Arc<Ops>>, headers: HeaderMap) -> Response {
    if let Some(refusal) = ops.refusal(&headers) {
        return refusal;
    }
    match ops.metrics.render().await {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics can't be rendered");
            (StatusCode::INTERNAL_SERVER_ERROR, "metrics can't be rendered\n").into_response()
        }
    }
}

async fn livez(State(ops): State<Arc<Ops>>, headers: HeaderMap) -> Response {
    let checked = async { health::answer(&ops.live.check().await, &[], &Since::new(), false) };
    match &ops.guarded {
        Some(guarded) if !guarded.admits(&headers) => guarded.live.answer(checked).await,
        _ => checked.await,
    }
}

async fn readyz(State(ops): State<Arc<Ops>>, headers: HeaderMap) -> Response {
    match &ops.guarded {
        Some(guarded) if !guarded.admits(&headers) => guarded.ready.answer(ops.readiness()).await,
        _ => ops.readiness().await,
    }
}

async fn about(State(ops): State<Arc<Ops>>, headers: HeaderMap) -> Response {
    if let Some(refusal) = ops.refusal(&headers) {
        return refusal;
    }
    let Some(about) = &ops.about else { return StatusCode::NOT_FOUND.into_response() };
    let text = format!("{}\n", about.about().await);
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
