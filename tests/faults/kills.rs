//! Redis is killed again and again, also on a slow disk and in the middle of a write.

use std::collections::BTreeSet;
use std::fs::File;
use std::time::{Duration, Instant};

use rollbook_core::delivery::Delivery;
use rollbook_core::queue::{Consumer as _, Enqueued, Producer as _};
use rollbook_core::time::Clock as _;
use rollbook_simulator::history::Event;
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::until;
use rollbook_testkit::queues::request;
use rollbook_testkit::servers::redis::RedisServer;
use rollbook_testkit::servers::shim::{Record, Shim};

use super::{assert_nothing_lost, home_on, send_at_once, stop, until_empty, until_taken};
use crate::crashes::{history, send, sent};
use crate::raw_http::{exchange, signed, status};
use crate::{audit, stores};

const KILLS: u32 = 50;
/// Maximum median wait of a sender for a refusal while Redis is down.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);
/// Redis's log, until it is rewritten.
const REDIS_LOG: &str = "appendonly.aof.1.incr.aof";
const EVENT: &str = r#"{"type":"user.created","timestamp":1785312000032,"data":{"id":"user_1"}}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_of_redis_under_load_lose_nothing_and_are_answered_503_within_a_second() {
    let mut redis = RedisServer::start().await;
    let home = home_on(redis.url());
    home.migrate();
    let mut rollbook = home.start_ready(&["serve"]).await;
    let history = history(2_400);
    let kills = async {
        let mut waits = Vec::new();
        for kill in 1..=KILLS {
            until_taken(&home, 40.0 * f64::from(kill)).await;
            redis.kill();
            let started = Instant::now();
            // The delivery is never acknowledged, so it must never be applied.
            assert_eq!(status(&exchange(home.listen, &signed("msg_refused", EVENT)).await), 503);
            waits.push(started.elapsed());
            redis.restart().await;
        }
        waits.sort_unstable();
        waits
    };
    let (report, waits) = tokio::join!(send(home.listen, &history, 10_000), kills);
    assert!(waits[waits.len() / 2] < REFUSED_WITHIN, "{waits:?}");
    assert!(report.attempts > report.acknowledged.len() as u64, "no kill was felt by the sender");
    assert_nothing_lost(&home, &mut rollbook, &redis, &history, &report).await;
}

/// Kills Redis in the middle of flushes of this duration, and returns the 99th percentile of the
/// acknowledgements.
async fn kills_on_a_slow_disk(flush: Duration, changes: usize, kills: u32) -> Duration {
    let shim = Shim::new(".incr.aof");
    shim.record(Record::Length);
    let mut redis = RedisServer::start_on(&shim, &[]).await;
    let home = home_on(redis.url());
    home.migrate();
    let mut receiver = home.start_ready(&["receive"]).await;
    shim.delay_syncs(flush);
    let history = history(changes);
    let log = redis.log_folder().join(REDIS_LOG);
    let killer = async {
        for _ in 0..kills {
            until("a delivery waits for its flush", || {
                let written = log.metadata().expect("a log").len();
                std::future::ready(written > shim.flushed_length(REDIS_LOG) + 2_000)
            })
            .await;
            redis.kill();
            redis.restart().await;
        }
    };
    let (report, ()) = tokio::join!(send_at_once(home.listen, &history), killer);
    assert!(report.attempts > report.acknowledged.len() as u64, "no kill was felt by the sender");
    shim.delay_syncs(Duration::ZERO);
    stop(&home, &mut receiver).await;
    let mut worker = home.start_ready(&["work"]).await;
    assert_nothing_lost(&home, &mut worker, &redis, &history, &report).await;
    report.latencies.at(990)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_redis_while_a_flush_takes_50_ms_lose_nothing() {
    let p99 = kills_on_a_slow_disk(Duration::from_millis(50), 800, 5).await;
    assert!(p99 < Duration::from_secs(2), "acknowledged within {p99:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_redis_while_a_flush_takes_3_s_lose_nothing_and_svix_waits_long_enough() {
    let p99 = kills_on_a_slow_disk(Duration::from_secs(3), 40, 1).await;
    assert!(p99 < Duration::from_secs(15), "acknowledged within {p99:?}");
}

/// A kill of Redis may tear a write, and the next kill makes Redis take half of a script's writes for all of them (decision 0381).
/// Here the half is that of a lease: the messages in it belong to nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_a_kill_of_redis_has_torn_strands_no_delivery() {
    let mut redis = RedisServer::start().await;
    let home = home_on(redis.url()).with("ROLLBOOK_LOG", "info");
    home.migrate();
    let mut rollbook = home.start_ready(&["serve"]).await;
    until("the first audit is over", || std::future::ready(home.log().contains("the queue was audited")))
        .await;
    rollbook.signal("STOP");
    let history = history(60);
    let queue = stores::open_queue(&redis);
    let (last, torn) = history.events.split_last().expect("events");
    let enqueue = async |events: &[Event]| {
        for taken in queue.enqueue_many(&events.iter().map(delivery).collect::<Vec<_>>()).await {
            assert_eq!(taken, Ok(Enqueued::Queued));
        }
    };
    enqueue(torn).await;
    let log = redis.log_folder().join(REDIS_LOG);
    let before = std::fs::read(&log).expect("a log").len();
    let leased =
        queue.lease(request(torn.len(), Duration::from_secs(60), Duration::ZERO)).await.expect("leases");
    assert_eq!(leased.len(), torn.len());
    redis.kill();
    let written = std::fs::read(&log).expect("a log");
    let end =
        before + written[before..].windows(4).position(|word| word == b"ZADD").expect("the end of the lease");
    File::options().write(true).open(&log).expect("the log").set_len(end as u64 + 2).expect("it is cut");
    redis.restart().await;
    enqueue(std::slice::from_ref(last)).await;
    redis.kill();
    redis.restart().await;
    rollbook.signal("CONT");
    until_empty(&home, &redis).await;
    assert!(home.log().contains("the queue was damaged and is repaired"), "{}", home.log());
    stop(&home, &mut rollbook).await;
    let ledger = audit::ledger(&home.data());
    assert_eq!(ledger.iter().map(String::as_str).collect::<BTreeSet<_>>(), sent(&history));
    assert!(audit::compare(&home.data(), &history).await.is_equal(), "the rows differ from the truth");
}

fn delivery(event: &Event) -> Delivery {
    let received_at = WallClock.now();
    Delivery { id: event.id.clone(), received_at, traceparent: None, body: event.body.clone() }
}
