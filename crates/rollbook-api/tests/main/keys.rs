//! Keys of a JWKS on a real server: rotation, outages, and how often they are fetched.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rollbook_api::{JwksUrl, KeySource, KeyTimes, SessionSettings, fetch_keys};
use rollbook_session::{KeySet, Keys};
use rollbook_testkit::tokens::{KEY_ID, Signer, claims};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::engine::Engine;
use crate::stage::{DEADLINE, Options, Server, policy};

/// A server of keys.
struct Issuer {
    address: SocketAddr,
    state: Arc<State>,
    _serving: JoinSet<()>,
}

struct State {
    /// Status and body of the answers; `None` closes the connection without one.
    answer: Mutex<Option<(u16, String)>>,
    asked: AtomicUsize,
}

impl Issuer {
    async fn start(body: impl ToString) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let answer = Mutex::new(Some((200, body.to_string())));
        let state = Arc::new(State { answer, asked: AtomicUsize::new(0) });
        let (mut serving, shared) = (JoinSet::new(), Arc::clone(&state));
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(Arc::clone(&shared), stream));
            }
        });
        Self { address, state, _serving: serving }
    }

    fn url(&self) -> JwksUrl {
        JwksUrl::parse(&format!("http://{}/.well-known/jwks.json", self.address)).expect("a URL")
    }

    fn answer(&self, status: u16, body: &(impl ToString + ?Sized)) {
        *self.state.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some((status, body.to_string()));
    }

    fn close(&self) {
        *self.state.answer.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }

    /// Waits until it was asked this many times.
    async fn asked_at_least(&self, count: usize) {
        let asked = async {
            while self.asked() < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, asked).await.expect("it is asked");
    }
}

async fn serve(state: Arc<State>, stream: TcpStream) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        let mut path = String::new();
        while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) && line != "\r\n" {
            if path.is_empty() {
                path.clone_from(&line);
            }
            line.clear();
        }
        if path.is_empty() {
            return;
        }
        assert!(path.starts_with("GET /.well-known/jwks.json "), "{path}");
        state.asked.fetch_add(1, Ordering::SeqCst);
        let answer = state.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some((status, body)) = answer else { return };
        let head = format!("HTTP/1.1 {status} Answer\r\ncontent-length: {}\r\n\r\n", body.len());
        if stream.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Times at which nothing happens by itself, but for the first fetch.
const NEVER: KeyTimes = KeyTimes {
    fetch_every: Duration::from_secs(86_400),
    ask_every: Duration::from_secs(86_400),
    timeout: Duration::from_secs(5),
};

async fn server(issuer: &Issuer, times: KeyTimes) -> Server {
    let mut sessions = SessionSettings::new(policy(), KeySource::Jwks(issuer.url()));
    sessions.times = times;
    Server::with_options(Engine::Memory, Options { sessions: Some(sessions), ..Options::default() }).await
}

/// Sends a token of this signer and key id, and returns the status of the answer.
async fn ask(server: &Server, signer: &Signer, key_id: &str) -> u16 {
    let token = signer.token_with(key_id, &claims("user_1", server.seconds()));
    server.get("/v1/authorize", &[&format!("authorization: Bearer {token}")]).await.status
}

/// Waits until the keys were fetched this many times.
async fn fetched(server: &Server, count: u64) {
    let fetched = async {
        while server.metric(r#"rollbook_session_key_fetches_total{result="fetched"}"#) < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, fetched).await.expect("they are fetched");
}

#[tokio::test]
async fn keys_are_fetched_at_the_start_and_known_tokens_cause_no_request() {
    let signer = Signer::of_the_instance();
    let issuer = Issuer::start(signer.jwks(KEY_ID)).await;
    let server = server(&issuer, NEVER).await;
    fetched(&server, 1).await;
    for _ in 0..20 {
        assert_eq!(ask(&server, &signer, KEY_ID).await, 204);
    }
    assert_eq!((issuer.asked(), server.metric("rollbook_session_keys")), (1, 1));
    let at = server.metric("rollbook_session_keys_fetched_timestamp_seconds");
    assert_eq!(i64::try_from(at), Ok(server.seconds()));
}

#[tokio::test]
async fn a_token_of_a_new_key_lets_the_keys_be_fetched_once_and_is_accepted_without_a_restart() {
    let (old, new) = (Signer::of_the_instance(), Signer::of_another_instance());
    let issuer = Issuer::start(old.jwks("ins_old")).await;
    let server = server(&issuer, NEVER).await;
    fetched(&server, 1).await;
    assert_eq!(ask(&server, &old, "ins_old").await, 204);
    issuer.answer(200, &json!({ "keys": [old.jwk("ins_old"), new.jwk("ins_new")] }));
    // Many at once share one fetch.
    let asking = (0..40).map(|_| ask(&server, &new, "ins_new"));
    assert_eq!(futures_util::future::join_all(asking).await, [204; 40]);
    assert_eq!(ask(&server, &old, "ins_old").await, 204, "both are valid during a rotation");
    assert_eq!((issuer.asked(), server.metric("rollbook_session_keys")), (2, 2));
    // Strangers cause no more requests, and no harm to others.
    for number in 0..20 {
        assert_eq!(ask(&server, &new, &format!("ins_{number}")).await, 401);
    }
    assert_eq!((issuer.asked(), ask(&server, &new, "ins_new").await), (2, 204));
}

#[tokio::test]
async fn a_key_that_the_issuer_no_longer_serves_is_refused_after_the_next_fetch() {
    let (old, new) = (Signer::of_the_instance(), Signer::of_another_instance());
    let issuer = Issuer::start(old.jwks("ins_old")).await;
    let times = KeyTimes { fetch_every: Duration::from_millis(20), ..NEVER };
    let server = server(&issuer, times).await;
    fetched(&server, 1).await;
    assert_eq!(ask(&server, &old, "ins_old").await, 204);
    issuer.answer(200, &new.jwks("ins_new"));
    let before = server.metric(r#"rollbook_session_key_fetches_total{result="fetched"}"#);
    fetched(&server, before + 2).await;
    assert_eq!(ask(&server, &old, "ins_old").await, 401);
    assert_eq!(ask(&server, &new, "ins_new").await, 204);
}

#[tokio::test]
async fn an_outage_of_the_issuer_changes_nothing_for_known_keys() {
    let signer = Signer::of_the_instance();
    let issuer = Issuer::start(signer.jwks(KEY_ID)).await;
    let times =
        KeyTimes { fetch_every: Duration::from_millis(10), ask_every: Duration::from_millis(1), ..NEVER };
    let server = server(&issuer, times).await;
    fetched(&server, 1).await;
    let long = json!({ "keys": [], "padding": "x".repeat(70_000) });
    let breaks: [&dyn Fn(); 5] = [
        &|| issuer.answer(503, "try later"),
        &|| issuer.answer(200, "<html>"),
        &|| issuer.answer(200, r#"{"keys":[]}"#),
        &|| issuer.answer(302, ""),
        &|| issuer.close(),
    ];
    for break_it in breaks {
        break_it();
        let asked = issuer.asked();
        issuer.asked_at_least(asked + 2).await;
        assert_eq!(ask(&server, &signer, KEY_ID).await, 204);
        assert_eq!(
            ask(&server, &signer, "ins_unknown").await,
            401,
            "an unknown key is refused, after a fetch"
        );
    }
    assert_eq!(server.metric("rollbook_session_keys"), 1);
    assert!(server.metric(r#"rollbook_session_key_fetches_total{result="unreadable"}"#) >= 4);
    assert!(server.metric(r#"rollbook_session_key_fetches_total{result="unanswered"}"#) >= 1);
    // An answer of any length is an answer.
    let unanswered = || server.metric(r#"rollbook_session_key_fetches_total{result="unanswered"}"#);
    issuer.answer(200, &long);
    let asked = issuer.asked();
    issuer.asked_at_least(asked + 2).await;
    let before = unanswered();
    issuer.asked_at_least(asked + 4).await;
    assert_eq!(unanswered(), before);
    let before = server.metric(r#"rollbook_session_key_fetches_total{result="fetched"}"#);
    issuer.answer(200, &signer.jwks(KEY_ID));
    fetched(&server, before + 1).await;
}

#[tokio::test]
async fn before_the_first_keys_every_session_token_is_503_and_then_they_are_accepted() {
    let signer = Signer::of_the_instance();
    let issuer = Issuer::start("").await;
    issuer.answer(500, "");
    let times = KeyTimes { fetch_every: Duration::from_millis(10), ..NEVER };
    let server = server(&issuer, times).await;
    issuer.asked_at_least(1).await;
    let token = signer.token(&claims("user_1", server.seconds()));
    let line = format!("authorization: Bearer {token}");
    for path in ["/v1/authorize", "/v1/session", "/v1/context"] {
        let answer = server.get(path, &[&line]).await;
        answer.problem(503, "keys-unavailable");
        assert_eq!(answer.header("retry-after"), Some("5"));
    }
    assert_eq!(server.get("/v1/changes", &[]).await.status, 200, "service tokens need no keys");
    issuer.answer(200, &signer.jwks(KEY_ID));
    fetched(&server, 1).await;
    assert_eq!(server.get("/v1/authorize", &[&line]).await.status, 204);
}

#[tokio::test]
async fn a_failed_fetch_names_the_server_and_the_reason() {
    let signer = Signer::of_the_instance();
    let issuer = Issuer::start(signer.jwks(KEY_ID)).await;
    let keys = fetch_keys(&issuer.url(), DEADLINE).await.expect("keys");
    assert_eq!(keys.ids().collect::<Vec<_>>(), [Some(KEY_ID)]);
    let address = issuer.address.to_string();
    issuer.answer(404, "user@example.com");
    let error = fetch_keys(&issuer.url(), DEADLINE).await.expect_err("no keys");
    assert_eq!(error, format!("{address} answered 404"));
    issuer.answer(200, &json!({ "keys": [], "padding": "x".repeat(70_000) }));
    let error = fetch_keys(&issuer.url(), DEADLINE).await.expect_err("no keys");
    assert!(error.starts_with(&format!("{address}: ")) && error.contains("more than 65536 bytes"), "{error}");
    let url = issuer.url();
    drop(issuer);
    let error = fetch_keys(&url, DEADLINE).await.expect_err("no keys");
    assert!(error.contains(&address) && error.contains("unreachable"), "{error}");
}

#[tokio::test]
async fn keys_that_are_given_are_replaced_by_whoever_holds_them() {
    let (old, new) = (Signer::of_the_instance(), Signer::of_another_instance());
    let set = |signer: &Signer| KeySet::from_pem(&signer.pem()).expect("a key");
    let keys = Keys::new(set(&old));
    let sessions = SessionSettings::new(policy(), KeySource::Fixed(keys.clone()));
    let server =
        Server::with_options(Engine::Memory, Options { sessions: Some(sessions), ..Options::default() })
            .await;
    assert_eq!([ask(&server, &old, KEY_ID).await, ask(&server, &new, KEY_ID).await], [204, 401]);
    assert_eq!(server.metric("rollbook_session_keys"), 1);
    keys.replace(set(&old).join(set(&new)).expect("both"));
    assert_eq!(server.metric("rollbook_session_keys"), 2);
    assert_eq!([ask(&server, &old, KEY_ID).await, ask(&server, &new, KEY_ID).await], [204, 204]);
    keys.replace(set(&new));
    assert_eq!([ask(&server, &old, KEY_ID).await, ask(&server, &new, KEY_ID).await], [401, 204]);
}
