//! Answers without waiting: tokens, pages, errors.

use std::sync::atomic::Ordering;

use rollbook_api::Settings;
use rollbook_testkit::events::{deleted, user};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::stage::{NO_TOKEN, OTHER_TOKEN, Server, TOKEN};

async fn without_a_valid_token_every_request_for_data_is_answered_401(engine: Engine) {
    let server = Server::start(engine).await;
    for (line, challenge) in [
        (NO_TOKEN, r#"Bearer realm="rollbook""#),
        ("authorization:", r#"Bearer realm="rollbook", error="invalid_token""#),
        (
            "authorization: Bearer 0123456789abcdef0123456789abcdeg",
            r#"Bearer realm="rollbook", error="invalid_token""#,
        ),
        (
            "authorization: Basic 0123456789abcdef0123456789abcdef",
            r#"Bearer realm="rollbook", error="invalid_token""#,
        ),
    ] {
        for accept in ["accept: */*", "accept: text/event-stream"] {
            let answer = server.get("/v1/changes", &[line, accept]).await;
            answer.problem(401, "unauthorized");
            assert_eq!(answer.header("www-authenticate"), Some(challenge), "{line}");
            assert!(!answer.body.contains("0123456789"), "{}", answer.body);
        }
    }
    let twice = [format!("authorization: Bearer {TOKEN}"), format!("authorization: Bearer {TOKEN}")];
    let answer = server.get("/v1/changes", &[twice[0].as_str(), twice[1].as_str()]).await;
    answer.problem(401, "unauthorized");
    // The tokens are never in the query: it is logged by proxies.
    let answer = server.get(&format!("/v1/changes?token={TOKEN}"), &["authorization: none"]).await;
    answer.problem(401, "unauthorized");
    assert_eq!(server.metric(r#"rollbook_api_requests_total{route="changes",status="401"}"#), 10);
}

async fn each_of_several_tokens_is_valid_and_a_restart_with_other_tokens_replaces_them(engine: Engine) {
    let header = |token: &str| format!("authorization: Bearer {token}");
    let before = Server::with(engine, Settings::default(), &format!("{TOKEN}\n{OTHER_TOKEN}\n")).await;
    for token in [TOKEN, OTHER_TOKEN] {
        assert_eq!(before.get("/v1/changes", &[&header(token)]).await.status, 200, "{token}");
    }
    before.stop().await;
    let new = "a-new-token-which-is-long-enough-0";
    let after = Server::with(engine, Settings::default(), &format!("{OTHER_TOKEN},{new}")).await;
    for (token, status) in [(TOKEN, 401), (OTHER_TOKEN, 200), (new, 200)] {
        assert_eq!(after.get("/v1/changes", &[&header(token)]).await.status, status, "{token}");
    }
}

async fn a_page_has_the_lines_after_a_position_with_what_is_needed_to_go_on(engine: Engine) {
    let server = Server::start(engine).await;
    server.create_users(3).await;
    let answer = server.get("/v1/changes?after=1&limit=1", &[]).await;
    assert_eq!(answer.positions(), [2]);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let page = answer.json();
    assert_eq!((&page["through"], &page["last"]), (&json!(2), &json!(3)));
    let line = &page["changes"][0];
    let known = json!({
        "position": 2, "resource": "users", "subject_id": "user_2", "kind": "created", "changed": line["changed"],
        "origin": "webhook", "cause": "msg_2", "event_at": line["event_at"], "at": "2026-07-29T08:00:00.015Z",
    });
    assert_eq!(*line, known, "without expand there is no row");
    assert_eq!(server.get("/v1/changes", &[]).await.positions(), [1, 2, 3]);
    assert_eq!(server.get("/v1/changes?after=3", &[]).await.positions(), [0; 0]);
    assert_eq!(server.get("/v1/changes?after=last", &[]).await.json()["through"], json!(3));
    assert_eq!(server.metric("rollbook_api_changes_total"), 4);
}

async fn lines_are_selected_by_resource_and_kind_and_by_time(engine: Engine) {
    let server = Server::start(engine).await;
    server.create_users(2).await;
    server.clock.advance(std::time::Duration::from_secs(5));
    server.apply("user.deleted", &deleted("user", "user_1")).await;
    server.apply("organization.created", &rollbook_testkit::events::organization("org_1", 0)).await;
    for (query, positions) in [
        ("resource=organizations", &[4][..]),
        ("resource=organizations,users", &[1, 2, 3, 4]),
        ("resource=users&kind=deleted", &[3]),
        ("kind=deleted&kind=created&after=1", &[2, 3, 4]),
        ("kind=erased", &[]),
        ("since=2026-07-29T08:00:00.015Z", &[1, 2, 3, 4]),
        ("since=2026-07-29T08:00:00.016Z", &[3, 4]),
        ("since=2026-07-29T08:00:05.016Z", &[]),
        ("since=1970-01-01T00:00:00Z&limit=2", &[1, 2]),
    ] {
        let answer = server.get(&format!("/v1/changes?{query}"), &[]).await;
        assert_eq!(answer.positions(), positions, "{query}");
        if !query.contains("limit") {
            assert_eq!(answer.json()["through"], json!(4), "{query}");
        }
    }
}

async fn a_position_that_was_removed_is_410_with_the_oldest_and_one_that_never_was_is_409_with_the_last(
    engine: Engine,
) {
    let server = Server::start(engine).await;
    server.create_users(5).await;
    server.remove(3).await;
    for accept in ["accept: application/json", "accept: text/event-stream"] {
        let gone = server.get("/v1/changes?after=2", &[accept]).await.problem(410, "position-removed");
        assert_eq!(gone["oldest"], json!(4));
        let ahead = server.get("/v1/changes?after=6", &[accept]).await.problem(409, "position-ahead");
        assert_eq!(ahead["last"], json!(5));
    }
    assert_eq!(server.get("/v1/changes?after=3", &[]).await.positions(), [4, 5]);
    assert_eq!(server.get("/v1/changes", &[]).await.positions(), [4, 5], "it begins at the oldest line");
    let since = server.get("/v1/changes?since=1970-01-01T00:00:00Z", &[]).await;
    assert_eq!(since.positions(), [4, 5]);
}

async fn a_bad_parameter_is_400_with_its_name(engine: Engine) {
    let server = Server::start(engine).await;
    for (query, parameter) in [("after=x", "after"), ("limit=0", "limit"), ("colour=red", "colour")] {
        let answer = server.get(&format!("/v1/changes?{query}"), &[]).await;
        assert_eq!(answer.problem(400, "invalid-parameter")["parameter"], json!(parameter));
    }
    let lines = ["accept: text/event-stream", "last-event-id: \u{ff}"];
    server.get("/v1/changes", &lines).await.problem(400, "invalid-parameter");
}

async fn an_unknown_path_is_404_another_method_405_and_head_is_get_without_a_body(engine: Engine) {
    let server = Server::start(engine).await;
    for path in
        ["/", "/v1", "/v1/changes/", "/v1/users", "/v1/users/", "/v1/users/user_1/members", "/v1//changes"]
    {
        server.get(path, &[NO_TOKEN]).await.problem(404, "not-found");
    }
    // It is asked with the methods of the requests that it authorizes.
    assert_eq!(server.ask("POST", "/v1/authorize", &[NO_TOKEN, "content-length: 0"]).await.status, 401);
    for path in ["/v1/session", "/v1/context", "/v1/users/user_1", "/v1/organizations/org_1/members"] {
        server.ask("DELETE", path, &[]).await.problem(405, "method-not-allowed");
    }
    for path in ["/v1/changes", "/v1/openapi.json"] {
        let answer = server.ask("POST", path, &["content-length: 0"]).await;
        answer.problem(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), Some("GET,HEAD"));
        let head = server.ask("HEAD", path, &[]).await;
        assert_eq!((head.status, head.body.as_str()), (200, ""));
    }
}

async fn expand_adds_the_row_as_it_is_now_and_null_where_the_table_has_none(engine: Engine) {
    let server = Server::start(engine).await;
    server.create_users(1).await;
    let mut renamed = user("user_1", rollbook_testkit::events::START + 5);
    renamed["first_name"] = json!("Ada");
    server.apply("user.updated", &renamed).await;
    let page = server.get("/v1/changes?expand=row", &[]).await.json();
    let names: Vec<&Value> = (0..2).map(|index| &page["changes"][index]["row"]["first_name"]).collect();
    assert_eq!(names, [&json!("Ada"), &json!("Ada")]);
    let row =
        server.store.get(&rollbook_core::catalog::USERS, "user_1").await.expect("it reads").expect("a row");
    assert_eq!(page["changes"][0]["row"], Value::Object(row.columns));
}

async fn a_page_with_rows_ends_at_the_row_that_reaches_the_limit_of_bytes(engine: Engine) {
    let server = Server::start(engine).await;
    for number in 1..=3 {
        let mut large = user(&format!("user_{number}"), 0);
        large["public_metadata"] = json!({ "text": "x".repeat(300 * 1024) });
        server.apply("user.created", &large).await;
    }
    // A row holds the text twice: in its column, and in `data`.
    let answer = server.get("/v1/changes?expand=row", &[]).await;
    assert_eq!(answer.positions(), [1, 2]);
    assert_eq!((&answer.json()["through"], &answer.json()["last"]), (&json!(2), &json!(3)));
    assert_eq!(server.get("/v1/changes?expand=row&after=2", &[]).await.positions(), [3]);
}

async fn a_store_that_fails_is_503_without_its_address_and_a_feed_that_is_off_is_409(engine: Engine) {
    let server = Server::start(engine).await;
    server.feed.fails.store(true, Ordering::Relaxed);
    for query in ["", "?after=0", "?after=0&wait=55s"] {
        let answer = server.get(&format!("/v1/changes{query}"), &[]).await;
        answer.problem(503, "store-unavailable");
        assert_eq!(answer.header("retry-after"), Some("5"));
        assert!(!answer.body.contains("db.internal"), "{}", answer.body);
    }
    server.feed.fails.store(false, Ordering::Relaxed);
    server.feed.is_off.store(true, Ordering::Relaxed);
    for (query, accept) in [("", "*/*"), ("?wait=55s", "*/*"), ("", "text/event-stream")] {
        let answer = server.get(&format!("/v1/changes{query}"), &[&format!("accept: {accept}")]).await;
        answer.problem(409, "feed-off");
    }
    server.create_users(1).await;
    assert_eq!(server.get("/v1/changes", &[]).await.positions(), [1], "lines that are there can be read");
}

crate::on_every_store!(
    without_a_valid_token_every_request_for_data_is_answered_401,
    each_of_several_tokens_is_valid_and_a_restart_with_other_tokens_replaces_them,
    a_page_has_the_lines_after_a_position_with_what_is_needed_to_go_on,
    lines_are_selected_by_resource_and_kind_and_by_time,
    a_position_that_was_removed_is_410_with_the_oldest_and_one_that_never_was_is_409_with_the_last,
    a_bad_parameter_is_400_with_its_name,
    an_unknown_path_is_404_another_method_405_and_head_is_get_without_a_body,
    expand_adds_the_row_as_it_is_now_and_null_where_the_table_has_none,
    a_page_with_rows_ends_at_the_row_that_reaches_the_limit_of_bytes,
    a_store_that_fails_is_503_without_its_address_and_a_feed_that_is_off_is_409,
);
