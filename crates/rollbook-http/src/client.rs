//! Client: one HTTP/1.1 connection with keep-alive.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Maximum size of an answer, in bytes. The receiver's own answers are one line; its metrics are some pages.
pub const ANSWER_MAX: usize = 4 << 20;

/// Complete HTTP answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body. Invalid UTF-8 is replaced by U+FFFD.
    pub body: String,
}

impl Answer {
    /// Returns whether the status is 2xx.
    pub const fn is_success(&self) -> bool {
        self.status / 100 == 2
    }
}

impl std::fmt::Debug for Answer {
    /// Prints the length of the body, never the body.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answer({}, {} bytes)", self.status, self.body.len())
    }
}

/// Reason why there is no answer. After any error except [`Self::Request`] and [`Self::Connect`], the server
/// may have received the request, and the connection cannot be used again.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The connection was refused, or the host is unreachable.
    #[error("can't connect to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    /// The connection was not established within the timeout.
    #[error("no connection to {0} within {1:?}")]
    ConnectTimeout(SocketAddr, Duration),
    /// The path or a header is not valid in a request.
    #[error("not a valid HTTP request: {0}")]
    Request(#[from] hyper::http::Error),
    /// The connection broke, or the answer is not valid HTTP.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// The answer was not complete within the timeout.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The answer is larger than [`ANSWER_MAX`].
    #[error("the answer is larger than {ANSWER_MAX} bytes")]
    TooLarge,
}

/// One connection. Dropping it closes it.
pub struct Connection {
    requests: SendRequest<Full<Bytes>>,
    /// Task that reads and writes for `requests`. Dropping it aborts the task, so it ends with the connection.
    _driver: JoinSet<()>,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
    timeout: Duration,
    broken: bool,
}

impl Connection {
    /// Opens a connection. `timeout` limits this, and then each request until its answer is complete.
    ///
    /// # Errors
    /// The server is unreachable or does not answer in time.
    pub async fn connect(address: SocketAddr, timeout: Duration) -> Result<Self, RequestError> {
        let stream = tokio::time::timeout(timeout, TcpStream::connect(address))
            .await
            .map_err(|_| RequestError::ConnectTimeout(address, timeout))?
            .map_err(|error| RequestError::Connect(address, error))?;
        // Requests are written in one piece; Nagle's algorithm would only delay them.
        stream.set_nodelay(true).map_err(|error| RequestError::Connect(address, error))?;
        let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // The error also reaches the caller who waits for the answer.
            drop(connection.await);
        });
        let host = HeaderValue::from_str(&address.to_string()).map_err(hyper::http::Error::from)?;
        Ok(Self { requests, _driver: driver, host, authorization: None, timeout, broken: false })
    }

    /// Presents this bearer token with each request from now on.
    ///
    /// # Errors
    /// The token has a character that a header can't carry.
    pub fn with_bearer(mut self, token: &str) -> Result<Self, RequestError> {
        let mut value =
            HeaderValue::from_str(&format!("Bearer {token}")).map_err(hyper::http::Error::from)?;
        value.set_sensitive(true);
        self.authorization = Some(value);
        Ok(self)
    }

    /// Returns whether another request can be sent, as far as this side knows: the server may be closing.
    pub fn is_open(&self) -> bool {
        !self.broken && !self.requests.is_closed()
    }

    /// Sends one request with `headers` and a `Host` header, and reads its answer.
    ///
    /// # Errors
    /// The answer is not complete within the timeout.
    pub async fn request(
        &mut self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, RequestError> {
        let mut request = Request::builder().method(method).uri(path).body(Full::new(body))?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(HOST, self.host.clone());
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        // Set before the exchange: if this future is dropped half way, the pending answer must not be read as
        // the answer to the next request.
        self.broken = true;
        let (answer, closes) =
            tokio::time::timeout(self.timeout, Self::exchange(&mut self.requests, request))
                .await
                .map_err(|_| RequestError::Timeout(self.timeout))??;
        self.broken = closes;
        Ok(answer)
    }

    /// Returns the answer, and whether the server closes the connection after it.
    async fn exchange(
        requests: &mut SendRequest<Full<Bytes>>,
        request: Request<Full<Bytes>>,
    ) -> Result<(Answer, bool), RequestError> {
        requests.ready().await?;
        let (head, body) = requests.send_request(request).await?.into_parts();
        let body = match Limited::new(body, ANSWER_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                return Err(match error.downcast::<hyper::Error>() {
                    Ok(error) => RequestError::Broken(*error),
                    Err(error) => {
                        debug_assert!(error.is::<LengthLimitError>(), "Limited has no other error");
                        RequestError::TooLarge
                    }
                });
            }
        };
        let closes = head.headers.get(CONNECTION).is_some_and(|value| value == "close");
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok((Answer { status: head.status.as_u16(), body }, closes))
    }

    /// Sends a `GET`.
    ///
    /// # Errors
    /// The answer is not complete within the timeout.
    pub async fn get(&mut self, path: &str) -> Result<Answer, RequestError> {
        self.request(Method::GET, path, HeaderMap::new(), Bytes::new()).await
    }
}
