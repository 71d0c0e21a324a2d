//! Requests over real HTTP.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use rollbook_core::signature::SigningSecrets;
use rollbook_core::store::{Changes as _, Forwards as _};
use rollbook_forwarder::{Endpoint, ForwardSettings, ForwardUrl, Forwarder, HttpEndpoint};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::hooks::{HookAnswer, HookRequest, HookServer};
use rollbook_testkit::process::until;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::stage::{NAME, ROW_BYTES_MAX, Stage, settings};

/// Sends one change to a server, until the server has received so many requests and the forward shows a state.
async fn send(server: &HookServer, secrets: &str, requests: usize, is_over: fn(u64, u64, bool) -> bool) {
    let stage = Stage::accepting();
    let clock = Arc::new(WallClock);
    let url = ForwardUrl::parse(&server.url("/hooks?team=1")).expect("a URL");
    let endpoint: Arc<dyn Endpoint> = Arc::new(HttpEndpoint::new(url, clock.clone()));
    let mut settings = ForwardSettings {
        secrets: SigningSecrets::parse(secrets).expect("secrets").into(),
        timeout: Duration::from_millis(500),
        ..settings()
    };
    (settings.retry.backoff, settings.retry.backoff_max) =
        (Duration::from_millis(20), Duration::from_millis(40));
    let ports = rollbook_forwarder::Ports { clock, ..stage.ports() };
    let forwarder =
        Forwarder::new(ports, vec![(settings, endpoint)], ROW_BYTES_MAX, &Registry::new()).expect("metrics");
    let (mut running, stop) = (JoinSet::new(), CancellationToken::new());
    running.spawn(forwarder.run(stop.clone()));
    until("it has begun", || async { stage.find().await.is_some() }).await;
    stage.write(&["user_1"]).await;
    assert_eq!(stage.store.feed().await.expect("a feed").last, 1);
    until("the forward is as it should be", || async {
        let forward = stage.forward().await;
        let is_stopped = forward.stopped.is_some();
        server.received().len() >= requests && is_over(forward.position, forward.waiting, is_stopped)
    })
    .await;
    stop.cancel();
    running.join_next().await.expect("a task").expect("it ends in order");
    drop(stage.store.forward_changes(NAME, rollbook_core::store::ForwardState::Waiting, 0, 9).await);
}

/// Sends one change to a server that accepts it, and returns the request.
pub(crate) async fn receive_one(server: &HookServer, secrets: &str) -> HookRequest {
    send(server, secrets, 1, |position, waiting, _| position == 1 && waiting == 0).await;
    server.received().remove(0)
}

fn server(answer: impl Fn(usize) -> HookAnswer + Send + Sync + 'static) -> HookServer {
    let count = std::sync::atomic::AtomicUsize::new(0);
    HookServer::start(move |_| answer(count.fetch_add(1, std::sync::atomic::Ordering::Relaxed)))
}

#[tokio::test]
async fn a_request_is_a_post_of_json_to_the_whole_url() {
    let server = server(|_| HookAnswer::Status(204, Vec::new()));
    let request = receive_one(&server, crate::stage::SECRET).await;
    assert_eq!(request.line, "POST /hooks?team=1 HTTP/1.1");
    assert!(request.header("user-agent").is_some_and(|agent| agent.starts_with("rollbook/")));
    let body: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
    assert_eq!((&body["subject_id"], &body["position"]), (&"user_1".into(), &1.into()));
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_the_change_is_tried_again_with_its_id() {
    let other = server(|_| HookAnswer::Status(200, Vec::new()));
    let location = format!("location: {}", other.url("/stolen"));
    let server = server(move |count| match count {
        0 => HookAnswer::Status(302, vec![location.clone()]),
        1 => HookAnswer::Status(308, vec![location.clone()]),
        _ => HookAnswer::Status(200, Vec::new()),
    });
    send(&server, crate::stage::SECRET, 3, |position, waiting, _| position == 1 && waiting == 0).await;
    let received = server.received();
    assert!(received.iter().all(|request| request.header("webhook-id") == Some("chg_1")));
    assert_eq!((received.len(), other.received().len()), (3, 0));
}

#[tokio::test]
async fn errors_and_broken_connections_are_tried_again() {
    let server = server(|count| match count {
        0 => HookAnswer::Status(500, Vec::new()),
        1 => HookAnswer::Close,
        2 => HookAnswer::Status(404, Vec::new()),
        _ => HookAnswer::Status(200, Vec::new()),
    });
    send(&server, crate::stage::SECRET, 4, |position, waiting, _| position == 1 && waiting == 0).await;
}

#[tokio::test]
async fn an_answer_410_stops_the_forward() {
    let server = server(|_| HookAnswer::Status(410, Vec::new()));
    send(&server, crate::stage::SECRET, 1, |position, _, is_stopped| position == 0 && is_stopped).await;
    assert_eq!(server.received().len(), 1);
}

#[tokio::test]
async fn the_status_decides_however_long_the_body_takes() {
    let server = server(|_| HookAnswer::Endless(200));
    send(&server, crate::stage::SECRET, 1, |position, waiting, _| position == 1 && waiting == 0).await;
    assert_eq!(server.received().len(), 1, "the body does not make it fail");
}

#[tokio::test]
async fn an_endpoint_that_closes_each_connection_after_its_answer_is_not_unreachable() {
    let server = HookServer::start(|_| HookAnswer::LastStatus(200));
    let clock = Arc::new(WallClock);
    let url = ForwardUrl::parse(&server.url("/")).expect("a URL");
    let endpoint = HttpEndpoint::new(url, clock);
    for number in 0..200 {
        let push = rollbook_forwarder::Push {
            id: format!("chg_{number}"),
            timestamp: "1785312000".to_owned(),
            signature: "v1,none".to_owned(),
            body: "{}".into(),
        };
        let verdict = endpoint.send(push, Duration::from_secs(10)).await;
        assert_eq!(verdict, rollbook_forwarder::Verdict::Accepted, "{number}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_answer_is_replaced_and_the_request_repeated_once() {
    let breaking =
        server(|count| if count == 0 { HookAnswer::Close } else { HookAnswer::Status(200, Vec::new()) });
    send(&breaking, crate::stage::SECRET, 2, |position, waiting, _| position == 1 && waiting == 0).await;
    let ids: Vec<_> =
        breaking.received().iter().map(|of| of.header("webhook-id").map(str::to_owned)).collect();
    assert_eq!(ids, [Some("chg_1".to_owned()), Some("chg_1".to_owned())]);
}
