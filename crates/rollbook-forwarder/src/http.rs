//! Endpoint that is reached over HTTP.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use rollbook_core::time::Clock;
use rollbook_http::pool::{AnswerHead, Pool, PoolError, Roots};
use rustls::RootCertStore;
use tokio::time::timeout;

use crate::ports::{Endpoint, Push};
use crate::settings::BODY_PATIENCE;
use crate::url::ForwardUrl;
use crate::verdict::Verdict;

/// Maximum time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum bytes of an answer's body that are read, so that the connection can be used again.
const BODY_MAX: usize = 64 * 1024;

/// An endpoint at a URL.
pub struct HttpEndpoint {
    url: ForwardUrl,
    /// The client, or why there is none: each request then fails with that, and the rest of the process goes on.
    pool: Result<Pool, String>,
    clock: Arc<dyn Clock>,
}

impl HttpEndpoint {
    /// Creates an endpoint. Nothing is sent yet. For https the system's root certificates are trusted.
    pub fn new(url: ForwardUrl, clock: Arc<dyn Clock>) -> Self {
        let roots = if url.is_https() { Roots::System } else { Roots::Only(RootCertStore::empty()) };
        let pool = Pool::new(roots, CONNECT_TIMEOUT);
        let pool =
            pool.map_err(|why| format!("this system has no root certificates that can be read: {why}"));
        Self { url, pool, clock }
    }
}

#[async_trait]
impl Endpoint for HttpEndpoint {
    async fn send(&self, push: Push, limit: Duration) -> Verdict {
        let pool = match &self.pool {
            Ok(pool) => pool,
            Err(why) => return Verdict::Unreachable(why.clone()),
        };
        let answer = match timeout(limit, self.post(pool, &push)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(verdict)) => return verdict,
            Err(_) => return Verdict::TimedOut,
        };
        // The status decides, however long the body takes.
        let retry_after = answer.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let verdict = Verdict::of(answer.status, retry_after, self.clock.now());
        answer.drop_body(BODY_MAX, BODY_PATIENCE).await;
        verdict
    }
}

impl HttpEndpoint {
    /// Sends a request. It is repeated once if the connection broke: an endpoint may close an idle connection at the moment at
    /// which a request begins on it.
    async fn post(&self, pool: &Pool, push: &Push) -> Result<AnswerHead, Verdict> {
        let first = pool.send_for_head(self.request(push)?).await;
        let answer = match first {
            Err(PoolError::Broken { .. }) => pool.send_for_head(self.request(push)?).await,
            answer => answer,
        };
        answer.map_err(|error| Verdict::Unreachable(error.to_string()))
    }

    fn request(&self, push: &Push) -> Result<Request<Full<Bytes>>, Verdict> {
        Request::post(self.url.uri())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("rollbook/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &push.id)
            .header("webhook-timestamp", &push.timestamp)
            .header("webhook-signature", &push.signature)
            .body(Full::new(push.body.clone()))
            .map_err(|_| Verdict::Unreachable("the request is not valid".to_owned()))
    }
}
