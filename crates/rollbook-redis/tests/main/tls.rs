//! TLS with certificates of a private authority.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rollbook_core::queue::{QueueAdmin as _, QueueError};
use rollbook_redis::{ClockSource, RedisQueue, RedisSettings};
use rollbook_testkit::servers::certificates::Certificates;
use rollbook_testkit::servers::free_port;
use rollbook_testkit::servers::redis::RedisServer;

use crate::support::{drain, enqueue, names, open, settings, try_enqueue};

async fn start_with_tls(certificates: &Certificates) -> (RedisServer, u16) {
    let port = free_port();
    let path = |name| certificates.path(name).display().to_string();
    let server = RedisServer::start_with(&[
        ("tls-port", &port.to_string()),
        ("tls-cert-file", &path("server.crt")),
        ("tls-key-file", &path("server.key")),
        ("tls-ca-cert-file", &path("ca.crt")),
        ("tls-auth-clients", "no"),
    ])
    .await;
    (server, port)
}

fn trusting(ca_file: Option<&Path>, port: u16) -> RedisSettings {
    RedisSettings { ca_file: ca_file.map(Path::to_owned), ..settings(format!("rediss://127.0.0.1:{port}/0")) }
}

async fn refusal(queue: &Arc<RedisQueue>) -> String {
    let refused = try_enqueue(queue, &names("msg", 0..1)).await;
    let Err(QueueError::Deployment(text)) = refused else { panic!("manual action needed: {refused:?}") };
    assert!(text.contains("Redis at 127.0.0.1:"), "{text}");
    text
}

#[tokio::test]
async fn a_server_with_a_private_certificate_is_trusted_with_its_authority_and_refused_without() {
    let certificates = Certificates::new();
    let (server, port) = start_with_tls(&certificates).await;
    let queue = open(trusting(Some(&certificates.path("ca.crt")), port));
    enqueue(&queue, &names("msg", 0..5)).await;
    assert_eq!(drain(&queue).await.len(), 5);
    assert_eq!(queue.durability().await.expect("the server answers").weaknesses, []);

    let text = refusal(&open(trusting(None, port))).await;
    assert!(text.contains("certificate") && text.contains("redis_ca_file"), "{text}");
    let other = Certificates::new();
    let text = refusal(&open(trusting(Some(&other.path("ca.crt")), port))).await;
    assert!(text.contains("certificate") && text.contains("redis_ca_file"), "{text}");
    drop(server);
}

#[tokio::test]
async fn tls_on_one_side_only_is_reported() {
    let certificates = Certificates::new();
    let (server, port) = start_with_tls(&certificates).await;
    let soon = Duration::from_secs(1);
    let plain =
        RedisSettings { call_timeout: soon, ..trusting(Some(&certificates.path("ca.crt")), server.port()) };
    let refused = try_enqueue(&open(plain), &names("msg", 0..1)).await;
    let Err(QueueError::Unavailable(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("no answer in time; does this port speak TLS?"), "{text}");
    let refused =
        try_enqueue(&open(settings(format!("redis://127.0.0.1:{port}/0"))), &names("msg", 0..1)).await;
    let Err(QueueError::Unavailable(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("that the address is right"), "{text}");
}

#[tokio::test]
async fn a_file_without_certificates_is_reported_by_name() {
    let certificates = Certificates::new();
    for (name, content) in [("missing", None), ("empty", Some("")), ("garbage", Some("no certificate"))] {
        let path = certificates.path(name);
        if let Some(content) = content {
            std::fs::write(&path, content).expect("a writable folder");
        }
        let refused = RedisQueue::new(trusting(Some(&path), 6379), ClockSource::Server).map(drop);
        let Err(QueueError::Deployment(text)) = refused else { panic!("{name}: {refused:?}") };
        assert!(text.contains(&path.display().to_string()), "{text}");
    }
}
