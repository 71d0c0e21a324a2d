//! A receiver for tests: a script decides the answer to each request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// One request that the server received.
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Number of the connection, from zero.
    pub(crate) connection: usize,
}

/// Reaction of the server to one request.
#[derive(Clone)]
pub(crate) enum Reaction {
    Answer(u16, String),
    /// Answers, and then closes the connection.
    AnswerAndClose(u16, String),
    /// Closes the connection without an answer.
    Hangup,
    /// Never answers.
    Silence,
}

pub(crate) fn queued() -> Reaction {
    Reaction::Answer(200, r#"{"status":"queued"}"#.into())
}

type Script = Arc<dyn Fn(usize, &Seen) -> Reaction + Send + Sync>;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: mpsc::UnboundedReceiver<Seen>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Starts a server. `script` receives the number of the request, from zero.
    pub(crate) async fn start(script: impl Fn(usize, &Seen) -> Reaction + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (sender, seen) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, sender, Arc::new(script)));
        Self { address, seen, _tasks: tasks }
    }

    /// Requests received since the last call.
    pub(crate) fn seen(&mut self) -> Vec<Seen> {
        std::iter::from_fn(|| self.seen.try_recv().ok()).collect()
    }
}

async fn accept(listener: TcpListener, seen: mpsc::UnboundedSender<Seen>, script: Script) {
    let mut connections = JoinSet::new();
    let requests = Arc::new(AtomicUsize::new(0));
    for connection in 0.. {
        let (stream, _) = listener.accept().await.expect("a connection");
        connections.spawn(serve(stream, connection, seen.clone(), requests.clone(), script.clone()));
    }
}

async fn serve(
    stream: TcpStream,
    connection: usize,
    seen: mpsc::UnboundedSender<Seen>,
    requests: Arc<AtomicUsize>,
    script: Script,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let (seen, requests, script) = (seen.clone(), requests.clone(), script.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map_err(|_| "no body")?.to_bytes();
            let request = Seen {
                method: head.method.to_string(),
                path: head.uri.to_string(),
                headers: head.headers,
                body,
                connection,
            };
            let reaction = script(requests.fetch_add(1, Ordering::Relaxed), &request);
            seen.send(request).map_err(|_| "the test is over")?;
            let (status, body, close) = match reaction {
                Reaction::Answer(status, body) => (status, body, false),
                Reaction::AnswerAndClose(status, body) => (status, body, true),
                Reaction::Hangup => return Err("hangs up"),
                Reaction::Silence => std::future::pending().await,
            };
            let mut answer = Response::builder().status(status);
            if close {
                answer = answer.header("connection", "close");
            }
            answer.body(Full::new(Bytes::from(body))).map_err(|_| "no answer")
        }
    });
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}
