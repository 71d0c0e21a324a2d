//! An idle process sends few commands for any number of lanes and shards, and blocks on no server.

use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rollbook_core::queue::{Consumer as _, QueueError, Settlement};
use rollbook_redis::{RedisQueue, RedisSettings};
use rollbook_testkit::process::until;
use rollbook_testkit::queues::request;
use rollbook_testkit::servers::redis::RedisServer;
use tokio::task::JoinSet;

use crate::cluster::{clustered, start_cluster};
use crate::recovery::until_a_lease_waits;
use crate::support::{LONG, enqueue, ids, lease, names, open, set, settings, settle_all, stats};

/// Lanes that ask repeatedly, like those of a worker.
fn lanes(queue: &Arc<RedisQueue>) -> JoinSet<()> {
    let mut lanes = JoinSet::new();
    for _ in 0..3 {
        let queue = Arc::clone(queue);
        lanes.spawn(async move {
            loop {
                let given = queue.lease(request(100, LONG, Duration::from_secs(1))).await;
                assert!(given.expect("the queue gives").is_empty());
            }
        });
    }
    lanes
}

/// Number of commands that a server has executed, including those in scripts.
fn commands(server: &RedisServer) -> u64 {
    let stats = server.cli(&["info", "commandstats"]);
    let calls =
        stats.lines().filter_map(|line| line.split_once("calls=")?.1.split_once(',')?.0.parse::<u64>().ok());
    calls.sum()
}

/// Returns whether a client is blocked on two streams of each shard.
fn reads_of_all_shards(server: &RedisServer, shards: u16) -> bool {
    let blocked = server.cli(&["info", "clients"]);
    let key_count = blocked.lines().find_map(|line| line.trim().strip_prefix("total_blocking_keys:"));
    // The field is newer than Redis 7.0.
    key_count.is_none_or(|count| count == (2 * shards).to_string()) && blocked.contains("blocked_clients:1")
}

async fn commands_a_second(servers: &[RedisServer]) -> u64 {
    let count = || servers.iter().map(commands).sum::<u64>();
    let (before, started) = (count(), Instant::now());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = count() - before;
    asked * 1_000 / u64::try_from(started.elapsed().as_millis()).expect("small")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_lanes_send_a_bounded_number_of_commands_for_any_number_of_shards() {
    // With 64 shards some poll is due in every second.
    for (shards, limit) in [(1, 12), (64, 60)] {
        let server = RedisServer::start().await;
        let queue = open(RedisSettings { shards, ..settings(server.url()) });
        stats(&queue).await;
        let _lanes = lanes(&queue);
        until("the listener reads from all shards", || async {
            reads_of_all_shards(&server, shards) && commands_a_second(slice::from_ref(&server)).await < limit
        })
        .await;
        let asked = commands_a_second(&[server]).await;
        println!("{shards} shards: {asked} commands a second");
        assert!(asked < limit, "{shards} shards: {asked} commands a second");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_lanes_over_a_cluster_send_a_bounded_number_of_commands_too() {
    let nodes = start_cluster().await;
    let queue = open(clustered(&nodes, 64));
    enqueue(&queue, &names("msg", 0..200)).await;
    settle_all(&queue, &lease(&queue, 200).await, &Settlement::Ack).await;
    let _lanes = lanes(&queue);
    until("the shards are idle", || async { commands_a_second(&nodes).await < 1_500 }).await;
    println!("64 shards of a cluster: {} commands a second", commands_a_second(&nodes).await);
}

#[tokio::test]
async fn a_message_for_any_of_many_idle_shards_wakes_a_lane_at_once() {
    let server = RedisServer::start().await;
    let open = || open(RedisSettings { shards: 64, ..settings(server.url()) });
    let (worker, receiver) = (open(), open());
    enqueue(&receiver, &names("first", 0..100)).await;
    settle_all(&worker, &lease(&worker, 100).await, &Settlement::Ack).await;
    let mut slowest = Duration::ZERO;
    for id in names("msg", 0..10).chunks(1) {
        let waiting = Arc::clone(&worker);
        let mut lanes = JoinSet::new();
        lanes.spawn(async move { waiting.lease(request(1, LONG, Duration::from_secs(50))).await });
        until_a_lease_waits(&server).await;
        enqueue(&receiver, id).await;
        let enqueued_at = Instant::now();
        let leases = lanes.join_next().await.expect("a lane").expect("no panic").expect("the queue gives");
        slowest = slowest.max(enqueued_at.elapsed());
        assert_eq!(ids(&leases), set(id));
        settle_all(&worker, &leases, &Settlement::Ack).await;
    }
    println!("{slowest:?} at most from the acknowledgement to the lease");
}

#[tokio::test]
async fn a_lane_over_many_shards_waits_for_a_hanging_server_no_longer_than_over_one_shard() {
    let server = RedisServer::start().await;
    let call_timeout = Duration::from_millis(200);
    let queue = open(RedisSettings { shards: 64, call_timeout, ..settings(server.url()) });
    // The second process knows its shards, and has not deleted idle consumers yet.
    let taker = open(RedisSettings { shards: 64, ..settings(server.url()) });
    enqueue(&taker, &names("msg", 0..200)).await;
    enqueue(&queue, &names("more", 0..200)).await;
    server.signal("STOP");
    let started = Instant::now();
    let refused = queue.lease(request(1, LONG, Duration::from_secs(1))).await;
    assert!(matches!(refused, Err(QueueError::Unavailable(_))), "{refused:?}");
    let took = started.elapsed();
    server.signal("CONT");
    assert!(took < call_timeout * 10, "{took:?}");
}
