//! The accept loop, and how it ends.
//!
//! Constraints:
//!
//! * A connection's place is taken before it is accepted: beyond `connections_max` clients wait in the
//!   listener's backlog and cost no file descriptor.
//! * No client can hold a connection for ever: hyper's timer closes those that send no head,
//!   [`TimedStream`] those that read no answer, the handler answers those that send no body.
//! * A stop goes on for `stop_delay` as before, but that health says 503 and every answer ends its
//!   connection. Then it takes in who waits at the door, refuses new connections, closes idle ones, lets
//!   every request under way finish with its answer, and cuts off what is left after `drain_timeout`.
//!   Cutting off loses nothing: what was not acknowledged is sent again.
//! * Neither the batcher nor a connection can end by a panic without being noticed.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::Registry;
use rollbook_core::queue::{Producer, QueueError};
use rollbook_core::signature::SigningSecrets;
use rollbook_core::time::Clock;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::batcher::Batcher;
use crate::handler::Handler;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::stream::TimedStream;

/// The longest head of a request, in bytes. Svix's are below one KiB, proxies add theirs. Then 431.
const HEAD_LENGTH_MAX: usize = 16 * 1024;
/// The most that hyper reads ahead on one connection, in bytes: a head must fit, and a body is read in
/// pieces of this size.
const READ_AHEAD_MAX: usize = 64 * 1024;
/// The pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(500);
/// How long a connection stays open after our last word. Closing one while bytes of a refused body
/// are on their way would reset it, and the client might never see its answer.
const LINGER_FOR: Duration = Duration::from_secs(1);
/// How long a stop waits for the first request of a connection that has said nothing yet: it may be on its
/// way, and closing the connection would reset it.
const FIRST_REQUEST_FOR: Duration = Duration::from_secs(1);
/// How long the requests under way get when the batcher has failed: the time to send each its 503.
const FAILED_DRAIN_FOR: Duration = Duration::from_secs(1);
/// How long a last call to the queue gets after everyone who waited for it has gone.
const LAST_BATCH_FOR: Duration = Duration::from_secs(1);

/// The public HTTP server.
pub struct Receiver {
    settings: Settings,
    secrets: SigningSecrets,
    producer: Arc<dyn Producer>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

/// Why the receiver ended though nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// The queue's storage failed. Restart the process; Svix sends what was not acknowledged again.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// A bug: the task that writes to the queue panicked.
    #[error("the receiver's batcher panicked, the process must restart; please report it")]
    Panicked,
}

impl Receiver {
    /// A receiver that serves nobody yet. Its metrics are registered, at zero.
    ///
    /// # Errors
    /// Where `registry` has metrics of these names already.
    pub fn new(
        settings: Settings,
        secrets: SigningSecrets,
        producer: Arc<dyn Producer>,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Arc::new(Metrics::new(registry)?);
        Ok(Self { settings: settings.bounded(), secrets, producer, clock, metrics })
    }

    /// Serves until `stop` and for `stop_delay`, then drains for at most `drain_timeout` and a moment. Don't cancel it:
    /// that would cut off every request under way.
    ///
    /// # Errors
    /// [`ReceiverError`]: it can't acknowledge anything any more and the process should end.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> Result<(), ReceiverError> {
        let leaving = stop.child_token();
        let (sender, arrivals) = mpsc::channel(self.settings.in_flight_max);
        let mut batcher = JoinSet::new();
        batcher.spawn(
            Batcher {
                arrivals,
                producer: self.producer,
                metrics: Arc::clone(&self.metrics),
                batch_max: self.settings.batch_max,
                batch_bytes_max: self.settings.batch_bytes_max,
            }
            .run(),
        );
        let handler =
            Handler::new(&self.settings, self.secrets, self.clock, self.metrics, sender, leaving.clone());
        let door = Door {
            handler: Arc::new(handler),
            http: http(&self.settings),
            write_timeout: self.settings.request_timeout,
            leaving,
            stop_delay: self.settings.stop_delay,
            stopping: CancellationToken::new(),
            places: Arc::new(Semaphore::new(self.settings.connections_max)),
        };
        let mut connections = JoinSet::new();
        let failed = door.accept(listener, &mut connections, &mut batcher).await;
        door.leaving.cancel();
        door.stopping.cancel();
        let drain_for = match failed {
            None => self.settings.drain_timeout,
            Some(_) => self.settings.drain_timeout.min(FAILED_DRAIN_FOR),
        };
        let deadline = Instant::now() + drain_for;
        drain(&mut connections, deadline).await;
        // With the last sender gone, the batcher ends once it has answered all that it holds.
        drop(door);
        match failed {
            Some(ended) => outcome_of(ended),
            None => finish(&mut batcher, deadline).await,
        }
    }
}

type BatcherEnd = Result<Result<(), QueueError>, JoinError>;

fn outcome_of(ended: BatcherEnd) -> Result<(), ReceiverError> {
    match ended {
        Ok(result) => Ok(result?),
        Err(_) => Err(ReceiverError::Panicked),
    }
}

fn http(settings: &Settings) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .max_header_size(HEAD_LENGTH_MAX)
        .max_buf_size(READ_AHEAD_MAX);
    http
}

/// What every new connection needs.
struct Door {
    handler: Arc<Handler>,
    http: http1::Builder,
    write_timeout: Duration,
    /// Cancelled when it is told to stop.
    leaving: CancellationToken,
    stop_delay: Duration,
    /// Cancelled when nobody is let in any more.
    stopping: CancellationToken,
    places: Arc<Semaphore>,
}

impl Door {
    /// Accepts until `stop_delay` after it is told to stop, or until the batcher ends: then that end is
    /// returned. Either way the listener is closed.
    async fn accept(
        &self,
        listener: TcpListener,
        connections: &mut JoinSet<()>,
        batcher: &mut JoinSet<Result<(), QueueError>>,
    ) -> Option<BatcherEnd> {
        let mut closing_time = pin!(self.closing_time());
        loop {
            tokio::select! {
                biased;
                () = &mut closing_time => break,
                Some(ended) = batcher.join_next() => return Some(ended),
                Some(ended) = connections.join_next() => note(ended),
                (stream, place) = self.next(&listener) => {
                    connections.spawn(self.serve(stream, place));
                }
            }
        }
        self.take_in_the_rest(listener, connections);
        None
    }

    async fn closing_time(&self) {
        self.leaving.cancelled().await;
        // Even a sleep of no time takes one.
        if !self.stop_delay.is_zero() {
            sleep(self.stop_delay).await;
        }
    }

    /// Takes in who waits in the backlog, as far as there are places: closing the listener resets them.
    fn take_in_the_rest(&self, listener: TcpListener, connections: &mut JoinSet<()>) {
        let Ok(listener) = listener.into_std() else { return };
        while let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)),
                Err(error) if is_of_one_connection(&error) => continue,
                // Nobody waits, or nobody can be let in.
                Err(_) => return,
            };
            if let Ok(stream) = stream {
                connections.spawn(self.serve(stream, Some(place)));
            }
        }
    }

    /// The next connection. Safe to cancel.
    async fn next(&self, listener: &TcpListener) -> (TcpStream, Option<OwnedSemaphorePermit>) {
        // The semaphore is never closed, so there is always a permit.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return (stream, place),
                Err(error) if is_of_one_connection(&error) => debug!(%error, "accept"),
                Err(error) => {
                    warn!(%error, "no connection can be accepted; is the limit on open files (ulimit -n) too low?");
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    /// One connection, to its end. The place is held until then.
    fn serve(
        &self,
        stream: TcpStream,
        place: Option<OwnedSemaphorePermit>,
    ) -> impl Future<Output = ()> + Send + use<> {
        // Answers are small and whole: waiting to fill a packet only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "nodelay");
        }
        let handler = Arc::clone(&self.handler);
        let begun = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&begun);
        let service = service_fn(move |request| {
            begins.store(true, Ordering::Relaxed);
            let handler = Arc::clone(&handler);
            async move { Ok::<_, Infallible>(handler.answer(request).await) }
        });
        let io = TokioIo::new(TimedStream::new(stream, self.write_timeout));
        let mut connection = self.http.serve_connection(io, service);
        let stopping = self.stopping.clone();
        async move {
            let mut ended = tokio::select! {
                biased;
                ended = &mut connection => Some(ended),
                () = stopping.cancelled() => None,
            };
            if ended.is_none() && !begun.load(Ordering::Relaxed) {
                ended = timeout(FIRST_REQUEST_FOR, &mut connection).await.ok();
            }
            let served = if let Some(ended) = ended {
                ended
            } else {
                Pin::new(&mut connection).graceful_shutdown();
                (&mut connection).await
            };
            // After a failure that hyper answered by itself, the client has something to read; after any
            // other there is nobody to wait for.
            let answered = served.as_ref().err().is_none_or(hyper::Error::is_parse);
            if let Err(error) = served {
                debug!(%error, "connection");
            }
            if answered {
                linger(connection.into_parts().io.into_inner().into_inner()).await;
            }
            drop(place);
        }
    }
}

/// Whether an accept failed for reasons of that one client, so that the next may do better at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Says that there is no more to come and waits a little for the client to say the same.
async fn linger(mut stream: TcpStream) {
    let rest = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    _ = timeout(LINGER_FOR, rest).await;
}

/// A connection that panicked takes no other with it, but someone should know.
fn note(ended: Result<(), JoinError>) {
    if ended.is_err_and(|error| error.is_panic()) {
        error!("a connection's task panicked; its client was not answered; please report it");
    }
}

/// Waits for the connections until `deadline`, and ends those that are left then.
async fn drain(connections: &mut JoinSet<()>, deadline: Instant) {
    while let Ok(Some(ended)) = timeout_at(deadline, connections.join_next()).await {
        note(ended);
    }
    if !connections.is_empty() {
        warn!(left = connections.len(), "connections did not end in time and are cut off");
        connections.shutdown().await;
    }
}

/// Waits for the batcher, which has nothing to do but a last call that nobody waits for any more.
async fn finish(
    batcher: &mut JoinSet<Result<(), QueueError>>,
    deadline: Instant,
) -> Result<(), ReceiverError> {
    let deadline = deadline.max(Instant::now() + LAST_BATCH_FOR);
    match timeout_at(deadline, batcher.join_next()).await {
        Ok(Some(ended)) => outcome_of(ended),
        Ok(None) => Ok(()),
        Err(_) => {
            warn!("the queue did not answer before the end; nothing that was acknowledged is lost");
            Ok(())
        }
    }
}
