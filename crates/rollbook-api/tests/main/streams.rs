//! The feed as Server-Sent Events.

use std::time::Duration;

use rollbook_api::Settings;
use rollbook_testkit::events::user;
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::engine::Engine;
use crate::stage::{DEADLINE, Server, TOKEN};

async fn a_stream_sends_what_is_there_and_then_each_new_change(engine: Engine) {
    let server = Server::start(engine).await;
    server.create_users(2).await;
    let mut events = server.open("/v1/changes?after=1", &[]).await;
    let first = events.change().await;
    assert_eq!((first.id, &first.data["subject_id"]), (Some(2), &json!("user_2")));
    server.feed.waited(1).await;
    assert_eq!(server.metric(r#"rollbook_api_readers{kind="stream"}"#), 1);
    server.create_user("user_3").await;
    let next = events.change().await;
    assert_eq!((next.id, &next.data["position"]), (Some(3), &json!(3)));
    assert_eq!(server.metric("rollbook_api_changes_total"), 2);
}

async fn a_reader_that_resumes_after_any_event_sees_every_change_exactly_once(engine: Engine) {
    const CHANGES: usize = 12;
    let server = Server::start(engine).await;
    for cut in 1..=CHANGES {
        server.create_user(&format!("user_{cut}")).await;
    }
    for cut in 1..=CHANGES {
        let (mut seen, mut last_id) = (Vec::new(), String::new());
        while seen.len() < CHANGES {
            let resume = format!("last-event-id: {last_id}");
            // `after` stays in the URL of a reader that reconnects: the header has priority.
            let mut events = server.open("/v1/changes?after=0", &[&resume]).await;
            // The connection breaks after this many changes.
            for _ in 0..cut.min(CHANGES - seen.len()) {
                let event = events.change().await;
                last_id = event.id.expect("an id").to_string();
                seen.push(event.data["position"].as_u64().expect("a position"));
            }
        }
        assert_eq!(seen, (1..=CHANGES as u64).collect::<Vec<_>>(), "cut after {cut}");
    }
}

async fn a_reader_that_resumes_after_a_heartbeat_misses_nothing(engine: Engine) {
    let server = Server::start(engine).await;
    server.create_users(3).await;
    let path = "/v1/changes?after=0&resource=organizations";
    let mut events = server.open(path, &[]).await;
    let heartbeat = events.next().await.expect("an event");
    assert_eq!((heartbeat.name.as_str(), heartbeat.id), ("heartbeat", Some(3)));
    assert_eq!(heartbeat.data, json!({ "through": 3, "last": 3, "feed": server.generation().await }));
    drop(events);
    server.apply("organization.created", &rollbook_testkit::events::organization("org_1", 0)).await;
    let mut events = server.open(path, &["last-event-id: 3"]).await;
    assert_eq!(events.change().await.id, Some(4));
}

async fn a_stream_of_which_the_lines_are_removed_ends_with_a_problem(engine: Engine) {
    let server = Server::start(engine).await;
    server.create_users(1).await;
    let mut events = server.open("/v1/changes?after=1", &[]).await;
    server.feed.waited(1).await;
    server.create_users_and_remove(3).await; // user_1 is there already
    let mut problem = events.next().await.expect("an event");
    while problem.name == "heartbeat" {
        problem = events.next().await.expect("an event");
    }
    assert_eq!(problem.name, "problem");
    assert_eq!(problem.data["type"], json!("urn:rollbook:problem:position-removed"));
    assert_eq!(problem.data["oldest"], json!(4));
    assert!(problem.id.is_none(), "the position of the reader does not move");
    assert!(events.next().await.is_none(), "the stream ends");
}

async fn a_stream_of_a_feed_that_is_renewed_ends_with_a_problem_and_a_reader_that_names_its_feed_gets_it_too(
    engine: Engine,
) {
    let server = Server::start(engine).await;
    server.create_users(1).await;
    let feed = server.generation().await;
    let path = format!("/v1/changes?after=1&feed={feed}");
    let mut events = server.open(&path, &[]).await;
    server.feed.waited(1).await;
    server.store.renew_feed().await.expect("a generation");
    server.create_user("user_2").await;
    let mut problem = events.next().await.expect("an event");
    while problem.name == "heartbeat" {
        problem = events.next().await.expect("an event");
    }
    assert_eq!(problem.data["type"], json!("urn:rollbook:problem:feed-changed"), "{problem:?}");
    assert!(events.next().await.is_none(), "the stream ends");
    for accept in ["accept: application/json", "accept: text/event-stream"] {
        let changed = server.get(&path, &[accept]).await.problem(409, "feed-changed");
        assert_eq!(changed["feed"], json!(server.generation().await));
        assert_ne!(changed["feed"], json!(feed));
    }
    assert_eq!(
        server.get("/v1/changes?after=1", &[]).await.positions(),
        [2],
        "without a name it is not known"
    );
    let now = server.generation().await;
    for accept in ["accept: application/json", "accept: text/event-stream"] {
        let named = |feed: &str| format!("/v1/changes?after=9&feed={feed}");
        let changed = server.get(&named(&feed), &[accept]).await.problem(409, "feed-changed");
        assert_eq!(
            changed["feed"],
            json!(now),
            "the position of another feed may be after the last one of this"
        );
        server.get(&named(&now), &[accept]).await.problem(409, "position-ahead");
    }
}

async fn a_stop_ends_streams(engine: Engine) {
    let server = Server::start(engine).await;
    let mut events = server.open("/v1/changes", &[]).await;
    server.feed.waited(1).await;
    server.stop.cancel();
    while events.next().await.is_some() {}
    server.stop().await;
}

async fn a_reader_that_does_not_read_costs_the_others_nothing_and_is_disconnected(engine: Engine) {
    const CHANGES: usize = 64;
    let settings = Settings {
        write_timeout: Duration::from_millis(300),
        readers_max: 2,
        reads_max: 1,
        ..Settings::default()
    };
    let server = Server::with(engine, settings, TOKEN).await;
    for number in 1..=CHANGES {
        let mut large = user(&format!("user_{number}"), 0);
        large["public_metadata"] = json!({ "text": "x".repeat(256 * 1024) });
        server.apply("user.created", &large).await;
    }
    // 32 MiB of rows fit in no socket's buffer.
    let mut stuck = server.open("/v1/changes?expand=row", &[]).await;
    let mut reading = server.open("/v1/changes", &[]).await;
    for position in 1..=CHANGES as u64 {
        assert_eq!(reading.change().await.id, Some(position));
    }
    // The server closes the connection: its permit is free for another stream.
    let mut rest = Vec::new();
    let until_closed = async {
        while server.metric(r#"rollbook_api_readers{kind="stream"}"#) > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, until_closed).await.expect("it is disconnected");
    let read =
        tokio::time::timeout(DEADLINE, stuck.reader.read_to_end(&mut rest)).await.expect("it is closed");
    assert!(read.is_err() || rest.len() < CHANGES * 512 * 1024, "the stream was cut");
    let mut third = server.open("/v1/changes?after=63", &[]).await;
    assert_eq!(third.change().await.id, Some(64));
}

crate::on_every_store!(
    a_stream_sends_what_is_there_and_then_each_new_change,
    a_reader_that_resumes_after_any_event_sees_every_change_exactly_once,
    a_reader_that_resumes_after_a_heartbeat_misses_nothing,
    a_stream_of_which_the_lines_are_removed_ends_with_a_problem,
    a_stream_of_a_feed_that_is_renewed_ends_with_a_problem_and_a_reader_that_names_its_feed_gets_it_too,
    a_stop_ends_streams,
    a_reader_that_does_not_read_costs_the_others_nothing_and_is_disconnected,
);
