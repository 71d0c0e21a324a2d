//! API: HTTP for the team's own applications. ops/API.md is its page.
//!
//! * To react to changes: `GET /v1/changes` returns the change feed as JSON, waits for new changes if asked to (`wait`), or
//!   streams them as Server-Sent Events.
//! * To know who asks and what they may do: `/v1/session`, `/v1/authorize` and `/v1/context` verify a session token without
//!   a network call, and read what the mirror knows about its user and organization.
//! * To read rows: `/v1/users/…` and `/v1/organizations/…`, with a reading of Clerk's API where the mirror is too old.
//!
//! Constraints:
//!
//! * Every request for data needs a bearer token of the service, or a valid session token. There is no mode without tokens.
//!   A session token alone shows no private metadata.
//! * Every check fails closed: without keys, without an answer of the store, with a parameter that is unknown or repeated.
//! * A reader who asks for a position that was removed, or that is after the last one, gets an error. It never misses a
//!   change without notice.
//! * Every number is limited: connections, readers that wait, calls to the store and to Clerk at once, lines and bytes of a
//!   page.
//! * A slow reader costs the others nothing: it holds a connection and one page, and no permit to use the store.

mod authorize;
mod changes;
mod context;
mod feed;
mod keys;
mod metrics;
mod outage;
mod parameters;
mod ports;
mod problem;
mod query;
mod refresh;
mod rows;
mod session;
mod sessions;
mod settings;
mod shared;
mod stream;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use prometheus::Registry;
use rollbook_core::live::Live;
use rollbook_http::{Connection, Limits, Port};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::feed::Feed;
pub use crate::keys::{JwksUrl, JwksUrlError, KeySource, KeyTimes, fetch_keys};
use crate::metrics::{Metrics, route};
use crate::outage::Outage;
pub use crate::ports::{Ports, Refresh, RefreshError};
use crate::problem::Problem;
pub use crate::refresh::REFRESHES_MAX;
use crate::refresh::Refreshes;
pub use crate::rows::{MAX_AGE_MAX, MAX_AGE_MIN, MEMBERS_MAX};
pub use crate::sessions::SessionSettings;
use crate::sessions::Sessions;
pub use crate::settings::{CONNECTIONS_MAX, HEAD_LENGTH_MAX, Settings};
use crate::shared::Shared;
pub use crate::tokens::{TOKEN_LENGTH_MAX, TOKEN_LENGTH_MIN, TOKENS_MAX, Tokens, TokensError};

/// The description of the API, as served.
const OPENAPI: &str = include_str!("openapi.json");

/// Reason why the API can't be created.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// A metric of the API is registered already.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// The keys of session tokens can't be fetched with encryption.
    #[error("the keys of session tokens can't be fetched: {0}; install root certificates (ca-certificates)")]
    Certificates(String),
}

/// The API, ready to serve.
pub struct Api(Shared);

impl Api {
    /// Creates the API. Its metrics are added to `registry`. The tokens may be replaced while it serves. Without `sessions` no
    /// session token is accepted.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn new(
        settings: Settings,
        tokens: impl Into<Live<Tokens>>,
        sessions: Option<SessionSettings>,
        ports: Ports,
        registry: &Registry,
    ) -> Result<Self, ApiError> {
        let metrics = Arc::new(Metrics::new(registry)?);
        let sessions = sessions
            .map(|sessions| Sessions::new(sessions, ports.clock.clone(), metrics.clone()))
            .transpose()
            .map_err(ApiError::Certificates)?;
        let refreshes =
            ports.refresh.clone().map(|port| Refreshes::new(port, ports.clock.clone(), metrics.clone()));
        Ok(Self(Shared {
            tokens: tokens.into(),
            feed: Arc::new(Feed::new(ports.changes.clone(), ports.rows.clone(), settings.reads_max)),
            ports,
            sessions,
            refreshes,
            readers: Arc::new(Semaphore::new(settings.readers_max)),
            reads: Semaphore::new(settings.reads_max),
            outage: Outage::new("rows"),
            metrics,
            settings,
            stopping: CancellationToken::new(),
        }))
    }

    /// Serves until `stop`. Then streams end, requests that wait are answered, and running answers get a short time to finish.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let shared = Arc::new(Shared { stopping: stop.clone(), ..self.0 });
        let port = Port {
            name: "api",
            limits: Limits {
                connections_max: CONNECTIONS_MAX,
                head_length_max: HEAD_LENGTH_MAX,
                header_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_secs(75),
                write_timeout: shared.settings.write_timeout,
                age_max: Duration::from_secs(600),
            },
            drain_timeout: shared.settings.drain_timeout,
        };
        let metrics = Arc::clone(&shared.metrics);
        let router = TowerToHyperService::new(router(Arc::clone(&shared)));
        let answer = move |request: hyper::Request<hyper::body::Incoming>, connection: Arc<Connection>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(connection);
            let (metrics, route) = (Arc::clone(&metrics), route::of(request.uri().path()));
            let answered = router.call(request);
            async move {
                let answer = answered.await.unwrap_or_else(|never| match never {});
                metrics.answered(route, answer.status());
                answer
            }
        };
        let keys = async {
            match &shared.sessions {
                Some(sessions) => sessions.keep_keys().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = port.serve(listener, stop, answer) => {}
            () = keys => {}
        }
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/changes", get(changes::changes))
        .route("/v1/session", get(session::session))
        .route("/v1/context", get(context::context))
        // A proxy may ask with the method of the request that it authorizes.
        .route("/v1/authorize", any(authorize::authorize))
        .route("/v1/users/{id}", get(rows::user))
        .route("/v1/users/{id}/organizations", get(rows::organizations_of_user))
        .route("/v1/organizations/{id}", get(rows::organization))
        .route("/v1/organizations/{id}/members", get(rows::members_of_organization))
        .route("/v1/openapi.json", get(openapi))
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .with_state(shared)
}

async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}
