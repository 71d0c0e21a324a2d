//! The receiver behind a proxy that keeps and reuses its connections.

use std::time::Duration;

use rollbook_receiver::Settings;
use rollbook_testkit::servers::nginx::Nginx;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{Client, Post};
use crate::server::Server;

/// Stands for the minute for which nginx and AWS's load balancers keep an idle connection.
const KEPT_FOR: Duration = Duration::from_millis(400);
const ROUNDS: u32 = 8;
const SENDERS: u32 = 20;

/// Sends through the proxy repeatedly, just when it is about to close its idle connections. Returns the
/// number of responses that were not the receiver's.
async fn sent_around_the_close(proxy: &Nginx, rounds: u32) -> usize {
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let address = proxy.address;
        senders.spawn(async move {
            let mut lost = 0;
            for round in 0..rounds {
                let mut client = Client::connect(address).await;
                let id = format!("msg_{sender}_{round}");
                let answer = client.ask(Post::new(&id, "{}").bytes()).await;
                if answer.status == 502 {
                    lost += 1;
                } else {
                    answer.assert_status("queued");
                }
                // From a little before the close to a little after it.
                sleep(KEPT_FOR * (90 + sender) / 100).await;
            }
            lost
        });
    }
    senders.join_all().await.into_iter().sum()
}

fn closed_as_idle(server: &Server) -> f64 {
    server.metric("rollbook_connections_closed_total{reason=\"idle_timeout\"}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_idle_limit_above_the_proxys_no_request_meets_a_closing_connection() {
    // The limit of a head may be shorter than the proxy's idle time: it is a separate limit.
    let settings = Settings { header_timeout: KEPT_FOR / 2, ..Settings::default() };
    let server = Server::start(settings).await;
    let proxy = Nginx::start(server.address, KEPT_FOR).await;
    assert_eq!(sent_around_the_close(&proxy, ROUNDS).await, 0);
    assert!(closed_as_idle(&server).abs() < 0.5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_reuses_a_connection_that_was_idle_for_longer_than_the_limit_of_a_head() {
    let header_timeout = Duration::from_millis(200);
    let server = Server::start(Settings { header_timeout, ..Settings::default() }).await;
    let proxy = Nginx::start(server.address, Duration::from_secs(60)).await;
    let mut client = Client::connect(proxy.address).await;
    client.ask(Post::new("msg_1", "{}").bytes()).await.assert_status("queued");
    // Its close shows that this much time has passed.
    server.client().await.closed().await;
    client.ask(Post::new("msg_2", "{}").bytes()).await.assert_status("queued");
    assert!((server.metric("rollbook_connections{state=\"idle\"}") - 1.0).abs() < 0.5, "the same connection");
    assert!(closed_as_idle(&server).abs() < 0.5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_idle_limit_below_the_proxys_the_receiver_closes_connections_that_the_proxy_would_reuse() {
    let server = Server::start(Settings { idle_timeout: KEPT_FOR / 4, ..Settings::default() }).await;
    let proxy = Nginx::start(server.address, Duration::from_secs(60)).await;
    // A request may or may not meet a close; the longer limit avoids that there are closes at all.
    sent_around_the_close(&proxy, 2).await;
    assert!(closed_as_idle(&server) >= 1.0, "{}", closed_as_idle(&server));
}
