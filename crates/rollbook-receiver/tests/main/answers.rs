//! All HTTP responses of the contract.

use rollbook_core::time::Timestamp;
use rollbook_receiver::{Settings, WebhookPaths};
use std::time::Duration;

use crate::client::{NOW, Post, SECRET};
use crate::queue::FakeQueue;
use crate::refusals::REASONS;
use crate::server::Server;

const OTHER_SECRET: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[tokio::test]
async fn a_delivery_is_queued_with_its_id_its_raw_bytes_and_the_time_it_was_read() {
    let server = Server::start(Settings::default()).await;
    // Neither JSON nor text, and labelled as gzip: the receiver does not inspect the body.
    let body = [&b"\x1f\x8b {\"type\": \xff\x00"[..], b"\r\n0\r\n\r\n"].concat();
    let post = Post::new("msg_1", body.clone()).with("content-encoding", "gzip");

    let answer = server.post(&post).await;
    answer.assert_status("queued");
    assert!(!answer.closes());
    let delivery = &server.queue.batches()[0][0];
    assert_eq!((delivery.id.as_str(), delivery.received_at), ("msg_1", NOW));
    assert_eq!(delivery.body, body);
}

/// Request headers, and the trace that the queued delivery should have.
type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);

#[tokio::test]
async fn a_valid_trace_is_kept_and_an_invalid_one_does_not_refuse_the_delivery() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let server = Server::start(Settings::default()).await;
    let long = format!("01-{}", "4".repeat(8_000));
    let cases: [Case<'_>; 8] = [
        (&[("traceparent", TRACE)], Some(TRACE)),
        (&[("TraceParent", TRACE), ("tracestate", "a=b")], Some(TRACE)),
        (&[], None),
        (&[("traceparent", TRACE), ("Traceparent", TRACE)], None),
        (&[("traceparent", &TRACE.to_uppercase())], None),
        (&[("traceparent", "")], None),
        (&[("traceparent", "\u{e9}")], None),
        (&[("traceparent", &long)], None),
    ];
    for (number, (headers, kept)) in cases.into_iter().enumerate() {
        let post = headers
            .iter()
            .fold(Post::new(&format!("msg_{number}"), "{}"), |post, (name, value)| post.with(name, value));
        server.post(&post).await.assert_status("queued");
        let delivery = &server.queue.batches()[number][0];
        assert_eq!(delivery.traceparent.map(|kept| kept.to_string()).as_deref(), kept, "{number}");
    }
}

#[tokio::test]
async fn the_same_delivery_again_is_a_duplicate() {
    let server = Server::start(Settings::default()).await;
    let mut client = server.client().await;
    let post = Post::new("msg_1", "{}").bytes();
    client.ask(&post).await.assert_status("queued");
    client.ask(&post).await.assert_status("duplicate");
    assert!((server.count("queued") - 1.0).abs() < 0.5);
    assert!((server.count("duplicate") - 1.0).abs() < 0.5);
}

#[tokio::test]
async fn a_body_may_be_empty_or_come_in_chunks_with_trailers() {
    let server = Server::start(Settings::default()).await;
    let mut client = server.client().await;
    client.ask(Post::new("msg_1", "").bytes()).await.assert_status("queued");
    // No framing at all means an empty body.
    client.ask(Post::new("msg_2", "").head("x-none: 1")).await.assert_status("queued");

    let mut chunked = Post::new("msg_3", "abcdefgh").chunked(3);
    chunked.truncate(chunked.len() - 2);
    chunked.extend(b"x-trailer: means nothing\r\n\r\n");
    client.ask(chunked).await.assert_status("queued");
    assert_eq!(server.queue.batches()[2][0].body, "abcdefgh");
    client.ask(Post::new("msg_4", "{}").bytes()).await.assert_status("queued");
}

#[tokio::test]
async fn any_configured_secret_and_the_standard_webhooks_header_names_are_accepted() {
    let secrets = format!("{SECRET} {OTHER_SECRET}");
    let server = Server::start_with(Settings::default(), FakeQueue::open(), &secrets).await;
    server.post(&Post::signed(OTHER_SECRET, "msg_1", NOW, "{}")).await.assert_status("queued");

    let mut standard = Post::new("msg_2", "{}");
    for (name, _) in &mut standard.headers {
        *name = name.replace("svix-", "webhook-");
    }
    server.post(&standard).await.assert_status("queued");
}

#[tokio::test]
async fn an_unverified_delivery_is_refused_with_the_reason_and_closes_the_connection() {
    let server = Server::start(Settings::default()).await;
    let good = || Post::new("msg_1", "{}");
    let at = |at: Timestamp| Post::signed(SECRET, "msg_1", at, "{}");
    let minute = Duration::from_secs(60);
    let mut forged = good();
    forged.body = b"[]".to_vec();
    let cases = [
        (good().without("svix-id"), "missing header svix-id", "bad_headers"),
        (good().without("svix-timestamp"), "missing header svix-timestamp", "bad_headers"),
        (good().without("svix-signature"), "missing header svix-signature", "bad_headers"),
        (good().with("svix-id", "msg_1"), "repeated header svix-id", "bad_headers"),
        (good().with("webhook-id", "msg_1"), "svix-* and webhook-* headers do not agree", "bad_headers"),
        (good().changed("svix-id", "msg.1"), "malformed message id", "bad_id"),
        (good().changed("svix-timestamp", "+1"), "malformed timestamp", "bad_timestamp"),
        (good().changed("svix-signature", &"v1,a ".repeat(20)), "malformed signature", "bad_signature"),
        (good().changed("svix-signature", "v1,"), "no signature matches", "bad_signature"),
        (Post::signed(OTHER_SECRET, "msg_1", NOW, "{}"), "no signature matches", "bad_signature"),
        (forged, "no signature matches", "bad_signature"),
        (at(NOW.minus(6 * minute)), "timestamp too old", "timestamp_too_old"),
        (at(NOW.plus(6 * minute)), "timestamp too new", "timestamp_too_new"),
    ];
    for (post, text, label) in cases {
        let before = server.count(label);
        let mut client = server.client().await;
        let answer = client.ask(post.bytes()).await;
        answer.assert_error(400, text);
        assert!(answer.closes(), "{text}");
        client.closed().await;
        assert!((server.count(label) - before - 1.0).abs() < 0.5, "{text} counts as {label}");
    }
    assert!(server.queue.batches().is_empty());
    let answer = server.post(&good()).await;
    answer.assert_status("queued");
    assert!(!answer.closes());
}

#[tokio::test]
async fn a_request_without_delivery_headers_is_refused_before_its_body_is_read() {
    let server = Server::start(Settings::default()).await;
    let good = Post::new("msg_1", "{}");
    for (post, text) in [
        (good.clone().without("svix-signature"), "missing header svix-signature"),
        (good.clone().changed("svix-id", ""), "malformed message id"),
        (good.clone().changed("svix-timestamp", "now"), "malformed timestamp"),
    ] {
        // No byte of the body follows, so a server that waited for it would never answer. A client that sends
        // `expect: 100-continue` gets no 100.
        for framing in ["content-length: 1000", "content-length: 1000\r\nexpect: 100-continue"] {
            let mut client = server.client().await;
            let answer = client.ask(post.head(framing)).await;
            answer.assert_error(400, text);
            assert!(answer.closes());
            client.closed().await;
        }
    }
}

#[tokio::test]
async fn the_timestamp_tolerance_is_configurable() {
    let settings = Settings { tolerance: Duration::from_secs(600), ..Settings::default() };
    let server = Server::start(settings).await;
    let old = NOW.minus(Duration::from_secs(599));
    server.post(&Post::signed(SECRET, "msg_1", old, "{}")).await.assert_status("queued");
    assert!((server.metric("rollbook_clock_skew_seconds") + 599.25).abs() < 0.001);
}

#[tokio::test]
async fn deliveries_are_accepted_at_each_configured_path_and_at_no_other() {
    let webhook_paths = WebhookPaths::parse("/api/webhooks/clerk,/hooks").expect("two paths");
    let server = Server::start(Settings { webhook_paths, ..Settings::default() }).await;
    let request = |path: &str, id: &str| {
        let post = String::from_utf8(Post::signed(SECRET, id, NOW, "{}").bytes()).expect("plain text");
        post.replacen("/webhooks/clerk", path, 1)
    };
    for (path, id) in
        [("/api/webhooks/clerk", "msg_1"), ("/api/webhooks/clerk/", "msg_2"), ("/hooks?x=1", "msg_3")]
    {
        server.client().await.ask(request(path, id)).await.assert_status("queued");
    }
    let answer = server.client().await.ask(request("/webhooks/clerk", "msg_4")).await;
    answer.assert_error(404, "not found; deliveries are accepted at /api/webhooks/clerk, /hooks");
    assert!((server.metric("rollbook_refusals_total{reason=\"path\"}") - 1.0).abs() < 0.1);
}

#[tokio::test]
async fn an_unknown_path_is_404_and_a_wrong_method_405_and_both_close_and_are_counted() {
    let server = Server::start(Settings::default()).await;
    for path in ["/", "/webhooks", "/webhooks/clerk//", "/WEBHOOKS/clerk", "/metrics", "*"] {
        let mut client = server.client().await;
        let answer = client.ask(format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n")).await;
        answer.assert_error(404, "not found; deliveries are accepted at /webhooks/clerk");
        assert!(answer.closes());
        client.closed().await;
    }
    assert!((server.metric("rollbook_requests_refused_total{status=\"404\"}") - 6.0).abs() < 0.5);
    for (method, path, allowed) in [
        ("GET", "/webhooks/clerk", "post"),
        ("PUT", "/webhooks/clerk?query=1", "post"),
        ("POST", "/healthz", "get, head"),
    ] {
        let mut client = server.client().await;
        let answer = client.ask(format!("{method} {path} HTTP/1.1\r\nhost: here\r\n\r\n")).await;
        answer.assert_error(405, "method not allowed");
        assert_eq!(answer.header("allow"), Some(allowed));
        assert!(answer.closes());
        client.closed().await;
    }
    assert!((server.metric("rollbook_requests_refused_total{status=\"405\"}") - 3.0).abs() < 0.5);
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_the_body_and_closes_the_connection() {
    let server = Server::start(Settings::default()).await;
    for (line, status) in
        [("POST / HTTP/1.1", 404), ("PUT /webhooks/clerk HTTP/1.1", 405), ("GET /healthz HTTP/1.1", 200)]
    {
        let mut client = server.client().await;
        let answer = client.ask(format!("{line}\r\nhost: here\r\ncontent-length: 10\r\n\r\n")).await;
        assert_eq!(answer.status, status);
        assert!(answer.closes());
        client.closed().await;
    }
}

#[tokio::test]
async fn health_is_ok_while_serving_for_get_and_head_and_closes_the_connection() {
    let server = Server::start(Settings::default()).await;
    let mut client = server.client().await;
    let answer = client.ask("GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n").await;
    answer.assert_status("ok");
    assert!(answer.closes());
    client.closed().await;
    let mut client = server.client().await;
    client.send("HEAD /healthz HTTP/1.1\r\nhost: here\r\n\r\n").await;
    // The announced length belongs to a body that does not follow: the connection closes first.
    assert_eq!(client.try_answer().await, None);
}

#[tokio::test]
async fn a_body_at_the_limit_passes_and_one_byte_more_is_413() {
    let server = Server::start(Settings { body_max: 100_000, ..Settings::default() }).await;
    let (fits, too_long) = (vec![b' '; 100_000], vec![b' '; 100_001]);
    server.post(&Post::new("msg_1", fits.clone())).await.assert_status("queued");
    let mut client = server.client().await;
    client.ask(Post::new("msg_2", fits).chunked(7000)).await.assert_status("queued");

    // Announced length: refused before any byte of it is sent.
    let mut client = server.client().await;
    let answer = client.ask(Post::new("msg_3", "").head("content-length: 100001")).await;
    answer.assert_error(413, "body too large");
    assert!(answer.closes());
    client.closed().await;

    // The client sends it anyway, and more than fits into the buffers: the connection must not be reset,
    // which would cost many clients the response.
    let mut flood = Post::new("msg_3", "");
    flood.body = vec![b' '; 30_000_000];
    server.post(&flood).await.assert_error(413, "body too large");
    let mut client = server.client().await;
    let answer = client.ask(Post::new("msg_4", too_long).chunked(7000)).await;
    answer.assert_error(413, "body too large");
    client.closed().await;
    assert_eq!(server.queue.ids(), ["msg_1", "msg_2"]);
    assert!((server.count("too_large") - 3.0).abs() < 0.5);
}

#[tokio::test]
async fn expect_100_continue_is_answered_100_unless_the_body_is_too_large() {
    let server = Server::start(Settings::default()).await;
    let post = Post::new("msg_1", "{}");
    let mut client = server.client().await;
    let interim = client.ask(post.head("content-length: 2\r\nexpect: 100-continue")).await;
    assert_eq!(interim.status, 100);
    client.ask(&post.body).await.assert_status("queued");

    let head = post.head("content-length: 9999999\r\nexpect: 100-continue");
    server.client().await.ask(head).await.assert_error(413, "body too large");
}

#[tokio::test]
async fn too_many_or_too_long_headers_are_431() {
    let server = Server::start(Settings::default()).await;
    let line = "GET /healthz HTTP/1.1\r\n";
    let many = format!("{line}{}\r\n", "a: b\r\n".repeat(101));
    let long = format!("{line}a: {}\r\n\r\n", "b".repeat(17_000));
    let endless = format!("{line}a: {}", "b".repeat(70_000));
    for head in [many, long, endless] {
        let mut client = server.client().await;
        assert_eq!(client.ask(head).await.status, 431);
        client.closed().await;
    }
    assert!((server.metric("rollbook_requests_refused_total{status=\"431\"}") - 3.0).abs() < 0.5);
}

#[tokio::test]
async fn invalid_http_and_conflicting_body_framing_are_refused() {
    let server = Server::start(Settings::default()).await;
    let post = Post::new("msg_1", "{}");
    for bytes in [
        b"NOT HTTP\r\n\r\n".to_vec(),
        post.head("content-length: 2\r\ncontent-length: 3"),
        post.head("content-length: -1"),
        post.head("transfer-encoding: gzip"),
    ] {
        let mut client = server.client().await;
        let answer = client.ask(&bytes).await;
        assert_eq!(answer.status, 400, "{}", String::from_utf8_lossy(&bytes));
        client.closed().await;
    }
    assert!((server.metric("rollbook_requests_refused_total{status=\"400\"}") - 4.0).abs() < 0.5);
    let mut client = server.client().await;
    let answer = client.ask([&post.head("transfer-encoding: chunked")[..], b"zz\r\n"].concat()).await;
    answer.assert_error(400, "body not whole");
    assert!(server.queue.batches().is_empty());
}

#[tokio::test]
async fn conflicting_framing_can_not_smuggle_a_second_request() {
    let server = Server::start(Settings::default()).await;
    // By `content-length` the body extends to the end; by its chunks a second request follows.
    let post = Post::new("msg_1", "{}");
    let smuggled = Post::new("msg_2", "{}").bytes();
    for order in [
        "content-length: 900\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 900",
    ] {
        let bytes = [&post.head(order)[..], b"2\r\n{}\r\n0\r\n\r\n", &smuggled].concat();
        let mut client = server.client().await;
        let answer = client.ask(bytes).await;
        assert!(answer.closes());
        client.closed().await;
    }
    assert_eq!(server.queue.ids(), ["msg_1", "msg_1"]);
}

#[tokio::test]
async fn every_series_exists_at_zero_from_the_start() {
    let server = Server::start(Settings::default()).await;
    let outcomes = [
        "queued",
        "duplicate",
        "too_large",
        "too_slow",
        "torn",
        "queue_full",
        "queue_no_room",
        "queue_unavailable",
        "overloaded",
        "bad_headers",
        "bad_id",
        "bad_timestamp",
        "bad_signature",
        "timestamp_too_old",
        "timestamp_too_new",
    ];
    let series = [
        "rollbook_ack_seconds_count",
        "rollbook_ack_seconds_bucket{le=\"15\"}",
        "rollbook_enqueue_seconds_count",
        "rollbook_batch_size_count{stage=\"enqueue\"}",
        "rollbook_last_delivery_timestamp_seconds",
    ];
    let others = [
        "rollbook_requests_refused_total{status=\"400\"}",
        "rollbook_requests_refused_total{status=\"431\"}",
        "rollbook_connections{state=\"new\"}",
        "rollbook_connections{state=\"reading\"}",
        "rollbook_connections{state=\"answering\"}",
        "rollbook_connections{state=\"idle\"}",
        "rollbook_connections{state=\"closing\"}",
        "rollbook_connections_closed_total{reason=\"full\"}",
        "rollbook_connections_closed_total{reason=\"header_timeout\"}",
        "rollbook_connections_closed_total{reason=\"idle_timeout\"}",
        "rollbook_connections_closed_total{reason=\"age\"}",
    ];
    let zero = |value: f64| value.abs() < f64::EPSILON;
    assert!(outcomes.iter().all(|outcome| zero(server.count(outcome))));
    assert!(series.iter().chain(&others).all(|series| zero(server.metric(series))));
    assert!(zero(server.metric("rollbook_connections_limit") - 4096.0));
    assert_eq!(server.metrics().matches("rollbook_deliveries_total{").count(), outcomes.len());
    assert!(REASONS.iter().all(|reason| zero(server.refusals(reason))));
    assert_eq!(server.metrics().matches("rollbook_refusals_total{").count(), REASONS.len());
    assert!(!server.metrics().contains("rollbook_clock_skew_seconds"), "not measured before a delivery");

    server.deliver("msg_1").await.assert_status("queued");
    let values = series.map(|series| server.metric(series));
    let seconds = 1_785_312_000.25;
    let expected = [1.0, 1.0, 1.0, 1.0, seconds, -0.25];
    assert!(values.iter().zip(expected).all(|(value, expected)| zero(value - expected)), "{values:?}");
}
