//! `max_age`: rows that are read at Clerk when the mirror is older.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rollbook_api::{Refresh, RefreshError};
use rollbook_core::catalog::Resource;
use rollbook_core::store::Store;
use rollbook_testkit::events::{START, change_of, event, user};
use serde_json::{Value, json};
use tokio::sync::{Mutex, Semaphore};

use crate::engine::Engine;
use crate::stage::{Options, Server};

/// Clerk behind the API: each reading is counted, and waits for a permit.
struct TestClerk {
    calls: AtomicUsize,
    permits: Semaphore,
    fails: AtomicBool,
    /// Store into which a reading writes the user, if Clerk has it.
    store: Mutex<Option<Arc<dyn rollbook_core::store::FullStore>>>,
}

impl TestClerk {
    fn new(permits: usize) -> Arc<Self> {
        Arc::new(Self {
            calls: AtomicUsize::new(0),
            permits: Semaphore::new(permits),
            fails: AtomicBool::new(false),
            store: Mutex::default(),
        })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Waits until this many readings have begun.
    async fn called(&self, count: usize) {
        while self.calls() < count {
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl Refresh for TestClerk {
    async fn refresh(&self, resource: &'static Resource, id: &str) -> Result<(), RefreshError> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.permits.acquire().await.expect("it is never closed").forget();
        if self.fails.load(Ordering::SeqCst) {
            return Err(RefreshError(format!("sk_live_secret of {id}")));
        }
        if let Some(store) = &*self.store.lock().await {
            assert_eq!(resource.table, "users");
            let change =
                change_of(&format!("read_{number}"), &event("user.updated", START + 99, &user(id, START)));
            Store::apply_many(&**store, &[change]).await.expect("it is applied");
        }
        Ok(())
    }
}

const MANY: usize = 1_000_000;

async fn server(clerk: &Arc<TestClerk>) -> Server {
    let refresh: Arc<dyn Refresh> = clerk.clone();
    Server::with_options(Engine::Memory, Options { refresh: Some(refresh), ..Options::default() }).await
}

#[tokio::test]
async fn a_row_is_read_at_clerk_only_if_the_mirror_is_older_than_max_age() {
    let clerk = TestClerk::new(MANY);
    let server = server(&clerk).await;
    server.create_user("user_1").await;
    *clerk.store.lock().await = Some(server.store.clone());
    server.clock.advance(Duration::from_secs(10));
    assert_eq!(server.get("/v1/users/user_1", &[]).await.json()["age_seconds"], json!(10));
    assert_eq!(server.get("/v1/users/user_1?max_age=10s", &[]).await.status, 200);
    assert_eq!(clerk.calls(), 0, "it is old enough by a millisecond at most");
    let read = server.get("/v1/users/user_1?max_age=9s", &[]).await.json();
    assert_eq!((clerk.calls(), &read["age_seconds"]), (1, &json!(0)));
    assert_eq!(read["as_of"], json!("2026-07-29T08:00:10.015Z"));
    // The result is remembered, though nothing was written: the row was up to date.
    server.clock.advance(Duration::from_secs(3));
    let again = server.get("/v1/users/user_1?max_age=9s", &[]).await.json();
    assert_eq!((clerk.calls(), &again["age_seconds"]), (1, &json!(3)));
    assert_eq!(server.get("/v1/users/user_1?max_age=2s", &[]).await.status, 200);
    assert_eq!(clerk.calls(), 2);
    // A delivery makes the row young too.
    server.clock.advance(Duration::from_secs(60));
    server.apply("user.updated", &user("user_1", START + 60_000)).await;
    assert_eq!(server.get("/v1/users/user_1?max_age=1s", &[]).await.status, 200);
    assert_eq!(clerk.calls(), 2);
}

#[tokio::test]
async fn a_user_who_has_just_signed_up_is_read_at_clerk_and_inserted() {
    let clerk = TestClerk::new(MANY);
    let server = server(&clerk).await;
    *clerk.store.lock().await = Some(server.store.clone());
    server.get("/v1/users/user_7", &[]).await.problem(404, "no-such-row");
    let answer = server.get("/v1/users/user_7?max_age=60s", &[]).await;
    assert_eq!((answer.status, &answer.json()["row"]["id"]), (200, &json!("user_7")));
    assert_eq!(server.get("/v1/users/user_7", &[]).await.status, 200, "the mirror has it");
}

#[tokio::test]
async fn many_requests_for_one_missing_user_make_one_call() {
    const REQUESTS: usize = 1_000;
    let clerk = TestClerk::new(0);
    let server = server(&clerk).await;
    let ask = async || {
        let problem = server.get("/v1/users/user_none?max_age=10s", &[]).await.problem(404, "no-such-row");
        assert_eq!(problem["as_of"], json!("2026-07-29T08:00:00.015Z"), "Clerk says that there is none");
    };
    let open = async {
        clerk.called(1).await;
        clerk.permits.add_permits(REQUESTS);
    };
    // The port serves 512 connections at once, and the others after them.
    tokio::join!(futures_util::future::join_all((0..REQUESTS).map(|_| ask())), open);
    assert_eq!(clerk.calls(), 1);
    ask().await;
    assert_eq!(clerk.calls(), 1, "the absence is remembered");
    assert_eq!(server.metric(r#"rollbook_api_refreshes_total{result="read"}"#), 1);
    server.clock.advance(Duration::from_secs(11));
    server.get("/v1/users/user_none?max_age=10s", &[]).await.problem(404, "no-such-row");
    assert_eq!(clerk.calls(), 2);
}

#[tokio::test]
async fn a_failed_reading_is_503_without_its_reason_and_the_next_request_tries_again() {
    let clerk = TestClerk::new(MANY);
    let server = server(&clerk).await;
    server.create_user("user_1").await;
    server.clock.advance(Duration::from_secs(60));
    clerk.fails.store(true, Ordering::SeqCst);
    for calls in 1..=2 {
        let answer = server.get("/v1/users/user_1?max_age=10s", &[]).await;
        answer.problem(503, "clerk-unavailable");
        assert_eq!(answer.header("retry-after"), Some("5"));
        assert!(!answer.body.contains("secret"), "{}", answer.body);
        assert_eq!(clerk.calls(), calls);
    }
    assert_eq!(server.get("/v1/users/user_1", &[]).await.status, 200, "without max_age the mirror answers");
    clerk.fails.store(false, Ordering::SeqCst);
    assert_eq!(server.get("/v1/users/user_1?max_age=10s", &[]).await.status, 200);
    assert_eq!(server.metric(r#"rollbook_api_refreshes_total{result="failed"}"#), 2);
}

#[tokio::test]
async fn a_request_that_waits_for_clerk_gets_no_row_after_its_token_was_removed() {
    for fails in [false, true] {
        let clerk = TestClerk::new(0);
        clerk.fails.store(fails, Ordering::SeqCst);
        let server = server(&clerk).await;
        server.create_user("user_1").await;
        server.clock.advance(Duration::from_secs(60));
        let meanwhile = async {
            clerk.called(1).await;
            server.remove_token();
            clerk.permits.add_permits(1);
        };
        let (answer, ()) = tokio::join!(server.get("/v1/users/user_1?max_age=10s", &[]), meanwhile);
        answer.problem(401, "unauthorized");
    }
}

#[tokio::test]
async fn without_a_key_for_clerks_api_max_age_is_409_and_a_bad_one_400() {
    let server = Server::start(Engine::Memory).await;
    server.create_user("user_1").await;
    for path in ["/v1/users/user_1", "/v1/organizations/org_1"] {
        server.get(&format!("{path}?max_age=10s"), &[]).await.problem(409, "clerk-key-missing");
        for bad in ["0s", "999ms", "86401s", "10", "ten", ""] {
            let problem =
                server.get(&format!("{path}?max_age={bad}"), &[]).await.problem(400, "invalid-parameter");
            assert_eq!(problem["parameter"], json!("max_age"));
        }
    }
    assert_ne!(server.get("/v1/users/user_1", &[]).await.json()["row"], Value::Null);
}
