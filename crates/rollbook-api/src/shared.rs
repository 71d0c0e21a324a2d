//! State and answers that the routes of the API share.

use std::sync::Arc;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use rollbook_core::live::Live;
use rollbook_core::store::StoreError;
use rollbook_core::time::Timestamp;
use rollbook_session::Session;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::feed::Feed;
use crate::metrics::Metrics;
use crate::outage::Outage;
use crate::ports::Ports;
use crate::problem::Problem;
use crate::refresh::Refreshes;
use crate::sessions::Sessions;
use crate::settings::Settings;
use crate::tokens::{TokenDigest, Tokens};

/// State of the API.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) tokens: Live<Tokens>,
    pub(crate) ports: Ports,
    pub(crate) feed: Arc<Feed>,
    pub(crate) sessions: Option<Sessions>,
    pub(crate) refreshes: Option<Refreshes>,
    pub(crate) readers: Arc<Semaphore>,
    /// Permits to read rows. The change feed has its own, so that neither waits for the other.
    pub(crate) reads: Semaphore,
    pub(crate) outage: Outage,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stopping: CancellationToken,
}

impl Shared {
    /// Takes a permit of a reader that waits.
    pub(crate) fn permit(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let permit = Arc::clone(&self.readers).try_acquire_owned();
        permit.map_err(|_| Problem::too_many_readers(self.settings.readers_max))
    }

    /// Returns the service token of a request, if it is valid.
    pub(crate) fn check_token(&self, headers: &HeaderMap) -> Result<TokenDigest, Problem> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (first, second) = (given.next(), given.next());
        let found = first.filter(|_| second.is_none());
        let found = found.and_then(|header| self.tokens.current().find(header.as_bytes()));
        found.ok_or_else(|| Problem::unauthorized(first.is_some()))
    }

    /// Refuses a request if its service token was removed while the request waited.
    pub(crate) fn check_again(&self, token: TokenDigest) -> Result<(), Problem> {
        if self.tokens.current().contain(token) { Ok(()) } else { Err(Problem::unauthorized(true)) }
    }

    /// Returns the session of a request, and its token.
    pub(crate) async fn session<'h>(&self, headers: &'h HeaderMap) -> Result<(Session, &'h str), Problem> {
        let sessions = self.sessions.as_ref().ok_or_else(Problem::sessions_off)?;
        sessions.authenticate(headers).await
    }

    /// Reads rows with one of the permits.
    pub(crate) async fn read<T>(
        &self,
        reading: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, Problem> {
        // The semaphore is never closed.
        let _permit = self.reads.acquire().await;
        let rows = reading.await;
        self.outage.log(rows.as_ref().err());
        Ok(rows?)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.ports.clock.now()
    }
}

/// Returns an answer that no cache keeps.
pub(crate) fn answer(content_type: &'static str, body: Body) -> Response {
    let headers = [(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-store")];
    (headers, body).into_response()
}

/// Returns a JSON answer.
pub(crate) fn json(value: &impl Serialize) -> Response {
    answer("application/json", Body::from(serde_json::to_vec(value).unwrap_or_default()))
}
