//! A write to Redis's log that a kill has torn (decision 0381).
//!
//! Redis 7 cuts off the torn command only. What is left of the script's writes does not count at the next start, and counts at
//! the one after it, together with the writes since. Half of a lease or of a settlement is then in the data.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Duration;

use rollbook_core::queue::{QueueAdmin as _, Settled, Settlement};
use rollbook_redis::RedisQueue;
use rollbook_testkit::process::DEADLINE;
use rollbook_testkit::servers::redis::RedisServer;
use tokio::time::timeout;

use crate::audit::{audit, drain_in_time, soon};
use crate::support::{drain, enqueue, ids, lease, leftovers, names, set, settle, settle_all, stats};

/// Number of messages of a batch.
const MESSAGES: usize = 40;

fn log(server: &RedisServer) -> PathBuf {
    server.log_folder().join("appendonly.aof.1.incr.aof")
}

fn length(server: &RedisServer) -> usize {
    fs::read(log(server)).expect("a log").len()
}

/// Kills the server. Of what it has written since the log had the length `before`, it keeps the part up to the middle of the
/// `nth` use of this command. Then it starts, takes a message, is killed and starts again.
async fn tear(server: &mut RedisServer, queue: &RedisQueue, before: usize, (nth, command): (usize, &str)) {
    server.kill();
    let written = fs::read(log(server)).expect("a log");
    let uses =
        written[before..].windows(command.len()).enumerate().filter(|(_, word)| *word == command.as_bytes());
    let (at, _) = uses.take(nth).last().expect("the command");
    let file = File::options().write(true).open(log(server)).expect("the log");
    file.set_len((before + at + command.len() + 1) as u64).expect("it is cut");
    server.restart().await;
    enqueue(queue, &names("later", 0..1)).await;
    restarted(queue).await;
    server.kill();
    server.restart().await;
    stats(queue).await;
    restarted(queue).await;
}

/// Waits until the queue reports a restart of its server.
async fn restarted(queue: &RedisQueue) {
    timeout(DEADLINE, queue.restarted()).await.expect("the restart is noticed");
}

/// Asserts that so many messages are stranded, and that the audit makes them due.
async fn assert_stranded(server: &RedisServer, queue: &RedisQueue, stranded: usize) {
    let found = drain(queue).await;
    let all = set(&[names("torn", 0..MESSAGES), names("later", 0..1)].concat());
    assert_eq!(all.difference(&found).count(), stranded, "without an audit");
    assert_eq!(audit(queue, true).await.stranded, stranded as u64);
    let rest = drain_in_time(queue, stranded).await;
    assert_eq!(&found | &rest, all);
    assert!(audit(queue, false).await.is_clean());
    assert!(lease(queue, 1).await.is_empty(), "this also removes batches of leases that are empty");
    assert_eq!(leftovers(server, 1), [""; 0]);
}

#[tokio::test]
async fn the_messages_of_a_torn_lease_are_found_by_the_audit_after_the_restart() {
    let mut server = RedisServer::start().await;
    let queue = soon(&server);
    enqueue(&queue, &names("torn", 0..MESSAGES)).await;
    let before = length(&server);
    assert_eq!(lease(&queue, MESSAGES).await.len(), MESSAGES);
    tear(&mut server, &queue, before, (MESSAGES / 2, "XCLAIM")).await;
    assert_stranded(&server, &queue, MESSAGES / 2 - 1).await;
}

#[tokio::test]
async fn the_messages_of_a_torn_lease_that_are_due_again_are_found_by_the_audit_after_the_restart() {
    let mut server = RedisServer::start().await;
    let queue = soon(&server);
    enqueue(&queue, &names("torn", 0..MESSAGES)).await;
    let leases = lease(&queue, MESSAGES).await;
    settle_all(&queue, &leases, &Settlement::Release).await;
    let before = length(&server);
    assert_eq!(ids(&lease(&queue, MESSAGES).await), ids(&leases));
    tear(&mut server, &queue, before, (1, "XCLAIM")).await;
    assert_stranded(&server, &queue, MESSAGES).await;
}

#[tokio::test]
async fn the_messages_of_a_torn_settlement_are_found_by_the_audit_after_the_restart() {
    let mut server = RedisServer::start().await;
    let queue = soon(&server);
    enqueue(&queue, &names("torn", 0..MESSAGES)).await;
    let leases = lease(&queue, MESSAGES).await;
    let before = length(&server);
    settle_all(&queue, &leases, &Settlement::Ack).await;
    tear(&mut server, &queue, before, (1, "HDEL")).await;
    // The answer to a torn settlement is lost, so the lane repeats it.
    assert_eq!(settle(&queue, &leases, &Settlement::Ack).await, [Settled::LeaseLost; MESSAGES]);
    assert_stranded(&server, &queue, MESSAGES).await;
}

#[tokio::test]
async fn a_server_that_has_not_restarted_causes_no_audit() {
    let server = RedisServer::start().await;
    let queue = soon(&server);
    enqueue(&queue, &names("torn", 0..1)).await;
    // Another connection.
    assert!(queue.durability().await.is_ok());
    assert!(timeout(Duration::ZERO, queue.restarted()).await.is_err());
}
