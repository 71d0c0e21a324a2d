//! Redis hangs: it keeps its connections and answers nothing.

use std::time::{Duration, Instant};

use rollbook_testkit::servers::redis::RedisServer;

use super::{SENDERS, assert_nothing_lost, home_on, send_at_once, stop, taken, until_refused, until_taken};
use crate::crashes::history;

/// Maximum time until a receiver takes deliveries again.
const RECOVERS_WITHIN: Duration = Duration::from_secs(5);
/// Maximum memory; the shipped limit is 512 MB.
const MEMORY_MAX: u64 = 150 << 20;
/// Maximum connections: the pool's, and a few that supervise it.
const CONNECTIONS_MAX: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_hangs_is_answered_503_within_bounds_and_deliveries_go_on_after_it() {
    let redis = RedisServer::start().await;
    let home = home_on(redis.url()).with("ROLLBOOK_REDIS_TIMEOUT", "1s");
    home.migrate();
    let mut receiver = home.start_ready(&["receive"]).await;
    let history = history(2_000);
    let hang = async {
        until_taken(&home, 300.0).await;
        redis.signal("STOP");
        // Every sender has got several refusals.
        until_refused(&home, 3.0 * f64::from(SENDERS)).await;
        let before = taken(&home).await;
        redis.signal("CONT");
        let started = Instant::now();
        until_taken(&home, before + 1.0).await;
        started.elapsed()
    };
    let (report, recovered) = tokio::join!(send_at_once(home.listen, &history), hang);
    assert!(recovered < RECOVERS_WITHIN, "{recovered:?}");
    let connections = redis.cli(&["client", "list"]).lines().count();
    assert!(connections <= CONNECTIONS_MAX, "{connections} connections");
    let memory = receiver.memory_peak();
    assert!(memory < MEMORY_MAX, "{memory} bytes");
    stop(&home, &mut receiver).await;
    let mut worker = home.start_ready(&["work"]).await;
    assert_nothing_lost(&home, &mut worker, &redis, &history, &report).await;
}
