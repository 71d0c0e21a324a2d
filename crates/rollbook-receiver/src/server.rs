//! Accept loop and shutdown of the receiver.
//!
//! Constraints:
//!
//! * At most `connections_max` connections have a slot, and one more client may wait for one: the oldest
//!   connection without a verified delivery is dropped for it (`rollbook-http`). If all connections carry
//!   one, further clients wait in the listener's backlog and cost no file descriptor.
//! * No client can hold a connection forever: [`Connections`] closes connections that send no head, are idle,
//!   or read no response; the handler answers those that send no body.
//! * A stop continues to serve for `stop_delay`, but health checks get 503 and each response closes its
//!   connection. Then the server accepts the clients in the backlog, refuses new connections, closes idle
//!   ones, lets each request in progress finish, and closes what is left after `drain_timeout`. Closing loses
//!   nothing: unacknowledged deliveries are sent again.
//! * A panic of the batcher or of a connection is always detected and logged.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use rollbook_core::queue::{Producer, QueueError};
use rollbook_core::time::Clock;
use rollbook_http::{Connections, HEAD_LENGTH_MAX, Limits, Serving, Slot};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::batcher::Batcher;
use crate::connection_metrics::ConnectionMetrics;
use crate::handler::{Handler, OtherPages};
use crate::metrics::Metrics;
use crate::secrets::{EndpointSecrets, LastMatches};
use crate::settings::Settings;

/// Pause after an accept that failed because file descriptors or memory ran out.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(500);
/// Time for requests in progress after the batcher has failed: enough to send each a 503.
const FAILED_DRAIN_FOR: Duration = Duration::from_secs(1);
/// Time for a last call to the queue that no request waits for any more.
const LAST_BATCH_FOR: Duration = Duration::from_secs(1);

/// The public HTTP server.
pub struct Receiver {
    settings: Settings,
    secrets: EndpointSecrets,
    producer: Arc<dyn Producer>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    connections: Connections,
    pages: Option<OtherPages>,
}

/// Reason for which the receiver ended without a stop.
#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    /// The queue's storage failed. Fix: restart the process; Svix sends unacknowledged deliveries again.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The task that writes to the queue panicked (a bug).
    #[error("the receiver's batcher panicked; restart the process and report the bug")]
    Panicked,
}

impl Receiver {
    /// Creates a receiver and registers its metrics at zero.
    ///
    /// # Errors
    /// Fails if `registry` already has metrics of these names.
    pub fn new(
        settings: Settings,
        secrets: impl Into<EndpointSecrets>,
        producer: Arc<dyn Producer>,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Arc::new(Metrics::new(registry)?);
        let (settings, secrets) = (settings.bounded(), secrets.into());
        registry.register(Box::new(LastMatches::new(secrets.clone())?))?;
        let connections = Connections::new(Limits {
            connections_max: settings.connections_max,
            head_length_max: HEAD_LENGTH_MAX,
            header_timeout: settings.header_timeout,
            idle_timeout: settings.idle_timeout,
            write_timeout: settings.request_timeout,
            age_max: settings.connection_age_max,
        });
        registry.register(Box::new(ConnectionMetrics::new(connections.clone())?))?;
        Ok(Self { settings, secrets, producer, clock, metrics, connections, pages: None })
    }

    /// Answers requests for other paths by these pages, if they have one for the path.
    #[must_use]
    pub fn with_pages(mut self, pages: OtherPages) -> Self {
        self.pages = Some(pages);
        self
    }

    /// Serves until `stop` and `stop_delay`, then drains for at most `drain_timeout` and a short final wait.
    /// Don't cancel the future: that would close every connection with a request in progress.
    ///
    /// # Errors
    /// [`ReceiverError`]: nothing can be acknowledged any more, and the process should end.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> Result<(), ReceiverError> {
        let shutting_down = stop.child_token();
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
        let handler = Handler::new(
            &self.settings,
            self.secrets,
            self.clock,
            self.metrics,
            sender,
            shutting_down.clone(),
            self.pages,
        );
        let acceptor = Acceptor {
            handler: Arc::new(handler),
            connections: self.connections.clone(),
            shutting_down,
            stop_delay: self.settings.stop_delay,
            stopping: CancellationToken::new(),
        };
        let mut connections = JoinSet::new();
        let failed = acceptor.accept(listener, &mut connections, &mut batcher).await;
        acceptor.shutting_down.cancel();
        acceptor.stopping.cancel();
        let drain_for = match failed {
            None => self.settings.drain_timeout,
            Some(_) => self.settings.drain_timeout.min(FAILED_DRAIN_FOR),
        };
        let deadline = Instant::now() + drain_for;
        drain(&mut connections, &self.connections, deadline).await;
        // When the last sender is dropped, the batcher ends after answering everything it holds.
        drop(acceptor);
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

/// Accept loop and the shared state of all connections.
struct Acceptor {
    handler: Arc<Handler>,
    connections: Connections,
    /// Cancelled when the stop is requested.
    shutting_down: CancellationToken,
    stop_delay: Duration,
    /// Cancelled when no further connections are accepted.
    stopping: CancellationToken,
}

impl Acceptor {
    /// Accepts connections until `stop_delay` after the stop, or until the batcher ends: then its result is
    /// returned. In both cases the listener is closed.
    async fn accept(
        &self,
        listener: TcpListener,
        connections: &mut JoinSet<()>,
        batcher: &mut JoinSet<Result<(), QueueError>>,
    ) -> Option<BatcherEnd> {
        let mut stop_delay_passed = pin!(self.stop_delay_passed());
        let mut watch = pin!(self.connections.watch());
        // Accepted client that has no slot yet.
        let mut waiting_client = None;
        loop {
            tokio::select! {
                biased;
                () = &mut stop_delay_passed => break,
                Some(ended) = batcher.join_next() => return Some(ended),
                never = &mut watch => match never {},
                Some(ended) = connections.join_next() => log_panic(ended),
                slot = self.connections.slot(), if waiting_client.is_some() => {
                    if let Some(stream) = waiting_client.take() {
                        connections.spawn(self.serve(stream, slot));
                    }
                }
                stream = next(&listener), if waiting_client.is_none() => match self.connections.try_slot() {
                    Some(slot) => drop(connections.spawn(self.serve(stream, slot))),
                    None => waiting_client = Some(stream),
                },
            }
        }
        self.accept_backlog(waiting_client, listener, connections);
        None
    }

    async fn stop_delay_passed(&self) {
        self.shutting_down.cancelled().await;
        // Even a sleep of zero takes about a millisecond.
        if !self.stop_delay.is_zero() {
            sleep(self.stop_delay).await;
        }
    }

    /// Accepts the clients in the backlog as far as slots are free: closing the listener resets the others.
    fn accept_backlog(
        &self,
        mut waiting_client: Option<TcpStream>,
        listener: TcpListener,
        connections: &mut JoinSet<()>,
    ) {
        let Ok(listener) = listener.into_std() else { return };
        while let Some(slot) = self.connections.try_slot() {
            let stream = match waiting_client.take() {
                Some(stream) => Ok(stream),
                None => match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream))
                    }
                    Err(error) if affects_one_client(&error) => continue,
                    // The backlog is empty, or no connection can be accepted.
                    Err(_) => return,
                },
            };
            if let Ok(stream) = stream {
                connections.spawn(self.serve(stream, slot));
            }
        }
    }

    /// Serves one connection until it closes.
    fn serve(&self, stream: TcpStream, slot: Slot) -> impl Future<Output = ()> + Send + use<> {
        let (handler, unreadable) = (Arc::clone(&self.handler), Arc::clone(&self.handler));
        self.connections.serve(
            Serving { stream, slot, stopping: self.stopping.clone() },
            move |request, connection| {
                let handler = Arc::clone(&handler);
                async move { handler.answer(request, &connection).await }
            },
            move |status| unreadable.unreadable(status),
        )
    }
}

/// Accepts the next client. Cancel-safe.
async fn next(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if affects_one_client(&error) => debug!(%error, "accept"),
            Err(error) => {
                warn!(%error, "can't accept connections; check the limit on open files (ulimit -n)");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Returns whether an accept failed for one client only, so that the next accept may succeed at once.
fn affects_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Logs the panic of a connection's task; other connections are not affected.
fn log_panic(ended: Result<(), JoinError>) {
    if ended.is_err_and(|error| error.is_panic()) {
        error!("a connection's task panicked and its client got no answer; please report the bug");
    }
}

/// Waits for the connections until `deadline`, then closes those that are left. Their other limits still apply.
async fn drain(connections: &mut JoinSet<()>, watched: &Connections, deadline: Instant) {
    let all_ended = async {
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
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
        warn!(left = connections.len(), "connections did not finish in time and are closed");
        connections.shutdown().await;
    }
}

/// Waits for the batcher to finish its last call, which no request waits for any more.
async fn finish(
    batcher: &mut JoinSet<Result<(), QueueError>>,
    deadline: Instant,
) -> Result<(), ReceiverError> {
    let deadline = deadline.max(Instant::now() + LAST_BATCH_FOR);
    match timeout_at(deadline, batcher.join_next()).await {
        Ok(Some(ended)) => outcome_of(ended),
        Ok(None) => Ok(()),
        Err(_) => {
            warn!("the queue did not answer before the shutdown ended; no acknowledged delivery is lost");
            Ok(())
        }
    }
}
