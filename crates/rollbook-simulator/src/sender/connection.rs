//! One HTTP/1.1 connection that is kept open between requests.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rollbook_core::signature::SigningSecret;
use rollbook_core::time::Timestamp;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::history::Event;

/// The largest answer that is read, in bytes. The receiver's own are a line, its metrics some pages.
pub const ANSWER_MAX: usize = 4 << 20;

const SVIX_ID: HeaderName = HeaderName::from_static("svix-id");
const SVIX_TIMESTAMP: HeaderName = HeaderName::from_static("svix-timestamp");
const SVIX_SIGNATURE: HeaderName = HeaderName::from_static("svix-signature");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const AGENT: HeaderValue = HeaderValue::from_static("Svix-Webhooks/1.0 (rollbook simulator)");

/// An answer, read whole.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body; what is no UTF-8 is replaced by U+FFFD.
    pub body: String,
}

impl Answer {
    /// Whether the status is 2xx.
    pub const fn is_success(&self) -> bool {
        self.status / 100 == 2
    }
}

impl std::fmt::Debug for Answer {
    /// Never the body.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answer({}, {} bytes)", self.status, self.body.len())
    }
}

/// Why there is no answer. But for [`Self::Request`] and [`Self::Connect`] the other side may have
/// read the request all the same, and the connection is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nobody listens there, or nobody can be reached.
    #[error("can't connect to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    /// No connection within the timeout.
    #[error("no connection to {0} within {1:?}")]
    ConnectTimeout(SocketAddr, Duration),
    /// The path or a header can't be sent.
    #[error("this is no request that can be sent: {0}")]
    Request(#[from] hyper::http::Error),
    /// The connection broke, or what came is not HTTP.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// No whole answer within the timeout.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The answer is larger than [`ANSWER_MAX`].
    #[error("the answer is larger than {ANSWER_MAX} bytes")]
    TooLarge,
}

/// One connection. Dropping it closes it.
pub struct Connection {
    requests: SendRequest<Full<Bytes>>,
    /// Reads and writes for `requests`. Aborted when it is dropped, so it ends with the connection.
    _driver: JoinSet<()>,
    host: HeaderValue,
    timeout: Duration,
    broken: bool,
}

impl Connection {
    /// Opens a connection. `timeout` is for that, and then for each request: until its answer is
    /// read whole.
    ///
    /// # Errors
    /// Nobody answers there, or not in time.
    pub async fn connect(address: SocketAddr, timeout: Duration) -> Result<Self, SendError> {
        let stream = tokio::time::timeout(timeout, TcpStream::connect(address))
            .await
            .map_err(|_| SendError::ConnectTimeout(address, timeout))?
            .map_err(|error| SendError::Connect(address, error))?;
        // Requests are written whole; waiting for more to send would only delay them.
        stream.set_nodelay(true).map_err(|error| SendError::Connect(address, error))?;
        let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Its error reaches whoever waits for an answer.
            drop(connection.await);
        });
        let host = HeaderValue::from_str(&address.to_string()).map_err(hyper::http::Error::from)?;
        Ok(Self { requests, _driver: driver, host, timeout, broken: false })
    }

    /// Whether another request can be sent, as far as is known here: the other side may be closing.
    pub fn is_open(&self) -> bool {
        !self.broken && !self.requests.is_closed()
    }

    /// Sends one request, with a `Host` header beside `headers`, and reads its answer.
    ///
    /// # Errors
    /// There is no whole answer within the timeout.
    pub async fn request(
        &mut self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, SendError> {
        let mut request = Request::builder().method(method).uri(path).body(Full::new(body))?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(HOST, self.host.clone());
        // Also while this future is dropped half way: the answer to come is not the next request's.
        self.broken = true;
        let (answer, closes) =
            tokio::time::timeout(self.timeout, Self::exchange(&mut self.requests, request))
                .await
                .map_err(|_| SendError::Timeout(self.timeout))??;
        self.broken = closes;
        Ok(answer)
    }

    /// The answer, and whether it was the connection's last.
    async fn exchange(
        requests: &mut SendRequest<Full<Bytes>>,
        request: Request<Full<Bytes>>,
    ) -> Result<(Answer, bool), SendError> {
        requests.ready().await?;
        let (head, body) = requests.send_request(request).await?.into_parts();
        let body = match Limited::new(body, ANSWER_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                return Err(match error.downcast::<hyper::Error>() {
                    Ok(error) => SendError::Broken(*error),
                    Err(error) => {
                        debug_assert!(error.is::<LengthLimitError>(), "Limited has no other error");
                        SendError::TooLarge
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
    /// There is no whole answer within the timeout.
    pub async fn get(&mut self, path: &str) -> Result<Answer, SendError> {
        self.request(Method::GET, path, HeaderMap::new(), Bytes::new()).await
    }

    /// Makes one attempt to deliver an event, signed as of `now`. Any answer is an `Ok`.
    ///
    /// # Errors
    /// There is no whole answer within the timeout.
    pub async fn post(
        &mut self,
        path: &str,
        event: &Event,
        secret: &SigningSecret,
        now: Timestamp,
    ) -> Result<Answer, SendError> {
        let id = event.id.as_str();
        let value =
            |text: String| HeaderValue::try_from(text).map_err(|error| SendError::Request(error.into()));
        let headers = HeaderMap::from_iter([
            (CONTENT_TYPE, JSON),
            (USER_AGENT, AGENT),
            (SVIX_ID, value(id.to_owned())?),
            (SVIX_TIMESTAMP, HeaderValue::from(now.as_millis() / 1000)),
            (SVIX_SIGNATURE, value(secret.sign(id, now, &event.body))?),
        ]);
        self.request(Method::POST, path, headers, event.body.clone()).await
    }
}
