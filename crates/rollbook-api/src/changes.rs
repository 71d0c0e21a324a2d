//! `GET /v1/changes`: the change feed as JSON, with a wait if asked to, or as Server-Sent Events.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use rollbook_http::{Connection, Lasting};
use tokio::time::Instant;

use crate::feed::Page;
use crate::metrics::{ReaderKind, Reading};
use crate::parameters::{LAST_EVENT_ID, Parameters};
use crate::problem::Problem;
use crate::shared::{Shared, answer, json};
use crate::stream::{Access, Stream};

/// Media type of Server-Sent Events.
const EVENT_STREAM: &str = "text/event-stream";

pub(crate) async fn changes(
    State(api): State<Arc<Shared>>,
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
        let page = page(&api, &parameters).await;
        api.check_again(token)?;
        let page = page?;
        api.metrics.sent(page.changes.len());
        return Ok(json(&page));
    }
    let reading = api.metrics.reading(ReaderKind::Stream, api.permit()?);
    let query = api.feed.query(&parameters).await?;
    let stream = Stream {
        feed: Arc::clone(&api.feed),
        query,
        expand: parameters.expand,
        generation: parameters.feed,
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

/// Returns a page: at once, or with `wait` as soon as it has a line, or when the time is over.
async fn page(api: &Shared, parameters: &Parameters) -> Result<Page, Problem> {
    let deadline = Instant::now() + parameters.wait;
    let _reading: Option<Reading> = if parameters.wait.is_zero() {
        None
    } else {
        Some(api.metrics.reading(ReaderKind::LongPoll, api.permit()?))
    };
    let mut query = api.feed.query(parameters).await?;
    let mut is_checked = false;
    loop {
        let page = api.feed.read(&query, parameters.expand, parameters.feed).await?;
        query.after = page.through;
        if page.is_at_end() && !is_checked {
            api.feed.check_is_on().await?;
            is_checked = true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if !page.changes.is_empty() || left.is_zero() || api.stopping.is_cancelled() {
            return Ok(page);
        }
        if page.is_at_end() {
            let waited = api.stopping.run_until_cancelled(api.feed.wait(query.after, left)).await;
            waited.transpose()?;
        }
    }
}

fn accepts_stream(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = values.flat_map(|value| value.split(','));
    types.any(|media| {
        let mut parts = media.split(';').map(str::trim);
        let is_stream = parts.next().is_some_and(|media| media.eq_ignore_ascii_case(EVENT_STREAM));
        // With a weight of zero the client says that it does not accept it.
        let mut weights =
            parts.filter_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        is_stream && !weights.any(|weight| weight.parse() == Ok(0.0_f32))
    })
}
