//! Steps of the server's clock.

use std::time::Duration;

use rollbook_core::queue::{Consumer as _, Settlement};
use rollbook_redis::RedisSettings;
use rollbook_testkit::queues::request;
use rollbook_testkit::servers::redis::RedisServer;
use rollbook_testkit::servers::shim::Shim;

use crate::support::{
    LONG, enqueue, ids, lease, lease_in_time, names, open, retry, set, settings, settle_all,
};

const TWO_HOURS: i64 = 7_200;

#[tokio::test]
async fn a_clock_that_steps_back_delays_neither_leases_nor_retries() {
    let shim = Shim::new("appendonly");
    shim.shift_clock(TWO_HOURS);
    let server = RedisServer::start_on(&shim, &[]).await;
    let queue = open(RedisSettings { due_ahead_max: Duration::from_secs(20), ..settings(server.url()) });
    let later = names("later", 0..5);
    enqueue(&queue, &later).await;
    settle_all(&queue, &lease(&queue, 5).await, &retry(Duration::from_secs(10))).await;
    enqueue(&queue, &names("held", 0..5)).await;
    let short = request(5, Duration::from_secs(2), Duration::ZERO);
    let held = queue.lease(short.clone()).await.expect("the queue gives");
    assert_eq!(held.len(), 5);
    shim.shift_clock(0);
    let soon =
        queue.lease(request(10, Duration::from_secs(2), Duration::ZERO)).await.expect("the queue gives");
    assert_eq!(ids(&soon), set(&later), "the delay of a retry is unknown: it is due");
    settle_all(&queue, &held[..2], &Settlement::Ack).await;
    settle_all(&queue, &soon, &Settlement::Ack).await;
    let again = lease_in_time(&queue, 3).await;
    assert_eq!(ids(&again), ids(&held[2..]), "a lease expires when a new one would");
}

#[tokio::test]
async fn the_latest_possible_due_time_is_not_corrected() {
    let server = RedisServer::start().await;
    let queue = open(RedisSettings { due_ahead_max: Duration::from_secs(20), ..settings(server.url()) });
    enqueue(&queue, &names("msg", 0..2)).await;
    settle_all(&queue, &lease(&queue, 1).await, &retry(Duration::from_secs(20))).await;
    assert_eq!(lease(&queue, 2).await.len(), 1, "the other message");
    assert_eq!(lease(&queue, 2).await.len(), 0, "a lease may last longer than that: {LONG:?}");
}
