//! Encrypted connections to a real server: the server sees the encryption that the URL asks for.

use rollbook_core::protection::Protection;
use rollbook_core::store::{Store as _, StoreError};
use rollbook_postgres::{PostgresSettings, apply_migrations};
use rollbook_testkit::servers::certificates::Certificates;
use rollbook_testkit::servers::postgres::PostgresServer;

use crate::world::{SECRET, open, settings};

/// Counts Rollbook's sessions that the server reports as encrypted, and those that it reports as not.
const SEEN: &str = "SELECT count(*) FILTER (WHERE ssl), count(*) FILTER (WHERE NOT ssl)
                    FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'rollbook'";

fn with(server: &PostgresServer, query: &str) -> PostgresSettings {
    settings(format!("{}?{query}", server.url("postgres")))
}

async fn refusal(settings: &PostgresSettings) -> String {
    let Err(StoreError::Deployment(text)) = open(settings).ping().await else { panic!("it is refused") };
    assert!(text.contains("Postgres at 127.0.0.1:") && !text.contains("Password"), "{text}");
    text
}

#[tokio::test]
async fn each_sslmode_with_tls_makes_an_encrypted_session_and_reports_its_verification() {
    let certificates = Certificates::new();
    let server = PostgresServer::start_with_tls(&certificates).await;
    apply_migrations(&with(&server, "sslmode=disable")).await.expect("the migrations apply");
    let ca = certificates.path("ca.crt").display().to_string();
    let verify_full = format!("sslmode=verify-full&sslrootcert={ca}");
    let require_with_ca = format!("sslmode=require&sslrootcert={ca}");
    let strict = format!("sslmode=require&sslaccept=strict&sslrootcert={ca}");
    for (query, protection) in [
        ("sslmode=disable", Protection::Loopback),
        ("ssl=false", Protection::Loopback),
        ("", Protection::Unverified),
        ("sslmode=prefer", Protection::Unverified),
        ("sslmode=allow", Protection::Unverified),
        ("sslmode=require", Protection::Unverified),
        ("sslmode=no-verify", Protection::Unverified),
        ("ssl=true", Protection::Unverified),
        ("requiressl=1", Protection::Unverified),
        ("pgbouncer=true&tls=true", Protection::Unverified),
        (&require_with_ca, Protection::VerifiedIssuer),
        (&verify_full, Protection::Verified),
        (&strict, Protection::Verified),
    ] {
        let store = open(&with(&server, query));
        assert_eq!(store.protection(), None, "{query}: nobody has asked yet");
        assert_eq!(store.ping().await, Ok(()), "{query}");
        assert_eq!(store.protection(), Some(protection), "{query}");
        let expected = if protection == Protection::Loopback { "0|1\n" } else { "1|0\n" };
        assert_eq!(server.psql("postgres", SEEN).await, expected, "{query}");
        drop(store);
        rollbook_testkit::process::until("its session has ended", || async {
            server.psql("postgres", SEEN).await == "0|0\n"
        })
        .await;
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_or_for_another_name_is_refused() {
    let certificates = Certificates::named("DNS:db.example");
    let server = PostgresServer::start_with_tls(&certificates).await;
    let other = Certificates::new();
    let (ours, theirs) = (certificates.path("ca.crt"), other.path("ca.crt"));
    for query in [
        "sslmode=verify-full".to_owned(),
        "sslrootcert=system".to_owned(),
        format!("sslmode=verify-full&sslrootcert={}", ours.display()),
        format!("sslmode=verify-ca&sslrootcert={}", theirs.display()),
        format!("sslmode=require&sslrootcert={}", theirs.display()),
    ] {
        let text = refusal(&with(&server, &query)).await;
        assert!(text.contains("no TLS") && text.contains("certificate"), "{query}: {text}");
    }
    let store = open(&with(&server, &format!("sslmode=verify-ca&sslrootcert={}", ours.display())));
    drop(store.ping().await);
    assert_eq!(store.protection(), Some(Protection::VerifiedIssuer), "its name is not looked at");
}

#[tokio::test]
async fn a_server_without_tls_gets_no_password_of_a_url_that_asks_for_it_and_the_error_says_what_to_write() {
    let server = PostgresServer::start_with(&[("fsync", "off"), ("log_connections", "on")]).await;
    for query in [
        "ssl=true",
        "ssl=1",
        "tls=true",
        "sslrequire=true",
        "requiressl=1",
        "sslmode=require",
        "sslmode=no-verify",
        "sslmode=verify-full",
        "sslmode=prefer&ssl=true",
        "uselibpqcompat=true&sslmode=require",
    ] {
        let text = refusal(&with(&server, query)).await;
        assert!(text.contains("sslmode=disable") && text.contains("ssl = on"), "{query}: {text}");
        assert!(!text.contains(SECRET), "{text}");
    }
    assert!(!server.log().contains("application_name=rollbook"), "nobody logged in: {}", server.log());
    let plain = open(&with(&server, "sslmode=prefer"));
    drop(plain.ping().await);
    assert_eq!(plain.protection(), Some(Protection::Loopback));
}

#[tokio::test]
async fn options_that_the_server_does_not_know_are_named() {
    let server = PostgresServer::start_with(&[("fsync", "off")]).await;
    for options in ["endpoint%3Dep-cool-1", "-c%20no_such%3D1"] {
        let text = refusal(&with(&server, &format!("options={options}"))).await;
        assert!(text.contains("options in the URL"), "{options}: {text}");
    }
}
