//! Genuine deliveries damaged in transit: each refusal is counted by its reason.

use std::time::Duration;

use rollbook_receiver::Settings;

use crate::client::{NOW, Post, SECRET};
use crate::server::Server;

pub(crate) const REASONS: [&str; 12] = [
    "signature",
    "timestamp",
    "missing_headers",
    "mixed_headers",
    "malformed_headers",
    "path",
    "unreadable",
    "head_too_large",
    "body_too_large",
    "body_too_slow",
    "body_torn",
    "method",
];

/// Counted reasons with their numbers.
fn counted(server: &Server) -> Vec<(&'static str, f64)> {
    let all = REASONS.into_iter().map(|reason| (reason, server.refusals(reason)));
    all.filter(|(_, count)| *count > 0.5).collect()
}

fn to(path: &str, post: &Post) -> Vec<u8> {
    String::from_utf8(post.bytes()).unwrap().replacen("/webhooks/clerk", path, 1).into_bytes()
}

#[tokio::test]
async fn a_path_with_a_trailing_slash_is_the_same_path() {
    let server = Server::start(Settings::default()).await;
    for (number, path) in ["/webhooks/clerk/", "/webhooks/clerk/?x=1"].into_iter().enumerate() {
        let bytes = to(path, &Post::new(&format!("msg_{number}"), "{}"));
        server.client().await.ask(bytes).await.assert_status("queued");
    }
    let answer = server.client().await.ask("GET /webhooks/clerk/ HTTP/1.1\r\nhost: here\r\n\r\n").await;
    answer.assert_error(405, "method not allowed");
    assert_eq!(counted(&server), [("method", 1.0)]);
}

#[tokio::test]
async fn every_way_in_which_a_proxy_damages_a_delivery_is_counted_by_its_reason() {
    let post = Post::new("msg_1", "{}");
    let with = |name: &str, value: &str| post.clone().with(name, value).bytes();
    let crowded = (0..101).fold(post.clone(), |post, number| post.with(&format!("x-{number}"), "y"));
    let stripped = post.clone().without("svix-id").without("svix-timestamp").without("svix-signature");
    let old = NOW.minus(Duration::from_secs(301));
    for (bytes, status, reason) in [
        (to("//webhooks/clerk", &post), 404, "path"),
        (to("/api/webhooks/clerk", &post), 404, "path"),
        (stripped.bytes(), 400, "missing_headers"),
        (post.clone().without("svix-signature").bytes(), 400, "missing_headers"),
        (with("webhook-id", "mine"), 400, "mixed_headers"),
        (with("svix-id", "msg_1"), 400, "malformed_headers"),
        (post.clone().changed("svix-timestamp", "now").bytes(), 400, "malformed_headers"),
        (with("x-trace", &"x".repeat(17_000)), 431, "head_too_large"),
        (crowded.bytes(), 431, "head_too_large"),
        (b"\x16\x03\x01 hello, TLS\r\n\r\n".to_vec(), 400, "unreadable"),
        (Post::new("msg_1", vec![b' '; 1001]).bytes(), 413, "body_too_large"),
        (Post::signed(SECRET, "msg_1", old, "{}").bytes(), 400, "timestamp"),
        (post.clone().changed("svix-id", "msg_2").bytes(), 400, "signature"),
    ] {
        let server = Server::start(Settings { body_max: 1000, ..Settings::default() }).await;
        assert_eq!(server.client().await.ask(bytes).await.status, status, "{reason}");
        assert_eq!(counted(&server), [(reason, 1.0)]);
    }
}

#[tokio::test]
async fn a_body_that_arrives_too_slowly_is_counted() {
    let settings = Settings { body_timeout: Duration::from_millis(50), ..Settings::default() };
    let server = Server::start(settings).await;
    let head = Post::new("msg_1", "").head("content-length: 10");
    assert_eq!(server.client().await.ask(head).await.status, 408);
    assert_eq!(counted(&server), [("body_too_slow", 1.0)]);
}

#[tokio::test]
async fn a_method_other_than_post_at_the_path_of_deliveries_is_counted() {
    let server = Server::start(Settings::default()).await;
    for (number, method) in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "FROBNICATE"].into_iter().enumerate()
    {
        let request = format!("{method} /webhooks/clerk HTTP/1.1\r\nhost: here\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(server.client().await.ask(request).await.status, 405, "{method}");
        assert!(
            (server.refusals("method") - f64::from(u8::try_from(number + 1).unwrap())).abs() < 0.1,
            "{method}"
        );
    }
    assert_eq!(counted(&server), [("method", 6.0)]);
}

#[tokio::test]
async fn a_body_with_torn_or_invalid_framing_is_counted() {
    let chunked = Post::new("msg_1", "").head("transfer-encoding: chunked");
    for chunks in ["xyz\r\n", "5\r\nabcdeX\r\n", "ffffffffffffffffff\r\n"] {
        let server = Server::start(Settings::default()).await;
        let mut bytes = chunked.clone();
        bytes.extend(chunks.as_bytes());
        assert_eq!(server.client().await.ask(bytes).await.status, 400, "{chunks:?}");
        assert_eq!(counted(&server), [("body_torn", 1.0)], "{chunks:?}");
    }
    for line in
        ["content-length: x", "content-length: 5\r\ncontent-length: 6", "transfer-encoding: frobnicate"]
    {
        let server = Server::start(Settings::default()).await;
        assert_eq!(server.client().await.ask(Post::new("msg_1", "").head(line)).await.status, 400, "{line}");
        assert_eq!(counted(&server), [("unreadable", 1.0)], "{line}");
    }
}

#[tokio::test]
async fn a_scanner_that_looks_for_pages_does_not_count_as_a_refused_delivery() {
    let server = Server::start(Settings::default()).await;
    for line in ["GET /wp-login.php", "POST /", "GET /healthz", "PUT /healthz"] {
        server
            .client()
            .await
            .ask(format!("{line} HTTP/1.1\r\nhost: here\r\ncontent-length: 0\r\n\r\n"))
            .await;
    }
    assert_eq!(counted(&server), []);
}

#[tokio::test]
async fn a_delivery_refused_for_its_timestamp_sets_the_clock_skew_and_a_forgery_does_not() {
    let server = Server::start(Settings::default()).await;
    let old = NOW.minus(Duration::from_secs(3600));
    let forged = Post::signed("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "msg_1", old, "{}");
    server.post(&forged).await.assert_error(400, "no signature matches");
    assert!(!server.metrics().contains("rollbook_clock_skew_seconds"));
    server.post(&Post::signed(SECRET, "msg_1", old, "{}")).await.assert_error(400, "timestamp too old");
    assert!((server.metric("rollbook_clock_skew_seconds") + 3600.25).abs() < 0.001);
    server.deliver("msg_2").await.assert_status("queued");
    assert!((server.metric("rollbook_clock_skew_seconds") + 0.25).abs() < 0.001, "the last one counts");
}
