//! TLS with certificates of a private authority.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rollbook_core::protection::Protection;
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

fn bytes(fingerprint: &str) -> [u8; 32] {
    let byte = |pair: &str| u8::from_str_radix(pair, 16).expect("hexadecimal");
    fingerprint.split(':').map(byte).collect::<Vec<_>>().try_into().expect("a fingerprint")
}

fn pinning(fingerprints: &[&str], port: u16) -> RedisSettings {
    RedisSettings {
        fingerprints: fingerprints.iter().map(|text| bytes(text)).collect(),
        ..trusting(None, port)
    }
}

#[tokio::test]
async fn a_refused_certificate_is_described_with_the_reason_and_what_to_set() {
    for (certificates, ca_file, words) in [
        (
            Certificates::new(),
            None,
            &[
                "of CN=server",
                "issued by CN=ours",
                "no trusted authority signed it",
                "redis_ca_file",
                "redis_fingerprint",
            ][..],
        ),
        (
            Certificates::signed_by_itself(),
            None,
            &["of CN=alone", "issued by CN=alone", "self-signed", "redis_fingerprint"],
        ),
        // An authority's certificate that a server uses is not for servers, although the file names it.
        (
            Certificates::signed_by_itself(),
            Some("ca.crt"),
            &["of CN=alone", "self-signed", "redis_fingerprint"],
        ),
        (
            Certificates::named("DNS:db.example"),
            Some("ca.crt"),
            &[
                "of CN=server",
                "is not for 127.0.0.1",
                "db.example",
                "write a name of the certificate in the URL",
            ],
        ),
    ] {
        let (_server, port) = start_with_tls(&certificates).await;
        let ca_file = ca_file.map(|name| certificates.path(name));
        let text = refusal(&open(trusting(ca_file.as_deref(), port))).await;
        println!("{text}");
        let fingerprint = certificates.fingerprint();
        for word in
            words.iter().chain(&["the server's certificate is not trusted", "valid from 20", &fingerprint])
        {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}

#[tokio::test]
async fn a_pinned_certificate_is_trusted_whatever_its_issuer_and_name_and_no_other_is() {
    for certificates in
        [Certificates::new(), Certificates::signed_by_itself(), Certificates::named("DNS:db.example")]
    {
        let (_server, port) = start_with_tls(&certificates).await;
        let fingerprint = certificates.fingerprint();
        let queue = open(pinning(&[&fingerprint], port));
        enqueue(&queue, &names("msg", 0..5)).await;
        assert_eq!(drain(&queue).await.len(), 5);
        let other = Certificates::new().fingerprint();
        enqueue(&open(pinning(&[&other, &fingerprint], port)), &names("msg", 0..1)).await;
        let text = refusal(&open(pinning(&[&other], port))).await;
        assert!(
            text.contains("redis_fingerprint names another one") && text.contains(&fingerprint),
            "{text}"
        );
    }
}

#[test]
fn a_fingerprint_with_sentinels_is_refused_with_what_to_set_instead() {
    let pinned = RedisSettings {
        url: "rediss+sentinel://127.0.0.1/main".to_owned(),
        ..pinning(&[&["0F"; 32].join(":")], 1)
    };
    let refused = RedisQueue::new(pinned, ClockSource::Server).map(drop);
    let Err(QueueError::Deployment(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("redis_ca_file"), "{text}");
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

#[tokio::test]
async fn the_protection_is_known_after_a_handshake_that_succeeded_and_names_a_pinned_certificate() {
    let certificates = Certificates::new();
    let (_server, port) = start_with_tls(&certificates).await;
    let refused = open(trusting(Some(&Certificates::new().path("ca.crt")), port));
    refusal(&refused).await;
    assert_eq!(refused.protection(), None);
    let ca_file = certificates.path("ca.crt");
    for (settings, protection) in [
        (trusting(Some(&ca_file), port), Protection::Verified),
        (pinning(&[&certificates.fingerprint()], port), Protection::Pinned),
    ] {
        let queue = open(settings);
        assert_eq!(queue.protection(), None, "before the first connection");
        enqueue(&queue, &names(&format!("{protection:?}"), 0..1)).await;
        assert_eq!(queue.protection(), Some(protection));
    }
}

#[tokio::test]
async fn clear_text_to_a_port_of_tls_names_the_scheme_for_tls() {
    let (_server, port) = start_with_tls(&Certificates::new()).await;
    let mut settings = trusting(None, port);
    settings.url = settings.url.replacen("rediss://", "redis://", 1);
    let error = open(settings).stats().await.expect_err("a port of TLS");
    assert!(error.to_string().contains("write rediss:// in the URL"), "{error}");
}
