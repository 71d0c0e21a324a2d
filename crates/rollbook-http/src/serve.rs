//! One connection, from its accept to its end.

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
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::connection::Connection;
use crate::stream::WatchedStream;
use crate::table::{Closed, Connections, Place};

/// How long a connection stays open after our last answer. Closing one while bytes of a refused body
/// are on their way would reset it, and the client might never see its answer.
const LINGER_FOR: Duration = Duration::from_secs(1);
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
    /// Serves one client to its end. `answer` is asked for every request; `refused` is told the status where
    /// hyper refuses by itself what it could not read.
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
                    () = linger(http.into_parts().io.into_inner().into_inner()) => {}
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
async fn linger(mut stream: TcpStream) {
    let rest = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    _ = timeout(LINGER_FOR, rest).await;
}
