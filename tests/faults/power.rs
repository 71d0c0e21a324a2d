//! Power cuts: `kill -9`, and then the files get the content of their last successful flush.

use std::time::Duration;

use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::redis::RedisServer;
use rollbook_testkit::servers::shim::{Record, Shim};

use super::{
    assert_all_acknowledged, assert_clean, assert_nothing_lost, home_on, messages, on_shim, stop, until_taken,
};
use crate::audit;
use crate::crashes::{BINARY, acknowledged, history, send, sent};

/// Number of power cuts in one run.
const CUTS: u32 = 4;
/// Number of deliveries that are acknowledged between two cuts.
const BETWEEN: f64 = 150.0;
/// Redis's log, without its manifest files, which Redis renames into place.
const REDIS_LOG: &str = ".incr.aof";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_loses_power_again_and_again_keeps_every_acknowledged_delivery() {
    let shim = Shim::new(REDIS_LOG);
    shim.record(Record::Length);
    let mut redis = RedisServer::start_on(&shim, &[]).await;
    let home = home_on(redis.url());
    home.migrate();
    let mut rollbook = home.start_ready(&["serve"]).await;
    let history = history(1_500);
    let cuts = async {
        for cut in 1..=CUTS {
            until_taken(&home, BETWEEN * f64::from(cut)).await;
            redis.kill();
            shim.cut_power(&redis.log_folder(), Record::Length);
            redis.restart().await;
        }
    };
    let (report, ()) = tokio::join!(send(home.listen, &history, 10_000), cuts);
    assert!(report.attempts > report.acknowledged.len() as u64, "no cut was felt by the sender");
    assert_nothing_lost(&home, &mut rollbook, &redis, &history, &report).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_detects_a_redis_on_a_disk_that_does_not_flush() {
    let shim = Shim::new(REDIS_LOG);
    shim.record(Record::Length);
    let mut redis = RedisServer::start_on(&shim, &[]).await;
    let home = home_on(redis.url());
    home.migrate();
    let mut rollbook = home.start_ready(&["receive"]).await;
    let history = history(200);
    shim.lie();
    let report = send(home.listen, &history, 10_000).await;
    assert_all_acknowledged(&report);
    assert_eq!(messages(&redis).0, acknowledged(&history, &report).len() as u64);
    redis.kill();
    assert!(shim.cut_power(&redis.log_folder(), Record::Length) > 0, "nothing was cut");
    redis.restart().await;
    assert_eq!(messages(&redis).0, 0, "the loss is seen");
    stop(&home, &mut rollbook).await;
}

/// `serve` on SQLite alone, with recorded files.
fn sqlite_on(shim: &Shim) -> Home {
    shim.record(Record::Bytes);
    on_shim(Home::new(BINARY).with("ROLLBOOK_LEASE_FOR", "5s").with("ROLLBOOK_LOG", "warn"), shim)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_sqlite_that_loses_power_again_and_again_keeps_every_acknowledged_delivery() {
    let shim = Shim::new(".db");
    let home = sqlite_on(&shim);
    let mut rollbook = home.start_ready(&["serve"]).await;
    let history = history(1_500);
    let cuts = async {
        for _ in 0..CUTS {
            // A process that was started again counts from zero.
            until_taken(&home, BETWEEN).await;
            rollbook.kill();
            shim.cut_power(&home.data(), Record::Bytes);
            rollbook = home.start_ready(&["serve"]).await;
        }
    };
    let (report, ()) = tokio::join!(send(home.listen, &history, 10_000), cuts);
    assert!(report.attempts > report.acknowledged.len() as u64, "no cut was felt by the sender");
    assert_clean(&home, &mut rollbook, &history, &report).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_detects_an_sqlite_on_a_disk_that_does_not_flush() {
    let shim = Shim::new(".db");
    let home = sqlite_on(&shim);
    let mut rollbook = home.start_ready(&["serve"]).await;
    let history = history(200);
    shim.lie();
    let report = send(home.listen, &history, 10_000).await;
    assert_all_acknowledged(&report);
    rollbook.kill();
    shim.cut_power(&home.data(), Record::Bytes);
    let mut rollbook = home.start_ready(&["serve"]).await;
    until("the queue is empty", || async { audit::waiting(&home.data()) == 0 }).await;
    stop(&home, &mut rollbook).await;
    let acknowledged = acknowledged(&history, &report);
    let found = audit::audit(&home.data(), &acknowledged, &sent(&history));
    assert_eq!(found.lost, acknowledged.len(), "the loss is seen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_everysec_the_power_cut_loses_deliveries_acknowledged_since_the_last_flush() {
    let shim = Shim::new(REDIS_LOG);
    shim.record(Record::Length);
    // A flush of this duration is the only one until the power cut.
    shim.delay_syncs(Duration::from_secs(5));
    let mut redis = RedisServer::start_on(&shim, &[("appendfsync", "everysec")]).await;
    let home = home_on(redis.url()).with("ROLLBOOK_DURABILITY", "degraded");
    home.migrate();
    let mut rollbook = home.start_ready(&["receive"]).await;
    let history = history(100);
    let report = send(home.listen, &history, 10_000).await;
    assert_all_acknowledged(&report);
    redis.kill();
    shim.cut_power(&redis.log_folder(), Record::Length);
    redis.restart().await;
    assert!(messages(&redis).0 < acknowledged(&history, &report).len() as u64, "strict refuses it for this");
    stop(&home, &mut rollbook).await;
}
