//! Every status code of the contract, from the real binary.

use rollbook_testkit::process::{Home, until};

use crate::crashes::BINARY;
use crate::raw_http::{exchange, signed, status};

const EVENT: &str =
    r#"{"type":"user.created","timestamp":1785312000032,"data":{"id":"user_1","first_name":"Ines"}}"#;

#[tokio::test]
async fn each_request_gets_the_answer_of_the_contract() {
    let home = Home::new(BINARY).with("ROLLBOOK_BODY_TIMEOUT", "500ms").with("ROLLBOOK_BODY_MAX", "64KiB");
    let _rollbook = home.start_ready(&["serve"]).await;
    let ask = async |request: &str| exchange(home.listen, request).await;

    let queued = ask(&signed("msg_1", EVENT)).await;
    assert_eq!(status(&queued), 200);
    assert!(queued.ends_with(r#"{"status":"queued"}"#), "{queued}");
    assert!(queued.contains("content-type: application/json"), "{queued}");

    let mut forged = signed("msg_2", EVENT);
    forged = forged.replace("Ines", "Eves");
    let refused = ask(&forged).await;
    assert_eq!(status(&refused), 400);
    assert!(refused.ends_with(r#"{"error":"no signature matches"}"#), "{refused}");
    let unsigned = "POST /webhooks/clerk HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\n{}";
    let refused = ask(unsigned).await;
    assert_eq!(status(&refused), 400);
    assert!(refused.ends_with(r#"{"error":"missing header svix-id"}"#), "{refused}");
    assert_eq!(status(&ask("this is not HTTP\r\n\r\n").await), 400);

    assert_eq!(status(&ask("GET /nowhere HTTP/1.1\r\nhost: test\r\n\r\n").await), 404);
    let method = ask("GET /webhooks/clerk HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(status(&method), 405);
    assert!(method.contains("allow: POST"), "{method}");
    let headers = "POST /webhooks/clerk HTTP/1.1\r\nhost: test\r\nsvix-id: msg_3\r\nsvix-timestamp: 1785312000\r\n\
                   svix-signature: v1,x\r\n";
    assert_eq!(status(&ask(&format!("{headers}content-length: 10\r\n\r\n{{")).await), 408);
    assert_eq!(status(&ask(&format!("{headers}content-length: 65537\r\n\r\n")).await), 413);
    let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200));
    assert_eq!(status(&ask(&many).await), 431);

    let health = ask("GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(status(&health), 200);
}

#[tokio::test]
async fn a_delivery_that_waits_already_is_a_duplicate_and_a_full_queue_is_503() {
    let home = Home::new(BINARY).with("ROLLBOOK_QUEUE_DEPTH_MAX", "2");
    home.migrate();
    // No worker runs: accepted deliveries stay in the queue.
    let _rollbook = home.start_ready(&["receive"]).await;
    let ask = async |id: &str| exchange(home.listen, &signed(id, EVENT)).await;
    assert!(ask("msg_1").await.ends_with(r#"{"status":"queued"}"#));
    let duplicate = ask("msg_1").await;
    assert_eq!(status(&duplicate), 200);
    assert!(duplicate.ends_with(r#"{"status":"duplicate"}"#), "{duplicate}");
    assert_eq!(status(&ask("msg_2").await), 200);
    let full = ask("msg_3").await;
    assert_eq!(status(&full), 503);
    assert!(full.contains("retry-after: "), "{full}");
    assert_eq!(status(&ask("msg_2").await), 200, "a duplicate is durable whether the queue is full or not");
}

#[tokio::test]
async fn a_queue_that_gives_no_answer_is_503_within_ten_seconds_and_heals() {
    let home = Home::new(BINARY).with("ROLLBOOK_ENQUEUE_TIMEOUT", "1s");
    home.migrate();
    let _rollbook = home.start_ready(&["receive"]).await;
    let other = rusqlite::Connection::open(home.data().join("queue.db")).expect("a second connection");
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let started = std::time::Instant::now();
    let refused = exchange(home.listen, &signed("msg_1", EVENT)).await;
    assert_eq!(status(&refused), 503);
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    other.execute_batch("ROLLBACK").expect("no lock");
    until("deliveries are taken again", || async {
        status(&exchange(home.listen, &signed("msg_1", EVENT)).await) == 200
    })
    .await;
}

#[tokio::test]
async fn an_event_that_can_not_be_applied_is_acknowledged_parked_and_affects_no_neighbour() {
    let home = Home::new(BINARY);
    let _rollbook = home.start_ready(&["serve"]).await;
    let deep =
        format!(r#"{{"type":"user.updated","timestamp":1,"data":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
    let bodies = [
        "",
        "not json",
        "[]",
        r#"{"type":"user.created"}"#,
        &deep,
        EVENT,
        r#"{"type":"new.thing","timestamp":1}"#,
    ];
    for (index, body) in bodies.iter().enumerate() {
        let answer = exchange(home.listen, &signed(&format!("msg_{index}"), body)).await;
        assert_eq!(status(&answer), 200, "{body}");
    }
    until("five are parked", || async { home.metric("rollbook_dead_letters").await == Some(5.0) }).await;
    until("two are applied", || async { home.metric("rollbook_applied_total").await == Some(2.0) }).await;
    let listed = home.command(&["dead-letters", "list", "--output", "json"]).output().expect("a listing");
    assert!(listed.status.success(), "{listed:?}");
    let text = String::from_utf8_lossy(&listed.stdout);
    for reason in ["invalid_json", "not_an_event", "too_deep"] {
        assert!(text.contains(reason), "{reason}: {text}");
    }
}

#[tokio::test]
async fn a_body_as_long_as_may_be_becomes_a_row_and_one_byte_more_is_413() {
    const BODY_MAX: usize = 1024 * 1024;
    let home = Home::new(BINARY);
    let _rollbook = home.start_ready(&["serve"]).await;
    let body = EVENT.replace("Ines", &"I".repeat(BODY_MAX - EVENT.len() + "Ines".len()));
    assert_eq!(body.len(), BODY_MAX);
    assert_eq!(status(&exchange(home.listen, &signed("msg_1", &body)).await), 200);
    let too_long = signed("msg_2", &format!("{body} "));
    let (head, _) = too_long.split_once("\r\n\r\n").expect("a head");
    assert_eq!(status(&exchange(home.listen, &format!("{head}\r\n\r\n")).await), 413);
    until("it is applied", || async { home.metric("rollbook_applied_total").await == Some(1.0) }).await;
}
