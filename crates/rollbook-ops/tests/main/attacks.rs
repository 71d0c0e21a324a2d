//! Whoever holds connections of the private port does not silence it: there are more of them than places, and still each
//! question of a probe or a scraper is answered.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::{Says, Server, part};

/// More than twice the port's places.
const ATTACKERS: usize = 150;
const QUESTIONS: usize = 20;
/// A kubelet waits one second by default, and these machines are busy. Without a place, a question waits far longer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// A connection on which these bytes were sent and nothing is ever read.
async fn hold(server: SocketAddr, bytes: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    // Small, so that unread answers pile up at the server.
    socket.set_recv_buffer_size(2_304).expect("a size");
    let mut stream = socket.connect(server).await.expect("a connection");
    // A server that stops reading, or that has closed the connection, does not make the attack fail.
    _ = tokio::time::timeout(Duration::from_millis(100), stream.write_all(bytes)).await;
    stream
}

async fn withstands(server: Server, bytes: &[u8], questions: &[&str]) {
    let mut held = Vec::new();
    for _ in 0..ATTACKERS {
        held.push(hold(server.address, bytes).await);
    }
    for number in 0..QUESTIONS {
        let path = questions[number % questions.len()];
        let asked = Instant::now();
        let answer = server.get(path).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        assert!(asked.elapsed() < ANSWERED_WITHIN, "{path}: {:?}", asked.elapsed());
    }
    assert_eq!(held.len(), ATTACKERS);
    server.stop().await;
}

#[tokio::test]
async fn idle_connections_do_not_silence_the_port() {
    let server = Server::start(None, Vec::new(), vec![part("queue", Says::Well)]).await;
    withstands(server, b"", &["/livez", "/metrics", "/readyz"]).await;
}

#[tokio::test]
async fn heads_that_never_end_do_not_silence_the_port() {
    let server = Server::start(None, Vec::new(), vec![part("queue", Says::Well)]).await;
    withstands(server, b"GET /livez HTTP/1.1\r\nhost:", &["/livez", "/metrics", "/readyz"]).await;
}

#[tokio::test]
async fn answers_that_nobody_reads_do_not_silence_the_port() {
    let server = Server::start(None, Vec::new(), vec![part("queue", Says::Well)]).await;
    let questions = "GET /metrics HTTP/1.1\r\nhost: ops\r\n\r\n".repeat(400);
    withstands(server, questions.as_bytes(), &["/livez", "/metrics", "/readyz"]).await;
}

#[tokio::test]
async fn one_request_is_answered_on_each_connection() {
    let server = Server::start(None, Vec::new(), Vec::new()).await;
    let mut stream = TcpStream::connect(server.address).await.expect("a connection");
    let questions = "GET /livez HTTP/1.1\r\nhost: ops\r\n\r\n".repeat(2);
    stream.write_all(questions.as_bytes()).await.expect("a request");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.expect("the end");
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 1, "{answers}");
    assert!(answers.contains("connection: close"), "{answers}");
    server.stop().await;
}

#[tokio::test]
async fn questions_that_each_take_the_longest_time_do_not_silence_the_port() {
    // Each takes all the time that a part has for its answer.
    let server = Server::start(None, Vec::new(), vec![part("store", Says::Nothing)]).await;
    let questions = "GET /readyz HTTP/1.1\r\nhost: ops\r\n\r\n".repeat(400);
    withstands(server, questions.as_bytes(), &["/livez"]).await;
}
