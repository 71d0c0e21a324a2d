//! The API of the real binary: changes as Server-Sent Events, over a kill and a stop.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use rollbook_testkit::process::{DEADLINE, Home};
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
