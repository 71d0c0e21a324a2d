//! `ops_listen = same`: one port for deliveries, health and metrics.

use std::time::Duration;

use rollbook_http::client::{Answer, Connection};
use rollbook_testkit::process::{Home, until};

const BINARY: &str = env!("CARGO_BIN_EXE_rollbook");
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const PAGES_FOR_TOKENS: [&str; 2] = ["/metrics", "/about"];

/// A home of a hosting platform: it sets `PORT` and lets clients reach no other.
fn on_a_platform() -> Home {
    let mut home = Home::new(BINARY);
    home.ops = home.listen;
    let port = home.listen.port().to_string();
    home.without("ROLLBOOK_LISTEN")
        .with("PORT", port)
        .with("ROLLBOOK_OPS_LISTEN", "same")
        .with("ROLLBOOK_OPS_TOKENS", format!("{TOKEN},fedcba9876543210fedcba9876543210"))
}

async fn get(home: &Home, path: &str, token: Option<&str>) -> Answer {
    let connection = Connection::connect(home.listen, Duration::from_secs(5)).await.expect("it accepts");
    let mut connection = match token {
        Some(token) => connection.with_bearer(token).expect("a header"),
        None => connection,
    };
    connection.get(path).await.expect("it answers")
}

fn ran(home: &Home, arguments: &[&str]) -> (Option<i32>, String) {
    let ran = home.command(arguments).output().expect("the binary starts");
    let text = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    (ran.status.code(), text)
}

/// Asserts what strangers and clients with a token get.
async fn assert_guarded(home: &Home, parts: &[&str]) {
    for path in ["/livez", "/readyz"] {
        let brief = get(home, path, None).await;
        assert_eq!((brief.status, &*brief.body), (200, "{\"status\":\"ok\"}\n"), "{path}");
        let whole = get(home, path, Some(TOKEN)).await;
        assert!(whole.status == 200 && whole.body.contains("\"parts\""), "{path}: {}", whole.body);
    }
    let ready = get(home, "/readyz", Some("fedcba9876543210fedcba9876543210")).await.body;
    assert!(parts.iter().all(|part| ready.contains(part)), "{ready}");
    for path in PAGES_FOR_TOKENS {
        for token in [None, Some("0123456789abcdef0123456789abcdeF"), Some("x")] {
            let refused = get(home, path, token).await;
            assert_eq!((refused.status, &*refused.body), (401, "a token is required\n"), "{path} {token:?}");
        }
        assert_eq!(get(home, path, Some(TOKEN)).await.status, 200, "{path}");
    }
    assert_eq!(get(home, "/healthz", None).await.status, 200);
    assert_eq!(get(home, "/metrics/", Some(TOKEN)).await.status, 404);
}

#[tokio::test]
async fn serve_answers_deliveries_and_health_at_port_and_metrics_only_with_a_token() {
    let home = on_a_platform();
    let _serving = home.start_ready(&["serve"]).await;
    assert_guarded(&home, &["\"queue\":\"ok\"", "\"store\":\"ok\""]).await;
    let url = format!("http://{}/webhooks/clerk", home.listen);
    let (code, text) = ran(&home, &["send", "user.created", "--url", &url]);
    assert_eq!(code, Some(0), "{text}");
    until("the metrics count the delivery", || async {
        get(&home, "/metrics", Some(TOKEN))
            .await
            .body
            .contains("rollbook_deliveries_total{outcome=\"queued\"} 1\n")
    })
    .await;
    let log = home.log();
    assert!(!log.contains(TOKEN) && !ran(&home, &["config"]).1.contains(TOKEN), "{log}");
}

#[tokio::test]
async fn healthcheck_doctor_and_top_present_the_token_and_doctor_names_a_wrong_one() {
    let home = on_a_platform();
    let _serving = home.start_ready(&["serve"]).await;
    let (code, text) = ran(&home, &["healthcheck", "--probe", "readyz"]);
    assert!(code == Some(0) && text.contains("\"parts\""), "{text}");
    let (_, report) = ran(&home, &["doctor"]);
    assert!(report.contains("rollbook serve") && report.contains("runs and is ready: queue"), "{report}");
    let (code, screen) = ran(&home, &["top", "--once", "--every", "200ms"]);
    assert!(code == Some(0) && !screen.contains("token"), "{screen}");
    let other = home.with("ROLLBOOK_OPS_TOKENS", "another-token-of-32-characters-at-least");
    let (_, report) = ran(&other, &["doctor"]);
    assert!(report.contains("asks for another token than ops_tokens here"), "{report}");
}

#[tokio::test]
async fn receive_and_work_have_one_port_each_and_guard_it() {
    for (command, parts) in [("receive", &["\"queue\":\"ok\""][..]), ("work", &["\"store\":\"ok\""][..])] {
        let home = on_a_platform();
        home.migrate();
        let _running = home.start_ready(&[command]).await;
        assert_guarded(&home, parts).await;
    }
}

#[test]
fn same_is_refused_without_tokens_and_with_a_path_of_its_pages() {
    for (home, named) in [
        (on_a_platform().without("ROLLBOOK_OPS_TOKENS"), "is same without ops_tokens"),
        (on_a_platform().with("ROLLBOOK_WEBHOOK_PATH", "/metrics"), "a webhook_path is /livez"),
    ] {
        let (code, text) = ran(&home, &["serve"]);
        assert!(code == Some(2) && text.contains(named), "{code:?} {text}");
    }
}
