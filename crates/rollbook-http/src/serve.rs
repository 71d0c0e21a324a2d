//! Serving of one connection, from accept to close.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::connection::Connection;
use crate::discards::linger;
use crate::stream::WatchedStream;
use crate::table::{CloseReason, Connections, Slot};

/// Time that a stop waits for the first request of a silent connection: the request may be in transit, and
/// closing the connection would reset it.
const FIRST_REQUEST_FOR: Duration = Duration::from_secs(1);

/// Extension of a response with a body that lasts, such as a stream of events. The time limit of an idle connection does
/// not apply to it, and it keeps its slot; the handler limits the number of such responses.
#[derive(Clone, Copy, Debug)]
pub struct Lasting;

/// An accepted client and its slot.
pub struct Serving {
    /// TCP stream of the client.
    pub stream: TcpStream,
    /// Slot of the connection, held until it closes.
    pub slot: Slot,
    /// Cancelled when the port stops: the connection then closes as soon as no request is in progress.
    pub stopping: CancellationToken,
}

impl Connections {
    /// Serves one connection until it closes. `answer` is called for each request. `refused` is called with
    /// the status when hyper itself rejects an unreadable request.
    pub fn serve<F, R, B, U>(
        &self,
        serving: Serving,
        answer: F,
        refused: U,
    ) -> impl Future<Output = ()> + Send + use<F, R, B, U>
    where
        U: FnOnce(StatusCode) + Send + 'static,
        F: Fn(Request<Incoming>, Arc<Connection>) -> R + Send + 'static,
        R: Future<Output = Response<B>> + Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let Serving { stream, slot, stopping } = serving;
        // Responses are small and sent in one write: waiting to fill a packet only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "nodelay");
        }
        let connection = Arc::clone(&slot.connection);
        let (known, port) = (Arc::clone(&connection), self.clone());
        let service = service_fn(move |request| {
            known.head_read();
            let (known, port) = (Arc::clone(&known), port.clone());
            let answer = answer(request, Arc::clone(&known));
            async move { Ok::<_, Infallible>(port.finish(&known, answer.await)) }
        });
        let watched = WatchedStream::new(stream, Arc::clone(&connection), self.limits.write_timeout);
        let port = self.clone();
        let mut http = self.http.serve_connection(TokioIo::new(watched), service);
        async move {
            let mut ended = tokio::select! {
                biased;
                ended = &mut http => Some(ended),
                // No shutdown: the table drops only connections without an accepted request.
                () = connection.dropped.notified() => return,
                () = stopping.cancelled() => None,
            };
            if ended.is_none() && !connection.has_sent_request() {
                ended = timeout(FIRST_REQUEST_FOR, &mut http).await.ok();
            }
            let served = if let Some(ended) = ended {
                ended
            } else {
                Pin::new(&mut http).graceful_shutdown();
                tokio::select! {
                    biased;
                    ended = &mut http => ended,
                    () = connection.dropped.notified() => return,
                }
            };
            // After a parse error that hyper answered itself, the client has a response to read. After any
            // other error no client is waiting.
            let answered = served.as_ref().err().is_none_or(hyper::Error::is_parse);
            if let Err(error) = served {
                debug!(%error, "connection");
                if let Some(status) = status_of(&error) {
                    refused(status);
                }
            }
            if answered {
                connection.answered(true);
                tokio::select! {
                    () = linger(http.into_parts().io.into_inner().into_inner(), &port.discards) => {}
                    () = connection.dropped.notified() => {}
                }
            }
            drop(slot);
        }
    }

    fn reason_to_close(&self, connection: &Connection) -> Option<CloseReason> {
        if connection.age() >= self.limits.age_max {
            Some(CloseReason::Age)
        } else {
            self.table.is_wanted().then_some(CloseReason::Full)
        }
    }

    /// Adds `connection: close` where the connection should close, and records the new phase.
    fn finish<B>(&self, connection: &Connection, mut answer: Response<B>) -> Response<B> {
        if answer.extensions().get::<Lasting>().is_some() {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            connection.answer_begins();
            return answer;
        }
        let mut closes = answer.headers().get(CONNECTION).is_some_and(|value| value == "close");
        if !closes && let Some(reason) = self.reason_to_close(connection) {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            self.table.count(reason);
            closes = true;
        }
        connection.answered(closes);
        answer
    }
}

/// Status of the response that hyper sends by itself for an unreadable head.
fn status_of(error: &hyper::Error) -> Option<StatusCode> {
    if !error.is_parse() {
        None
    } else if error.is_parse_too_large() {
        Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    } else {
        Some(StatusCode::BAD_REQUEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{HEAD_LENGTH_MAX, Limits};

    #[tokio::test]
    async fn a_response_that_lasts_keeps_its_slot_and_closes_its_connection() {
        let timeout = Duration::from_secs(10);
        let connections = Connections::new(Limits {
            connections_max: 1,
            head_length_max: HEAD_LENGTH_MAX,
            header_timeout: timeout,
            idle_timeout: timeout,
            write_timeout: timeout,
            age_max: timeout,
        });
        let slot = connections.slot().await;
        let lasts = |lasts: bool| {
            let mut answer = Response::new(());
            if lasts {
                answer.extensions_mut().insert(Lasting);
            }
            let answer = connections.finish(&slot.connection, answer);
            (answer.headers().get(CONNECTION).is_some(), slot.connection.is_answering())
        };
        assert_eq!(lasts(false), (false, false));
        assert_eq!(lasts(true), (true, true));
    }
}
