//! Client with a pool of connections, TLS and HTTP/2: for servers outside of this machine.
//!
//! Constraints:
//!
//! * Everything has a time limit: connecting, an idle connection, an HTTP/2 connection that no longer answers.
//!   The caller limits the whole request.
//! * An answer has a maximum length. Redirects are not followed: a header with a key stays with its server.
//! * An error names the server, never a path, a header or a body.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};

/// Maximum length of the cause of a broken connection, in characters.
const CAUSE_LENGTH_MAX: usize = 300;

/// Time after which an idle connection is closed.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Maximum number of idle connections with HTTP/1.1, for each server.
const IDLE_CONNECTIONS_MAX: usize = 64;
/// Interval of pings on a connection with HTTP/2 and their time limit, so that a dead one is not used again.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(10));

/// Certificates that a client trusts.
#[derive(Clone, Debug)]
pub enum Roots {
    /// Root certificates of the system.
    System,
    /// Only these. An empty set allows `http://` only.
    Only(RootCertStore),
}

/// Client with a pool of connections.
#[derive(Clone, Debug)]
pub struct Pool {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// Complete answer.
pub struct PoolAnswer {
    /// Status code.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// Status and headers of an answer, and the rest of it.
pub struct AnswerHead {
    /// Status code.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    body: Incoming,
}

impl AnswerHead {
    /// Reads the body up to `body_max` bytes and for `patience`, so that the connection can be used again, and drops it: it
    /// changes nothing.
    pub async fn drop_body(self, body_max: usize, patience: Duration) {
        drop(tokio::time::timeout(patience, Limited::new(self.body, body_max).collect()).await);
    }
}

/// Reason why there is no complete answer. After any error except [`Self::Unreachable`], the server may have
/// processed the request.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// No connection could be made: name, network, TLS.
    #[error("{server} is unreachable: {cause}")]
    Unreachable {
        /// Host and port.
        server: String,
        /// Innermost cause.
        cause: String,
    },
    /// The connection broke before the answer.
    #[error("{server} broke the connection: {cause}")]
    Broken {
        /// Host and port.
        server: String,
        /// Innermost cause.
        cause: String,
    },
    /// The connection broke before the end of the answer.
    #[error("{server} broke the connection within the answer: {cause}")]
    Truncated {
        /// Host and port.
        server: String,
        /// Innermost cause.
        cause: String,
    },
    /// The answer is longer than the limit in bytes.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
}

impl Pool {
    /// Creates a client. `connect_timeout` limits the time to connect.
    ///
    /// # Errors
    /// The system's certificates can't be read, or there are none.
    pub fn new(roots: Roots, connect_timeout: Duration) -> Result<Self, String> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(connect_timeout));
        tcp.set_nodelay(true);
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls(roots)?).https_or_http().enable_all_versions();
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .http2_keep_alive_interval(PING.0)
            .http2_keep_alive_timeout(PING.1)
            .build(connector.wrap_connector(tcp));
        Ok(Self { client })
    }

    /// Sends a request with an absolute URI, and reads its answer of at most `answer_max` bytes. Has no time
    /// limit of its own.
    ///
    /// # Errors
    /// There is no complete answer.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        answer_max: usize,
    ) -> Result<PoolAnswer, PoolError> {
        let server = server_of(&request);
        let (head, body) = Response::into_parts(self.answer(request).await?);
        let body = Limited::new(body, answer_max).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return PoolError::TooLarge(answer_max);
            }
            PoolError::Truncated { server, cause: root_cause(&*error) }
        })?;
        Ok(PoolAnswer { status: head.status, headers: head.headers, body: body.to_bytes() })
    }

    /// Sends a request with an absolute URI, and returns the answer as soon as its status and headers are there. Has no time
    /// limit of its own.
    ///
    /// # Errors
    /// There is no answer. Never [`PoolError::Truncated`] or [`PoolError::TooLarge`].
    pub async fn send_for_head(&self, request: Request<Full<Bytes>>) -> Result<AnswerHead, PoolError> {
        let (head, body) = Response::into_parts(self.answer(request).await?);
        Ok(AnswerHead { status: head.status, headers: head.headers, body })
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, PoolError> {
        let server = server_of(&request);
        match self.client.request(request).await {
            Ok(response) => Ok(response),
            Err(error) if error.is_connect() => {
                Err(PoolError::Unreachable { server, cause: root_cause(&error) })
            }
            Err(error) => Err(PoolError::Broken { server, cause: root_cause(&error) }),
        }
    }
}

/// Host and port of a request.
fn server_of<B>(request: &Request<B>) -> String {
    request.uri().authority().map(ToString::to_string).unwrap_or_default()
}

/// TLS by ring, with these roots.
fn tls(roots: Roots) -> Result<ClientConfig, String> {
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let trusting = match roots {
        Roots::Only(roots) => versions.with_root_certificates(roots),
        Roots::System => versions.with_native_roots().map_err(|error| error.to_string())?,
    };
    Ok(trusting.with_no_client_auth())
}

/// Returns the innermost error, cut. It names no URL, header or body.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    bounded(&error.to_string())
}

/// Removes what the other side wrote into an error: the debug data of HTTP/2, in parentheses as a byte string, and all
/// that is longer than an error has reason to be, such as the names in a certificate.
fn bounded(text: &str) -> String {
    let text = text.split(" (b\"").next().unwrap_or(text);
    match text.char_indices().nth(CAUSE_LENGTH_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_a_broken_connection_has_a_limit_and_no_debug_data_of_the_other_side() {
        assert_eq!(bounded("connection refused"), "connection refused");
        let goaway = "connection error received: not a result of an error (b\"alice@example.com\")";
        assert_eq!(bounded(goaway), "connection error received: not a result of an error");
        let (most, long) = ("ü".repeat(CAUSE_LENGTH_MAX), "ü".repeat(CAUSE_LENGTH_MAX + 1));
        assert_eq!(bounded(&most), most);
        assert_eq!(bounded(&long), format!("{most}…"));
    }
}
