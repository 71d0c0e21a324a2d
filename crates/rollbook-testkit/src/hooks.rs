//! An HTTP server that receives pushes: it records each request and answers as the test says.
//!
//! It runs on threads of its own, so that it serves processes under test whatever the test's runtime does.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Maximum size of a request's body, in bytes.
const BODY_MAX: usize = 4 << 20;

/// A request that the server received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookRequest {
    /// First line.
    pub line: String,
    /// Headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl HookRequest {
    /// Returns the value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Answer of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookAnswer {
    /// This status, with these headers (`name: value`).
    Status(u16, Vec<String>),
    /// Closes the connection without an answer.
    Close,
    /// This status, and then closes the connection, without having said so.
    LastStatus(u16),
    /// This status, with a body that never ends.
    Endless(u16),
}

type Script = dyn Fn(&HookRequest) -> HookAnswer + Send + Sync;

/// The server. It ends when it is dropped.
pub struct HookServer {
    /// Address.
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    script: Box<Script>,
    received: Mutex<Vec<HookRequest>>,
    is_over: AtomicBool,
}

impl State {
    fn received(&self) -> MutexGuard<'_, Vec<HookRequest>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HookServer {
    /// Starts a server that answers by a script. A request is recorded before it is answered.
    ///
    /// # Panics
    /// Panics if there is no free port.
    pub fn start(script: impl Fn(&HookRequest) -> HookAnswer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (received, is_over) = (Mutex::default(), AtomicBool::new(false));
        let state = Arc::new(State { script: Box::new(script), received, is_over });
        let serving = Arc::clone(&state);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if serving.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let state = Arc::clone(&serving);
                thread::spawn(move || serve(&state, connection));
            }
        });
        Self { address, state }
    }

    /// Returns all requests so far, in their order.
    pub fn received(&self) -> Vec<HookRequest> {
        self.state.received().clone()
    }

    /// Returns the number of requests so far.
    pub fn received_count(&self) -> usize {
        self.state.received().len()
    }

    /// Returns the URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for HookServer {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        // Wakes the accept loop.
        drop(TcpStream::connect(self.address));
    }
}

/// Serves one connection until the client closes it.
fn serve(state: &State, connection: TcpStream) {
    let Ok(reading) = connection.try_clone() else { return };
    let (mut reader, mut writer) = (BufReader::new(reading), connection);
    while let Some(request) = read(&mut reader) {
        if state.is_over.load(Ordering::Relaxed) {
            return;
        }
        state.received().push(request.clone());
        let (status, headers, length, is_last) = match (state.script)(&request) {
            HookAnswer::Status(status, headers) => (status, headers, 2, false),
            HookAnswer::LastStatus(status) => (status, Vec::new(), 2, true),
            HookAnswer::Endless(status) => (status, Vec::new(), 1_000, false),
            HookAnswer::Close => return,
        };
        let headers = headers.iter().fold(String::new(), |text, header| format!("{text}{header}\r\n"));
        let answer = format!("HTTP/1.1 {status} Answer\r\ncontent-length: {length}\r\n{headers}\r\nok");
        if writer.write_all(answer.as_bytes()).is_err() || is_last {
            return;
        }
    }
}

/// Reads a request. Without a `content-length` it has no body.
fn read(reader: &mut BufReader<TcpStream>) -> Option<HookRequest> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|length| *length > 0)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(Some(0), |(_, value)| value.parse().ok())?;
    let mut body = vec![0; BODY_MAX.min(length)];
    reader.read_exact(&mut body).ok()?;
    Some(HookRequest { line: line.trim_end().to_owned(), headers, body })
}
