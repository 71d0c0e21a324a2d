//! The accept loop, and how it ends.
//!
//! Constraints:
//!
//! * At most `connections_max` connections have a place, and one more may wait for its own: for it the oldest
//!   connection that carries no genuine delivery yields (`rollbook-http`). Only where all carry one, further
//!   clients wait in the listener's backlog and cost no file descriptor.
//! * No client can hold a connection for ever: [`Connections`] closes those that send no head, are idle, or
//!   read no answer; the handler answers those that send no body.
//! * A stop goes on for `stop_delay` as before, but that health says 503 and every answer ends its
//!   connection. Then it takes in who waits at the door, refuses new connections, closes idle ones, lets
//!   every request under way finish with its answer, and cuts off what is left after `drain_timeout`.
//!   Cutting off loses nothing: what was not acknowledged is sent again.
//! * Neither the batcher nor a connection can end by a panic without being noticed.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use rollbook_core::queue::{Producer, QueueError};
use rollbook_core::signature::SigningSecrets;
use rollbook_core::time::Clock;
use rollbook_http::{Connections, Limits, Place, Serving};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::batcher::Batcher;
use crate::census::Census;
use crate::handler::Handler;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// The pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(500);
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
    connections: Connections,
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
        let settings = settings.bounded();
        let connections = Connections::new(Limits {
            connections_max: settings.connections_max,
            header_timeout: settings.header_timeout,
            idle_timeout: settings.idle_timeout,
            write_timeout: settings.request_timeout,
            age_max: settings.connection_age_max,
        });
        registry.register(Box::new(Census::new(connections.clone())?))?;
        Ok(Self { settings, secrets, producer, clock, metrics, connections })
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
            connections: self.connections.clone(),
            leaving,
            stop_delay: self.settings.stop_delay,
            stopping: CancellationToken::new(),
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
        drain(&mut connections, &self.connections, deadline).await;
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

/// What every new connection needs.
struct Door {
    handler: Arc<Handler>,
    connections: Connections,
    /// Cancelled when it is told to stop.
    leaving: CancellationToken,
    stop_delay: Duration,
    /// Cancelled when nobody is let in any more.
    stopping: CancellationToken,
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
        let mut watch = pin!(self.connections.watch());
        // Accepted, and without a place so far.
        let mut newcomer = None;
        loop {
            tokio::select! {
                biased;
                () = &mut closing_time => break,
                Some(ended) = batcher.join_next() => return Some(ended),
                never = &mut watch => match never {},
                Some(ended) = connections.join_next() => note(ended),
                place = self.connections.place(), if newcomer.is_some() => {
                    if let Some(stream) = newcomer.take() {
                        connections.spawn(self.serve(stream, place));
                    }
                }
                stream = next(&listener), if newcomer.is_none() => match self.connections.try_place() {
                    Some(place) => drop(connections.spawn(self.serve(stream, place))),
                    None => newcomer = Some(stream),
                },
            }
        }
        self.take_in_the_rest(newcomer, listener, connections);
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
    fn take_in_the_rest(
        &self,
        mut newcomer: Option<TcpStream>,
        listener: TcpListener,
        connections: &mut JoinSet<()>,
    ) {
        let Ok(listener) = listener.into_std() else { return };
        while let Some(place) = self.connections.try_place() {
            let stream = match newcomer.take() {
                Some(stream) => Ok(stream),
                None => match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream))
                    }
                    Err(error) if is_of_one_connection(&error) => continue,
                    // Nobody waits, or nobody can be let in.
                    Err(_) => return,
                },
            };
            if let Ok(stream) = stream {
                connections.spawn(self.serve(stream, place));
            }
        }
    }

    /// One connection, to its end.
    fn serve(&self, stream: TcpStream, place: Place) -> impl Future<Output = ()> + Send + use<> {
        let (handler, unreadable) = (Arc::clone(&self.handler), Arc::clone(&self.handler));
        self.connections.serve(
            Serving { stream, place, stopping: self.stopping.clone() },
            move |request, connection| {
                let handler = Arc::clone(&handler);
                async move { handler.answer(request, &connection).await }
            },
            move |status| unreadable.unreadable(status),
        )
    }
}

/// The next client. Safe to cancel.
async fn next(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_of_one_connection(&error) => debug!(%error, "accept"),
            Err(error) => {
                warn!(%error, "no connection can be accepted; is the limit on open files (ulimit -n) too low?");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Whether an accept failed for reasons of that one client, so that the next may do better at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// A connection that panicked takes no other with it, but someone should know.
fn note(ended: Result<(), JoinError>) {
    if ended.is_err_and(|error| error.is_panic()) {
        error!("a connection's task panicked; its client was not answered; please report it");
    }
}

/// Waits for the connections until `deadline`, and ends those that are left then. Their other limits still hold.
async fn drain(connections: &mut JoinSet<()>, watched: &Connections, deadline: Instant) {
    let all_ended = async {
        while let Some(ended) = connections.join_next().await {
            note(ended);
        }
    };
    let ended = async {
        tokio::select! {
            () = all_ended => {}
            never = watched.watch() => match never {},
        }
    };
    _ = timeout_at(deadline, ended).await;
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
