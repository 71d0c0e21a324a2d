//! API: HTTP for the team's own applications, to react to changes. `GET /v1/changes` returns the change feed as JSON, waits
//! for new changes if asked to (`wait`), or streams them as Server-Sent Events. ops/API.md is its page.
//!
//! Constraints:
//!
//! * Every request for data needs a bearer token. There is no mode without tokens.
//! * A reader who asks for a position that was removed, or that is after the last one, gets an error. It never misses a
//!   change without notice.
//! * Every number is limited: connections, readers that wait, calls to the store at once, lines and bytes of a page.
//! * A slow reader costs the others nothing: it holds a connection and one page, and no permit to use the store.

mod feed;
mod metrics;
mod parameters;
mod problem;
mod stream;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use prometheus::Registry;
use rollbook_core::live::Live;
use rollbook_http::{Connection, Lasting, Limits, Port};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use crate::feed::Ports;
use crate::feed::{Feed, Page};
use crate::metrics::{Metrics, ReaderKind, Reading, route};
use crate::parameters::{LAST_EVENT_ID, Parameters};
use crate::problem::Problem;
use crate::stream::{Access, Stream};
use crate::tokens::TokenDigest;
pub use crate::tokens::{TOKEN_LENGTH_MAX, TOKEN_LENGTH_MIN, TOKENS_MAX, Tokens, TokensError};

/// Maximum number of open connections.
pub const CONNECTIONS_MAX: usize = 512;

/// The description of the API, as served.
const OPENAPI: &str = include_str!("openapi.json");

/// Media type of Server-Sent Events.
const EVENT_STREAM: &str = "text/event-stream";

/// Limits of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Maximum number of open streams and of requests that wait, together.
    pub readers_max: usize,
    /// Maximum number of calls to the store at once.
    pub reads_max: usize,
    /// Time between two events of a stream; without a change a heartbeat is sent.
    pub heartbeat: Duration,
    /// Maximum time that a client may leave an answer unread.
    pub write_timeout: Duration,
    /// Maximum time for running answers to finish after a stop.
    pub drain_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            readers_max: 256,
            reads_max: 2,
            heartbeat: Duration::from_secs(15),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(1),
        }
    }
}

/// The API, ready to serve.
pub struct Api {
    settings: Settings,
    tokens: Live<Tokens>,
    feed: Arc<Feed>,
    readers: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    stopping: CancellationToken,
}

impl Api {
    /// Creates the API. Its metrics are added to `registry`. The tokens may be replaced while it serves.
    ///
    /// # Errors
    /// Fails if a metric of the API is already registered.
    pub fn new(
        settings: Settings,
        tokens: impl Into<Live<Tokens>>,
        ports: Ports,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self {
            tokens: tokens.into(),
            feed: Arc::new(Feed::new(ports, settings.reads_max)),
            readers: Arc::new(Semaphore::new(settings.readers_max)),
            metrics: Arc::new(Metrics::new(registry)?),
            settings,
            stopping: CancellationToken::new(),
        })
    }

    /// Serves until `stop`. Then streams end, requests that wait are answered, and running answers get a short time to finish.
    pub async fn serve(mut self, listener: TcpListener, stop: CancellationToken) {
        self.stopping = stop.clone();
        let port = Port {
            name: "api",
            limits: Limits {
                connections_max: CONNECTIONS_MAX,
                header_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_secs(75),
                write_timeout: self.settings.write_timeout,
                age_max: Duration::from_secs(600),
            },
            drain_timeout: self.settings.drain_timeout,
        };
        let metrics = Arc::clone(&self.metrics);
        let router = Router::new()
            .route("/v1/changes", get(changes))
            .route("/v1/openapi.json", get(openapi))
            .fallback(async || Problem::not_found())
            .method_not_allowed_fallback(async || Problem::method_not_allowed())
            .with_state(Arc::new(self));
        let router = TowerToHyperService::new(router);
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
        port.serve(listener, stop, answer).await;
    }

    /// Takes a permit of a reader that waits.
    fn permit(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let permit = Arc::clone(&self.readers).try_acquire_owned();
        permit.map_err(|_| Problem::too_many_readers(self.settings.readers_max))
    }

    /// Returns the token of a request, if it is valid.
    fn check_token(&self, headers: &HeaderMap) -> Result<TokenDigest, Problem> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (first, second) = (given.next(), given.next());
        let found = first.filter(|_| second.is_none());
        let found = found.and_then(|header| self.tokens.current().find(header.as_bytes()));
        found.ok_or_else(|| Problem::unauthorized(first.is_some()))
    }

    /// Returns a page: at once, or with `wait` as soon as it has a line, or when the time is over.
    async fn page(&self, parameters: &Parameters) -> Result<Page, Problem> {
        let deadline = Instant::now() + parameters.wait;
        let _reading: Option<Reading> = if parameters.wait.is_zero() {
            None
        } else {
            Some(self.metrics.reading(ReaderKind::LongPoll, self.permit()?))
        };
        let mut query = self.feed.query(parameters).await?;
        let mut is_checked = false;
        loop {
            let page = self.feed.read(&query, parameters.expand).await?;
            query.after = page.through;
            if page.is_at_end() && !is_checked {
                self.feed.check_is_on().await?;
                is_checked = true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !page.changes.is_empty() || left.is_zero() || self.stopping.is_cancelled() {
                self.metrics.sent(page.changes.len());
                return Ok(page);
            }
            if page.is_at_end() {
                let waited = self.stopping.run_until_cancelled(self.feed.wait(query.after, left)).await;
                waited.transpose()?;
            }
        }
    }
}

async fn changes(
    State(api): State<Arc<Api>>,
    Extension(connection): Extension<Arc<Connection>>,
    request: Request,
) -> Result<Response, Problem> {
    let token = api.check_token(request.headers())?;
    connection.authenticated();
    connection.answer_begins();
    let is_stream = accepts_stream(request.headers());
    let id = request.headers().get(LAST_EVENT_ID).filter(|_| is_stream);
    // An id that is not a text is not a position either.
    let id = id.map(|id| id.to_str().unwrap_or("?")).filter(|id| !id.is_empty());
    let parameters = Parameters::parse(request.uri().query().unwrap_or_default(), is_stream, id)?;
    if !is_stream {
        let page = api.page(&parameters).await?;
        let body = serde_json::to_vec(&page).unwrap_or_default();
        return Ok(answer("application/json", Body::from(body)));
    }
    let reading = api.metrics.reading(ReaderKind::Stream, api.permit()?);
    let query = api.feed.query(&parameters).await?;
    let stream = Stream {
        feed: Arc::clone(&api.feed),
        query,
        expand: parameters.expand,
        heartbeat: api.settings.heartbeat,
        access: Access { tokens: api.tokens.clone(), token },
        stopping: api.stopping.clone(),
        metrics: Arc::clone(&api.metrics),
        _reading: reading,
    };
    let mut response = answer(EVENT_STREAM, stream.open().await?);
    response.extensions_mut().insert(Lasting);
    // Proxies such as nginx would otherwise collect the events.
    response
        .headers_mut()
        .insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

fn answer(content_type: &'static str, body: Body) -> Response {
    let headers = [(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-store")];
    (headers, body).into_response()
}

fn accepts_stream(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let types = values.flat_map(|value| value.split(','));
    let mut types = types.map(|media| media.split(';').next().unwrap_or_default().trim());
    types.any(|media| media.eq_ignore_ascii_case(EVENT_STREAM))
}
