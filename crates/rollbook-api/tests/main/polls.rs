//! Requests that wait for a change.

use rollbook_api::Settings;
use serde_json::json;

use crate::engine::Engine;
use crate::stage::{Answer, OTHER_TOKEN, Server};

/// Runs a request that waits, and `meanwhile` once it does.
async fn while_waiting(server: &Server, query: &str, meanwhile: impl Future<Output = ()>) -> Answer {
    let path = format!("/v1/changes?wait=55s&{query}");
    let waiting = async {
        server.feed.waited(1).await;
        meanwhile.await;
    };
    tokio::join!(server.get(&path, &[]), waiting).0
}

async fn a_request_that_waits_is_answered_with_the_next_change(engine: Engine) {
    let server = Server::start(engine).await;
    server.create_users(1).await;
    let answer = while_waiting(&server, "after=1", async {
        assert_eq!(server.metric(r#"rollbook_api_readers{kind="long_poll"}"#), 1);
        server.create_user("user_2").await;
    })
    .await;
    assert_eq!(answer.positions(), [2]);
    assert_eq!(server.metric(r#"rollbook_api_readers{kind="long_poll"}"#), 0);
}

async fn a_change_that_is_there_is_answered_without_waiting(engine: Engine) {
    let server = Server::start(engine).await;
    server.create_users(2).await;
    assert_eq!(server.get("/v1/changes?after=1&wait=55s", &[]).await.positions(), [2]);
}

async fn a_request_that_waited_in_vain_gets_an_empty_page_to_go_on_from(engine: Engine) {
    let server = Server::start(engine).await;
    server.create_users(2).await;
    let answer = server.get("/v1/changes?after=0&kind=deleted&wait=20ms", &[]).await;
    assert_eq!(
        answer.json(),
        json!({ "changes": [], "through": 2, "last": 2, "feed": server.generation().await })
    );
}

async fn a_change_that_is_not_selected_does_not_end_the_wait(engine: Engine) {
    let server = Server::start(engine).await;
    let answer = while_waiting(&server, "resource=organizations", async {
        server.create_user("user_1").await;
        server.feed.waited(2).await;
        server.apply("organization.created", &rollbook_testkit::events::organization("org_1", 0)).await;
    })
    .await;
    assert_eq!(answer.positions(), [2]);
}

async fn a_stop_answers_requests_that_wait(engine: Engine) {
    let server = Server::start(engine).await;
    let answer = while_waiting(&server, "", async { server.stop.cancel() }).await;
    assert_eq!(
        answer.json(),
        json!({ "changes": [], "through": 0, "last": 0, "feed": server.generation().await })
    );
    server.stop().await;
}

async fn a_request_that_waits_gets_no_data_after_its_token_was_removed(engine: Engine) {
    let server = Server::start(engine).await;
    let answer = while_waiting(&server, "", async {
        server.remove_token();
        server.create_users(1).await;
    })
    .await;
    answer.problem(401, "unauthorized");
    assert!(!answer.body.contains("user_1"), "{}", answer.body);
    assert_eq!(server.metric("rollbook_api_changes_total"), 0);
    let other = format!("authorization: Bearer {OTHER_TOKEN}");
    assert_eq!(server.get("/v1/changes?after=0&wait=55s", &[&other]).await.positions(), [1]);
}

async fn more_readers_than_allowed_are_answered_503_and_those_who_do_not_wait_are_served(engine: Engine) {
    let settings = Settings { readers_max: 1, ..Settings::default() };
    let server = Server::with(engine, settings, crate::stage::TOKEN).await;
    let answer = while_waiting(&server, "", async {
        for accept in ["accept: */*", "accept: text/event-stream"] {
            let wait = if accept.ends_with("stream") { "" } else { "?wait=1s" };
            let refused = server.get(&format!("/v1/changes{wait}"), &[accept]).await;
            refused.problem(503, "too-many-readers");
            assert_eq!(refused.header("retry-after"), Some("5"));
        }
        assert_eq!(server.get("/v1/changes", &[]).await.status, 200);
        server.create_users(1).await;
    })
    .await;
    assert_eq!(answer.positions(), [1]);
    assert_eq!(server.get("/v1/changes?after=1&wait=1ms", &[]).await.status, 200, "the permit is free again");
}

crate::on_every_store!(
    a_request_that_waits_is_answered_with_the_next_change,
    a_change_that_is_there_is_answered_without_waiting,
    a_request_that_waited_in_vain_gets_an_empty_page_to_go_on_from,
    a_change_that_is_not_selected_does_not_end_the_wait,
    a_stop_answers_requests_that_wait,
    a_request_that_waits_gets_no_data_after_its_token_was_removed,
    more_readers_than_allowed_are_answered_503_and_those_who_do_not_wait_are_served,
);
