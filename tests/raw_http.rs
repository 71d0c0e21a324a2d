//! Requests byte by byte, for cases that a well-behaved client can't send.

use std::net::SocketAddr;
use std::time::Duration;

use rollbook_core::signature::SigningSecrets;
use rollbook_core::time::Clock as _;
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::SECRET;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Deadline: longer than any answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Returns a signed delivery as the text of a request.
pub(crate) fn signed(id: &str, body: &str) -> String {
    let now = WallClock.now();
    let signature = SigningSecrets::parse(SECRET).expect("a secret").first().sign(id, now, body.as_bytes());
    format!(
        "POST /webhooks/clerk HTTP/1.1\r\nhost: test\r\nsvix-id: {id}\r\nsvix-timestamp: {}\r\n\
         svix-signature: {signature}\r\ncontent-length: {}\r\n\r\n{body}",
        now.as_millis() / 1000,
        body.len()
    )
}

/// Opens a connection and sends these bytes, whatever they are.
pub(crate) async fn open(address: SocketAddr, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(bytes.as_bytes()).await.expect("bytes on their way");
    stream
}

/// Sends these bytes on a new connection and returns the first answer, as text.
pub(crate) async fn exchange(address: SocketAddr, bytes: &str) -> String {
    let mut stream = open(address, bytes).await;
    let mut answer = Vec::new();
    let read = async {
        let mut buffer = [0; 4096];
        while !is_whole(&answer) {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => answer.extend_from_slice(&buffer[..count]),
            }
        }
    };
    tokio::time::timeout(ANSWER_TIMEOUT, read).await.expect("an answer in time");
    String::from_utf8_lossy(&answer).into_owned()
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}

/// Returns the status code of an answer.
pub(crate) fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("no answer: {answer:?}"))
}
