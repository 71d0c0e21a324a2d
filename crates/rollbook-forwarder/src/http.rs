//! Receiver over HTTP.

use std::time::Duration;

use async_trait::async_trait;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use rollbook_core::time::Clock;
use rollbook_http::pool::{Pool, Roots};
use rustls::RootCertStore;
use std::sync::Arc;

use crate::ports::{Push, Receiver};
use crate::url::ForwardUrl;
use crate::verdict::Verdict;

/// Maximum time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer's body, and time, that are spent on it so that the connection can be used again.
const BODY: (usize, Duration) = (64 * 1024, Duration::from_secs(1));

/// A receiver at a URL.
pub struct HttpReceiver {
    url: ForwardUrl,
    /// The client, or why there is none: each request then fails with that, and the rest of the process goes on.
    pool: Result<Pool, String>,
    clock: Arc<dyn Clock>,
}

impl HttpReceiver {
    /// Creates a receiver. Nothing is sent yet. For https the system's root certificates are trusted.
    pub fn new(url: ForwardUrl, clock: Arc<dyn Clock>) -> Self {
        let roots = if url.is_https() { Roots::System } else { Roots::Only(RootCertStore::empty()) };
        let pool = Pool::new(roots, CONNECT_TIMEOUT);
        let pool =
            pool.map_err(|why| format!("this system has no root certificates that can be read: {why}"));
        Self { url, pool, clock }
    }
}

#[async_trait]
impl Receiver for HttpReceiver {
    async fn receive(&self, push: Push) -> Verdict {
        let request = Request::post(self.url.uri())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("rollbook/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", push.id)
            .header("webhook-timestamp", push.timestamp)
            .header("webhook-signature", push.signature)
            .body(Full::new(push.body));
        let Ok(request) = request else { return Verdict::Unreachable("the request is not valid".to_owned()) };
        let pool = match &self.pool {
            Ok(pool) => pool,
            Err(why) => return Verdict::Unreachable(why.clone()),
        };
        match pool.send_for_head(request, BODY.0, BODY.1).await {
            Ok((status, headers)) => {
                let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                Verdict::of(status, retry_after, self.clock.now())
            }
            Err(error) => Verdict::Unreachable(error.to_string()),
        }
    }
}
