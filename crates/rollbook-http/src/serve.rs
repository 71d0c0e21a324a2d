//! One connection, from its accept to its end.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::connection::Connection;
use crate::stream::WatchedStream;
use crate::table::{Closed, Connections, Place};

/// How long a connection stays open after our last answer. Closing one while bytes of a refused body
/// are on their way would reset it, and the client might never see its answer.
const LINGER_FOR: Duration = Duration::from_secs(1);
/// How many bytes a second are read of bodies that were refused, over all connections.
const DISCARD_RATE_MAX: u64 = 128 * 1024 * 1024;
/// How many of them at once on one connection.
const DISCARD_PIECE: usize = 8 * 1024;
/// How far ahead of that speed they may be for a moment.
const DISCARD_SLACK: Duration = Duration::from_millis(10);
/// How long a stop waits for the first request of a connection that has said nothing yet: it may be on its
/// way, and closing the connection would reset it.
const FIRST_REQUEST_FOR: Duration = Duration::from_secs(1);

/// A client that was accepted and has its place.
pub struct Serving {
    /// The client.
    pub stream: TcpStream,
    /// Its place, held to the end.
    pub place: Place,
    /// Cancelled when the port stops: then the connection ends as soon as nothing is under way on it.
    pub stopping: CancellationToken,
}

impl Connections {
    /// Serves one connection until it closes. `answer` is called for every request. `refused` is called with the
    /// status when hyper itself refuses a request that it could not read.
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
        let Serving { stream, place, stopping } = serving;
        // Answers are small and whole: waiting to fill a packet only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "nodelay");
        }
        let connection = Arc::clone(&place.connection);
        let (known, port) = (Arc::clone(&connection), self.clone());
        let service = service_fn(move |request| {
            known.request_began();
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
                // Dropped as it is: it holds nothing that anyone waits for.
                () = connection.cut.notified() => return,
                () = stopping.cancelled() => None,
            };
            if ended.is_none() && !connection.has_asked() {
                ended = timeout(FIRST_REQUEST_FOR, &mut http).await.ok();
            }
            let served = if let Some(ended) = ended {
                ended
            } else {
                Pin::new(&mut http).graceful_shutdown();
                tokio::select! {
                    biased;
                    ended = &mut http => ended,
                    () = connection.cut.notified() => return,
                }
            };
            // After a failure that hyper answered by itself, the client has something to read; after any
            // other there is nobody to wait for.
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
                    () = connection.cut.notified() => {}
                }
            }
            drop(place);
        }
    }

    fn reason_to_close(&self, connection: &Connection) -> Option<Closed> {
        if connection.age() >= self.limits.age_max {
            Some(Closed::Age)
        } else {
            self.table.is_wanted().then_some(Closed::Full)
        }
    }

    /// Ends the connection with this answer where it should, and notes what becomes of it.
    fn finish<B>(&self, connection: &Connection, mut answer: Response<B>) -> Response<B> {
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

/// What hyper answers by itself where it can't read a head.
fn status_of(error: &hyper::Error) -> Option<StatusCode> {
    if !error.is_parse() {
        None
    } else if error.is_parse_too_large() {
        Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    } else {
        Some(StatusCode::BAD_REQUEST)
    }
}

/// Says that there is no more to come and waits a little for the client to say the same.
async fn linger(mut stream: TcpStream, discards: &Discards) {
    let rest = async {
        stream.shutdown().await?;
        let mut buffer = vec![0; DISCARD_PIECE];
        loop {
            let count = stream.read(&mut buffer).await?;
            if count == 0 {
                return Ok::<_, io::Error>(());
            }
            discards.pace(count).await;
        }
    };
    _ = timeout(LINGER_FOR, rest).await;
}

/// The speed of all lingering connections together: bytes that nobody wants must not take the processor from those
/// that somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Discards(Mutex<Option<Instant>>);

impl Discards {
    async fn pace(&self, bytes: usize) {
        let now = Instant::now();
        let turn = self.book(now, bytes);
        // A sleep takes a millisecond at least, and a piece far less.
        if turn > now + DISCARD_SLACK {
            sleep_until(turn).await;
        }
    }

    /// When the next bytes may be read, after so many were.
    fn book(&self, now: Instant, bytes: usize) -> Instant {
        let mut free_at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let micros = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(1_000_000) / DISCARD_RATE_MAX;
        let turn = free_at.unwrap_or(now).max(now);
        *free_at = Some(turn + Duration::from_micros(micros));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discarding_keeps_to_its_speed_however_many_discard() {
        let discards = Discards::default();
        let now = Instant::now();
        let second = usize::try_from(DISCARD_RATE_MAX).expect("a size");
        assert_eq!(discards.book(now, second), now);
        assert_eq!(discards.book(now, second), now + Duration::from_secs(1));
        let later = now + Duration::from_secs(5);
        assert_eq!(discards.book(later, 1), later, "what was not used is not saved up");
    }
}
