//! A client that writes exact bytes.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use rollbook_core::signature::SigningSecrets;
use rollbook_core::time::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_785_312_000_250);

/// Deadline for every step of a test.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("it takes too long")
}

/// One client connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
}

/// Response received by the client.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Head of the response in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let prefix = format!("{name}: ");
        self.head.lines().find_map(|line| line.strip_prefix(&prefix))
    }

    /// Asserts an error response with this status and this text, as JSON.
    pub(crate) fn assert_error(&self, status: u16, text: &str) {
        assert_eq!((self.status, self.body.as_str()), (status, format!(r#"{{"error":"{text}"}}"#).as_str()));
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!(self.header("retry-after"), (status == 503).then_some("5"));
    }

    pub(crate) fn assert_status(&self, status: &str) {
        assert_eq!((self.status, self.body.as_str()), (200, format!(r#"{{"status":"{status}"}}"#).as_str()));
        assert_eq!(self.header("content-type"), Some("application/json"));
    }

    pub(crate) fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { stream: within(TcpStream::connect(address)).await.unwrap(), unread: Vec::new() }
    }

    pub(crate) fn over(stream: std::net::TcpStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        Self { stream: TcpStream::from_std(stream).unwrap(), unread: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Closes the sending side.
    pub(crate) async fn shutdown(&mut self) {
        within(self.stream.shutdown()).await.unwrap();
    }

    /// Reads the next response; `None` if the connection closes first.
    pub(crate) async fn try_answer(&mut self) -> Option<Answer> {
        loop {
            if let Some((answer, length)) = parse(&self.unread) {
                self.unread.drain(..length);
                return Some(answer);
            }
            match within(self.stream.read_buf(&mut self.unread)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return None,
            }
        }
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        self.try_answer().await.expect("the connection ended without an answer")
    }

    pub(crate) async fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Answer {
        self.send(bytes).await;
        self.answer().await
    }

    /// Waits for the server to close the connection, and asserts that it sends nothing before.
    pub(crate) async fn closed(&mut self) {
        assert_eq!(self.try_answer().await, None);
        assert_eq!(String::from_utf8_lossy(&self.unread), "");
    }
}

fn parse(bytes: &[u8]) -> Option<(Answer, usize)> {
    let head_length = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..head_length]).to_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let mut answer = Answer { status, head, body: String::new() };
    let body_length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
    let body = bytes.get(head_length..head_length + body_length)?;
    answer.body = String::from_utf8_lossy(body).into_owned();
    Some((answer, head_length + body_length))
}

/// Request builder: signed and valid, until a test changes it.
#[derive(Clone)]
pub(crate) struct Post {
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Post {
    pub(crate) fn new(id: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::signed(SECRET, id, NOW, body)
    }

    pub(crate) fn signed(secret: &str, id: &str, at: Timestamp, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let signature = SigningSecrets::parse(secret).unwrap().first().sign(id, at, &body);
        let seconds = (at.as_millis() / 1000).to_string();
        let headers = [("svix-id", id), ("svix-timestamp", &seconds), ("svix-signature", &signature)];
        Self { headers: headers.map(|(name, value)| (name.into(), value.into())).to_vec(), body }
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn changed(self, name: &str, value: &str) -> Self {
        self.without(name).with(name, value)
    }

    /// Returns the head with its final empty line.
    pub(crate) fn head(&self, framing: &str) -> Vec<u8> {
        let mut head = format!("POST /webhooks/clerk HTTP/1.1\r\nhost: here\r\n{framing}\r\n");
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// Returns the complete request with `content-length`.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head(&format!("content-length: {}", self.body.len()));
        bytes.extend(&self.body);
        bytes
    }

    /// Returns the complete request in chunks of `size` bytes.
    pub(crate) fn chunked(&self, size: usize) -> Vec<u8> {
        let mut bytes = self.head("transfer-encoding: chunked");
        for chunk in self.body.chunks(size) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        bytes
    }
}
