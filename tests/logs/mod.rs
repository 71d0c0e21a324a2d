//! Log of the real binary: one line for each fact, with its fields, and no content of events.

mod personal;

use std::collections::BTreeSet;

use bytes::Bytes;
use rollbook_core::delivery::MessageId;
use rollbook_core::signature::SigningSecrets;
use rollbook_core::time::Clock as _;
use rollbook_http::client::Connection;
use rollbook_simulator::history::Event;
use rollbook_simulator::sender::{REQUEST_TIMEOUT, post};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::{Home, SECRET, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;
use serde_json::Value;

use crate::crashes::BINARY;
use crate::raw_http::{exchange, signed, status};

/// Texts of the fixtures that a log may contain, each with its reason.
const REVIEWED: [(&str, &str); 3] = [
    ("active", "types of events: subscription.active"),
    ("last", "names of columns with values that do not fit are named: last_name"),
    ("text", "hyper logs its headers: text/plain"),
];

/// Returns the bodies of every fixture, and every hostile one.
fn bodies() -> Vec<Bytes> {
    let fixtures = crate::fixtures::fixtures().into_iter().map(|(_, json)| Bytes::from(json));
    fixtures.chain(crate::hostile::bodies()).collect()
}

fn id(number: usize) -> String {
    format!("msg_log{number}")
}

/// Delivers all bodies and waits until each is settled.
async fn deliver(home: &Home, bodies: &[Bytes]) {
    let secrets = SigningSecrets::parse(SECRET).expect("a secret");
    let mut connection = Connection::connect(home.listen, REQUEST_TIMEOUT).await.expect("a connection");
    for (number, body) in bodies.iter().enumerate() {
        let now = WallClock.now();
        let id = MessageId::new(id(number));
        let event = Event { id, event_type: "any".to_owned(), at: now, body: body.clone() };
        let answer =
            post(&mut connection, "/webhooks/clerk", &event, secrets.first(), now).await.expect("an answer");
        assert!(answer.is_success(), "{answer:?}: {}", answer.body);
    }
    until("all are settled", || async { home.metric("rollbook_queue_depth").await == Some(0.0) }).await;
}

/// Delivers all bodies at the most detailed log level, and searches the log.
async fn nothing_personal_is_logged(home: Home, bodies: &[Bytes]) -> String {
    let home = home
        .with("ROLLBOOK_LOG", "trace")
        .with("ROLLBOOK_ATTEMPTS_MAX", "1")
        .with("ROLLBOOK_BODY_MAX", "8MiB");
    let mut rollbook = home.start_ready(&["serve", "--migrate"]).await;
    deliver(&home, bodies).await;
    rollbook.signal("TERM");
    assert!(rollbook.exit().await.success());
    let log = home.log();
    // Control: the search can find texts, since each delivery is in the log by its id.
    for number in 0..bodies.len() {
        assert!(log.contains(&id(number)), "{} is not in the log", id(number));
    }
    let texts = personal::texts(bodies.iter().map(|body| &**body));
    assert!(texts.len() > 100 && texts.contains("Ines"), "{} texts are looked for", texts.len());
    let reviewed: BTreeSet<&str> = REVIEWED.into_iter().map(|(text, _)| text).collect();
    let leaked: Vec<&String> =
        texts.iter().filter(|text| !reviewed.contains(&***text) && personal::is_in(&log, text)).collect();
    assert!(leaked.is_empty(), "the log holds {leaked:?}");
    assert!(!log.contains(SECRET.trim_start_matches("whsec_")), "the log holds the signing secret");
    log
}

#[tokio::test]
async fn nothing_of_any_fixture_is_logged_on_the_embedded_default_in_either_format() {
    for format in ["json", "pretty"] {
        let home = Home::new(BINARY).with("ROLLBOOK_LOG_FORMAT", format);
        let log = nothing_personal_is_logged(home, &bodies()).await;
        let are_json = log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok());
        assert_eq!(are_json, format == "json");
    }
}

/// Postgres quotes whole rows in the details of its errors: here it refuses every user.
#[tokio::test]
async fn nothing_of_any_fixture_is_logged_with_servers_and_refusals_name_their_subject() {
    let postgres = PostgresServer::start_with(&[("fsync", "off")]).await;
    postgres.create_database("app").await;
    let redis = RedisServer::start().await;
    let home = Home::new(BINARY)
        .with("ROLLBOOK_QUEUE_URL", redis.url())
        .with("DATABASE_URL", postgres.url("app"))
        .with("ROLLBOOK_LOG_FORMAT", "json");
    home.migrate();
    postgres.psql("app", "ALTER TABLE clerk.users ADD CONSTRAINT none CHECK (id IS NULL) NOT VALID").await;
    let log = nothing_personal_is_logged(home, &bodies()).await;
    assert!(!log.contains("ImTheTestPassword"), "the log holds a password");
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let (parked, sums): (Vec<Value>, Vec<Value>) = lines
        .filter(|line| line["fields"]["reason"] == "store_refused")
        .partition(|line| line["fields"]["svix_id"].is_string());
    assert!(!parked.is_empty() && postgres.log().contains("Failing row contains"), "{}", postgres.log());
    let ids: BTreeSet<&str> = parked.iter().filter_map(|line| line["fields"]["svix_id"].as_str()).collect();
    assert_eq!(ids.len(), parked.len(), "each is logged once");
    let (warned, rest): (Vec<&Value>, Vec<&Value>) = parked.iter().partition(|line| line["level"] == "WARN");
    let summed: u64 = sums.iter().filter_map(|line| line["fields"]["messages"].as_u64()).sum();
    assert_eq!((warned.len(), rest.len() as u64), (1, summed), "one with its details, then their number");
    for line in &parked {
        let fields = &line["fields"];
        assert_eq!(fields["message"], "became a dead letter");
        assert!(fields["event_type"].as_str().is_some_and(|name| name.starts_with("user.")), "{line}");
        assert!(fields["subject"].is_string() && fields["attempt"] == 1, "{line}");
    }
}

#[tokio::test]
async fn a_delivery_is_one_line_of_the_receiver_and_one_of_the_worker_where_their_modules_are_asked_for() {
    let filter = "warn,rollbook_receiver=debug,rollbook_worker=debug";
    let home = Home::new(BINARY).with("ROLLBOOK_LOG", filter).with("ROLLBOOK_LOG_FORMAT", "json");
    let mut rollbook = home.start_ready(&["serve"]).await;
    let body = r#"{"type":"user.created","timestamp":1785312000032,"data":{"id":"user_1"}}"#;
    deliver(&home, &[Bytes::from(body)]).await;
    rollbook.signal("TERM");
    assert!(rollbook.exit().await.success());
    let log = home.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let line_of = |message: &str| {
        let mut of_it = lines.iter().filter(|line| line["fields"]["message"] == message);
        let line = of_it.next().unwrap_or_else(|| panic!("no line {message:?} in {log}"));
        assert!(of_it.next().is_none(), "{message:?} twice in {log}");
        line["fields"].clone()
    };
    let delivery = line_of("delivery");
    assert_eq!((&delivery["svix_id"], &delivery["outcome"]), (&"msg_log0".into(), &"queued".into()));
    let applied = line_of("applied");
    for (field, value) in [
        ("svix_id", Value::from("msg_log0")),
        ("event_type", "user.created".into()),
        ("subject", "user_1".into()),
        ("attempt", 1.into()),
        ("outcome", "inserted".into()),
    ] {
        assert_eq!(applied[field], value, "{field} in {applied}");
    }
    assert!(lines.iter().all(|line| line["target"].as_str().is_some_and(|target| {
        line["level"] != "DEBUG"
            || target.starts_with("rollbook_receiver")
            || target.starts_with("rollbook_worker")
    })));
    assert!(!log.contains("health and metrics"), "what is not asked for is not there: {log}");
}

#[tokio::test]
async fn a_wrong_secret_is_one_line_of_the_log_however_many_deliveries_it_refuses() {
    let home = Home::new(BINARY).with("ROLLBOOK_LOG_FORMAT", "json");
    let mut rollbook = home.start_ready(&["serve"]).await;
    for number in 0..5 {
        let forged = signed(&id(number), "{}").replace("\r\n\r\n{}", "\r\n\r\n[]");
        assert_eq!(status(&exchange(home.listen, &forged).await), 400);
    }
    rollbook.signal("TERM");
    assert!(rollbook.exit().await.success());
    let log = home.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("deliveries are answered 400")).collect();
    let [line] = lines[..] else { panic!("{} lines in {log}", lines.len()) };
    let line: Value = serde_json::from_str(line).expect("JSON");
    let fields = &line["fields"];
    assert_eq!((&line["level"], &fields["why"]), (&"WARN".into(), &"no signature matches".into()));
    assert_eq!(fields["refused"], 1, "the first is logged at once: {line}");
    assert!(fields["fix"].as_str().is_some_and(|fix| fix.contains("Clerk's dashboard")), "{line}");
}

#[tokio::test]
async fn a_delivery_with_a_trace_is_logged_with_it_from_the_receiver_to_the_dead_letters() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let filter = "warn,rollbook_receiver=debug,rollbook_worker=debug";
    let home = Home::new(BINARY).with("ROLLBOOK_LOG", filter).with("ROLLBOOK_LOG_FORMAT", "json");
    let mut rollbook = home.start_ready(&["serve"]).await;
    let header = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n");
    let good = r#"{"type":"user.created","timestamp":1785312000032,"data":{"id":"user_1"}}"#;
    let forged = |request: &str| request.replace("svix-signature: v1,", "svix-signature: v1,AAAA");
    let traced = |request: String, times| {
        request.replace("\r\nsvix-id", &format!("\r\n{}svix-id", header.repeat(times)))
    };
    for (request, expected) in [
        (traced(signed("msg_traced", good), 1), 200),
        (traced(signed("msg_torn", "{"), 1), 200),
        (traced(signed("msg_twice", good), 2), 200),
        (signed("msg_plain", good), 200),
        (forged(&traced(signed("msg_forged", good), 1)), 400),
    ] {
        let answer = exchange(home.listen, &request).await;
        assert_eq!(status(&answer), expected, "{answer}");
    }
    until("all are settled", || async { home.metric("rollbook_queue_depth").await == Some(0.0) }).await;
    let shown = home.command(&["dead-letters", "show", "msg_torn"]).output().expect("it runs");
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains(&format!("00-{TRACE}-00f067aa0ba902b7-01")), "{shown}");
    rollbook.signal("TERM");
    assert!(rollbook.exit().await.success());
    let log = home.log();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["fields"].clone());
    let mut logged: Vec<(String, String, Value)> = lines
        .filter(|fields| fields["svix_id"].is_string())
        .map(|fields| {
            let text = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
            // Without a trace there is no field, not an empty one.
            (
                text("svix_id"),
                text("message"),
                fields.get("trace_id").cloned().unwrap_or_else(|| "none".into()),
            )
        })
        .collect();
    logged.sort_by(|one, other| (&one.0, &one.1).cmp(&(&other.0, &other.1)));
    let line = |id: &str, message: &str, trace: &str| (id.to_owned(), message.to_owned(), Value::from(trace));
    let expected = [
        line("msg_plain", "applied", "none"),
        line("msg_plain", "delivery", "none"),
        line("msg_torn", "became a dead letter", TRACE),
        line("msg_torn", "delivery", TRACE),
        line("msg_traced", "applied", TRACE),
        line("msg_traced", "delivery", TRACE),
        line("msg_twice", "applied", "none"),
        line("msg_twice", "delivery", "none"),
    ];
    assert_eq!(logged, expected, "{log}");
    assert_eq!(log.matches(TRACE).count(), 4, "nothing is logged of requests that are not genuine: {log}");
}

#[tokio::test]
async fn no_text_of_an_event_or_a_stranger_controls_a_terminal_or_begins_a_line() {
    let evil = r"\u001b[31mred\u009b\r\nINFO rollbook: all is well\u202e";
    for format in ["json", "pretty"] {
        let home = Home::new(BINARY).with("ROLLBOOK_LOG", "trace").with("ROLLBOOK_LOG_FORMAT", format);
        let mut rollbook = home.start_ready(&["serve"]).await;
        let parked = format!(r#"{{"type":"{evil}","data":{{}}}}"#);
        let ignored = format!(r#"{{"type":"{evil}","timestamp":1785312000032,"data":{{"id":"{evil}"}}}}"#);
        deliver(&home, &[Bytes::from(parked), Bytes::from(ignored)]).await;
        let id = "msg_\u{1b}[31m\u{9b}";
        let answer = exchange(home.listen, &signed(id, "{}")).await;
        assert_eq!(status(&answer), 400, "{answer}");
        rollbook.signal("TERM");
        assert!(rollbook.exit().await.success());
        let log = home.log();
        let steering = |c: &char| c.is_control() && *c != '\n' || matches!(c, '\u{202a}'..='\u{202e}');
        let found: BTreeSet<char> = log.chars().filter(steering).collect();
        assert!(found.is_empty(), "{format}: {found:?} in {log}");
        assert!(log.lines().all(|line| !line.starts_with("INFO rollbook: all is well")), "{format}: {log}");
        for text in ["became a dead letter", "ignored", "all is well"] {
            assert!(log.contains(text), "{format}: no {text:?} in {log}");
        }
    }
}
