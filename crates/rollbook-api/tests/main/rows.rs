//! Rows with a service token: users, organizations, members.

use rollbook_testkit::events::{START, deleted, membership, organization};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::stage::{Answer, NO_TOKEN, Server};

async fn a_row_is_answered_with_its_time_and_everything_that_the_mirror_has(engine: Engine) {
    let server = Server::start(engine).await;
    server.create_user("user_1").await;
    server.apply("organization.created", &organization("org_1", START)).await;
    server.clock.advance(std::time::Duration::from_secs(7));
    for (path, id) in [("/v1/users/user_1", "user_1"), ("/v1/organizations/org_1", "org_1")] {
        let answer = server.get(path, &[]).await;
        assert_eq!(
            (answer.status, answer.header("cache-control")),
            (200, Some("no-store")),
            "{}",
            answer.body
        );
        let document = answer.json();
        assert_eq!((&document["row"]["id"], &document["row"]["data"]["id"]), (&json!(id), &json!(id)));
        assert_eq!(
            (&document["as_of"], &document["age_seconds"]),
            (&json!("2026-07-29T08:00:00.015Z"), &json!(7))
        );
    }
}

async fn a_row_that_is_not_current_is_404_and_says_what_the_mirror_has(engine: Engine) {
    let server = Server::start(engine).await;
    server.create_users(1).await;
    server.apply("user.deleted", &deleted("user", "user_1")).await;
    for (path, detail, as_of) in [
        ("/v1/users/user_1", "the row is deleted", json!("2026-07-29T08:00:00.015Z")),
        ("/v1/users/user_2", "the mirror has no such row; max_age reads it at Clerk", Value::Null),
        ("/v1/users/org_1", "ids of this kind begin with user_", Value::Null),
        ("/v1/organizations/user_1", "ids of this kind begin with org_", Value::Null),
        ("/v1/users/user_%FF", "ids of this kind begin with user_", Value::Null),
        ("/v1/users/user_%0A", "ids of this kind begin with user_", Value::Null),
    ] {
        let problem = server.get(path, &[]).await.problem(404, "no-such-row");
        assert_eq!((&problem["detail"], &problem["as_of"]), (&json!(detail), &as_of), "{path}");
    }
    let long = format!("/v1/users/user_{}", "x".repeat(300));
    server.get(&long, &[]).await.problem(404, "no-such-row");
}

async fn rows_need_a_service_token_and_a_session_token_is_none(engine: Engine) {
    let server = Server::start(engine).await;
    server.create_users(1).await;
    let session = server.bearer_in("user_1", "org_1");
    for path in [
        "/v1/users/user_1",
        "/v1/users/user_1/organizations",
        "/v1/organizations/org_1",
        "/v1/organizations/org_1/members",
    ] {
        for line in [NO_TOKEN, session.as_str()] {
            server.get(path, &[line]).await.problem(401, "unauthorized");
        }
    }
}

/// Returns ids of the memberships and of the rows of their other sides.
fn ids(answer: &Answer, list: &str, side: &str) -> Vec<(String, Value)> {
    let document = answer.json();
    let entries = document[list].as_array().unwrap_or_else(|| panic!("{}", answer.body));
    let id = |entry: &Value| entry["row"]["id"].clone();
    let pair = |entry: &Value| {
        let membership = id(&entry["membership"]);
        (membership.as_str().expect("an id").to_owned(), id(&entry[side]))
    };
    entries.iter().map(pair).collect()
}

async fn members_and_organizations_are_paged_with_next(engine: Engine) {
    let server = Server::start(engine).await;
    server.create_users(3).await;
    server.apply("organization.created", &organization("org_1", START)).await;
    for number in 1..=4 {
        let member = membership(&format!("orgmem_{number}"), "org_1", &format!("user_{number}"), START);
        server.apply("organizationMembership.created", &member).await;
    }
    let path = "/v1/organizations/org_1/members";
    let first = server.get(&format!("{path}?limit=2"), &[]).await;
    let pair = |number: u32| (format!("orgmem_{number}"), json!(format!("user_{number}")));
    assert_eq!(ids(&first, "members", "user"), [pair(1), pair(2)]);
    assert_eq!(first.json()["next"], json!("user_2"));
    let second = server.get(&format!("{path}?limit=2&after=user_2"), &[]).await;
    // The row of user_4 has not arrived.
    assert_eq!(ids(&second, "members", "user"), [pair(3), ("orgmem_4".to_owned(), Value::Null)]);
    let last = server.get(&format!("{path}?limit=2&after=user_4"), &[]).await.json();
    assert_eq!((&last["members"], &last["next"]), (&json!([]), &Value::Null));
    let all = server.get(path, &[]).await.json();
    assert_eq!((all["members"].as_array().map(Vec::len), &all["next"]), (Some(4), &Value::Null));
    assert_eq!(all["members"][0]["membership"]["as_of"], json!("2026-07-29T08:00:00.015Z"));
    let organizations = server.get("/v1/users/user_2/organizations", &[]).await;
    let expected = [("orgmem_2".to_owned(), json!("org_1"))];
    assert_eq!(ids(&organizations, "organizations", "organization"), expected);
    for (query, parameter) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("after=", "after"),
        ("max_age=10s", "max_age"),
        ("page=2", "page"),
    ] {
        let problem = server.get(&format!("{path}?{query}"), &[]).await.problem(400, "invalid-parameter");
        assert_eq!(problem["parameter"], json!(parameter));
    }
}

async fn a_page_of_members_ends_at_the_row_that_reaches_the_limit_of_bytes(engine: Engine) {
    let server = Server::start(engine).await;
    for number in 1..=3 {
        let id = format!("user_{number}");
        let mut large = rollbook_testkit::events::user(&id, START);
        large["public_metadata"] = json!({ "text": "x".repeat(300 * 1024) });
        server.apply("user.created", &large).await;
        let member = membership(&format!("orgmem_{number}"), "org_1", &id, START);
        server.apply("organizationMembership.created", &member).await;
    }
    let path = "/v1/organizations/org_1/members";
    // A row holds the text twice: in its column, and in `data`.
    let first = server.get(path, &[]).await;
    assert_eq!((ids(&first, "members", "user").len(), &first.json()["next"]), (2, &json!("user_2")));
    let second = server.get(&format!("{path}?after=user_2"), &[]).await;
    assert_eq!((ids(&second, "members", "user").len(), &second.json()["next"]), (1, &Value::Null));
}

crate::on_every_store!(
    a_row_is_answered_with_its_time_and_everything_that_the_mirror_has,
    a_row_that_is_not_current_is_404_and_says_what_the_mirror_has,
    rows_need_a_service_token_and_a_session_token_is_none,
    members_and_organizations_are_paged_with_next,
    a_page_of_members_ends_at_the_row_that_reaches_the_limit_of_bytes,
);
