//! Shutdown of the receiver: on request, or because it can't acknowledge anything any more.

use std::time::Duration;

use rollbook_core::queue::QueueError;
use rollbook_receiver::{ReceiverError, Settings};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::client::{Client, Post, within};
use crate::queue::Mode;
use crate::server::{Server, eventually};

#[tokio::test]
async fn a_stop_lets_requests_in_progress_finish_and_accepts_no_more() {
    let mut server = Server::start_gated(Settings::default()).await;
    let mut idle = server.client().await;
    server.queue.let_through(1);
    idle.ask(Post::new("msg_0", "{}").bytes()).await.assert_status("queued");
    let mut in_flight = server.begin("msg_1").await;
    server.queue.called(2).await;
    let mut in_line = server.begin("msg_2").await;
    server.read(3).await;
    let mut half_sent = server.client().await;
    let post = Post::new("msg_3", "{}");
    half_sent.send(post.head("content-length: 2\r\nexpect: 100-continue")).await;
    assert_eq!(half_sent.answer().await.status, 100);

    server.stop.cancel();
    idle.closed().await;
    assert!(within(TcpStream::connect(server.address)).await.is_err());
    half_sent.send(&post.body).await;
    server.read(4).await;
    server.queue.let_through(9);
    for client in [&mut in_flight, &mut in_line, &mut half_sent] {
        let answer = client.answer().await;
        answer.assert_status("queued");
        assert!(answer.closes());
        client.closed().await;
    }
    drop(idle);
    server.ended().await.unwrap();
    assert_eq!(server.queue.ids(), ["msg_0", "msg_1", "msg_2", "msg_3"]);
}

#[tokio::test]
async fn health_is_503_while_stopping() {
    let mut server = Server::start_gated(Settings::default()).await;
    let mut probe = server.client().await;
    probe.send("GET /healthz HTTP/1.1\r\n").await;
    // Served, and therefore also accepted: connections are accepted in order.
    let mut in_flight = server.begin("msg_1").await;
    server.queue.called(1).await;

    server.stop.cancel();
    listener_closed(&server).await;
    probe.ask("host: here\r\n\r\n").await.assert_error(503, "stopping");
    server.queue.let_through(1);
    in_flight.answer().await.assert_status("queued");
    drop((probe, in_flight));
    server.ended().await.unwrap();
}

#[tokio::test]
async fn during_its_delay_a_stop_accepts_deliveries_and_closes_each_connection_after_the_response() {
    let stop_delay = Duration::from_secs(3_600);
    let server = Server::start(Settings { stop_delay, ..Settings::default() }).await;
    let mut known = server.client().await;
    let answer = known.ask(Post::new("msg_1", "{}").bytes()).await;
    answer.assert_status("queued");
    assert!(!answer.closes());

    server.stop.cancel();
    let mut new = server.client().await;
    for (client, id) in [(&mut known, "msg_2"), (&mut new, "msg_3")] {
        let answer = client.ask(Post::new(id, "{}").bytes()).await;
        answer.assert_status("queued");
        assert!(answer.closes());
        client.closed().await;
    }
    let health = server.client().await.ask("GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n").await;
    health.assert_error(503, "stopping");
    assert_eq!(server.queue.ids(), ["msg_1", "msg_2", "msg_3"]);
}

#[tokio::test]
async fn a_stop_closes_the_listener_when_its_delay_ends() {
    let stop_delay = Duration::from_millis(100);
    let mut server = Server::start(Settings { stop_delay, ..Settings::default() }).await;
    let mut idle = server.client().await;
    idle.ask(Post::new("msg_1", "{}").bytes()).await.assert_status("queued");
    let started = Instant::now();
    server.stop.cancel();
    idle.closed().await;
    assert!(started.elapsed() >= stop_delay);
    assert!(within(TcpStream::connect(server.address)).await.is_err());
    drop(idle);
    server.ended().await.unwrap();
}

#[tokio::test]
async fn clients_in_the_backlog_at_the_stop_are_accepted_and_answered() {
    let mut server = Server::start(Settings::default()).await;
    server.deliver("msg_1").await.assert_status("queued");
    // The server does not run until the next await: both clients are in the backlog when it sees the stop.
    let waiting: Vec<_> =
        (2..=3).map(|_| std::net::TcpStream::connect(server.address).expect("a connection")).collect();
    server.stop.cancel();
    for (number, stream) in (2..).zip(waiting) {
        let mut client = Client::over(stream);
        let answer = client.ask(Post::new(&format!("msg_{number}"), "{}").bytes()).await;
        answer.assert_status("queued");
        assert!(answer.closes());
    }
    server.ended().await.unwrap();
}

/// Waits until the server has seen the stop.
async fn listener_closed(server: &Server) {
    let address = server.address;
    eventually(|| std::net::TcpStream::connect(address).is_err()).await;
}

#[tokio::test]
async fn a_stop_without_connections_is_immediate() {
    let mut server = Server::start(Settings::default()).await;
    server.deliver("msg_1").await.assert_status("queued");
    let started = Instant::now();
    server.stopped().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn requests_that_do_not_finish_in_time_are_closed_unacknowledged() {
    let drain_timeout = Duration::from_millis(200);
    let mut server = Server::start_gated(Settings { drain_timeout, ..Settings::default() }).await;
    let mut stalled = server.client().await;
    stalled.send(Post::new("msg_1", "").head("content-length: 10")).await;
    let mut unanswered = server.begin("msg_2").await;
    server.queue.called(1).await;
    let started = Instant::now();
    server.stopped().await.unwrap();
    assert!(started.elapsed() >= drain_timeout);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    stalled.closed().await;
    unanswered.closed().await;
    server.counted("torn", 2.0).await;
}

#[tokio::test]
async fn the_last_call_to_the_queue_is_not_cancelled_when_its_client_is_closed() {
    let drain_timeout = Duration::from_millis(50);
    let mut server = Server::start_gated(Settings { drain_timeout, ..Settings::default() }).await;
    let mut client = server.begin("msg_1").await;
    server.queue.called(1).await;
    server.stop.cancel();
    client.closed().await;
    server.queue.let_through(1);
    server.ended().await.unwrap();
    assert_eq!(server.queue.ids(), ["msg_1"]);
}

#[tokio::test]
async fn a_broken_queue_ends_the_server_after_its_503() {
    let mut server = Server::start(Settings::default()).await;
    server.queue.set(Mode::Fail(QueueError::Broken("EIO".into())));
    let mut client = server.client().await;
    client.send(Post::new("msg_1", "{}").bytes()).await;
    let ended = server.ended().await;
    assert!(matches!(ended, Err(ReceiverError::Queue(QueueError::Broken(_)))), "{ended:?}");
    client.answer().await.assert_error(503, "queue unavailable");
    assert!(within(TcpStream::connect(server.address)).await.is_err());
}

#[tokio::test]
async fn a_queue_that_panics_ends_the_server_after_a_503_for_all_waiting_requests() {
    let mut server = Server::start_gated(Settings::default()).await;
    server.queue.set(Mode::Panic);
    let mut first = server.begin("msg_1").await;
    server.queue.called(1).await;
    let mut second = server.begin("msg_2").await;
    server.read(2).await;
    server.queue.let_through(1);
    let ended = server.ended().await;
    assert!(matches!(ended, Err(ReceiverError::Panicked)), "{ended:?}");
    first.answer().await.assert_error(503, "queue unavailable");
    second.answer().await.assert_error(503, "queue unavailable");
}

#[tokio::test]
async fn a_queue_that_breaks_while_the_server_stops_is_still_an_error() {
    let mut server = Server::start_gated(Settings::default()).await;
    server.queue.set(Mode::Fail(QueueError::Broken("EIO".into())));
    let mut client = server.begin("msg_1").await;
    server.queue.called(1).await;
    server.stop.cancel();
    server.queue.let_through(1);
    client.answer().await.assert_error(503, "queue unavailable");
    drop(client);
    assert!(matches!(server.ended().await, Err(ReceiverError::Queue(QueueError::Broken(_)))));
}
