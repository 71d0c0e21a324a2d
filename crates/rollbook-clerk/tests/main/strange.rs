//! Strange answers on the level of HTTP and of characters: none is taken for another answer, and the key stays where it is.

use std::time::{Duration, Instant};

use rollbook_clerk::{ClerkApi, ClerkSettings};
use rollbook_core::catalog::USERS;
use rollbook_core::source::{Page, PageRequest, Position, Source as _, SourceError, Window};

use crate::server::{Answer, DATE, KEY, Server, json, with_headers};

async fn page(client: &ClerkApi) -> Result<Page, SourceError> {
    let position = Position::After { id: None, window: Window::ALL };
    client.page(&USERS, &PageRequest { position, limit: 500, bytes_max: usize::MAX }).await
}

/// A page of one answer, with this head after the status line and these bytes.
async fn answered(head: &str, body: &[u8]) -> Result<Page, SourceError> {
    let head = format!("HTTP/1.1 200 OK\r\ndate: {DATE}\r\n{head}\r\n\r\n");
    let bytes = [head.as_bytes(), body].concat();
    let server = Server::start(move |_, _| Answer::BytesAndClose(bytes.clone())).await;
    page(&server.client()).await
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_the_key_goes_nowhere_else() {
    let other = Server::start(|_, _| json(200, "[]")).await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("location: http://{}/v1/users", other.address);
        let server =
            Server::start(move |_, _| with_headers(status, std::slice::from_ref(&location), "[]")).await;
        let found = page(&server.client()).await;
        assert!(
            matches!(&found, Err(SourceError::Refused(text)) if text.contains("CLERK_API_URL")),
            "{found:?}"
        );
        assert!(server.heads()[0].contains(KEY), "the key was sent to the server that is configured");
    }
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn bytes_that_are_not_utf_8_and_a_byte_order_mark_are_unreadable() {
    for body in [
        b"[{\"id\":\"user_1\",\"first_name\":\"\xff\xfe\"}]".as_slice(),
        b"[{\"id\":\"user_\xc3\x28\"}]",
        b"[{\"id\":\"user_\xed\xa0\x80\"}]",
        b"\xef\xbb\xbf[]",
        b"\xff\xfe[\x00]\x00",
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
        b"[]\0",
    ] {
        let found = answered(&format!("content-length: {}", body.len()), body).await;
        assert!(matches!(found, Err(SourceError::Unreadable(_))), "{body:?}: {found:?}");
    }
}

#[tokio::test]
async fn odd_transfer_codings_are_an_error_or_the_whole_list() {
    let list = b"[{\"id\":\"user_1\"}]";
    let chunks = |text: &[u8]| [format!("{:x}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat();
    let whole = [chunks(&list[..5]), chunks(&list[5..]), b"0\r\n\r\n".to_vec()].concat();
    let without_end = chunks(list);
    for (head, body, is_read) in [
        ("transfer-encoding: chunked", whole.as_slice(), true),
        ("transfer-encoding: Chunked\r\ntrailer: x", &whole, true),
        ("connection: close", list, true),
        ("transfer-encoding: chunked", &without_end, false),
        ("transfer-encoding: chunked", b"-1\r\n[]", false),
        ("transfer-encoding: chunked", b"ffffffffffffffff1\r\n[]", false),
        ("transfer-encoding: gzip, chunked", &whole[..9], false),
        ("content-length: 2\r\ncontent-length: 17", list, false),
        ("content-length: -1", list, false),
        ("content-length: 2, 17", list, false),
        ("connection: close", &list[..9], false),
    ] {
        let found = answered(head, body).await;
        let read = found.as_ref().map(|page| page.objects.len()).ok();
        assert_eq!(read, is_read.then_some(1), "{head}: {found:?}");
    }
}

#[tokio::test]
async fn headers_of_64_kib_are_an_answer_or_an_error_and_headers_without_end_are_an_error() {
    let large = format!("x-large: {}\r\ncontent-length: 2", "x".repeat(64 * 1024));
    let found = answered(&large, b"[]").await;
    assert!(
        found.as_ref().is_ok_and(|page| page.objects.is_empty())
            || matches!(found, Err(SourceError::Unavailable(_)))
    );
    let endless = format!("x-large: {}", "x".repeat(4 << 20));
    let found = answered(&endless, b"[]").await;
    assert!(matches!(found, Err(SourceError::Unavailable(_))), "{found:?}");
    let many = "x-y: z\r\n".repeat(10_000) + "content-length: 2";
    let found = answered(&many, b"[]").await;
    assert!(matches!(found, Err(SourceError::Unavailable(_))), "{found:?}");
}

#[tokio::test]
async fn an_answer_that_trickles_costs_the_time_limit_of_the_request() {
    let server = Server::start(|_, _| Answer::Trickle(Duration::from_millis(20))).await;
    let limit = Duration::from_millis(200);
    let client =
        ClerkApi::new(ClerkSettings { request_timeout: limit, ..server.settings() }).expect("a client");
    let begun = Instant::now();
    let found = page(&client).await;
    let text = "GET /users: no answer within 0.2 s (tried 3 times)".to_owned();
    assert_eq!(found, Err(SourceError::Unavailable(text)));
    assert!(begun.elapsed() >= 3 * limit);
}
