//! The API of the real binary: changes as Server-Sent Events, over a kill and a stop.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rollbook_core::time::Clock as _;
use rollbook_simulator::api::{ApiSettings, ClerkApi, DEFAULT_KEY};
use rollbook_simulator::history::{History, HistorySettings};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::{DEADLINE, Home, Process};
use rollbook_testkit::tokens::{ISSUER, PARTY, Signer, member_claims};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;

use crate::crashes::BINARY;
use crate::raw_http::{exchange, open, status};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Opens a stream after a position. Returns once the server has answered.
async fn stream(api: SocketAddr, last_event_id: &str) -> BufReader<TcpStream> {
    let request = format!(
        "GET /v1/changes HTTP/1.1\r\nhost: api\r\nauthorization: Bearer {TOKEN}\r\naccept: text/event-stream\r\n\
         last-event-id: {last_event_id}\r\n\r\n"
    );
    let mut stream = BufReader::new(open(api, &request).await);
    assert_eq!(line(&mut stream, "HTTP/1.1 ").await.expect("an answer"), "200 OK");
    stream
}

/// Returns the rest of the next line that begins so; `None` at the end of the stream.
async fn line(stream: &mut BufReader<TcpStream>, beginning: &str) -> Option<String> {
    loop {
        let mut line = String::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_line(&mut line)).await.expect("it sends");
        read.ok().filter(|read| *read > 0)?;
        if let Some(rest) = line.strip_prefix(beginning) {
            return Some(rest.trim_end().to_owned());
        }
    }
}

/// Returns the id and the data of the next change.
async fn change(stream: &mut BufReader<TcpStream>) -> (String, String) {
    loop {
        let id = line(stream, "id: ").await.expect("the stream goes on");
        if line(stream, "event: ").await.expect("the stream goes on") == "change" {
            return (id, line(stream, "data: ").await.expect("the stream goes on"));
        }
    }
}

fn send(home: &Home, event: &str) {
    let sent = home.command(&["send", event]).output().expect("it runs");
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
}

#[tokio::test]
async fn a_stream_of_the_real_binary_resumes_after_a_kill_and_ends_with_a_stop() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let api = free.local_addr().expect("an address");
    drop(free);
    let tokens = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(tokens.path(), format!("{TOKEN}\nanother-token-of-another-application\n"))
        .expect("it is written");
    let home = Home::new(BINARY)
        .with("ROLLBOOK_API_LISTEN", api.to_string())
        .with("ROLLBOOK_API_TOKENS_FILE", tokens.path().display().to_string());

    let mut rollbook = home.start_ready(&["serve"]).await;
    let unauthorized = exchange(api, "GET /v1/changes HTTP/1.1\r\nhost: api\r\n\r\n").await;
    assert_eq!(status(&unauthorized), 401);
    let mut events = stream(api, "").await;
    send(&home, "user.created");
    let (id, data) = change(&mut events).await;
    assert_eq!(id, "1");
    assert!(data.contains(r#""resource":"users""#) && data.contains(r#""kind":"created""#), "{data}");
    rollbook.kill();
    while line(&mut events, "").await.is_some() {}

    let mut rollbook = home.start_ready(&["serve"]).await;
    let mut events = stream(api, &id).await;
    send(&home, "organization.created");
    let (id, data) = change(&mut events).await;
    assert_eq!(id, "2", "the change before is not sent again");
    assert!(data.contains(r#""resource":"organizations""#), "{data}");
    rollbook.signal("TERM");
    let ended = tokio::time::timeout(Duration::from_secs(30), rollbook.exit()).await;
    assert!(ended.expect("an end within the drain").success(), "{}", home.log());
    while line(&mut events, "").await.is_some() {}
    assert!(!home.log().contains(TOKEN), "no log has a token");
}

#[tokio::test]
async fn without_a_token_the_process_does_not_start() {
    let home = Home::new(BINARY).with("ROLLBOOK_API_LISTEN", "127.0.0.1:0");
    let ran = home.command(&["serve"]).output().expect("it runs");
    assert_eq!(ran.status.code(), Some(2));
    let error = String::from_utf8_lossy(&ran.stderr);
    assert!(error.contains("api_listen") && error.contains("api_tokens"), "{error}");
}

/// Starts a binary with an API on a free port. Returns its address too.
async fn with_api(home: Home, arguments: &[(&str, String)]) -> (Home, SocketAddr, Process) {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let api = free.local_addr().expect("an address");
    drop(free);
    let mut home =
        home.with("ROLLBOOK_API_LISTEN", api.to_string()).with("ROLLBOOK_API_TOKENS", TOKEN.to_owned());
    for (name, value) in arguments {
        home = home.with(name, value.clone());
    }
    let rollbook = home.start_ready(&["serve"]).await;
    (home, api, rollbook)
}

fn get(path: &str, line: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: api\r\nconnection: close\r\n{line}\r\n\r\n")
}

#[tokio::test]
async fn the_real_binary_authorizes_a_session_and_no_log_has_its_token() {
    let signer = Signer::of_the_instance();
    let settings = [
        ("CLERK_ISSUER", ISSUER.to_owned()),
        ("CLERK_AUTHORIZED_PARTIES", PARTY.to_owned()),
        // One line, as in many environments.
        ("CLERK_JWT_KEY", signer.pem().trim().replace('\n', "\\n")),
    ];
    let (home, api, _rollbook) = with_api(Home::new(BINARY).with("ROLLBOOK_LOG", "debug"), &settings).await;
    send(&home, "user.created");
    let now = WallClock.now().as_millis() / 1000;
    let token = signer.token(&member_claims("user_1", "org_1", now));
    let line = format!("authorization: Bearer {token}");
    let answer = exchange(api, &get("/v1/authorize?permission=org:tasks:delete", &line)).await;
    assert_eq!(status(&answer), 204, "{answer}");
    assert!(
        answer.contains("x-user-id: user_1\r\n") && answer.contains("x-organization-id: org_1\r\n"),
        "{answer}"
    );
    let cookie = format!("cookie: __session={token}");
    let answer = exchange(api, &get("/v1/context", &cookie)).await;
    assert!(status(&answer) == 200 && answer.contains(r#""membership":null"#), "{answer}");
    for (path, expected) in
        [("/v1/authorize?permission=org:tasks:create", 403), ("/v1/session", 200), ("/v1/users/user_1", 401)]
    {
        assert_eq!(status(&exchange(api, &get(path, &line)).await), expected, "{path}");
    }
    let expired = signer.token(&member_claims("user_1", "org_1", now - 600));
    let refused = exchange(api, &get("/v1/authorize", &format!("authorization: Bearer {expired}"))).await;
    assert!(status(&refused) == 401 && refused.contains(r#""reason":"expired""#), "{refused}");
    for secret in [&token[token.len() - 40..], &expired[expired.len() - 40..]] {
        assert!(!home.log().contains(secret), "no log has a token");
    }
}

#[tokio::test]
async fn max_age_reads_a_user_at_clerk_and_many_requests_for_a_missing_one_read_once() {
    const MANY: usize = 60;
    let clerk = HistorySettings { users: 5, organizations: 1, changes: 20, ..HistorySettings::default() };
    let state = Arc::new(Mutex::new(History::generate(&clerk).state()));
    let user = state.lock().expect("no panic").ids("users")[0].clone();
    let clerk = ClerkApi::start(state, ApiSettings::new(Arc::new(WallClock))).await.expect("a port");
    let settings = [
        ("CLERK_SECRET_KEY", DEFAULT_KEY.to_owned()),
        ("CLERK_API_URL", clerk.url()),
        ("ROLLBOOK_RECONCILE_EVERY", "off".to_owned()),
        ("ROLLBOOK_RECONCILE_CHECK_EVERY", "off".to_owned()),
    ];
    let (home, api, _rollbook) = with_api(Home::new(BINARY), &settings).await;
    let line = format!("authorization: Bearer {TOKEN}");
    let path = format!("/v1/users/{user}");
    assert_eq!(status(&exchange(api, &get(&path, &line)).await), 404, "the mirror is empty");
    let read = exchange(api, &get(&format!("{path}?max_age=10s"), &line)).await;
    assert!(status(&read) == 200 && read.contains(&user), "{read}");
    assert_eq!(status(&exchange(api, &get(&path, &line)).await), 200, "it was merged into the mirror");
    clerk.controls().forget_requests();
    let missing = get("/v1/users/user_missing?max_age=60s", &line);
    let asked = (0..MANY).map(|_| exchange(api, &missing));
    for answer in futures_util::future::join_all(asked).await {
        assert!(status(&answer) == 404 && answer.contains("no-such-row"), "{answer}");
    }
    // The list that leaves the user out, and the read of the user alone: one proof of absence.
    assert_eq!(clerk.controls().log().len(), 2, "{:?}", clerk.controls().requests());
    assert!(!home.log().contains(DEFAULT_KEY));
}
