//! Answers that a cache between Rollbook and Clerk has stored: they prove nothing.

use rollbook_core::catalog::USERS;
use rollbook_core::source::{Lookup, Presence, Source as _, SourceError, Window};

use crate::server::{Answer, DATE, Server, json, not_found, with_headers};

const INSTANCE: &str = r#"{"object":"instance","id":"ins_1","environment_type":"production"}"#;

fn with_header(status: u16, header: &str, body: &str) -> Answer {
    with_headers(status, &[format!("date: {DATE}"), header.to_owned()], body)
}

fn is_of_a_cache<T>(answer: Result<T, SourceError>) -> bool {
    let Err(SourceError::Unreadable(text)) = answer else { return false };
    text.contains("from a cache") && text.contains("CLERK_API_URL")
}

#[tokio::test]
async fn every_request_asks_caches_for_a_fresh_answer_and_for_a_plain_body() {
    let answer = |target: &str, _| if target.contains('?') { json(200, "[]") } else { not_found() };
    let server = Server::start(answer).await;
    let lookup = Lookup { id: "user_1".to_owned(), organization_id: None, user_id: None };
    server.client().fetch(&USERS, &[lookup]).await.expect("an answer");
    let heads = server.heads();
    assert_eq!(heads.len(), 2, "a list, and the user alone");
    for head in heads {
        for line in ["cache-control: no-cache\r\n", "accept-encoding: identity\r\n"] {
            assert!(head.contains(line), "{head}");
        }
    }
}

#[tokio::test]
async fn a_404_that_a_cache_has_stored_proves_no_absence() {
    let body = r#"{"errors":[{"message":"m","code":"resource_not_found"}]}"#;
    let lookup = || Lookup { id: "user_1".to_owned(), organization_id: None, user_id: None };
    for (header, is_stored) in [
        ("age: 0", false),
        ("cf-cache-status: DYNAMIC", false),
        ("age: 7", true),
        ("x-cache: HIT from proxy", true),
        ("x-cache-status: STALE", true),
        ("cache-status: proxy; hit; ttl=3", true),
    ] {
        let server = Server::start(move |target, _| {
            if target.contains('?') { json(200, "[]") } else { with_header(404, header, body) }
        })
        .await;
        let fetched = server.client().fetch(&USERS, &[lookup()]).await;
        if is_stored {
            assert!(is_of_a_cache(fetched), "{header}");
        } else {
            assert_eq!(fetched.expect(header)[0].presence, Presence::Absent);
        }
    }
}

#[tokio::test]
async fn a_proxy_that_stores_answers_in_silence_is_noticed_before_anything_is_read() {
    // Its Date is new, and no header of its own says that the answer is old. Another process asked for it first.
    let server = Server::start(|_, _| with_header(200, "cf-ray: 8a1-FRA", INSTANCE)).await;
    assert!(is_of_a_cache(server.client().instance().await));
    let server =
        Server::start(|_, number| with_header(200, &format!("cf-ray: {number}-FRA"), INSTANCE)).await;
    assert_eq!(server.client().instance().await.expect("an instance").id, "ins_1");
    assert_eq!(server.targets(), ["/instance", "/instance"]);
    let server = Server::start(|_, _| json(200, INSTANCE)).await;
    assert!(server.client().instance().await.is_ok());
    assert_eq!(server.targets().len(), 1, "without a number there is nothing to compare");
}

#[tokio::test]
async fn a_copy_of_an_earlier_answer_is_not_taken() {
    let server = Server::start(|_, number| match number {
        0 => with_header(200, "cf-ray: 1", r#"{"object":"total_count","total_count":3}"#),
        _ => with_header(200, "cf-ray: 2", r#"{"object":"total_count","total_count":4}"#),
    })
    .await;
    let client = server.client();
    assert_eq!(client.count(&USERS, Window::ALL).await, Ok(3));
    assert_eq!(client.count(&USERS, Window::ALL).await, Ok(4));
    assert!(is_of_a_cache(client.count(&USERS, Window::ALL).await));
}
