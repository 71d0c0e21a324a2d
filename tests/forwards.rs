//! Forwards of the real binary: kills, commands, and a backfill.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rollbook_simulator::api::{ApiSettings, ClerkApi, DEFAULT_KEY};
use rollbook_simulator::history::{History, HistorySettings};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::events::{START, event, user};
use rollbook_testkit::hooks::{HookAnswer, HookRequest, HookServer};
use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::certificates::Certificates;
use rollbook_testkit::servers::nginx::Nginx;
use rusqlite::Connection;
use serde_json::Value;

use crate::crashes::BINARY;
use crate::raw_http::{exchange, signed, status};

const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// Configures a forward `crm` to a server, with these settings in addition.
fn configure(home: &Home, server: &HookServer, more: &str) {
    let url = server.url("/hooks/rollbook");
    home.configure(&format!(
        "[forward.crm]\nurl = \"{url}\"\nsecret = \"{SECRET}\"\ntimeout = \"500ms\"\nbackoff = \"20ms\"\n\
         backoff_max = \"40ms\"\n{more}\n"
    ));
}

fn position(request: &HookRequest) -> u64 {
    let id = request.header("webhook-id").and_then(|id| id.strip_prefix("chg_")).expect("an id");
    id.parse().expect("a position")
}

fn subject(request: &HookRequest) -> String {
    let change: Value = serde_json::from_slice(&request.body).expect("JSON");
    change["subject_id"].as_str().expect("an id").to_owned()
}

/// Sends a change of a user.
async fn change(home: &Home, number: i64) {
    let mut data = user(&format!("user_{}", number % 7), START + number);
    data["username"] = Value::from(format!("name_{number}"));
    let body = event("user.updated", START + number, &data).to_string();
    let answer = exchange(home.listen, &signed(&format!("msg_{number}"), &body)).await;
    assert_eq!(status(&answer), 200, "{answer}");
}

/// Reads a number from the store.
fn number(home: &Home, sql: &str) -> u64 {
    let store = Connection::open(home.data().join("store.db")).expect("the file opens");
    store.query_row(sql, [], |row| row.get::<_, Option<u64>>(0)).expect("a number").unwrap_or_default()
}

fn last(home: &Home) -> u64 {
    number(home, "SELECT seq FROM sqlite_sequence WHERE name = 'changes'")
}

async fn until_begun(home: &Home) {
    until("the forward has begun", || async { number(home, "SELECT count(*) FROM forwards") == 1 }).await;
}

/// Runs a command of `changes` and returns its JSON.
fn run(home: &Home, arguments: &[&str]) -> Value {
    let all = [&["changes"], arguments, &["--output", "json"]].concat();
    let ran = home.command(&all).output().expect("it runs");
    serde_json::from_slice(&ran.stdout)
        .unwrap_or_else(|_| panic!("{all:?}: {}", String::from_utf8_lossy(&ran.stderr)))
}

#[tokio::test]
async fn a_worker_that_is_killed_while_it_sends_loses_no_change_and_keeps_the_order() {
    let server = HookServer::start(|_| {
        // Slow enough that a kill meets requests in progress.
        std::thread::sleep(Duration::from_millis(15));
        HookAnswer::Status(200, Vec::new())
    });
    let home = Home::new(BINARY);
    configure(&home, &server, "concurrency = 2");
    let mut rollbook = home.start_ready(&["serve"]).await;
    until_begun(&home).await;
    let (mut sent, mut undelivered) = (0, 0);
    for round in 1..=3 {
        for _ in 0..40 {
            change(&home, sent).await;
            sent += 1;
        }
        let wanted = round * 15;
        until("some are delivered", || async { server.received().len() >= wanted }).await;
        rollbook.kill();
        let received: BTreeSet<u64> = server.received().iter().map(position).collect();
        undelivered += last(&home) - received.len() as u64;
        rollbook = home.start_ready(&["serve"]).await;
    }
    until("every change is applied and delivered", || async {
        home.metric("rollbook_queue_depth").await == Some(0.0)
            && number(&home, "SELECT position FROM forwards") == last(&home)
            && number(&home, "SELECT count(*) FROM forward_changes") == 0
    })
    .await;
    let (received, last) = (server.received(), last(&home));
    let positions: BTreeSet<u64> = received.iter().map(position).collect();
    assert_eq!(positions, (1..=last).collect::<BTreeSet<u64>>(), "a change is lost");
    // The control: a pusher that began at the end of the feed after each start would have lost these.
    assert!(undelivered > 0, "the kills met no change that was not delivered yet");
    let mut seen = BTreeSet::new();
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    for request in received.iter().filter(|request| seen.insert(position(request))) {
        let before = newest.insert(subject(request), position(request)).unwrap_or_default();
        assert!(before < position(request), "{} after {before}", position(request));
    }
    rollbook.kill();
}

#[tokio::test]
async fn dead_letters_stops_and_replays_of_the_real_binary_obey_the_commands() {
    let answers = Arc::new(Mutex::new(BTreeMap::<String, u16>::new()));
    let by_subject = Arc::clone(&answers);
    let server = HookServer::start(move |request| {
        let answers = by_subject.lock().expect("no panic");
        HookAnswer::Status(answers.get(&subject(request)).copied().unwrap_or(200), Vec::new())
    });
    let answer = |subject: &str, status| {
        answers.lock().expect("no panic").insert(subject.to_owned(), status);
    };
    let home = Home::new(BINARY);
    configure(&home, &server, "attempts_max = 2\nresources = \"users\"");
    let mut rollbook = home.start_ready(&["serve"]).await;
    until_begun(&home).await;
    answer("user_1", 500);
    let mut sent = 0;
    // Other changes show that the endpoint is up, so that attempts count.
    until("the change of user_1 is a dead letter", || {
        sent += 1;
        let number = if sent == 1 { 1 } else { sent * 7 };
        let home = &home;
        async move {
            change(home, number).await;
            run(home, &["status"])[0]["dead_letters"] == 1
        }
    })
    .await;
    let failed = run(&home, &["failed", "crm"]);
    assert_eq!(
        (&failed[0]["subject_id"], &failed[0]["reason"]),
        (&"user_1".into(), &"the endpoint answered 500".into())
    );
    answer("user_1", 200);
    let of_failed = failed[0]["position"].to_string();
    assert_eq!(run(&home, &["redrive", "crm", "--position", &of_failed])["redriven"], 1);
    until("it is delivered", || async { run(&home, &["status"])[0]["waiting_changes"] == 0 }).await;
    assert_eq!(run(&home, &["failed"]), Value::Array(Vec::new()));

    answer("user_2", 410);
    change(&home, 700_002).await;
    until("it stopped", || async { run(&home, &["status"])[0]["state"] == "stopped" }).await;
    let doctor = home.command(&["doctor", "--face", "work"]).output().expect("it runs");
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains("crm stopped, and sends nothing: the endpoint answered 410"), "{doctor}");
    answer("user_2", 200);
    run(&home, &["resume", "crm"]);
    until("it is delivered", || async {
        server.received().iter().filter(|of| subject(of) == "user_2").count() > 1
    })
    .await;

    let before = server.received().len() as u64;
    let last = last(&home);
    until("all is delivered", || async { run(&home, &["status"])[0]["position"] == last }).await;
    run(&home, &["replay", "crm", "--after", "0"]);
    until("all is sent again", || async { server.received().len() as u64 >= before + last }).await;
    rollbook.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_sends_no_push_and_the_next_webhook_does() {
    let settings =
        HistorySettings { users: 300, organizations: 2, changes: 1_000, ..HistorySettings::default() };
    let state = Arc::new(Mutex::new(History::generate(&settings).state()));
    let users = state.lock().expect("no panic").ids("users").len() as u64;
    assert!(users >= 100, "{users}");
    let api = ClerkApi::start(state, ApiSettings::new(Arc::new(WallClock))).await.expect("a port");
    let server = HookServer::start(|_| HookAnswer::Status(200, Vec::new()));
    let home = Home::new(BINARY)
        .with("CLERK_SECRET_KEY", DEFAULT_KEY)
        .with("CLERK_API_URL", api.url())
        .with("ROLLBOOK_RECONCILE_EVERY", "off")
        .with("ROLLBOOK_RECONCILE_CHECK_EVERY", "off")
        .with("ROLLBOOK_API_BUDGET", "1");
    configure(&home, &server, "");
    let mut rollbook = home.start_ready(&["serve"]).await;
    until_begun(&home).await;
    let filled = home.command(&["reconcile", "--only", "users"]).output().expect("it runs");
    assert!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stderr));
    let backfilled = number(&home, "SELECT count(*) FROM changes WHERE origin = 'backfill'");
    assert!(backfilled >= users, "{backfilled}");
    change(&home, 1).await;
    until("the webhook is delivered", || async { !server.received().is_empty() }).await;
    let subjects: Vec<String> = server.received().iter().map(subject).collect();
    assert_eq!(subjects, ["user_1"]);
    until("the position is at the end", || async {
        number(&home, "SELECT position FROM forwards") == last(&home)
    })
    .await;
    rollbook.kill();
}

#[tokio::test]
async fn an_https_endpoint_of_a_private_authority_is_refused_in_words_until_its_certificate_is_trusted() {
    let certificates = Certificates::new();
    let nginx = Nginx::answering(&certificates, "{}").await;
    let home = Home::new(BINARY);
    home.configure(&format!(
        "[forward.crm]\nurl = \"https://{}/hooks\"\nsecret = \"{SECRET}\"\nbackoff = \"20ms\"\nbackoff_max = \"40ms\"\n",
        nginx.address
    ));
    let mut rollbook = home.start_ready(&["serve"]).await;
    until_begun(&home).await;
    change(&home, 1).await;
    until("status says why", || async {
        let status = run(&home, &["status", "crm"]);
        status[0]["last_error"].as_str().is_some_and(|why| why.contains("certificate"))
    })
    .await;
    let waiting = run(&home, &["failed", "--waiting"]);
    assert_eq!((&waiting[0]["state"], &waiting[0]["subject_id"]), (&"waiting".into(), &"user_1".into()));
    rollbook.kill();
    let home = home.with("SSL_CERT_FILE", certificates.path("ca.crt").to_str().expect("a plain path"));
    let mut rollbook = home.start_ready(&["serve"]).await;
    until("it is delivered", || async {
        let status = run(&home, &["status", "crm"]);
        status[0]["waiting_changes"] == 0 && status[0]["position"] == last(&home)
    })
    .await;
    let redrive = home.command(&["changes", "redrive", "crm"]).output().expect("it runs");
    let text = String::from_utf8_lossy(&redrive.stderr).into_owned();
    assert!(redrive.status.code() == Some(2) && text.contains("--all"), "{text}");
    rollbook.kill();
}
