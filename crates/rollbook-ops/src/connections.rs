//! The accept loop of a private port: a few connections, one request on each, and the oldest yields to a new client.
//!
//! So nobody who holds connections can silence the port: not by idling, nor by leaving answers unread, nor by asking
//! what takes long. A scraper that connects anew each time costs nothing that counts.

use std::io;
use std::time::Duration;

use axum::Router;
use hyper_util::service::TowerToHyperService;
use rollbook_http::{Connections, Limits, Place, Serving};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use hyper::service::Service as _;

/// The limits of the private port.
pub(crate) const LIMITS: Limits = Limits {
    // Some scrapers, a kubelet, a person.
    connections_max: 64,
    header_timeout: Duration::from_secs(10),
    // No connection is ever idle: each ends with its answer.
    idle_timeout: Duration::from_secs(10),
    write_timeout: Duration::from_secs(10),
    age_max: Duration::ZERO,
};
/// How long running answers may take to end once the face is told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait after a failed accept (no file handles left), so that it does not spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(200);

/// Answers every connection of `listener` by `router` until `stop`.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> io::Result<()> {
    let port = Port { connections: Connections::new(LIMITS), router, stop };
    let mut connections = JoinSet::new();
    tokio::select! {
        () = port.accept(&listener, &mut connections) => {}
        never = port.connections.watch() => match never {},
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    // What is left after it is a client that does not read: dropping the set ends it.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
    Ok(())
}

struct Port {
    connections: Connections,
    router: Router,
    stop: CancellationToken,
}

impl Port {
    /// Accepts until the stop.
    async fn accept(&self, listener: &TcpListener, connections: &mut JoinSet<()>) {
        // Accepted, and without a place so far.
        let mut newcomer = None;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                Some(_) = connections.join_next() => {}
                place = self.connections.place(), if newcomer.is_some() => {
                    if let Some(stream) = newcomer.take() {
                        connections.spawn(self.answer(stream, place));
                    }
                }
                accepted = listener.accept(), if newcomer.is_none() => match accepted {
                    Ok((stream, _)) => newcomer = Some(stream),
                    Err(error) => {
                        tracing::warn!(%error, "the ops port can't accept a connection");
                        tokio::time::sleep(ACCEPT_BACKOFF).await;
                    }
                },
            }
        }
    }

    fn answer(&self, stream: TcpStream, place: Place) -> impl Future<Output = ()> + Send + use<> {
        let router = TowerToHyperService::new(self.router.clone());
        self.connections.serve(
            Serving { stream, place, stopping: self.stop.clone() },
            move |request, _| {
                let answered = router.call(request);
                async move { answered.await.unwrap_or_else(|never| match never {}) }
            },
            // A stranger's noise, on a port that strangers should not reach.
            |status| tracing::debug!(%status, "the ops port refused what is not HTTP"),
        )
    }
}
