//! The extractors for axum, over a real connection.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::{delete, get};
use rollbook_session::{Denied, Session, Verifier};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::mint::{NOW, claims, claims_with, token, verifier};

async fn who(session: Session) -> String {
    session.user_id().to_owned()
}

async fn greet(session: Option<Session>) -> String {
    session.map_or_else(|| "anonymous".to_owned(), |session| session.user_id().to_owned())
}

async fn remove(session: Session) -> Result<String, Denied> {
    session.require("org:tasks:delete").map(|organization| organization.id().to_owned())
}

/// A server that ends with the test.
async fn serve(tasks: &mut tokio::task::JoinSet<()>) -> SocketAddr {
    let shared: Arc<Verifier> = Arc::new(verifier());
    let by_arc = Router::new().route("/arc", get(who)).with_state(shared);
    let routes = Router::new()
        .route("/who", get(who))
        .route("/greet", get(greet))
        .route("/tasks", delete(remove))
        .with_state(verifier())
        .merge(by_arc);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tasks.spawn(async move { axum::serve(listener, routes).await.expect("it serves") });
    address
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn problem(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

async fn ask(server: SocketAddr, line: &str, headers: &str) -> Answer {
    let mut connection = TcpStream::connect(server).await.expect("a connection");
    let request = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    connection.write_all(request.as_bytes()).await.expect("it is sent");
    let mut text = String::new();
    connection.read_to_string(&mut text).await.expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

#[tokio::test]
async fn a_handler_with_a_session_runs_only_for_signed_in_users() {
    let mut tasks = tokio::task::JoinSet::new();
    let server = serve(&mut tasks).await;
    let genuine = token(&claims());
    for (path, headers) in [
        ("/who", format!("Authorization: Bearer {genuine}\r\n")),
        ("/who", format!("Cookie: a=b; __session={genuine}\r\n")),
        ("/who", format!("Cookie: a=b\r\nCookie: __session_aBcDeF12={genuine}\r\n")),
        ("/arc", format!("authorization: bearer {genuine}\r\n")),
        ("/greet", format!("Authorization: Bearer {genuine}\r\n")),
    ] {
        let answer = ask(server, &format!("GET {path}"), &headers).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "user_1"), "{path}");
    }
    let answer = ask(server, "GET /who", "").await;
    assert_eq!((answer.status, answer.problem()["code"].as_str()), (401, Some("token_missing")));
    assert!(
        answer.head.contains("www-authenticate: bearer\r\n")
            || answer.head.ends_with("www-authenticate: bearer")
    );
    assert!(
        answer.head.contains("application/problem+json") && answer.head.contains("cache-control: no-store")
    );
}

#[tokio::test]
async fn a_refused_token_gives_401_with_its_reason_also_where_a_session_is_optional() {
    let mut tasks = tokio::task::JoinSet::new();
    let server = serve(&mut tasks).await;
    let expired = token(&claims_with(&json!({"exp": NOW - 60})));
    for path in ["/who", "/greet"] {
        let answer =
            ask(server, &format!("GET {path}"), &format!("Authorization: Bearer {expired}\r\n")).await;
        let problem = answer.problem();
        assert_eq!(
            (answer.status, problem["code"].as_str(), problem["status"].as_u64()),
            (401, Some("expired"), Some(401))
        );
        assert!(answer.head.contains(r#"www-authenticate: bearer error="invalid_token""#), "{}", answer.head);
        assert!(!answer.body.contains(&expired[..40]));
    }
    assert_eq!(ask(server, "GET /greet", "").await.body, "anonymous");
}

#[tokio::test]
async fn a_missing_permission_gives_403() {
    let mut tasks = tokio::task::JoinSet::new();
    let server = serve(&mut tasks).await;
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let answer = ask(server, "DELETE /tasks", &bearer(&token(&claims()))).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "org_1"));
    let answer = ask(server, "DELETE /tasks", &bearer(&token(&claims_with(&json!({"o": null}))))).await;
    let problem = answer.problem();
    assert_eq!((answer.status, problem["code"].as_str()), (403, Some("permission_denied")));
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("org:tasks:delete")));
}
