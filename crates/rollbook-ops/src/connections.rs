//! Accept loop of the ops port: few connections, one request on each, and the oldest is dropped for a new
//! client.
//!
//! A client that holds connections therefore can't block the port: not with idle connections, unread
//! responses or slow requests. A scraper that opens a new connection each time costs little.

use std::io;
use std::time::Duration;

use axum::Router;
use hyper_util::service::TowerToHyperService;
use rollbook_http::{Connections, Limits, Serving, Slot};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use hyper::service::Service as _;

/// Limits of the ops port.
pub(crate) const LIMITS: Limits = Limits {
    // Enough for some scrapers, a kubelet and an operator.
    connections_max: 64,
    header_timeout: Duration::from_secs(10),
    // No connection becomes idle: each closes with its response.
    idle_timeout: Duration::from_secs(10),
    write_timeout: Duration::from_secs(10),
    age_max: Duration::ZERO,
};
/// Maximum time for running responses to finish after a stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a failed accept (for example without free file handles), so that the loop does not spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(200);

/// Serves every connection of `listener` with `router` until `stop`.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> io::Result<()> {
    let port = Port { connections: Connections::new(LIMITS), router, stop };
    let mut connections = JoinSet::new();
    tokio::select! {
        () = port.accept(&listener, &mut connections) => {}
        never = port.connections.watch() => match never {},
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    // Remaining clients do not read: dropping the set closes their connections.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
    Ok(())
}

struct Port {
    connections: Connections,
    router: Router,
    stop: CancellationToken,
}

impl Port {
    /// Accepts connections until the stop.
    async fn accept(&self, listener: &TcpListener, connections: &mut JoinSet<()>) {
        // Accepted client that has no slot yet.
        let mut waiting_client = None;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                Some(_) = connections.join_next() => {}
                slot = self.connections.slot(), if waiting_client.is_some() => {
                    if let Some(stream) = waiting_client.take() {
                        connections.spawn(self.answer(stream, slot));
                    }
                }
                accepted = listener.accept(), if waiting_client.is_none() => match accepted {
                    Ok((stream, _)) => waiting_client = Some(stream),
                    Err(error) => {
                        tracing::warn!(%error, "ops port can't accept a connection");
                        tokio::time::sleep(ACCEPT_BACKOFF).await;
                    }
                },
            }
        }
    }

    fn answer(&self, stream: TcpStream, slot: Slot) -> impl Future<Output = ()> + Send + use<> {
        let router = TowerToHyperService::new(self.router.clone());
        self.connections.serve(
            Serving { stream, slot, stopping: self.stop.clone() },
            move |request, _| {
                let answered = router.call(request);
                async move { answered.await.unwrap_or_else(|never| match never {}) }
            },
            // Logged at debug level only: the port should not be reachable by strangers.
            |status| tracing::debug!(%status, "ops port refused a request that is not valid HTTP"),
        )
    }
}
