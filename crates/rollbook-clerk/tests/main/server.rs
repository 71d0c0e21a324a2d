//! A private HTTP/1.1 server that gives prepared answers, byte by byte, and notes what it was asked.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rollbook_clerk::{ApiUrl, ClerkApi, ClerkSettings, SecretKey};
use rollbook_core::retry::RetryPolicy;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Key of all tests. Nothing may repeat it.
pub(crate) const KEY: &str = "sk_live_c2VjcmV0";
/// Value of the `Date` header of all answers.
pub(crate) const DATE: &str = "Sun, 29 Nov 2026 09:30:00 GMT";

/// Answer to one request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// These bytes; the connection stays open.
    Bytes(Vec<u8>),
    /// These bytes, and the connection closes.
    BytesAndClose(Vec<u8>),
    /// Nothing, for ever.
    Silence,
    /// One byte of an answer without end after each of these pauses.
    Trickle(Duration),
}

/// A complete answer with the header lines `headers`.
pub(crate) fn with_headers(status: u16, headers: &[String], body: &str) -> Answer {
    let length = format!("content-length: {}", body.len());
    let head = [&[format!("HTTP/1.1 {status} X")], headers, &[length]].concat().join("\r\n");
    Answer::Bytes(format!("{head}\r\n\r\n{body}").into())
}

/// A complete answer with Clerk's date.
pub(crate) fn json(status: u16, body: &str) -> Answer {
    with_headers(status, &[format!("date: {DATE}")], body)
}

/// The error answer that proves absence.
pub(crate) fn not_found() -> Answer {
    json(
        404,
        r#"{"errors":[{"message":"not found","long_message":"not found","code":"resource_not_found"}]}"#,
    )
}

/// The server, until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    accepted: Arc<AtomicUsize>,
    accepting: JoinSet<()>,
}

type Script = dyn Fn(&str, usize) -> Answer + Send + Sync;

impl Server {
    /// Starts a server. `answer` gets path and query without `/v1`, and the number of requests before.
    pub(crate) async fn start(answer: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let (script, noted): (Arc<Script>, _) = (Arc::new(answer), Arc::clone(&heads));
        let accepted: Arc<AtomicUsize> = Arc::default();
        let counted = Arc::clone(&accepted);
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve(stream, Arc::clone(&script), Arc::clone(&noted)));
            }
        });
        Self { address, heads, accepted, accepting }
    }

    /// Closes the port.
    pub(crate) async fn stop(mut self) {
        self.accepting.shutdown().await;
    }

    /// Returns the number of connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// A client of this server that repeats quickly, three times at most.
    pub(crate) fn client(&self) -> ClerkApi {
        ClerkApi::new(self.settings()).expect("a client")
    }

    pub(crate) fn settings(&self) -> ClerkSettings {
        let key = SecretKey::parse(KEY).expect("a key");
        ClerkSettings {
            url: ApiUrl::parse(&format!("http://{}/v1", self.address)).expect("a URL"),
            retries: RetryPolicy {
                backoff: Duration::from_millis(1),
                backoff_max: Duration::from_millis(2),
                attempts_max: 3,
            },
            ..ClerkSettings::new(key)
        }
    }

    /// Heads of all requests so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("not poisoned").clone()
    }

    /// Path and query of all requests so far.
    pub(crate) fn targets(&self) -> Vec<String> {
        self.heads().iter().map(|head| target(head).to_owned()).collect()
    }
}

fn target(head: &str) -> &str {
    head.split(' ').nth(1).and_then(|target| target.strip_prefix("/v1")).expect("GET /v1…")
}

async fn serve(mut stream: TcpStream, script: Arc<Script>, heads: Arc<Mutex<Vec<String>>>) {
    let mut read = Vec::new();
    loop {
        while !read.ends_with(b"\r\n\r\n") {
            if !matches!(stream.read_buf(&mut read).await, Ok(1..)) {
                return;
            }
        }
        let head = String::from_utf8(std::mem::take(&mut read)).expect("ASCII");
        let number = {
            let mut heads = heads.lock().expect("not poisoned");
            heads.push(head.clone());
            heads.len() - 1
        };
        match script(target(&head), number) {
            Answer::Bytes(bytes) => drop(stream.write_all(&bytes).await),
            Answer::BytesAndClose(bytes) => return drop(stream.write_all(&bytes).await),
            Answer::Silence => std::future::pending().await,
            Answer::Trickle(pause) => {
                let head = format!("HTTP/1.1 200 OK\r\ndate: {DATE}\r\ncontent-length: 1000000\r\n\r\n[");
                for byte in head.bytes().chain(std::iter::repeat(b' ')) {
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}
