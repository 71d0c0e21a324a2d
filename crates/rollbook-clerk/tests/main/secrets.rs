//! Nothing repeats the key, an id or a body: no error, no log line, no `Debug`.

use rollbook_clerk::{ClerkApi, ClerkSettings};
use rollbook_core::catalog::{ORGANIZATION_INVITATIONS, USERS};
use rollbook_core::source::{Lookup, PageRequest, Position, Source as _, Window};
use rollbook_testkit::log::Log;

use crate::server::{Answer, KEY, Server, json, with_headers};

fn answers() -> [Answer; 8] {
    let echo = format!(r#"{{"errors":[{{"code":"{KEY}","message":"user_named sk_live_c2VjcmV0"}}]}}"#);
    [
        json(401, &echo),
        json(403, &echo),
        json(404, &echo),
        with_headers(429, &["retry-after: 0".to_owned()], &echo),
        json(500, &echo),
        json(200, &echo),
        json(200, "[{\"user_named\""),
        Answer::BytesAndClose(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nuser_named".to_vec()),
    ]
}

#[tokio::test]
async fn no_error_and_no_log_line_repeats_the_key_an_id_or_a_body() {
    let (log, _logging) = Log::capture_to(tracing::Level::TRACE);
    let mut errors = Vec::new();
    for answer in answers() {
        let server = Server::start(move |_, _| answer.clone()).await;
        let client = server.client();
        let id = "user_named".to_owned();
        let position = Position::After { id: Some(id.clone()), window: Window::ALL };
        let page = client
            .page(&USERS, &PageRequest { position, limit: 1, bytes_max: usize::MAX })
            .await
            .expect_err("an error");
        let lookup = Lookup { id, organization_id: Some("org_named".to_owned()), user_id: None };
        let fetched = client.fetch(&ORGANIZATION_INVITATIONS, std::slice::from_ref(&lookup)).await;
        let instance = client.instance().await.expect_err("an error");
        errors.push(format!("{page} {page:?} {instance} {instance:?} {client:?} {:?}", server.settings()));
        // A 404 or an object of another id is a result here.
        errors.extend(fetched.err().map(|error| format!("{error} {error:?}")));
    }
    let logged = log.text();
    assert!(logged.contains("a request to Clerk is repeated"), "logs are captured: {logged}");
    for text in [errors.join("\n"), logged] {
        for secret in ["c2VjcmV0", "sk_live", "user_named", "org_named", "user%5Fnamed"] {
            let line = text.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{secret}");
        }
    }
}

#[test]
fn a_budget_out_of_range_is_refused() {
    let key = rollbook_clerk::SecretKey::parse(KEY).expect("a key");
    for budget in [0.0, -1.0, 0.0099, 1.01, f64::NAN, f64::INFINITY] {
        let error =
            ClerkApi::new(ClerkSettings { budget, ..ClerkSettings::new(key.clone()) }).expect_err("bad");
        assert!(error.to_string().contains("must be 0.01 to 1"), "{error}");
    }
    for (budget, rate) in [(0.5, 50.0), (0.01, 1.0)] {
        let client = ClerkApi::new(ClerkSettings { budget, ..ClerkSettings::new(key.clone()) });
        assert!((client.expect("a client").requests_per_second() - rate).abs() < 1e-9);
    }
}
