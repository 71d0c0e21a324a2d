//! Classes of answers: what is repeated, what is an error at once, and what is never taken for an empty list.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rollbook_clerk::{ANSWER_BYTES_MAX, ClerkApi, ClerkSettings};
use rollbook_core::catalog::{ORGANIZATIONS, USERS};
use rollbook_core::source::{Page, PageRequest, Position, Source as _, SourceError, Window};

use tokio::sync::Notify;

use crate::server::{Answer, DATE, Server, json, with_headers};

async fn page(client: &ClerkApi) -> Result<Page, SourceError> {
    let position = Position::After { id: None, window: Window::ALL };
    client.page(&USERS, &PageRequest { position, limit: 500, bytes_max: usize::MAX }).await
}

fn unavailable(text: &str) -> Result<Page, SourceError> {
    Err(SourceError::Unavailable(text.to_owned()))
}

fn unreadable(text: &str) -> Result<Page, SourceError> {
    Err(SourceError::Unreadable(text.to_owned()))
}

/// An answer that ends before its declared length.
fn truncated(body: &str) -> Answer {
    let length = body.len() + 7;
    let head = format!("HTTP/1.1 200 OK\r\ndate: {DATE}\r\ncontent-length: {length}\r\n\r\n{body}");
    Answer::BytesAndClose(head.into())
}

#[tokio::test]
async fn an_empty_list_is_a_page_without_objects() {
    let server = Server::start(|_, _| json(200, "[]")).await;
    let page = page(&server.client()).await.expect("a page");
    assert_eq!((page.objects.len(), page.total), (0, None));
    assert_eq!(page.clock.to_string(), "2026-11-29T09:30:00.000Z");
}

#[tokio::test]
async fn a_refusal_is_an_error_at_once() {
    for (status, code, text) in [
        (
            401,
            "clerk_key_invalid",
            "GET /users: 401 clerk_key_invalid; the secret key is wrong or revoked. Check CLERK_SECRET_KEY",
        ),
        (402, "payment_required", "GET /users: 402 payment_required"),
        (403, "authorization_invalid", "GET /users: 403 authorization_invalid"),
        (422, "form_param_invalid", "GET /users: 422 form_param_invalid"),
        (404, "resource_not_found", "GET /users: 404 resource_not_found"),
        (404, "", "GET /users: 404; the URL is not the one of Clerk's API. Check CLERK_API_URL"),
    ] {
        let body = format!(r#"{{"errors":[{{"message":"user_1","code":"{code}"}}]}}"#);
        let server = Server::start(move |_, _| json(status, &body)).await;
        assert_eq!(page(&server.client()).await, Err(SourceError::Refused(text.to_owned())));
        assert_eq!(server.targets().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_feature_that_the_instance_does_not_have_is_not_a_refusal_of_the_key() {
    let body = r#"{"errors":[{"code":"organization_not_enabled_in_instance","message":"access denied"}]}"#;
    let server = Server::start(move |_, _| json(403, body)).await;
    let found = server.client().count(&ORGANIZATIONS, Window::ALL).await;
    let text = "GET /organizations: 403 organization_not_enabled_in_instance".to_owned();
    assert_eq!(found, Err(SourceError::NotEnabled(text)));
    assert_eq!(server.targets().len(), 1);
}

#[tokio::test]
async fn what_a_later_try_may_answer_is_repeated_and_then_answered() {
    for first in [
        json(500, "oops"),
        json(502, "<html>bad gateway"),
        json(503, ""),
        json(200, "<!DOCTYPE html>"),
        json(200, ""),
        json(200, r#"[{"id":"user_1"}"#),
        json(200, "{}"),
        json(200, "[7]"),
        json(204, ""),
        with_headers(200, &[], "[]"),
        with_headers(200, &["date: today".to_owned()], "[]"),
        truncated(r#"[{"id":"user_1"}]"#),
        Answer::BytesAndClose(Vec::new()),
        Answer::BytesAndClose(b"SSH-2.0-OpenSSH\r\n".to_vec()),
    ] {
        let said = format!("{first:?}");
        let server = Server::start(move |_, number| match number {
            0 => first.clone(),
            _ => json(200, r#"[{"id":"user_1"}]"#),
        })
        .await;
        assert_eq!(page(&server.client()).await.expect(&said).objects.len(), 1, "{said}");
        assert_eq!(server.targets().len(), 2, "{said}");
    }
}

#[tokio::test]
async fn what_no_try_answers_is_an_error_that_names_the_request_and_the_last_answer() {
    for (answer, expected) in [
        (json(500, ""), unavailable("GET /users: 500 (tried 3 times)")),
        (
            json(503, r#"{"errors":[{"code":"internal_clerk_error"}]}"#),
            unavailable("GET /users: 503 internal_clerk_error (tried 3 times)"),
        ),
        (
            json(200, "<html>user_1"),
            unreadable("GET /users: the body is HTML or XML, not JSON (tried 3 times)"),
        ),
        (json(200, ""), unreadable("GET /users: the body is empty (tried 3 times)")),
        (json(200, r#"{"data":null}"#), unreadable("GET /users: the list has no data (tried 3 times)")),
        (
            with_headers(200, &[], "[]"),
            unreadable("GET /users: the answer has no valid Date header (tried 3 times)"),
        ),
    ] {
        let server = Server::start(move |_, _| answer.clone()).await;
        assert_eq!(page(&server.client()).await, expected);
        assert_eq!(server.targets().len(), 3);
    }
}

#[tokio::test]
async fn a_truncated_body_is_never_a_shorter_list() {
    let server = Server::start(|_, _| truncated("[]")).await;
    let Err(SourceError::Unavailable(text)) = page(&server.client()).await else { panic!("an error") };
    let start = format!("GET /users: {} broke the connection within the answer: ", server.address);
    assert!(text.starts_with(&start) && text.ends_with(" (tried 3 times)"), "{text}");
}

#[tokio::test]
async fn an_unreachable_server_is_named() {
    let server = Server::start(|_, _| Answer::Silence).await;
    let (client, address) = (server.client(), server.address);
    server.stop().await;
    let Err(SourceError::Unavailable(text)) = page(&client).await else { panic!("an error") };
    assert!(text.starts_with(&format!("GET /users: {address} is unreachable: ")), "{text}");
}

#[tokio::test]
async fn a_silent_server_costs_the_time_limit_and_no_more() {
    let server = Server::start(|_, _| Answer::Silence).await;
    let limit = Duration::from_millis(50);
    let client =
        ClerkApi::new(ClerkSettings { request_timeout: limit, ..server.settings() }).expect("a client");
    let start = Instant::now();
    assert_eq!(page(&client).await, unavailable("GET /users: no answer within 0.05 s (tried 3 times)"));
    assert!(start.elapsed() >= 3 * limit);
    // An answer that begins and never ends counts as silence: the limit is for the whole request.
    let head = format!("HTTP/1.1 200 OK\r\ndate: {DATE}\r\ncontent-length: 9\r\n\r\n[");
    let server = Server::start(move |_, _| Answer::Bytes(head.clone().into())).await;
    let client =
        ClerkApi::new(ClerkSettings { request_timeout: limit, ..server.settings() }).expect("a client");
    assert_eq!(page(&client).await, unavailable("GET /users: no answer within 0.05 s (tried 3 times)"));
}

#[tokio::test]
async fn no_repetition_begins_after_the_patience() {
    let server = Server::start(|_, _| json(500, "")).await;
    let settings = ClerkSettings { patience: Duration::ZERO, ..server.settings() };
    let client = ClerkApi::new(settings).expect("a client");
    assert_eq!(page(&client).await, unavailable("GET /users: 500"));
    assert_eq!(server.targets().len(), 1);
}

#[tokio::test]
async fn a_body_of_the_maximum_length_is_read_and_a_longer_one_is_an_error_at_once() {
    let body = |length: usize| json(200, &format!("[]{}", " ".repeat(length - 2)));
    let server = Server::start(move |_, _| body(ANSWER_BYTES_MAX)).await;
    assert!(page(&server.client()).await.is_ok());
    let server = Server::start(move |_, _| body(ANSWER_BYTES_MAX + 1)).await;
    assert_eq!(
        page(&server.client()).await,
        Err(SourceError::TooLarge("GET /users: the answer has more than 33554432 bytes".to_owned()))
    );
    assert_eq!(server.targets().len(), 1);
}

#[tokio::test]
async fn a_page_may_have_a_smaller_limit_of_bytes() {
    let server = Server::start(|_, _| json(200, &format!("[]{}", " ".repeat(998)))).await;
    let page = async |bytes_max| {
        let position = Position::After { id: None, window: Window::ALL };
        server.client().page(&USERS, &PageRequest { position, limit: 500, bytes_max }).await.map(drop)
    };
    assert_eq!(page(1000).await, Ok(()));
    let text = "GET /users: the answer has more than 999 bytes";
    assert_eq!(page(999).await, Err(SourceError::TooLarge(text.to_owned())));
}

#[tokio::test]
async fn an_instance_or_a_count_of_another_type_is_unreadable() {
    for body in [r#"{"object":"user","id":"ins_1","environment_type":"x","total_count":7}"#] {
        let server = Server::start(move |_, _| json(200, body)).await;
        assert!(matches!(server.client().instance().await, Err(SourceError::Unreadable(_))));
        let count = server.client().count(&USERS, Window::ALL).await;
        assert!(matches!(count, Err(SourceError::Unreadable(_))), "{count:?}");
    }
}

#[tokio::test]
async fn a_list_that_ignores_the_limit_is_unreadable() {
    let server = Server::start(|_, _| json(200, r#"[{"id":"a"},{"id":"b"}]"#)).await;
    let position = Position::After { id: None, window: Window::ALL };
    let found =
        server.client().page(&USERS, &PageRequest { position, limit: 1, bytes_max: usize::MAX }).await;
    assert_eq!(found, unreadable("GET /users: the list has more objects than the limit"));
}

#[tokio::test]
async fn retry_after_is_obeyed_by_every_caller() {
    let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let noted = Arc::clone(&times);
    let server = Server::start(move |_, number| {
        noted.lock().expect("not poisoned").push(Instant::now());
        match number {
            0 => with_headers(429, &[format!("date: {DATE}"), "retry-after: 1".to_owned()], ""),
            _ => json(200, "[]"),
        }
    })
    .await;
    let answered = Arc::new(Notify::new());
    let notify = Arc::clone(&answered);
    let client = server.client().with_observer(Arc::new(move |_| notify.notify_one()));
    let second = async {
        answered.notified().await;
        page(&client).await
    };
    let (first, second) = tokio::join!(page(&client), second);
    assert!(first.is_ok() && second.is_ok());
    let times = times.lock().expect("not poisoned");
    assert_eq!(times.len(), 3);
    assert!(times[1] - times[0] >= Duration::from_secs(1) && times[2] - times[0] >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_429_without_retry_after_is_repeated_after_a_pause() {
    let server = Server::start(|_, number| if number == 0 { json(429, "") } else { json(200, "[]") }).await;
    let start = Instant::now();
    assert!(page(&server.client()).await.is_ok());
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_retry_after_beyond_the_patience_is_an_error_at_once_for_all_callers() {
    let server = Server::start(|_, _| {
        with_headers(
            503,
            &[format!("date: {DATE}"), "retry-after: Sun, 29 Nov 2026 10:00:00 GMT".to_owned()],
            "",
        )
    })
    .await;
    let client = server.client();
    assert_eq!(page(&client).await, unavailable("GET /users: 503"));
    let Err(SourceError::Unavailable(text)) = page(&client).await else { panic!("an error") };
    assert!(text.starts_with("GET /users: Clerk asks to wait for 17"), "half an hour: {text}");
    assert_eq!(server.targets().len(), 1);
}

#[tokio::test]
async fn a_dropped_call_leaves_the_client_usable() {
    let server = Server::start(|_, number| if number == 0 { Answer::Silence } else { json(200, "[]") }).await;
    let client = server.client();
    tokio::select! {
        biased;
        _ = page(&client) => panic!("no answer"),
        () = async { while server.targets().is_empty() { tokio::task::yield_now().await } } => {}
    }
    assert!(page(&client).await.is_ok());
}

#[tokio::test]
async fn the_observer_gets_the_result_of_every_request() {
    let codes: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&codes);
    let server = Server::start(|_, number| match number {
        0 => json(500, ""),
        1 => truncated("[]"),
        2 => json(200, "[]"),
        3 => json(401, ""),
        _ => Answer::Silence,
    })
    .await;
    let settings = ClerkSettings { request_timeout: Duration::from_millis(200), ..server.settings() };
    let client = ClerkApi::new(settings).expect("a client").with_observer(Arc::new(move |code| {
        noted.lock().expect("not poisoned").push(code.to_owned());
    }));
    assert!(page(&client).await.is_ok() && page(&client).await.is_err() && page(&client).await.is_err());
    server.stop().await;
    assert!(page(&client).await.is_err());
    let codes = codes.lock().expect("not poisoned");
    let timeouts = ["timeout"; 3].as_slice();
    assert_eq!(*codes, [&["500", "broken", "200", "401"], timeouts, &["unreachable"; 3]].concat());
}
