//! Deliveries that replicas must confirm, or that need a confirmed flush.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::queue::{Enqueued, Producer as _, QueueAdmin as _, QueueError};
use rollbook_redis::{RedisQueue, RedisSettings};
use rollbook_testkit::process::until;
use rollbook_testkit::servers::redis::RedisServer;

use crate::fake::Fake;
use crate::removal::remove;
use crate::support::{
    drain, enqueue, lease, leftovers, names, open, set, settings, start, stats, try_enqueue,
};

/// Starts a replica with the data of `master`.
pub(crate) async fn start_replica(master: &RedisServer) -> RedisServer {
    master.cli(&["config", "set", "repl-diskless-sync-delay", "0"]);
    let replica = RedisServer::start_with(&[("replicaof", &format!("127.0.0.1 {}", master.port()))]).await;
    until("the replica is in line", || {
        let knows = |server: &RedisServer, fact| server.cli(&["info", "replication"]).contains(fact);
        std::future::ready(knows(&replica, "master_link_status:up") && knows(master, "state=online"))
    })
    .await;
    replica
}

fn with_replicas(url: String, replicas: u32) -> Arc<RedisQueue> {
    open(RedisSettings { replicas, ..settings(url) })
}

fn assert_too_few(answer: &Result<Vec<Enqueued>, QueueError>, text: &str) {
    let Err(QueueError::Unavailable(why)) = answer else { panic!("not durable enough: {answer:?}") };
    assert!(why.contains(text) && why.contains("at 127.0.0.1:"), "{why}");
}

#[tokio::test]
async fn a_delivery_or_duplicate_is_acknowledged_only_after_the_replica_has_it() {
    let master = RedisServer::start().await;
    let replica = start_replica(&master).await;
    let patience = Duration::from_secs(2);
    let open = |replicas| open(RedisSettings { replicas, call_timeout: patience, ..settings(master.url()) });
    let queue = open(1);
    assert_eq!(queue.durability().await.expect("the server answers").weaknesses, []);
    let (before, doubt) = (names("before", 0..5), names("doubt", 0..5));
    let until_taken = async |ids: &[String]| {
        until("the replica keeps up", || async { try_enqueue(&queue, ids).await.is_ok() }).await;
    };
    until_taken(&before).await;
    replica.signal("STOP");
    let text = "0 of 1 replicas have the write";
    assert_too_few(&try_enqueue(&queue, &doubt).await, text);
    // "duplicate" makes the same promise, also on a connection that has not written yet.
    let other = open(1);
    let (again, elsewhere) = tokio::join!(try_enqueue(&queue, &doubt), try_enqueue(&other, &doubt));
    assert_too_few(&again, text);
    assert_too_few(&elsewhere, text);
    // Leasing and settling need no replica.
    assert_eq!(lease(&queue, 1).await.len(), 1);
    replica.signal("CONT");
    until_taken(&doubt).await;
    assert_eq!(try_enqueue(&queue, &doubt).await, Ok(vec![Enqueued::Duplicate; 5]));
    assert_eq!(stats(&queue).await.depth(), 10, "each message once");
    assert_too_few(&try_enqueue(&open(2), &names("more", 0..1)).await, "1 of 2 replicas");
}

#[tokio::test]
async fn a_removal_or_its_repetition_succeeds_only_after_the_replica_has_it() {
    let master = RedisServer::start().await;
    let replica = start_replica(&master).await;
    let call_timeout = Duration::from_secs(2);
    let open = || open(RedisSettings { replicas: 1, call_timeout, ..settings(master.url()) });
    let queue = open();
    let all = names("msg", 0..5);
    until("the replica keeps up", || async { try_enqueue(&queue, &all).await.is_ok() }).await;
    replica.signal("STOP");
    for queue in [&queue, &open()] {
        let text = remove(queue, &all).await;
        assert!(
            matches!(&text, Err(QueueError::Unavailable(why)) if why.contains("0 of 1 replicas")),
            "{text:?}"
        );
    }
    replica.signal("CONT");
    until("the replica has it", || async { remove(&queue, &all).await == Ok(0) }).await;
    assert_eq!(replica.cli(&["exists", "{rollbook:0}:messages"]), "0");
}

#[tokio::test]
async fn acknowledged_messages_exist_after_the_replica_becomes_the_master() {
    let mut master = RedisServer::start().await;
    let replica = start_replica(&master).await;
    let queue = with_replicas(master.url(), 1);
    for number in 0..20 {
        enqueue(&queue, &names("msg", number * 5..number * 5 + 5)).await;
    }
    master.kill();
    replica.cli(&["replicaof", "no", "one"]);
    assert_eq!(drain(&open(settings(replica.url()))).await, set(&names("msg", 0..100)));
}

#[tokio::test]
async fn everysec_is_refused_when_strict_and_confirmed_by_waitaof_when_degraded() {
    // One server answers WAITAOF at once, before the flush; the other one answers at its next tick.
    for (local, tick) in [(1, Duration::ZERO), (1, Duration::from_millis(300)), (0, Duration::ZERO)] {
        let fake = Fake::start("appendfsync", "everysec").await;
        fake.waitaof(local, 0);
        fake.tick(tick);
        let strict = open(settings(fake.url()));
        let Err(QueueError::Deployment(text)) = try_enqueue(&strict, &names("msg", 0..1)).await else {
            panic!("strict refuses")
        };
        assert!(text.contains("appendfsync is everysec") && text.contains("appendfsync always"), "{text}");
        let degraded = open(RedisSettings { strict: false, ..settings(fake.url()) });
        assert_eq!(degraded.durability().await.expect("the server answers").weaknesses.len(), 1);
        let answer = try_enqueue(&degraded, &names("msg", 0..1)).await;
        let asked = fake.last_two();
        assert!(asked[0].starts_with("EVALSHA ") && asked[1].starts_with("WAITAOF 1 0 "), "{asked:?}");
        if local == 1 {
            assert_eq!(answer, Ok(vec![Enqueued::Queued]));
        } else {
            assert_too_few(&answer, "0 of 1 local disks have the write");
        }
    }
}

#[tokio::test]
async fn the_disks_of_replicas_are_confirmed_in_addition_to_the_masters() {
    let fake = Fake::start("redis_version", "7.2.4").await;
    let queue = with_replicas(fake.url(), 2);
    fake.waitaof(1, 1);
    assert_too_few(&try_enqueue(&queue, &names("msg", 0..1)).await, "1 of 2 replicas' disks have the write");
    assert!(fake.last_two()[1].starts_with("WAITAOF 1 2 "));
    fake.waitaof(1, 2);
    assert!(try_enqueue(&queue, &names("msg", 0..1)).await.is_ok());
}

#[tokio::test]
async fn a_probe_has_the_result_of_a_delivery_and_leaves_no_message() {
    let (server, queue) = start().await;
    assert_eq!(queue.probe().await, Ok(true));
    server.cli(&["config", "set", "min-replicas-to-write", "1"]);
    let refused = try_enqueue(&queue, &names("msg", 0..1)).await.expect_err("there is no replica");
    assert_eq!(queue.probe().await.expect_err("there is no replica"), refused);
    server.cli(&["config", "set", "min-replicas-to-write", "0"]);
    assert_eq!(queue.probe().await, Ok(true));
    assert_eq!(leftovers(&server, 1), [""; 0]);
}
