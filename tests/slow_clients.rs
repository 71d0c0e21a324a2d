//! Two thousand slow or silent clients do not stop good ones.

use std::time::{Duration, Instant};

use rollbook_testkit::process::Home;

use crate::crashes::BINARY;
use crate::raw_http::{exchange, open, signed, status};

const SLOW: usize = 2_000;
/// Maximum wait of a good client meanwhile, on a busy machine. Without limits it would wait for ever.
const GOOD_WITHIN: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_slow_or_idle_connections_do_not_stop_good_ones() {
    rlimit::increase_nofile_limit(8_192).expect("enough open files");
    let home = Home::new(BINARY);
    let rollbook = home.start_ready(&["serve"]).await;
    let event = r#"{"type":"user.created","timestamp":1785312000032,"data":{"id":"user_1"}}"#;
    let stalled_body = signed("msg_slow", event);
    let beginnings =
        ["", "POST /webhooks/clerk HTTP/1.1\r\nhost: te", &stalled_body[..stalled_body.len() - 5]];
    let good = async |index: usize| {
        let started = Instant::now();
        let answer = exchange(home.listen, &signed(&format!("msg_{index}"), event)).await;
        assert_eq!(status(&answer), 200);
        assert!(started.elapsed() < GOOD_WITHIN, "{:?}", started.elapsed());
    };
    for index in 0..100 {
        good(index).await;
    }
    let before = rollbook.memory_asked_for();
    let mut slow = Vec::with_capacity(SLOW);
    for index in 0..SLOW {
        slow.push(open(home.listen, beginnings[index % beginnings.len()]).await);
    }
    for index in 100..200 {
        good(index).await;
    }
    // All connections are still open. What the program needs without them does not count.
    let memory = rollbook.memory_asked_for().saturating_sub(before) >> 20;
    assert!(memory < 38, "{memory} MiB for {} open connections", slow.len());
}
