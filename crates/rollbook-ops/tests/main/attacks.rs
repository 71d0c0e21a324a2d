//! Clients that hold connections of the ops port can't block it: with more attackers than slots, every
//! request of a probe or a scraper is still answered.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::{FakeProbe, Server, part};

/// More than twice the number of the port's slots.
const ATTACKERS: usize = 150;
const REQUESTS: usize = 20;
/// Maximum time for an answer. A kubelet waits one second by default, but test machines are busy; without a
/// slot, a request waits far longer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// Opens a connection, sends `bytes` and never reads.
async fn hold(server: SocketAddr, bytes: &[u8]) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    // Small buffer, so that unread responses accumulate at the server.
    socket.set_recv_buffer_size(2_304).expect("a size");
    let mut stream = socket.connect(server).await.expect("a connection");
    // A server that stops reading or closes the connection does not fail the attack.
    _ = tokio::time::timeout(Duration::from_millis(100), stream.write_all(bytes)).await;
    stream
}

async fn assert_port_answers(server: Server, bytes: &[u8], requests: &[&str]) {
    let mut held = Vec::new();
    for _ in 0..ATTACKERS {
        held.push(hold(server.address, bytes).await);
    }
    for number in 0..REQUESTS {
        let path = requests[number % requests.len()];
        let asked = Instant::now();
        let answer = server.get(path).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        assert!(asked.elapsed() < ANSWERED_WITHIN, "{path}: {:?}", asked.elapsed());
    }
    assert_eq!(held.len(), ATTACKERS);
    server.stop().await;
}

#[tokio::test]
async fn idle_connections_do_not_block_the_port() {
    let server = Server::start(None, Vec::new(), vec![part("queue", FakeProbe::Healthy)]).await;
    assert_port_answers(server, b"", &["/livez", "/metrics", "/readyz"]).await;
}

#[tokio::test]
async fn incomplete_heads_do_not_block_the_port() {
    let server = Server::start(None, Vec::new(), vec![part("queue", FakeProbe::Healthy)]).await;
    assert_port_answers(server, b"GET /livez HTTP/1.1\r\nhost:", &["/livez", "/metrics", "/readyz"]).await;
}

#[tokio::test]
async fn unread_answers_do_not_block_the_port() {
    let server = Server::start(None, Vec::new(), vec![part("queue", FakeProbe::Healthy)]).await;
    let requests = "GET /metrics HTTP/1.1\r\nhost: ops\r\n\r\n".repeat(400);
    assert_port_answers(server, requests.as_bytes(), &["/livez", "/metrics", "/readyz"]).await;
}

#[tokio::test]
async fn each_connection_serves_one_request() {
    let server = Server::start(None, Vec::new(), Vec::new()).await;
    let mut stream = TcpStream::connect(server.address).await.expect("a connection");
    let requests = "GET /livez HTTP/1.1\r\nhost: ops\r\n\r\n".repeat(2);
    stream.write_all(requests.as_bytes()).await.expect("a request");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.expect("the end");
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 1, "{answers}");
    assert!(answers.contains("connection: close"), "{answers}");
    server.stop().await;
}

#[tokio::test]
async fn slow_requests_do_not_block_the_port() {
    // Each request takes the maximum time of a check.
    let server = Server::start(None, Vec::new(), vec![part("store", FakeProbe::NoAnswer)]).await;
    let requests = "GET /readyz HTTP/1.1\r\nhost: ops\r\n\r\n".repeat(400);
    assert_port_answers(server, requests.as_bytes(), &["/livez"]).await;
}
