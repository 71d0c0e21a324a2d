//! The accept loop of a private port: few connections, none of them idle for long.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Connections at the same time: some scrapers, a kubelet, a person. More wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may take for the head of a request, idle keep-alive included: long enough for
/// a scrape every 15 s to keep its connection, short enough that idle ones do not use up all places.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long running answers may take to end once the face is told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait after a failed accept (no file handles left), so that it does not spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(200);

/// Answers every connection of `listener` by `router` until `stop`.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
            let (stream, _) = listener.accept().await?;
            Ok::<_, io::Error>((stream, place))
        };
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = accept => match accepted {
                Ok((stream, place)) => {
                    let (router, stop) = (router.clone(), stop.clone());
                    connections.spawn(async move {
                        answer(stream, router, stop).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the ops port can't accept a connection");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            },
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    // What is left after it is a client that does not read: dropping the set ends it.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
    Ok(())
}

async fn answer(stream: TcpStream, router: Router, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    // An error is the client's: it went away or spoke no HTTP. There is nobody to tell.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
