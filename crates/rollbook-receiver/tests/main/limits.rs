//! What a client can make the receiver hold, and what it does when the queue fails.

use std::time::Duration;

use rollbook_core::queue::QueueError;
use rollbook_receiver::Settings;
use tokio::time::Instant;

use crate::client::{Client, Post};
use crate::queue::Mode;
use crate::server::Server;

const SHORT: Duration = Duration::from_millis(100);

fn head_of_a_stalled_body() -> Vec<u8> {
    [&Post::new("msg_stalled", "").head("content-length: 1000")[..], b"{"].concat()
}

#[tokio::test]
async fn a_stalled_body_is_408_and_the_end_of_its_connection() {
    for settings in [
        Settings { body_timeout: SHORT, ..Settings::default() },
        Settings { request_timeout: SHORT, ..Settings::default() },
    ] {
        let server = Server::start(settings).await;
        let mut client = server.client().await;
        let started = Instant::now();
        let answer = client.ask(head_of_a_stalled_body()).await;
        answer.assert_error(408, "body too slow");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert!(answer.closes());
        client.closed().await;
        server.counted("too_slow", 1.0).await;
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_counted_as_torn_and_enqueues_nothing() {
    let server = Server::start(Settings::default()).await;
    let mut client = server.client().await;
    client.send(head_of_a_stalled_body()).await;
    drop(client);
    server.counted("torn", 1.0).await;
    assert!(server.queue.batches().is_empty());
}

#[tokio::test]
async fn a_connection_that_sends_no_whole_head_is_closed() {
    let header_timeout = Duration::from_millis(300);
    let server = Server::start(Settings { header_timeout, ..Settings::default() }).await;
    for begun in ["", "POST /webhooks/clerk HTTP/1.1\r\nhost:"] {
        let mut client = server.client().await;
        client.send(begun).await;
        client.closed().await;
    }
    // The same between two requests.
    let mut client = server.client().await;
    client.ask(Post::new("msg_1", "{}").bytes()).await.assert_status("queued");
    client.closed().await;
}

#[tokio::test]
async fn a_client_that_reads_no_answers_is_dropped() {
    let server = Server::start(Settings {
        request_timeout: Duration::from_millis(500),
        connections_max: 1,
        // Long, so that it is not this that ends the connection.
        header_timeout: Duration::from_secs(60),
        ..Settings::default()
    })
    .await;
    let client = server.client().await;
    // Until no more fits anywhere: its answers lie unread, and the server reads no further question.
    let questions = "GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n".repeat(1000);
    let write_until_dropped = async || loop {
        client.stream.writable().await.unwrap();
        match client.stream.try_write(questions.as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
            _ => {}
        }
    };
    crate::client::within(write_until_dropped()).await;
    // The one place for a connection is free again.
    server.deliver("msg_1").await.assert_status("queued");
}

#[tokio::test]
async fn a_queue_that_is_full_or_fails_is_503_and_recovers() {
    let server = Server::start(Settings::default()).await;
    let mut client = server.client().await;
    let cases = [
        (Mode::Fail(QueueError::Full { depth: 10, limit: 10 }), "queue full", "queue_full"),
        (Mode::Fail(QueueError::Unavailable("away".into())), "queue unavailable", "queue_unavailable"),
        (Mode::Fail(QueueError::Deployment("rights".into())), "queue unavailable", "queue_unavailable"),
        (Mode::Miscount, "queue unavailable", "queue_unavailable"),
    ];
    for (index, (mode, text, label)) in cases.into_iter().enumerate() {
        let before = server.count(label);
        server.queue.set(mode);
        let id = format!("msg_{index}");
        client.ask(Post::new(&id, "{}").bytes()).await.assert_error(503, text);
        assert!((server.count(label) - before - 1.0).abs() < 0.5);
    }
    server.queue.set(Mode::Take);
    client.ask(Post::new("msg_9", "{}").bytes()).await.assert_status("queued");
    assert!((server.metric("rollbook_ack_seconds_count") - 5.0).abs() < 0.5, "all were genuine");
}

#[tokio::test]
async fn a_silent_queue_is_503_within_the_time_that_svix_has() {
    for settings in [
        Settings { enqueue_timeout: SHORT, ..Settings::default() },
        Settings { request_timeout: SHORT, ..Settings::default() },
    ] {
        let server = Server::start_gated(settings).await;
        let started = Instant::now();
        server.deliver("msg_1").await.assert_error(503, "queue unavailable");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        server.counted("queue_unavailable", 1.0).await;
    }
}

#[tokio::test]
async fn beyond_the_places_in_line_a_genuine_delivery_is_503_at_once_and_a_forged_one_takes_none() {
    let enqueue_timeout = Duration::from_millis(500);
    let settings = Settings { in_flight_max: 2, enqueue_timeout, ..Settings::default() };
    let server = Server::start_gated(settings).await;
    let (mut first, mut second) = (server.begin("msg_1").await, server.begin("msg_2").await);
    server.read(2).await;
    server.deliver("msg_3").await.assert_error(503, "too many deliveries at once");
    let forged = Post::new("msg_4", "{}").changed("svix-signature", "v1,AAAA");
    server.post(&forged).await.assert_error(400, "no signature matches");

    // Both give up, but until the queue has answered their places stay taken: it is silent, and more
    // in line would only be more to hold.
    first.answer().await.assert_error(503, "queue unavailable");
    second.answer().await.assert_error(503, "queue unavailable");
    server.deliver("msg_5").await.assert_error(503, "too many deliveries at once");
    server.counted("overloaded", 2.0).await;

    server.queue.let_through(9);
    crate::server::eventually(|| !server.queue.batches().is_empty()).await;
    server.deliver("msg_6").await.assert_status("queued");
    let ids = server.queue.ids();
    assert!(ids.len() <= 3 && !ids.contains(&"msg_5".to_owned()), "{ids:?}");
}

#[tokio::test]
async fn beyond_the_room_for_bodies_a_delivery_is_503_at_once() {
    let settings = Settings { body_max: 60_000, buffered_max: 100_000, ..Settings::default() };
    let server = Server::start_gated(settings).await;
    let large = |id: &str| Post::new(id, vec![b' '; 60_000]);
    let mut first = server.client().await;
    first.send(large("msg_1").bytes()).await;
    server.queue.called(1).await;

    let mut second = server.client().await;
    let answer = second.ask(large("msg_2").bytes()).await;
    answer.assert_error(503, "too many deliveries at once");
    second.closed().await;
    server.counted("overloaded", 1.0).await;
    // An announcement takes no room: a small body still fits beside ten that are only promised.
    let mut promised = Vec::new();
    for _ in 0..10 {
        let mut client = server.client().await;
        client.send(Post::new("msg_0", "").head("content-length: 60000")).await;
        promised.push(client);
    }
    let mut small = server.begin("msg_3").await;
    server.read(2).await;

    server.queue.let_through(9);
    first.answer().await.assert_status("queued");
    small.answer().await.assert_status("queued");
    server.post(&large("msg_2")).await.assert_status("queued");
}

#[tokio::test]
async fn idle_connections_delay_the_next_only_until_their_time_is_up() {
    let settings =
        Settings { connections_max: 3, header_timeout: Duration::from_millis(300), ..Settings::default() };
    let server = Server::start(settings).await;
    let started = Instant::now();
    let mut idle: Vec<Client> = Vec::new();
    for _ in 0..3 {
        idle.push(server.client().await);
    }
    server.deliver("msg_1").await.assert_status("queued");
    assert!(started.elapsed() >= Duration::from_millis(290), "there was a fourth place");
    for client in &mut idle {
        client.closed().await;
    }
}

#[tokio::test]
async fn a_crowd_of_stalled_clients_does_not_stop_good_ones() {
    rlimit::increase_nofile_limit(4096).unwrap();
    let server = Server::start(Settings::default()).await;
    let mut crowd = Vec::new();
    for _ in 0..300 {
        for begun in [&b""[..], b"POST /webhooks/clerk HTTP/1.1\r\nhost:", &head_of_a_stalled_body()] {
            let mut client = server.client().await;
            client.send(begun).await;
            crowd.push(client);
        }
    }
    let mut good = server.client().await;
    for index in 0..100 {
        let id = format!("msg_{index}");
        good.ask(Post::new(&id, "{}").bytes()).await.assert_status("queued");
        server.deliver(&format!("msg_new_{index}")).await.assert_status("queued");
    }
    assert_eq!(crowd.len(), 900);
}
