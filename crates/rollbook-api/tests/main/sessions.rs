//! `/v1/session`: claims, sizes and refusals.

use rollbook_testkit::tokens::{PARTY, Signer, claims, member_claims};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::stage::{NO_TOKEN, Options, Server, TOKEN, bearer};

#[tokio::test]
async fn a_session_is_shown_by_its_claims_from_a_header_and_from_a_cookie() {
    let server = Server::start(Engine::Memory).await;
    let token = Signer::of_the_instance().token(&member_claims("user_1", "org_1", server.seconds()));
    let [header, cookie] =
        [format!("authorization: Bearer {token}"), format!("cookie: a=b; __session={token}")];
    let answer = server.get("/v1/session", &[&header]).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")), "{}", answer.body);
    let document = answer.json();
    let expected = json!({
        "user_id": "user_1", "session_id": "sess_1", "issuer": "https://clerk.example.com", "authorized_party": PARTY,
        "issued_at": "2026-07-29T08:00:00.000Z", "expires_at": "2026-07-29T08:01:00.000Z", "version": 2,
        "organization": {
            "id": "org_1", "slug": "kilnworks-studio", "role": "org:admin",
            "permissions": ["org:tasks:read", "org:tasks:delete", "org:invoices:read"],
        },
        "features": { "organization": ["tasks", "invoices"], "user": [] },
        "plans": { "organization": ["pro"], "user": [] },
        "factor_ages": { "first": 1, "second": null },
        "actor": null,
    });
    assert_eq!(document["session"], expected);
    assert_eq!(document["as_of"], json!("2026-07-29T08:00:00.000Z"), "the claims are of this time");
    assert_eq!(document["token"]["bytes"], json!(token.len()));
    assert_eq!((&document["token"]["level"], &document["token"]["detail"]), (&json!("ok"), &Value::Null));
    assert!(!answer.body.contains(&token), "the token is not repeated");
    assert_eq!(server.get("/v1/session", &[NO_TOKEN, &cookie]).await.json(), document);
    assert_eq!(server.metric("rollbook_token_bytes_count"), 2);
    let mut impersonated = claims("user_1", server.seconds());
    impersonated["act"] = json!({ "sub": "user_9", "sid": "sess_9" });
    let document = server.get("/v1/session", &[&bearer(&impersonated)]).await.json();
    assert_eq!(document["session"]["actor"], json!({ "user_id": "user_9", "session_id": "sess_9" }));
    assert_eq!(document["session"]["organization"], Value::Null);
    let refused = server.get("/v1/session?organization=org_1", &[&header]).await;
    assert_eq!(refused.problem(400, "invalid-parameter")["parameter"], json!("organization"));
}

#[tokio::test]
async fn a_refused_token_is_401_with_its_reason_on_every_route_and_is_counted() {
    let server = Server::start(Engine::Memory).await;
    let now = server.seconds();
    let with = |key: &str, value: Value| {
        let mut claims = claims("user_1", now);
        claims[key] = value;
        bearer(&claims)
    };
    let permitted = |feature: &str, permission: &str| {
        let mut claims = member_claims("user_1", "org_1", now);
        claims["fea"] = json!(format!("o:{feature}"));
        claims["o"]["per"] = json!(permission);
        claims["o"]["fpm"] = json!("1");
        bearer(&claims)
    };
    let other = Signer::of_another_instance();
    let cases = [
        (NO_TOKEN.to_owned(), "token_missing"),
        ("authorization: Basic dXNlcjpwYXNz".to_owned(), "token_missing"),
        // A service token is not a session.
        (format!("authorization: Bearer {TOKEN}"), "not_a_jwt"),
        ("authorization: Bearer".to_owned(), "credentials_malformed"),
        (format!("authorization: Bearer {}", other.token(&claims("user_1", now))), "signature"),
        (bearer(&claims("user_1", now - 66)), "expired"),
        (with("azp", json!("https://evil.example")), "party"),
        (with("iss", json!("https://clerk.evil.example")), "issuer"),
        (with("sid", Value::Null), "session_missing"),
        (with("sts", json!("pending")), "pending"),
        (with("v", json!(3)), "version_unknown"),
        ("authorization: Bearer\tx".to_owned(), "credentials_malformed"),
        ("authorization: Bearer:x".to_owned(), "credentials_malformed"),
        (permitted("tasks", "read\n"), "claim_invalid"),
        (permitted("tasks", "l\u{e9}gende"), "claim_invalid"),
        (permitted("t\u{e2}ches", "read"), "claim_invalid"),
    ];
    for (line, reason) in &cases {
        let before = server.metric(&format!(r#"rollbook_session_refusals_total{{reason="{reason}"}}"#));
        for path in ["/v1/session", "/v1/context", "/v1/authorize", "/v1/authorize?permission=org:tasks:read"]
        {
            let answer = server.get(path, &[line]).await;
            let problem = answer.problem(401, "session-required");
            assert_eq!(problem["reason"], json!(reason), "{line}");
            let challenge = answer.header("www-authenticate").expect("a challenge");
            assert_eq!(challenge.contains("invalid_token"), *reason != "token_missing", "{challenge}");
            let token = line.rsplit(' ').next().unwrap_or_default();
            assert!(token.len() < 20 || !answer.body.contains(token), "{}", answer.body);
        }
        let after = server.metric(&format!(r#"rollbook_session_refusals_total{{reason="{reason}"}}"#));
        assert_eq!(after - before, 4, "{reason}");
    }
    assert_eq!(server.metric("rollbook_token_bytes_count"), 0);
}

#[tokio::test]
async fn a_heavy_token_is_a_warning_and_one_that_fits_in_no_cookie_an_error_each_by_its_claims() {
    let server = Server::start(Engine::Memory).await;
    for (bytes, level, heaviest) in [
        // With quotation marks, a colon, a comma and the name, the claim `profile` has 13 bytes more.
        (1200 - 13, "ok", json!([])),
        (1200 - 12, "warning", json!(["profile"])),
        (4000, "error", json!(["profile"])),
    ] {
        let mut claims = claims("user_1", server.seconds());
        claims["profile"] = json!("p".repeat(bytes));
        let document = server.get("/v1/session", &[&bearer(&claims)]).await.json();
        let token = &document["token"];
        assert_eq!((&token["level"], &token["heaviest"]), (&json!(level), &heaviest), "{bytes}");
        assert_eq!(token["claims"][0], json!({ "name": "profile", "bytes": bytes + 13, "is_custom": true }));
        assert_eq!(token["custom_bytes"], json!(bytes + 13));
        assert_eq!(token["detail"].is_null(), level == "ok");
        assert_eq!(token["cookie_bytes"].as_u64() > Some(4096), level == "error");
    }
    // The cookie of a token of 4,077 bytes has 4,096.
    assert_eq!(server.metric(r#"rollbook_token_bytes_bucket{le="4077"}"#), 2);
    assert_eq!(server.metric("rollbook_token_bytes_count"), 3);
}

#[tokio::test]
async fn without_an_issuer_no_session_token_is_accepted() {
    let server = Server::with_options(Engine::Memory, Options { sessions: None, ..Options::default() }).await;
    for path in ["/v1/session", "/v1/context", "/v1/authorize"] {
        let answer = server.get(path, &[&server.bearer("user_1")]).await;
        answer.problem(503, "sessions-off");
        assert_eq!(answer.header("retry-after"), None, "waiting does not help");
    }
    assert_eq!(server.get("/v1/changes", &[]).await.status, 200);
}

#[tokio::test]
async fn a_token_anywhere_but_in_its_header_or_cookie_is_refused_and_not_repeated() {
    let server = Server::start(Engine::Memory).await;
    server.create_user("user_1").await;
    let session = Signer::of_the_instance().token(&member_claims("user_1", "org_1", server.seconds()));
    let of_sessions = ["/v1/session", "/v1/context", "/v1/authorize"];
    let of_services = ["/v1/changes", "/v1/users/user_1", "/v1/users/user_1/organizations"];
    for (token, paths) in [(&*session, of_sessions), (TOKEN, of_services)] {
        for path in paths {
            for name in ["token", "access_token", "api_token", "__session", "authorization", "jwt"] {
                let answer = server.get(&format!("{path}?{name}={token}"), &[NO_TOKEN]).await;
                assert!([400, 401].contains(&answer.status), "{path} {name}: {}", answer.status);
                assert!(!answer.body.contains(token) && !answer.body.contains("user_1"), "{}", answer.body);
            }
            for line in [
                format!("authorization: {token}"),
                format!("authorization: Token {token}"),
                format!("proxy-authorization: Bearer {token}"),
                format!("x-authorization: Bearer {token}"),
                format!("x-session-token: {token}"),
                format!("cookie: session={token}; token={token}; __SESSION={token}"),
            ] {
                let answer = server.get(path, &[NO_TOKEN, &line]).await;
                assert_eq!(answer.status, 401, "{path} with {}", line.split(' ').next().unwrap_or_default());
                assert!(!answer.body.contains(token), "{}", answer.body);
            }
        }
    }
    // A service token is none in a session's cookie either.
    let cookie = format!("cookie: __session={TOKEN}");
    assert_eq!(server.get("/v1/users/user_1", &[NO_TOKEN, &cookie]).await.status, 401);
}
