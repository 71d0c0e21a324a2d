//! The simulated API answers by Clerk's rules, and fails on demand.

mod faults;
mod paging;
mod state;
mod synthetic;

use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rollbook_core::time::{Clock, Timestamp};
use rollbook_simulator::api::{ApiSettings, ClerkApi, DEFAULT_KEY, Objects};
use rollbook_simulator::history::{History, HistorySettings};
use rollbook_simulator::state::ClerkState;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// 2026-07-29T08:00:00Z.
const NOW: Timestamp = Timestamp::from_millis(1_785_312_000_000);

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        NOW
    }
}

fn settings() -> ApiSettings {
    ApiSettings::new(Arc::new(Fixed))
}

fn history() -> History {
    History::generate(&HistorySettings {
        users: 40,
        organizations: 8,
        changes: 600,
        ..HistorySettings::default()
    })
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// Ids of a page, in either form.
    fn ids(&self) -> Vec<String> {
        assert_eq!(self.status, 200, "{}", self.body);
        let json = self.json();
        let objects = json.get("data").unwrap_or(&json).as_array().expect("a list");
        objects.iter().map(|object| object["id"].as_str().expect("an id").to_owned()).collect()
    }

    fn total(&self) -> u64 {
        self.json()["total_count"].as_u64().expect("a total")
    }

    /// Status and code of an error.
    fn error(&self) -> (u16, String) {
        let code = self.json()["errors"][0]["code"].as_str().expect("a code").to_owned();
        (self.status, code)
    }
}

/// A running API and one connection to it.
struct Stage {
    api: ClerkApi,
    state: Arc<Mutex<ClerkState>>,
}

impl Stage {
    async fn new(state: ClerkState) -> Self {
        let state = Arc::new(Mutex::new(state));
        let api = ClerkApi::start(state.clone(), settings()).await.expect("a port");
        Self { api, state }
    }

    async fn get(&self, path: &str) -> Answer {
        get(&self.api, path).await
    }

    fn ids(&self, table: &str) -> Vec<String> {
        self.state.lock().expect("no panic").ids(table)
    }
}

async fn serve(objects: impl Objects) -> ClerkApi {
    ClerkApi::start(Arc::new(objects), settings()).await.expect("a port")
}

async fn get(api: &ClerkApi, path: &str) -> Answer {
    get_with(api, path, Some(&format!("Bearer {DEFAULT_KEY}"))).await.expect("an answer")
}

/// Sends one request on a new connection. An error is a connection that broke.
async fn get_with(api: &ClerkApi, path: &str, key: Option<&str>) -> Result<Answer, hyper::Error> {
    let stream = TcpStream::connect(api.address()).await.expect("a connection");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let mut request =
        Request::get(format!("/v1{path}")).header("host", "api").header("clerk-api-version", "2026-05-12");
    if let Some(key) = key {
        request = request.header("authorization", key);
    }
    let answer = sender.send_request(request.body(Empty::<Bytes>::new()).expect("a request")).await?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await?.to_bytes();
    let body = String::from_utf8(body.to_vec()).expect("text");
    Ok(Answer { status: StatusCode::as_u16(&head.status), headers: head.headers, body })
}
