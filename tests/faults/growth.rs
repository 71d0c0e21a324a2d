//! Short endurance test: nothing grows from round to round, and a leak is detected. `ops/soak --endurance` is
//! the long form.

use std::path::Path;

use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::redis::RedisServer;

use super::{home_on, messages};
use crate::audit;
use crate::crashes::{BINARY, history, send};
use crate::growth::{Growth, Limit};
use crate::raw_http::{open, signed};

/// Rounds before the first sample: pools and caches fill.
const WARM_UP: u32 = 3;
const ROUNDS: u32 = 6;
/// Number of connections that the control does not close in each round.
const LEAK: usize = 5;

const COUNT: Limit = Limit { absolute: 3.0, relative: 0.0 };
const MEMORY: Limit = Limit { absolute: 8e6, relative: 0.15 };
/// A log is copied into its file in large parts.
const FILE: Limit = Limit { absolute: 5e6, relative: 0.0 };

#[expect(clippy::cast_precision_loss, reason = "a file of a test")]
fn length(file: &Path) -> f64 {
    file.metadata().map_or(0.0, |status| status.len() as f64)
}

async fn sample_process(home: &Home, growth: &mut Growth) {
    for (name, limit) in
        [("process_open_fds", COUNT), ("process_threads", COUNT), ("process_resident_memory_bytes", MEMORY)]
    {
        growth.note(name, limit, home.metric(name).await.expect("a gauge"));
    }
}

/// Measures the lengths of Redis's keys and the number of its clients.
fn sample_redis(redis: &RedisServer, growth: &mut Growth) {
    let count = |words: &[&str]| redis.cli(words).parse::<u32>().expect("a count");
    let lengths =
        [("xlen", "new"), ("xlen", "again"), ("hlen", "messages"), ("hlen", "tries"), ("zcard", "leases")];
    for (command, key) in lengths {
        growth.note(key, COUNT, count(&[command, &format!("{{rollbook:0}}:{key}")]).into());
    }
    let consumers = "local sum = 0 for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do \
         for at = 1, #group, 2 do if group[at] == 'consumers' then sum = sum + group[at + 1] end end end return sum";
    growth.note("consumers", COUNT, count(&["eval", consumers, "1", "{rollbook:0}:new"]).into());
    let clients = u32::try_from(redis.cli(&["client", "list"]).lines().count()).expect("few");
    growth.note("clients", COUNT, clients.into());
}

/// Runs rounds on SQLite alone; the control leaks on purpose.
async fn rounds_on_sqlite(mut leak: impl AsyncFnMut(&Home)) -> Growth {
    // The control's connections stay open.
    let home = Home::new(BINARY).with("ROLLBOOK_LEDGER", "no").with("ROLLBOOK_HEADER_TIMEOUT", "60s");
    let _rollbook = home.start_ready(&["serve"]).await;
    let history = history(400);
    let mut growth = Growth::default();
    for round in 0..WARM_UP + ROUNDS {
        send(home.listen, &history, 10_000).await;
        leak(&home).await;
        until("the queue is empty", || async { audit::waiting(&home.data()) == 0 }).await;
        if round >= WARM_UP {
            sample_process(&home, &mut growth).await;
            // Their logs are as long as a few rounds: `rollbook-sqlite` tests that they begin anew.
            growth.note("queue.db", FILE, length(&home.data().join("queue.db")));
            growth.note("store.db", FILE, length(&home.data().join("store.db")));
        }
    }
    growth
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite_nothing_grows_from_round_to_round() {
    let growth = rounds_on_sqlite(async |_| ()).await;
    assert_eq!(growth.growing(), [""; 0], "\n{growth}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_leak_are_detected_as_growing() {
    let mut forgotten = Vec::new();
    let growth = rounds_on_sqlite(async |home| {
        for _ in 0..LEAK {
            forgotten.push(open(home.listen, &signed("msg_forgotten", "{}")[..20]).await);
        }
    })
    .await;
    assert_eq!(growth.growing(), ["process_open_fds"], "\n{growth}");
}

/// Runs rounds with the queue in Redis.
async fn rounds_on_redis(faces: &str) -> Growth {
    let redis = RedisServer::start().await;
    let home = home_on(redis.url());
    home.migrate();
    let _rollbook = home.start_ready(&[faces]).await;
    let mut growth = Growth::default();
    for round in 0..WARM_UP + ROUNDS {
        // Each round has other ids, so that no delivery is a duplicate of an earlier round.
        let history = history(300 + usize::try_from(round).expect("few"));
        send(home.listen, &history, 10_000).await;
        if faces == "serve" {
            until("the queue is empty", || std::future::ready(messages(&redis).0 == 0)).await;
        }
        if round >= WARM_UP {
            sample_process(&home, &mut growth).await;
            sample_redis(&redis, &mut growth);
        }
    }
    growth
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_redis_nothing_grows_from_round_to_round() {
    let growth = rounds_on_redis("serve").await;
    assert_eq!(growth.growing(), [""; 0], "\n{growth}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_without_a_worker_is_detected_as_growing() {
    let growth = rounds_on_redis("receive").await;
    assert_eq!(growth.growing(), ["new", "messages"], "\n{growth}");
}

fn is_growing(values: impl IntoIterator<Item = f64>) -> bool {
    let mut growth = Growth::default();
    for value in values {
        growth.note("it", Limit { absolute: 5.0, relative: 0.1 }, value);
    }
    growth.growing() == ["it"]
}

#[test]
fn a_number_that_goes_up_and_down_is_flat_and_one_that_only_goes_up_grows() {
    assert!(!is_growing([100.0, 108.0, 97.0, 106.0, 95.0, 104.0]));
    assert!(!is_growing([100.0; 6]));
    assert!(!is_growing([100.0, 80.0, 60.0, 40.0]));
    assert!(is_growing([100.0, 104.0, 108.0, 112.0, 116.0, 120.0]));
    assert!(is_growing([100.0, 90.0, 110.0, 100.0, 120.0, 110.0, 130.0, 120.0]));
    assert!(!is_growing([7.0]));
}
