//! Commands that idle processes send to Redis: a provider may bill each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rollbook_testkit::process::{Home, Process, until};
use rollbook_testkit::servers::redis::RedisServer;

use crate::crashes::BINARY;
use crate::raw_http::{exchange, signed, status};

const EVENT: &str = r#"{"type":"user.created","timestamp":1785312000032,"data":{"id":"user_1","object":"user","created_at":1785312000000,"updated_at":1785312000000}}"#;

/// Commands that only scripts call while a process is idle. A provider bills the script's own command.
const INSIDE_SCRIPTS: [&str; 16] = [
    "hget",
    "hlen",
    "hset",
    "time",
    "xgroup|create",
    "xinfo|groups",
    "xlen",
    "xpending",
    "xrange",
    "xreadgroup",
    "xrevrange",
    "zcard",
    "zcount",
    "zrange",
    "zrangebyscore",
    "zscore",
];

/// Number of calls of each command so far.
fn calls(server: &RedisServer) -> BTreeMap<String, u64> {
    let stats = server.cli(&["info", "commandstats"]);
    let count = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split_once(',')?.0.parse().ok()?))
    };
    stats.lines().filter_map(count).collect()
}

/// Calls of all commands within `time`, and those that clients sent; without the `INFO` of the test itself.
async fn calls_within(server: &RedisServer, time: Duration, homes: &[&Home]) -> (u64, u64) {
    let before = calls(server);
    let started = Instant::now();
    while started.elapsed() < time {
        for home in homes {
            assert_eq!(
                home.ops_get("/readyz").await.map(|answer| answer.status),
                Some(200),
                "{}",
                home.log()
            );
            assert_eq!(home.metric("rollbook_queue_depth").await, Some(0.0), "{}", home.log());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let mut made = calls(server);
    for (name, count) in &mut made {
        *count -= before.get(name).copied().unwrap_or(0);
    }
    *made.entry("info".to_owned()).or_default() -= 1;
    made.retain(|_, count| *count > 0);
    let is_sent = |name: &&String| !INSIDE_SCRIPTS.contains(&name.as_str());
    let sent: u64 = made.keys().filter(is_sent).map(|name| made[name]).sum();
    println!("{made:?}");
    (made.values().sum(), sent)
}

async fn apply_one(redis: &RedisServer, receiver: &Home, worker: &Home, id: &str) {
    assert_eq!(status(&exchange(receiver.listen, &signed(id, EVENT)).await), 200, "{}", receiver.log());
    until("it is applied", || async { redis.cli(&["hlen", "{rollbook:0}:messages"]) == "0" }).await;
    assert!(!worker.log().contains("parked"), "{}", worker.log());
}

async fn start(redis: &RedisServer, shards: &str) -> (Home, Home, [Process; 2]) {
    let home =
        || Home::new(BINARY).with("ROLLBOOK_QUEUE_URL", redis.url()).with("ROLLBOOK_QUEUE_SHARDS", shards);
    let (receiver, worker) = (home(), home());
    worker.migrate();
    let processes = [receiver.start_ready(&["receive"]).await, worker.start_ready(&["work"]).await];
    (receiver, worker, processes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_receiver_and_worker_send_at_most_sixty_commands_a_minute_although_they_are_watched() {
    let redis = RedisServer::start().await;
    let (receiver, worker, _processes) = start(&redis, "1").await;
    apply_one(&redis, &receiver, &worker, "msg_1").await;
    // The lanes' first polls, and the first check of the empty queue, are not idle time.
    calls_within(&redis, Duration::from_secs(2), &[&receiver, &worker]).await;
    let (all, sent) = calls_within(&redis, Duration::from_secs(60), &[&receiver, &worker]).await;
    println!("{sent} commands in a minute, {all} with those inside scripts");
    assert!(sent <= 60, "{sent} commands in a minute");
    assert!(all <= 200, "{all} commands in a minute, with those inside scripts");
    // Both still work.
    apply_one(&redis, &receiver, &worker, "msg_2").await;
}
