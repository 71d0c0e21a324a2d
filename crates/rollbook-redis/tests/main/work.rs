//! The cost of a lease does not depend on the number of waiting messages in any state.

use std::time::Duration;

use rollbook_core::queue::{Consumer as _, DeadLetterFilter, Settlement};
use rollbook_redis::RedisQueue;
use rollbook_testkit::queues::request;
use rollbook_testkit::servers::redis::RedisServer;

use crate::support::{dead_letter, enqueue, lease, names, redriven, retry, settle_all, start, stats};

const FEW: usize = 200;
const MANY: usize = 4_000;
const BATCH: usize = 20;
const LEASES: usize = 5;

#[derive(Clone, Copy, Debug)]
enum State {
    New,
    Delayed,
    Released,
    Redriven,
    Expired,
}

/// Adds `count` messages in this state.
async fn fill(queue: &RedisQueue, state: State, count: usize) {
    for part in names("msg", 0..count).chunks(500) {
        enqueue(queue, part).await;
    }
    let settlement = match state {
        State::New => return,
        State::Delayed => retry(Duration::from_secs(500)),
        State::Released => Settlement::Release,
        State::Redriven => dead_letter(),
        State::Expired => {
            let short = |max| request(max, Duration::from_millis(1), Duration::ZERO);
            // Other lanes get other messages only while no lease has expired.
            let mut left = count;
            while left > 0 {
                left -= queue.lease(short(left.min(500))).await.expect("the queue gives").len();
            }
            return;
        }
    };
    let mut leases = Vec::new();
    while leases.len() < count {
        leases.extend(lease(queue, 500).await);
    }
    settle_all(queue, &leases, &settlement).await;
    if matches!(state, State::Redriven) {
        while redriven(queue, &DeadLetterFilter::default(), 500).await.expect("a step") > 0 {}
    }
}

/// Number of commands that the server has executed, by its own count.
fn commands(server: &RedisServer) -> u64 {
    let stats = server.cli(&["info", "commandstats"]);
    let calls = |line: &str| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok();
    let is_ours = |line: &&str| !line.starts_with("cmdstat_info") && !line.starts_with("cmdstat_client");
    stats.lines().filter(is_ours).filter_map(calls).sum()
}

/// Number of commands for some leases and counts while `count` messages wait in this state.
async fn cost(state: State, count: usize) -> u64 {
    let (server, queue) = start().await;
    fill(&queue, state, count).await;
    assert_eq!(stats(&queue).await.depth(), count as u64);
    // One new message, which must be compared with those delivered again.
    enqueue(&queue, &names("new", 0..FEW)).await;
    let before = commands(&server);
    for _ in 0..LEASES {
        let leases = lease(&queue, BATCH).await;
        assert_eq!(leases.len(), BATCH, "{state:?}");
        settle_all(&queue, &leases, &Settlement::Ack).await;
        stats(&queue).await;
    }
    commands(&server) - before
}

#[tokio::test]
async fn a_lease_costs_the_same_for_few_and_many_waiting_messages_in_any_state() {
    for state in [State::New, State::Delayed, State::Released, State::Redriven, State::Expired] {
        let (few, many) = (cost(state, FEW).await, cost(state, MANY).await);
        assert!(many <= few + few / 10, "{state:?}: {few} commands with {FEW}, {many} with {MANY}");
    }
}
