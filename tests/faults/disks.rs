//! Full and failing disks of Redis, SQLite and Postgres.

use rollbook_testkit::process::{Home, until};
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;
use rollbook_testkit::servers::shim::Shim;

use super::{
    assert_all_acknowledged, assert_clean, assert_nothing_lost, home_on, on_shim, stop, until_refused,
    until_taken,
};
use crate::audit;
use crate::crashes::{BINARY, acknowledged, history, send};
use crate::rows;

const DATABASE: &str = "app";
/// Redis's log, without its small manifest files.
const REDIS_LOG: &str = ".incr.aof";
/// Free space of a nearly full disk.
const ROOM: u32 = 100_000;
/// Number of deliveries that are refused before there is space again.
const REFUSED: f64 = 20.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_with_a_full_disk_ends_and_restarts_with_all_acknowledged_deliveries() {
    let shim = Shim::new(REDIS_LOG);
    let mut redis = RedisServer::start_on(&shim, &[]).await;
    let home = home_on(redis.url());
    home.migrate();
    let mut rollbook = home.start_ready(&["serve"]).await;
    let history = history(1_000);
    let fill = async {
        until_taken(&home, 100.0).await;
        shim.leave_room(Some(ROOM));
        redis.ended().await;
        until_refused(&home, REFUSED).await;
        shim.leave_room(None);
        redis.restart().await;
    };
    let (report, ()) = tokio::join!(send(home.listen, &history, 10_000), fill);
    assert!(shim.refused_writes() > 0);
    assert_nothing_lost(&home, &mut rollbook, &redis, &history, &report).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_with_a_failing_flush_ends_and_restarts_with_all_acknowledged_deliveries() {
    let shim = Shim::new(REDIS_LOG);
    let mut redis = RedisServer::start_on(&shim, &[]).await;
    let home = home_on(redis.url());
    home.migrate();
    let mut rollbook = home.start_ready(&["serve"]).await;
    let history = history(1_000);
    let fail = async {
        until_taken(&home, 100.0).await;
        shim.fail_syncs(1);
        redis.ended().await;
        redis.restart().await;
    };
    let (report, ()) = tokio::join!(send(home.listen, &history, 10_000), fail);
    assert_eq!(shim.failed_syncs(), 1);
    assert_nothing_lost(&home, &mut rollbook, &redis, &history, &report).await;
}

/// Starts `serve` on SQLite alone, with this shim.
fn sqlite_on(shim: &Shim) -> Home {
    on_shim(Home::new(BINARY).with("ROLLBOOK_LEASE_FOR", "5s").with("ROLLBOOK_LOG", "warn"), shim)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_sqlite_with_a_full_disk_refuses_and_continues_when_there_is_space() {
    let shim = Shim::new(".db");
    let home = sqlite_on(&shim);
    let mut rollbook = home.start_ready(&["serve"]).await;
    let history = history(1_000);
    let fill = async {
        until_taken(&home, 100.0).await;
        shim.leave_room(Some(ROOM));
        until_refused(&home, REFUSED).await;
        shim.leave_room(None);
    };
    let (report, ()) = tokio::join!(send(home.listen, &history, 10_000), fill);
    assert!(shim.refused_writes() > 0);
    assert_clean(&home, &mut rollbook, &history, &report).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_sqlite_with_a_failing_flush_ends_the_process_and_the_next_one_has_all_acknowledged_deliveries() {
    let shim = Shim::new(".db");
    let home = sqlite_on(&shim);
    let mut rollbook = home.start_ready(&["serve"]).await;
    let history = history(1_000);
    let fail = async {
        until_taken(&home, 100.0).await;
        shim.fail_syncs(1);
        let ended = rollbook.exit().await;
        assert!(ended.code().is_some_and(|code| code != 0), "{ended}: {}", home.log());
        rollbook = home.start_ready(&["serve"]).await;
    };
    let (report, ()) = tokio::join!(send(home.listen, &history, 10_000), fail);
    assert_eq!(shim.failed_syncs(), 1);
    assert_clean(&home, &mut rollbook, &history, &report).await;
}

/// Sends a history during this fault of Postgres, and asserts that all of it is applied at its first attempt.
async fn while_postgres(shim: &Shim, postgres: &PostgresServer, fault: impl AsyncFn(&Home)) {
    postgres.create_database(DATABASE).await;
    let home = Home::new(BINARY)
        .with("DATABASE_URL", postgres.url(DATABASE))
        .with("ROLLBOOK_GATE_BACKOFF_MAX", "1s")
        .with("ROLLBOOK_LOG", "warn");
    home.migrate();
    let mut rollbook = home.start_ready(&["serve"]).await;
    let history = history(1_000);
    let (report, ()) = tokio::join!(send(home.listen, &history, 10_000), async {
        until_taken(&home, 100.0).await;
        fault(&home).await;
    });
    assert!(shim.refused_writes() + shim.failed_syncs() > 0);
    assert_all_acknowledged(&report);
    until("the queue is empty", || async { audit::waiting(&home.data()) == 0 }).await;
    assert_eq!(home.metric("rollbook_dead_letters").await, Some(0.0), "{}", home.log());
    stop(&home, &mut rollbook).await;
    assert!(rows::equal(postgres.url(DATABASE), &history).await, "the rows differ from the truth");
    let ledger = postgres.psql(DATABASE, "SELECT count(*), max(attempts) FROM clerk.deliveries").await;
    let acknowledged = acknowledged(&history, &report).len();
    assert_eq!(ledger.trim(), format!("{acknowledged}|1"), "no outage of the store costs an attempt");
}

async fn until_the_store_fails(home: &Home) {
    until("the worker waits for the store", || async {
        home.metric_with("rollbook_up", r#""store""#).await == Some(0.0) || home.log().contains("store")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_with_a_full_disk_is_waited_for_without_counting_an_attempt() {
    let shim = Shim::new("/base/");
    let postgres = PostgresServer::start_on(&shim, &[]).await;
    while_postgres(&shim, &postgres, async |home| {
        shim.leave_room(Some(0));
        until("a write finds no room", || std::future::ready(shim.refused_writes() > 0)).await;
        until_the_store_fails(home).await;
        shim.leave_room(None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_with_a_failing_flush_recovers_by_itself_without_counting_an_attempt() {
    let shim = Shim::new("/pg_wal/");
    let postgres = PostgresServer::start_on(&shim, &[]).await;
    while_postgres(&shim, &postgres, async |home| {
        shim.fail_syncs(1);
        until("a flush fails", || std::future::ready(shim.failed_syncs() > 0)).await;
        until_the_store_fails(home).await;
    })
    .await;
    assert!(postgres.log().contains("PANIC"), "{}", postgres.log());
}
