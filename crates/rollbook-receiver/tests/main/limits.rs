//! Limits on what a client can make the receiver hold, and responses when the queue fails.

use std::time::Duration;

use rollbook_core::queue::QueueError;
use rollbook_receiver::Settings;
use tokio::time::Instant;

use crate::client::{Post, within};
use crate::queue::Mode;
use crate::server::{Server, eventually};

const SHORT: Duration = Duration::from_millis(100);

fn head_of_a_stalled_body() -> Vec<u8> {
    [&Post::new("msg_stalled", "").head("content-length: 1000")[..], b"{"].concat()
}

#[tokio::test]
async fn a_stalled_body_is_408_and_closes_its_connection() {
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
async fn an_incomplete_body_is_counted_as_torn_and_enqueues_nothing() {
    let server = Server::start(Settings::default()).await;
    let mut client = server.client().await;
    client.send(head_of_a_stalled_body()).await;
    drop(client);
    server.counted("torn", 1.0).await;
    assert!(server.queue.batches().is_empty());
}

#[tokio::test]
async fn a_connection_that_sends_no_complete_head_is_closed() {
    let header_timeout = Duration::from_millis(300);
    let server = Server::start(Settings { header_timeout, ..Settings::default() }).await;
    for begun in ["", "POST /webhooks/clerk HTTP/1.1\r\nhost:"] {
        let mut client = server.client().await;
        client.send(begun).await;
        client.closed().await;
    }
    // A later request has the same limit from its first byte on, though the connection may idle for longer.
    let mut client = server.client().await;
    client.ask(Post::new("msg_1", "{}").bytes()).await.assert_status("queued");
    client.send("POST /webhooks/clerk HTTP/1.1\r\n").await;
    client.closed().await;
    assert!(
        (server.metric("rollbook_connections_closed_total{reason=\"header_timeout\"}") - 3.0).abs() < 0.5
    );
}

#[tokio::test]
async fn an_idle_connection_has_its_own_limit_apart_from_that_of_heads() {
    // Idle for longer than the limit of a head: the next request is still answered.
    let header_timeout = Duration::from_millis(100);
    let server = Server::start(Settings { header_timeout, ..Settings::default() }).await;
    let mut client = server.client().await;
    client.ask(Post::new("msg_1", "{}").bytes()).await.assert_status("queued");
    let mut silent = server.client().await;
    silent.closed().await;
    client.ask(Post::new("msg_2", "{}").bytes()).await.assert_status("queued");

    let idle_timeout = Duration::from_millis(100);
    let server = Server::start(Settings { idle_timeout, ..Settings::default() }).await;
    let mut client = server.client().await;
    client.ask(Post::new("msg_1", "{}").bytes()).await.assert_status("queued");
    let answered = Instant::now();
    client.closed().await;
    assert!(answered.elapsed() >= Duration::from_millis(90), "{:?}", answered.elapsed());
    assert!((server.metric("rollbook_connections_closed_total{reason=\"idle_timeout\"}") - 1.0).abs() < 0.5);
}

#[tokio::test]
async fn a_connection_past_its_maximum_age_closes_with_its_next_response_and_not_before() {
    let age = Duration::from_millis(300);
    let server = Server::start(Settings { connection_age_max: age, ..Settings::default() }).await;
    let started = Instant::now();
    let mut client = server.client().await;
    let mut number = 0;
    let answer = loop {
        let answer = client.ask(Post::new(&format!("msg_{number}"), "{}").bytes()).await;
        answer.assert_status("queued");
        if answer.closes() {
            break answer;
        }
        number += 1;
    };
    assert!(answer.closes() && started.elapsed() >= age, "{:?}", started.elapsed());
    client.closed().await;
    assert!((server.metric("rollbook_connections_closed_total{reason=\"age\"}") - 1.0).abs() < 0.5);
}

#[tokio::test]
async fn a_body_below_the_minimum_rate_is_408_long_before_the_body_timeout() {
    let settings = Settings { body_window: SHORT, body_rate_min: 1_000_000, ..Settings::default() };
    let server = Server::start(settings).await;
    let mut client = server.client().await;
    let started = Instant::now();
    let begun = [&Post::new("msg_1", "").head("content-length: 200000")[..], &vec![b' '; 99_999]].concat();
    client.ask(begun).await.assert_error(408, "body too slow");
    assert!(started.elapsed() < Settings::default().body_timeout, "{:?}", started.elapsed());
    client.closed().await;
    // A body of the same size that arrives fast is accepted.
    server.post(&Post::new("msg_2", vec![b' '; 200_000])).await.assert_status("queued");
}

#[tokio::test]
async fn a_client_that_reads_no_responses_is_dropped() {
    let server = Server::start(Settings {
        request_timeout: Duration::from_millis(500),
        connections_max: 1,
        // Long, so that this limit does not close the connection.
        header_timeout: Duration::from_secs(60),
        ..Settings::default()
    })
    .await;
    let client = server.client().await;
    // Sends until all buffers are full: responses stay unread, and the server reads no further request.
    let questions = "GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n".repeat(1000);
    let write_until_dropped = async || loop {
        client.stream.writable().await.unwrap();
        match client.stream.try_write(questions.as_bytes()) {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
            _ => {}
        }
    };
    within(write_until_dropped()).await;
    // The only connection slot is free again.
    server.deliver("msg_1").await.assert_status("queued");
}

#[tokio::test]
async fn a_queue_that_is_full_or_fails_is_503_and_recovers() {
    let server = Server::start(Settings::default()).await;
    let mut client = server.client().await;
    let cases = [
        (Mode::Fail(QueueError::Full { depth: 10, limit: 10 }), "queue full", "queue_full"),
        (Mode::Fail(QueueError::OutOfSpace("OOM".into())), "queue has no room", "queue_no_room"),
        (
            Mode::Fail(QueueError::Unavailable("connection refused".into())),
            "queue unavailable",
            "queue_unavailable",
        ),
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
    assert!((server.metric("rollbook_ack_seconds_count") - 6.0).abs() < 0.5, "all were verified");
}

#[tokio::test]
async fn a_silent_queue_is_503_within_svixs_timeout() {
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
async fn above_the_limit_of_waiting_deliveries_a_genuine_one_is_503_at_once_and_a_forged_one_takes_no_permit()
{
    let enqueue_timeout = Duration::from_millis(500);
    let settings = Settings { in_flight_max: 2, enqueue_timeout, ..Settings::default() };
    let server = Server::start_gated(settings).await;
    let (mut first, mut second) = (server.begin("msg_1").await, server.begin("msg_2").await);
    server.read(2).await;
    server.deliver("msg_3").await.assert_error(503, "too many deliveries at once");
    let forged = Post::new("msg_4", "{}").changed("svix-signature", "v1,AAAA");
    server.post(&forged).await.assert_error(400, "no signature matches");

    // Both requests give up, but their permits stay taken until the queue has answered: it is silent, and
    // further waiting deliveries would only use more memory.
    first.answer().await.assert_error(503, "queue unavailable");
    second.answer().await.assert_error(503, "queue unavailable");
    server.deliver("msg_5").await.assert_error(503, "too many deliveries at once");
    server.counted("overloaded", 2.0).await;

    server.queue.let_through(9);
    eventually(|| !server.queue.batches().is_empty()).await;
    server.deliver("msg_6").await.assert_status("queued");
    let ids = server.queue.ids();
    assert!(ids.len() <= 3 && !ids.contains(&"msg_5".to_owned()), "{ids:?}");
}

#[tokio::test]
async fn above_the_body_memory_a_delivery_is_503_at_once() {
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
    // An announced length takes no memory: a small body still fits while ten others are only announced.
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
async fn at_the_connection_limit_the_oldest_connection_without_a_genuine_delivery_is_dropped_at_once() {
    let server = Server::start_gated(Settings { connections_max: 4, ..Settings::default() }).await;
    server.queue.let_through(1);
    // Idle for the longest time, but authenticated by a genuine delivery.
    let mut known = server.client().await;
    known.ask(Post::new("msg_1", "{}").bytes()).await.assert_status("queued");
    let mut busy = server.begin("msg_2").await;
    server.queue.called(2).await;
    let mut silent = server.client().await;
    let mut stalled = server.client().await;
    stalled.send(head_of_a_stalled_body()).await;
    eventually(|| (server.metric("rollbook_connections{state=\"reading\"}") - 1.0).abs() < 0.5).await;

    let mut first = server.begin("msg_3").await;
    silent.closed().await;
    let mut second = server.begin("msg_4").await;
    stalled.closed().await;
    server.read(4).await;
    // Only `known` could be dropped for the next one.
    let mut third = server.begin("msg_5").await;
    known.closed().await;
    server.read(5).await;
    assert!((server.metric("rollbook_connections{state=\"answering\"}") - 4.0).abs() < 0.5);
    assert!((server.metric("rollbook_connections_closed_total{reason=\"full\"}") - 3.0).abs() < 0.5);
    // All are being answered now, so a fifth client waits until one of them has its response and closes.
    let mut waits = server.begin("msg_6").await;
    server.queue.let_through(9);
    let mut closed = 0;
    for client in [&mut busy, &mut first, &mut second, &mut third] {
        let answer = client.answer().await;
        answer.assert_status("queued");
        closed += u8::from(answer.closes());
    }
    waits.answer().await.assert_status("queued");
    // Or none, if a connection was idle again by the time of the check.
    assert!(closed <= 1, "{closed}");
    assert!(server.metric("rollbook_connections_closed_total{reason=\"full\"}") >= 4.0);
}

#[tokio::test]
async fn a_stalled_body_is_evicted_for_a_newer_one() {
    let settings = Settings { body_max: 60_000, buffered_max: 80_000, ..Settings::default() };
    let server = Server::start(settings).await;
    let mut stalled = server.client().await;
    stalled
        .send([&Post::new("msg_1", "").head("content-length: 50000")[..], &vec![b' '; 49_999]].concat())
        .await;
    eventually(|| (server.metric("rollbook_connections{state=\"reading\"}") - 1.0).abs() < 0.5).await;
    let mut number = 0;
    // The test can't see whether everything sent has been read; until then there is memory left.
    let yielded = async {
        loop {
            number += 1;
            server
                .post(&Post::new(&format!("msg_new_{number}"), vec![b' '; 60_000]))
                .await
                .assert_status("queued");
            if (server.count("overloaded") - 1.0).abs() < 0.5 {
                return;
            }
        }
    };
    within(yielded).await;
    let answer = stalled.answer().await;
    answer.assert_error(503, "too many deliveries at once");
    assert!(answer.closes());
}

#[tokio::test]
async fn a_crowd_of_stalled_clients_does_not_block_good_ones() {
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
