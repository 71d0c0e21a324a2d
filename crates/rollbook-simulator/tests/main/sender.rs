//! The sender against servers that answer, refuse, close the connection or never answer.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rollbook_core::delivery::MessageId;
use rollbook_core::signature::{SignedHeaders, SigningSecrets, verify};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_http::client::{ANSWER_MAX, Connection, RequestError};
use rollbook_simulator::history::Event;
use rollbook_simulator::sender::{DeliverSettings, Endpoint, Progress, Report, deliver, post};

use crate::server::{Reaction, Seen, Server, queued};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const LONG: Duration = Duration::from_secs(10);

fn secrets() -> SigningSecrets {
    SigningSecrets::parse(SECRET).expect("a secret")
}

fn events(number: usize) -> Vec<Event> {
    let at = Timestamp::from_millis(1_785_312_000_000);
    let event = |index| Event {
        id: MessageId::new(format!("msg_{index}")),
        event_type: "user.created".into(),
        at,
        body: format!(r#"{{"number":{index}}}"#).into(),
    };
    (0..number).map(event).collect()
}

/// A clock that advances by one minute with every reading.
struct Minutes(AtomicI64);

impl Clock for Minutes {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(self.0.fetch_add(60, Ordering::Relaxed))
    }
}

fn endpoint(server: &Server) -> Endpoint {
    Endpoint { address: server.address, path: "/webhooks/clerk".into(), secret: secrets().first().clone() }
}

fn settings(connections: usize) -> DeliverSettings {
    DeliverSettings {
        connections,
        request_timeout: LONG,
        backoff: Duration::from_millis(1),
        backoff_max: Duration::from_millis(4),
        give_up_after: LONG,
        rate_per_second: None,
    }
}

async fn send(server: &Server, events: &[Event], order: &[usize], settings: &DeliverSettings) -> Report {
    let clock = Arc::new(Minutes(AtomicI64::new(1_785_312_000)));
    deliver(&endpoint(server), events, order, clock, settings, Arc::new(|_| {})).await
}

fn header<'a>(seen: &'a Seen, name: &str) -> &'a str {
    seen.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[tokio::test]
async fn a_delivery_has_the_headers_of_svix_and_a_signature_that_verifies() {
    let mut server = Server::start(|_, _| queued()).await;
    let now = Timestamp::from_millis(1_785_312_000_999);
    let mut connection = Connection::connect(server.address, LONG).await.expect("a connection");
    let answer =
        post(&mut connection, "/hook", &events(1)[0], secrets().first(), now).await.expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"status":"queued"}"#));

    let seen = server.seen().pop().expect("a request");
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/hook"));
    assert_eq!(header(&seen, "host"), server.address.to_string());
    assert_eq!(header(&seen, "content-type"), "application/json");
    assert!(header(&seen, "user-agent").starts_with("Svix-Webhooks/"));
    assert_eq!((header(&seen, "svix-id"), header(&seen, "svix-timestamp")), ("msg_0", "1785312000"));
    let headers = seen.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let signed = SignedHeaders::read(headers).expect("whole headers");
    verify(&secrets(), &signed, &seen.body, now, Duration::ZERO).expect("a genuine delivery");
}

#[tokio::test]
async fn without_failures_every_delivery_of_the_order_is_made_once() {
    let answer_by_id = Mutex::new(BTreeSet::new());
    let mut server = Server::start(move |_, seen| {
        let fresh = answer_by_id.lock().expect("no panic").insert(header(seen, "svix-id").to_owned());
        let status = if fresh { "queued" } else { "duplicate" };
        Reaction::Answer(200, format!(r#"{{"status":"{status}"}}"#))
    })
    .await;
    let order: Vec<usize> = (0..50).chain(10..20).rev().collect();
    let counted = Arc::new(Mutex::new(BTreeSet::new()));
    let progress: Progress = {
        let counted = counted.clone();
        Arc::new(move |acknowledged| {
            counted.lock().expect("no panic").insert(acknowledged);
        })
    };
    let clock = Arc::new(Minutes(AtomicI64::new(0)));
    let report = deliver(&endpoint(&server), &events(50), &order, clock, &settings(4), progress).await;

    assert_eq!((report.attempts, report.queued, report.duplicates), (60, 50, 10));
    assert_eq!(report.acknowledged, order);
    assert!(report.refused.is_empty() && report.unanswered.is_empty());
    assert_eq!(report.latencies.as_slice().len(), 60);
    assert_eq!(*counted.lock().expect("no panic"), (1..=60).collect());
    let connections: BTreeSet<usize> = server.seen().iter().map(|seen| seen.connection).collect();
    assert!(connections.len() <= 4, "{connections:?}");
}

#[tokio::test]
async fn a_refused_delivery_is_retried_with_its_id_and_a_new_signature() {
    let mut server =
        Server::start(|request, _| if request < 2 { Reaction::Answer(503, "full".into()) } else { queued() })
            .await;
    let report = send(&server, &events(1), &[0], &settings(1)).await;
    assert_eq!((report.attempts, report.acknowledged.as_slice()), (3, &[0][..]));

    let seen = server.seen();
    let all = |name: &str| seen.iter().map(|seen| header(seen, name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(all("svix-id").len(), 1);
    assert_eq!(all("svix-timestamp").len(), 3);
    assert_eq!(all("svix-signature").len(), 3);
    assert!(seen.iter().all(|seen| seen.connection == 0 && seen.body == events(1)[0].body));
}

#[tokio::test]
async fn a_connection_that_breaks_or_is_closed_is_reopened() {
    let mut server = Server::start(|request, _| match request {
        1 => Reaction::Hangup,
        3 => Reaction::AnswerAndClose(200, r#"{"status":"queued"}"#.into()),
        _ => queued(),
    })
    .await;
    let report = send(&server, &events(5), &[0, 1, 2, 3, 4], &settings(1)).await;
    assert_eq!(report.acknowledged, [0, 1, 2, 3, 4]);
    let mut requests: BTreeMap<String, usize> = BTreeMap::new();
    let seen = server.seen();
    for request in &seen {
        *requests.entry(header(request, "svix-id").to_owned()).or_default() += 1;
    }
    assert_eq!(requests["msg_1"], 2);
    assert!(seen.last().is_some_and(|seen| seen.connection >= 2));
}

#[tokio::test]
async fn an_attempt_that_times_out_is_retried_on_another_connection() {
    let mut server =
        Server::start(|request, _| if request == 0 { Reaction::Silence } else { queued() }).await;
    let settings = DeliverSettings { request_timeout: Duration::from_millis(200), ..settings(1) };
    let report = send(&server, &events(1), &[0], &settings).await;
    assert_eq!(report.acknowledged, [0]);
    let connections: Vec<usize> = server.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections[..2], [0, 1]);
}

#[tokio::test]
async fn a_delivery_is_given_up_after_its_time_and_the_others_continue() {
    let server = Server::start(|_, seen| match header(seen, "svix-id") {
        "msg_0" => Reaction::Answer(400, r#"{"error":"no signature matches"}"#.into()),
        "msg_1" => Reaction::Hangup,
        _ => queued(),
    })
    .await;
    let settings = DeliverSettings { give_up_after: Duration::from_millis(20), ..settings(1) };
    let report = send(&server, &events(3), &[0, 1, 2], &settings).await;
    assert_eq!(report.refused, [(0, 400)]);
    assert_eq!(report.unanswered, [1]);
    assert_eq!(report.acknowledged, [2]);
    assert!(report.last_error.is_some_and(|error| error.starts_with("the connection broke")));
}

#[tokio::test]
async fn a_rate_spaces_the_deliveries_out() {
    let server = Server::start(|_, _| queued()).await;
    let settings = DeliverSettings { rate_per_second: NonZeroU32::new(100), ..settings(2) };
    let report = send(&server, &events(11), &(0..11).collect::<Vec<_>>(), &settings).await;
    assert_eq!(report.acknowledged.len(), 11);
    assert!(report.elapsed >= Duration::from_millis(100), "{:?}", report.elapsed);
}

#[tokio::test]
async fn a_get_reads_its_answer_and_a_closed_port_is_an_error() {
    let mut server = Server::start(|_, _| Reaction::Answer(503, "queue: unreachable".into())).await;
    let mut connection = Connection::connect(server.address, LONG).await.expect("a connection");
    let answer = connection.get("/readyz").await.expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (503, "queue: unreachable"));
    assert!(!answer.is_success() && connection.is_open());
    assert_eq!(server.seen()[0].path, "/readyz");

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = listener.local_addr().expect("its address");
    drop(listener);
    assert!(matches!(Connection::connect(nobody, LONG).await, Err(RequestError::Connect(_, _))));
}

#[tokio::test]
async fn a_connection_is_not_open_after_a_failure() {
    let server = Server::start(|_, seen| match seen.path.as_str() {
        "/silence" => Reaction::Silence,
        "/hangup" => Reaction::Hangup,
        _ => Reaction::Answer(200, "x".repeat(ANSWER_MAX + 1)),
    })
    .await;
    for path in ["/silence", "/hangup", "/large"] {
        let timeout = if path == "/silence" { Duration::from_millis(50) } else { LONG };
        let mut connection = Connection::connect(server.address, timeout).await.expect("a connection");
        let error = connection.get(path).await.expect_err("no answer");
        let expected = match path {
            "/silence" => matches!(error, RequestError::Timeout(_)),
            "/hangup" => matches!(error, RequestError::Broken(_)),
            _ => matches!(error, RequestError::TooLarge),
        };
        assert!(expected, "{path}: {error}");
        assert!(!connection.is_open(), "{path}");
    }
}
