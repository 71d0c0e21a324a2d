//! `/v1/authorize`: the question of a proxy.

use rollbook_api::HEAD_LENGTH_MAX;
use rollbook_testkit::tokens::{Signer, claims, member_claims};
use serde_json::json;

use crate::engine::Engine;
use crate::stage::{Answer, NO_TOKEN, Server, bearer};

const HEADERS: [&str; 4] =
    ["x-user-id", "x-organization-id", "x-organization-role", "x-organization-permissions"];

fn identity(answer: &Answer) -> [Option<&str>; 4] {
    HEADERS.map(|name| answer.header(name))
}

#[tokio::test]
async fn a_session_with_what_is_asked_for_is_204_with_headers_that_say_who_it_is() {
    let server = Server::start(Engine::Memory).await;
    let line = server.bearer_in("user_1", "org_1");
    for query in [
        "",
        "?permission=org:tasks:delete",
        "?permission=org:tasks:delete&permission=org%3Ainvoices%3Aread",
        "?organization=org_1",
        "?role=org:admin&organization=org_1&permission=org:tasks:read",
    ] {
        for method in ["GET", "HEAD", "POST", "DELETE", "OPTIONS"] {
            let answer = server.ask(method, &format!("/v1/authorize{query}"), &[&line]).await;
            assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{method} {query}: {}", answer.body);
            let permissions = "org:tasks:read,org:tasks:delete,org:invoices:read";
            let expected = ["user_1", "org_1", "org:admin", permissions].map(Some);
            assert_eq!(identity(&answer), expected);
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }
    }
    let token = Signer::of_the_instance().token(&member_claims("user_1", "org_1", server.seconds()));
    let cookie = format!("cookie: theme=dark; __session={token}");
    let answer = server.get("/v1/authorize?permission=org:tasks:read", &[NO_TOKEN, &cookie]).await;
    assert_eq!((answer.status, answer.header("x-user-id")), (204, Some("user_1")));
}

#[tokio::test]
async fn what_the_session_lacks_is_403_without_headers_that_say_who_it_is() {
    let server = Server::start(Engine::Memory).await;
    let member = server.bearer_in("user_1", "org_1");
    let alone = server.bearer("user_1");
    for (line, query, name) in [
        (&member, "permission=org:tasks:create", "permission-denied"),
        (&member, "permission=org:tasks:read&permission=org:tasks:create", "permission-denied"),
        (&member, "permission=org:tasks:rea", "permission-denied"),
        (&member, "permission=org:invoices:delete", "permission-denied"),
        (&member, "organization=org_2", "organization-not-active"),
        (&member, "organization=org_2&permission=org:tasks:read", "organization-not-active"),
        (&member, "role=org:owner", "role-denied"),
        (&alone, "permission=org:tasks:read", "permission-denied"),
        (&alone, "organization=org_1", "organization-not-active"),
        (&alone, "role=org:admin", "role-denied"),
    ] {
        let answer = server.get(&format!("/v1/authorize?{query}"), &[line]).await;
        answer.problem(403, name);
        assert_eq!(identity(&answer), [None; 4], "{query}");
    }
    let denied = server.get("/v1/authorize?permission=org:tasks:create", &[&member]).await;
    assert_eq!(denied.json()["permission"], json!("org:tasks:create"));
    assert_eq!(server.metric(r#"rollbook_api_requests_total{route="authorize",status="403"}"#), 11);
}

#[tokio::test]
async fn an_impersonated_session_is_let_in_unless_the_question_refuses_it() {
    let server = Server::start(Engine::Memory).await;
    let mut acted = member_claims("user_1", "org_1", server.seconds());
    acted["act"] = json!({ "iss": "https://dashboard.clerk.com", "sid": "sess_9", "sub": "user_9" });
    let (own, acted) = (server.bearer_in("user_1", "org_1"), bearer(&acted));
    for (line, query, status) in [
        (&own, "permission=org:tasks:read&impersonation=refused", 204),
        (&own, "impersonation=refused", 204),
        (&acted, "permission=org:tasks:read", 204),
        (&acted, "permission=org:tasks:read&impersonation=refused", 403),
        (&acted, "impersonation=refused", 403),
    ] {
        let answer = server.get(&format!("/v1/authorize?{query}"), &[line]).await;
        assert_eq!(answer.status, status, "{query}");
        if status == 403 {
            answer.problem(403, "impersonated");
            assert_eq!(identity(&answer), [None; 4], "{query}");
        }
    }
}

#[tokio::test]
async fn a_condition_that_is_not_known_is_refused_with_all_that_are() {
    let server = Server::start(Engine::Memory).await;
    let answer = server.get("/v1/authorize?perm=x", &[&server.bearer("user_1")]).await;
    let detail = answer.json()["detail"].to_string();
    let all = "the parameters are permission, role, organization, impersonation";
    assert!(answer.status == 400 && detail.contains("perm: ") && detail.contains(all), "{detail}");
}

#[tokio::test]
async fn a_session_without_an_organization_has_all_headers_and_three_are_empty() {
    let server = Server::start(Engine::Memory).await;
    let answer = server.get("/v1/authorize", &[&server.bearer("user_1")]).await;
    assert_eq!(answer.status, 204);
    // A proxy that copies them replaces what a client has sent.
    assert_eq!(identity(&answer), ["user_1", "", "", ""].map(Some));
}

#[tokio::test]
async fn a_question_that_can_not_be_meant_is_400_for_everybody() {
    let server = Server::start(Engine::Memory).await;
    let line = server.bearer_in("user_1", "org_1");
    for query in
        ["permision=org:tasks:read", "permission=", "permission=org:sys_profile:manage", "organization="]
    {
        for line in [line.as_str(), NO_TOKEN] {
            let answer = server.get(&format!("/v1/authorize?{query}"), &[line]).await;
            answer.problem(400, "invalid-parameter");
            assert_eq!(identity(&answer), [None; 4]);
        }
    }
}

#[tokio::test]
async fn permissions_that_are_too_long_for_a_header_are_left_out_and_still_checked() {
    let server = Server::start(Engine::Memory).await;
    for (length, shown) in [(3_072, 3_072), (3_073, 0)] {
        // 30 keys of 100 bytes with a comma each, and one that fills up.
        let mut keys: Vec<String> = (0..30).map(|number| format!("org:tasks:{number:090}")).collect();
        let last = format!("org:tasks:{}", "x".repeat(length - 30 * 101 - "org:tasks:".len()));
        keys.push(last.clone());
        assert_eq!(keys.join(",").len(), length);
        let mut claims = claims("user_1", server.seconds());
        let members = claims.as_object_mut().expect("an object");
        members.remove("v");
        members.insert("org_id".to_owned(), json!("org_1"));
        members.insert("org_role".to_owned(), json!("org:admin"));
        members.insert("org_permissions".to_owned(), json!(keys));
        let answer = server.get(&format!("/v1/authorize?permission={last}"), &[&bearer(&claims)]).await;
        assert_eq!(answer.status, 204, "{}", answer.body);
        let header = answer.header("x-organization-permissions").expect("it is always there");
        assert_eq!(header.len(), shown);
    }
}

#[tokio::test]
async fn a_head_of_a_browser_with_many_cookies_is_read_up_to_the_limit_and_a_longer_one_is_431() {
    let server = Server::start(Engine::Memory).await;
    let line = server.bearer_in("user_1", "org_1");
    let rest =
        format!("GET /v1/authorize HTTP/1.1\r\nhost: api\r\n{line}\r\ncookie: \r\nconnection: close\r\n\r\n");
    for (length, expected) in [(HEAD_LENGTH_MAX, 204), (HEAD_LENGTH_MAX + 1, 431)] {
        let cookie = format!("cookie: {}", "c".repeat(length - rest.len()));
        let answer = server.get("/v1/authorize", &[&line, &cookie]).await;
        assert_eq!((answer.status, answer.body.as_str()), (expected, ""));
    }
    for (count, expected) in [(100, 204), (101, 431)] {
        // With host, authorization and connection.
        let lines: Vec<String> = (3..count).map(|number| format!("cookie: c{number}=1")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).chain([line.as_str()]).collect();
        assert_eq!(server.get("/v1/authorize", &lines).await.status, expected, "{count} headers");
    }
}
