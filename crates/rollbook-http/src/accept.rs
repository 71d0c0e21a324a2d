//! Accept loop of a port that answers every client alike, without a certificate or a budget for bodies.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::connection::Connection;
use crate::serve::Serving;
use crate::table::{Connections, Limits, Slot};

/// Pause after a failed accept (for example without free file handles), so that the loop does not spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(200);

/// A port and its limits.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// Name of the port in the log.
    pub name: &'static str,
    /// Limits of its connections.
    pub limits: Limits,
    /// Maximum time for running responses to finish after a stop.
    pub drain_timeout: Duration,
}

impl Port {
    /// Serves every connection of `listener` until `stop`. `answer` is called for each request.
    pub async fn serve<F, R, B>(self, listener: TcpListener, stop: CancellationToken, answer: F)
    where
        F: Fn(Request<Incoming>, Arc<Connection>) -> R + Clone + Send + 'static,
        R: Future<Output = Response<B>> + Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let connections = Connections::new(self.limits);
        let start = |stream: TcpStream, slot: Slot| {
            let serving = Serving { stream, slot, stopping: stop.clone() };
            // Logged at debug level only: a stranger must not fill the log.
            connections.serve(serving, answer.clone(), move |status| {
                tracing::debug!(%status, "{} port refused a request that is not valid HTTP", self.name);
            })
        };
        let mut running = JoinSet::new();
        tokio::select! {
            () = stop.cancelled() => {}
            never = self.accept(&connections, &listener, &mut running, start) => match never {},
            never = connections.watch() => match never {},
        }
        drop(listener);
        let drained = async { while running.join_next().await.is_some() {} };
        // Remaining clients do not read: dropping the set closes their connections.
        let _ = tokio::time::timeout(self.drain_timeout, drained).await;
    }

    async fn accept<Run>(
        self,
        connections: &Connections,
        listener: &TcpListener,
        running: &mut JoinSet<()>,
        start: impl Fn(TcpStream, Slot) -> Run,
    ) -> std::convert::Infallible
    where
        Run: Future<Output = ()> + Send + 'static,
    {
        // Accepted client that has no slot yet.
        let mut waiting_client = None;
        loop {
            tokio::select! {
                Some(_) = running.join_next() => {}
                slot = connections.slot(), if waiting_client.is_some() => {
                    if let Some(stream) = waiting_client.take() {
                        running.spawn(start(stream, slot));
                    }
                }
                accepted = listener.accept(), if waiting_client.is_none() => match accepted {
                    Ok((stream, _)) => waiting_client = Some(stream),
                    Err(error) => {
                        tracing::warn!(%error, "{} port can't accept a connection", self.name);
                        tokio::time::sleep(ACCEPT_BACKOFF).await;
                    }
                },
            }
        }
    }
}
