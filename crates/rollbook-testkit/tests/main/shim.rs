//! The faults of the shim happen, are counted, and end when a test removes them.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use rollbook_testkit::process::until;
use rollbook_testkit::servers::redis::RedisServer;
use rollbook_testkit::servers::shim::{Record, Shim};

const LOG: &str = ".incr.aof";

async fn start() -> (Shim, RedisServer) {
    let shim = Shim::new(LOG);
    let redis = RedisServer::start_on(&shim, &[]).await;
    (shim, redis)
}

#[tokio::test]
async fn a_flush_takes_the_configured_time() {
    let (shim, redis) = start().await;
    let before = shim.syncs();
    shim.delay_syncs(Duration::from_millis(300));
    let started = Instant::now();
    assert_eq!(redis.cli(&["set", "key", "value"]), "OK");
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    assert!(shim.syncs() > before);
}

#[tokio::test]
async fn a_flush_that_fails_is_counted_and_ends_redis() {
    let (shim, mut redis) = start().await;
    redis.cli(&["set", "before", "value"]);
    shim.fail_syncs(1);
    // Redis exits without an answer.
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, redis.port())).expect("a connection");
    connection.write_all(b"SET key value\r\n").expect("bytes on their way");
    redis.ended().await;
    assert_eq!(shim.failed_syncs(), 1);
    redis.restart().await;
    assert_eq!(redis.cli(&["get", "before"]), "value");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_room() {
    let (shim, redis) = start().await;
    redis.cli(&["config", "set", "appendfsync", "everysec"]);
    shim.leave_room(Some(10));
    redis.cli(&["set", "key", "value"]);
    assert!(shim.refused_writes() > 0);
    shim.leave_room(None);
    let refused = shim.refused_writes();
    until("writes are taken again", || std::future::ready(redis.cli(&["set", "key", "value"]) == "OK")).await;
    assert_eq!(shim.refused_writes(), refused);
}

#[tokio::test]
async fn the_wall_clock_is_ahead_by_the_configured_time() {
    let (shim, redis) = start().await;
    let seconds =
        || -> i64 { redis.cli(&["time"]).lines().next().expect("a line").parse().expect("seconds") };
    let before = seconds();
    shim.shift_clock(-7_200);
    let shifted = seconds();
    assert!((before - 7_200..before - 7_100).contains(&shifted), "{before} {shifted}");
}

#[tokio::test]
async fn a_power_cut_leaves_what_was_flushed_and_nothing_else() {
    let (shim, mut redis) = start().await;
    shim.record(Record::Length);
    redis.cli(&["set", "flushed", "1"]);
    shim.lie();
    redis.cli(&["set", "written", "1"]);
    redis.kill();
    assert!(shim.cut_power(&redis.log_folder(), Record::Length) > 0);
    redis.restart().await;
    assert_eq!(redis.cli(&["exists", "flushed", "written"]), "1");
    assert_eq!(redis.cli(&["get", "flushed"]), "1");
}
