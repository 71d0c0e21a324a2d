//! Lost answers of the queue: a repeated request gets the same leases, and no attempt is used.

use std::time::{Duration, Instant};

use rollbook_core::queue::{
    Consumer as _, Lease, LeaseRequest, LeaseRequestId, QueueError, Settled, Settlement,
};
use rollbook_redis::{RedisQueue, RedisSettings};
use rollbook_testkit::process::{DEADLINE, until};
use rollbook_testkit::queues::{all_of, request};
use rollbook_testkit::servers::proxy::{Break, Direction, Fault, FaultProxy};
use rollbook_testkit::servers::redis::RedisServer;
use rollbook_testkit::servers::shim::Shim;

use crate::support::{
    LONG, drain, enqueue, ids, lease, lease_in_time, leftovers, names, open, retry, set, settings, settle,
    settle_all, start, stats,
};

fn asked(number: u64, max: usize) -> LeaseRequest {
    LeaseRequest { id: LeaseRequestId { lane: 7, number }, ..request(max, LONG, Duration::ZERO) }
}

async fn give(queue: &RedisQueue, request: LeaseRequest) -> Vec<Lease> {
    queue.lease(request).await.expect("the queue gives")
}

/// Repeats the request until it is answered.
async fn give_in_time(queue: &RedisQueue, request: LeaseRequest) -> Vec<Lease> {
    let started = Instant::now();
    loop {
        match queue.lease(request.clone()).await {
            Ok(leases) if !leases.is_empty() => return leases,
            answer => assert!(started.elapsed() < DEADLINE, "{answer:?}"),
        }
    }
}

fn tokens(leases: &[Lease]) -> Vec<(String, u32, u32)> {
    let mut tokens: Vec<_> =
        leases.iter().map(|lease| (lease.token.0.clone(), lease.attempt, lease.unsettled)).collect();
    tokens.sort();
    tokens
}

/// Size of the server's log, which read-only calls do not change.
fn log_size(server: &RedisServer) -> String {
    let info = server.cli(&["info", "persistence"]);
    info.lines().find(|line| line.starts_with("aof_current_size")).expect("it has a log").to_owned()
}

/// Adds ten new messages and ten that are delivered again.
async fn mixed(queue: &RedisQueue) {
    enqueue(queue, &names("again", 0..10)).await;
    settle_all(queue, &lease(queue, 10).await, &retry(Duration::ZERO)).await;
    enqueue(queue, &names("new", 0..10)).await;
}

#[tokio::test]
async fn a_repeated_request_gets_the_same_leases_and_writes_nothing() {
    let (server, queue) = start().await;
    mixed(&queue).await;
    enqueue(&queue, &names("other", 0..10)).await;
    let first = give(&queue, asked(1, 20)).await;
    assert_eq!(first.len(), 20);
    let size = log_size(&server);
    for _ in 0..3 {
        let again = give(&queue, asked(1, 20)).await;
        assert_eq!(tokens(&again), tokens(&first));
        assert!(again.iter().all(crate::support::has_own_body));
    }
    assert_eq!(log_size(&server), size, "a write would wait for the slow disk");
    let next = give(&queue, asked(2, 20)).await;
    assert_eq!(ids(&next), set(&names("other", 0..10)), "a new number is a new request");
    settle_all(&queue, &[first, next].concat(), &Settlement::Ack).await;
    assert_eq!(leftovers(&server, 1), [""; 0]);
}

#[tokio::test]
async fn leases_that_do_not_fit_into_a_repeated_request_are_released_without_counting() {
    let (_server, queue) = start().await;
    mixed(&queue).await;
    let first = give(&queue, asked(1, 20)).await;
    let smaller = give(&queue, asked(1, 5)).await;
    assert_eq!(smaller.len(), 5);
    assert!(smaller.iter().all(|lease| first.iter().any(|before| before.token == lease.token)));
    let rest = lease(&queue, 100).await;
    assert_eq!(rest.len(), 15, "others can lease the rest at once");
    for lease in &rest {
        let before = first.iter().find(|before| before.id == lease.id).expect("it was given before");
        assert_eq!((lease.attempt, lease.unsettled), (before.attempt, 0));
    }
    let bytes_max = smaller[0].body.len();
    let smallest = give(&queue, LeaseRequest { bytes_max, ..asked(1, 5) }).await;
    assert_eq!(smallest.len(), 1, "the byte limit applies too");
    assert_eq!(
        give(&queue, LeaseRequest { bytes_max: 0, ..asked(1, 5) }).await.len(),
        1,
        "the first is given"
    );
    settle_all(&queue, &[smallest, rest].concat(), &Settlement::Ack).await;
    assert_eq!(drain(&queue).await.len(), 4);
    assert_eq!(stats(&queue).await.depth(), 0);
}

#[tokio::test]
async fn an_expired_lease_that_nobody_took_over_is_given_again_without_counting() {
    let (_server, queue) = start().await;
    mixed(&queue).await;
    let short = LeaseRequest { lease_for: Duration::from_millis(1), ..asked(1, 20) };
    let first = give(&queue, short.clone()).await;
    until("the leases have run out", || async { stats(&queue).await.leased == 0 }).await;
    let mut again = give(&queue, asked(1, 20)).await;
    assert_eq!(tokens(&again), tokens(&first), "no unsettled lease is counted");
    assert!(lease(&queue, 100).await.is_empty(), "the lease lasts as long as the new request says");
    settle_all(&queue, &again.split_off(1), &Settlement::Ack).await;
    assert_eq!(give(&queue, asked(1, 20)).await.len(), 1, "settled messages are not given again");
}

#[tokio::test]
async fn messages_taken_over_by_another_process_are_not_given_again() {
    let (server, queue) = start().await;
    let other = open(settings(server.url()));
    mixed(&queue).await;
    let short = LeaseRequest { lease_for: Duration::from_millis(1), ..asked(1, 20) };
    let lost = give(&queue, short).await;
    let taken = lease_in_time(&other, 20).await;
    assert!(give(&queue, asked(1, 20)).await.is_empty());
    assert!(
        give(&other, asked(1, 20)).await.is_empty(),
        "the same number of another process is another request"
    );
    assert_eq!(settle(&queue, &lost, &Settlement::Ack).await, [Settled::LeaseLost; 20]);
    settle_all(&other, &taken, &Settlement::Ack).await;
}

#[tokio::test]
async fn a_lost_answer_uses_no_attempt_and_no_lease() {
    let (server, queue) = start().await;
    let proxy = FaultProxy::start(server.port());
    let call_timeout = Duration::from_secs(5);
    let cut_off = open(RedisSettings { call_timeout, ..settings(proxy.url(&server.url())) });
    mixed(&queue).await;
    // Opens its connection beforehand.
    assert_eq!(give(&cut_off, asked(1, 1)).await.len(), 1);
    proxy.fail(Direction::ToServer, Fault::after(0, Break::LoseAnswer));
    let lost = cut_off.lease(asked(2, 10)).await;
    assert!(matches!(lost, Err(QueueError::Unavailable(_))), "{lost:?}");
    proxy.heal();
    proxy.cut();
    let given = give_in_time(&cut_off, asked(2, 10)).await;
    assert_eq!(given.len(), 10);
    let known =
        |lease: &Lease| (lease.attempt, lease.unsettled) == (1 + u32::from(lease.id.as_str() < "new"), 0);
    assert!(given.iter().all(known), "{given:?}");
    let acks: Vec<_> = given.iter().map(|lease| (lease.clone(), Settlement::Ack)).collect();
    assert_eq!(all_of(cut_off.settle_many(&acks).await), Ok(vec![Settled::Done; 10]));
}

#[tokio::test]
async fn on_a_disk_slower_than_the_time_limit_a_batch_succeeds_with_its_first_attempt() {
    let shim = Shim::new("appendonly");
    let server = RedisServer::start_on(&shim, &[]).await;
    let queue = open(settings(server.url()));
    enqueue(&queue, &names("msg", 0..50)).await;
    let impatient =
        open(RedisSettings { call_timeout: Duration::from_millis(700), ..settings(server.url()) });
    assert!(lease(&impatient, 0).await.is_empty(), "opens its connection");
    shim.delay_syncs(Duration::from_secs(1));
    let lost = impatient.lease(asked(1, 50)).await;
    assert!(matches!(lost, Err(QueueError::Unavailable(_))), "{lost:?}");
    let given = give_in_time(&impatient, asked(1, 50)).await;
    assert_eq!(ids(&given), set(&names("msg", 0..50)));
    assert!(given.iter().all(|lease| (lease.attempt, lease.unsettled) == (1, 0)), "{given:?}");
    shim.delay_syncs(Duration::ZERO);
    settle_all(&queue, &given, &Settlement::Ack).await;
}

#[tokio::test]
async fn a_shard_with_a_lost_answer_gives_the_same_leases_again_although_the_others_answered() {
    let server = RedisServer::start().await;
    let sharded = |url: String| open(RedisSettings { shards: 3, ..settings(url) });
    enqueue(&sharded(server.url()), &names("msg", 0..30)).await;
    let proxy = FaultProxy::start(server.port());
    let cut_off = sharded(proxy.url(&server.url()));
    assert_eq!(stats(&cut_off).await.depth(), 30, "connects to all shards");
    let is_of = |chunk: &[u8]| chunk.windows(16).any(|part| part == b"{rollbook:1}:new");
    proxy.fail(Direction::ToServer, Fault::when(move |chunk| is_of(chunk).then_some(Break::LoseAnswer)));
    let mut given = cut_off.lease(asked(1, 100)).await.unwrap_or_default();
    assert!(
        given.len() < 30 && server.cli(&["zcard", &crate::support::key(1, "leases")]) == "1",
        "{given:?}"
    );
    proxy.heal();
    proxy.cut();
    let started = Instant::now();
    for number in 2.. {
        given.extend(cut_off.lease(asked(number, 100)).await.unwrap_or_default());
        if given.len() >= 30 {
            break;
        }
        assert!(started.elapsed() < DEADLINE, "{} of 30", given.len());
    }
    assert_eq!(ids(&given), set(&names("msg", 0..30)));
    assert!(given.iter().all(|lease| (lease.attempt, lease.unsettled) == (1, 0)), "{given:?}");
    settle_all(&sharded(server.url()), &given, &Settlement::Ack).await;
}
