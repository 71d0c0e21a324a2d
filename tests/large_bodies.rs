//! A backlog of the largest bodies is drained within the memory of a container, because leases are limited in
//! bytes.

use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::redis::RedisServer;

use crate::crashes::BINARY;
use crate::raw_http::{exchange, signed, status};

/// Number of messages: several times as many as may be leased at once.
const MESSAGES: usize = 60;
/// Size of a body, just below `body_max`.
const BODY: usize = (1 << 20) - 512;
/// Maximum memory of a worker, in bytes.
const MEMORY_MAX: u64 = 150_000_000;

/// Filler of an event: the value of a key, nearly 1 MiB.
#[derive(Clone, Copy)]
enum Filling {
    Text,
    /// Elements of two bytes: a tree of values takes forty times as much.
    Numbers,
    /// Members of nine bytes, not in the order of their keys.
    Members,
}

fn event(number: usize, filling: Filling) -> String {
    let value = match filling {
        Filling::Text => format!("\"{}\"", "x".repeat(BODY)),
        Filling::Numbers => format!("[{}0]", "0,".repeat(BODY / 2)),
        Filling::Members => {
            let members: Vec<String> = (0..BODY / 10).rev().map(|key| format!("\"{key:05x}\":0")).collect();
            format!("{{{}}}", members.join(","))
        }
    };
    format!(
        r#"{{"type":"user.created","timestamp":1785312000032,"data":{{"id":"user_{number}","public_metadata":{{"a":{value}}}}}}}"#
    )
}

/// Queues the messages while no worker runs, drains them by one worker, and asserts its memory.
async fn drain(home: Home, filling: Filling) {
    home.migrate();
    let receiver = home.start_ready(&["receive"]).await;
    for number in 0..MESSAGES {
        let answer = exchange(home.listen, &signed(&format!("msg_{number}"), &event(number, filling))).await;
        assert_eq!(status(&answer), 200, "{answer}");
    }
    let memory = receiver.memory_peak();
    assert!(memory < MEMORY_MAX, "the receiver used {memory} bytes");
    drop(receiver);
    let worker = home.start_ready(&["work"]).await;
    let applied = || async { home.metric("rollbook_applied_total").await };
    until("all is applied", || async {
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let all = MESSAGES as f64;
        applied().await.is_some_and(|applied| applied >= all)
    })
    .await;
    let memory = worker.memory_peak();
    assert!(memory < MEMORY_MAX, "the worker used {memory} bytes");
    assert_eq!(home.metric("rollbook_dead_letters").await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_drains_bodies_of_a_mebibyte_from_a_file_within_its_memory() {
    drain(Home::new(BINARY), Filling::Text).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_drains_bodies_of_half_a_million_numbers_within_its_memory() {
    drain(Home::new(BINARY), Filling::Numbers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_drains_bodies_of_a_hundred_thousand_members_within_its_memory() {
    drain(Home::new(BINARY), Filling::Members).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_drains_bodies_of_a_mebibyte_from_redis_within_its_memory() {
    let redis = RedisServer::start().await;
    drain(Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", redis.url()), Filling::Text).await;
}
