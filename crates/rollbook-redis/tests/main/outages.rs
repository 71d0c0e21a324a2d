//! Redis crashes, hangs and restarts: no message is lost or stuck, and every call ends in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rollbook_core::queue::{Consumer as _, QueueAdmin as _, QueueError, Settlement};
use rollbook_redis::{RedisQueue, RedisSettings};
use rollbook_testkit::servers::redis::RedisServer;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::random_load::RandomLoad;
use crate::recovery::until_a_lease_waits;
use crate::support::{
    LONG, drain, enqueue, has_own_body, ids, lease, lease_in_time, leftovers, names, open, set, settings,
    settle_all, start, try_enqueue,
};
use rollbook_testkit::queues::{all_of, request};

fn assert_unavailable(error: &QueueError, server: &RedisServer) {
    let QueueError::Unavailable(text) = error else { panic!("it passes by itself: {error:?}") };
    assert!(text.contains(&format!("127.0.0.1:{}", server.port())), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_crashes_of_redis_lose_no_message_and_leave_none_stuck() {
    let mut server = RedisServer::start().await;
    let queues = [open(settings(server.url())), open(settings(server.url()))];
    let random_load = RandomLoad::begin(&queues, 2_000, 1);
    for _ in 0..4 {
        random_load.until_more_have_ended(300).await;
        server.kill();
        server.restart().await;
    }
    let errors = random_load.end(&queues[0]).await;
    assert!(!errors.is_empty(), "the crashes caused errors");
    for error in &errors {
        assert_unavailable(error, &server);
    }
    assert_eq!(leftovers(&server, 1), [""; 0]);
}

/// Starts a queue with a short time limit for calls, which a hanging server soon exceeds.
async fn start_impatient(call_timeout: Duration) -> (RedisServer, Arc<RedisQueue>) {
    let server = RedisServer::start().await;
    let queue = open(RedisSettings { call_timeout, ..settings(server.url()) });
    (server, queue)
}

#[tokio::test]
async fn while_redis_hangs_every_call_ends_in_time_and_later_answers_belong_to_their_calls() {
    let call_timeout = Duration::from_millis(300);
    let (server, queue) = start_impatient(call_timeout).await;
    enqueue(&queue, &names("held", 0..5)).await;
    let held = lease(&queue, 5).await;
    // Creates connections that hang in the middle of a call, in addition to new ones.
    let (first, second) = (names("first", 0..5), names("second", 0..5));
    tokio::join!(enqueue(&queue, &first), enqueue(&queue, &second));

    server.signal("STOP");
    let started = Instant::now();
    let acks: Vec<_> = held.iter().map(|lease| (lease.clone(), Settlement::Ack)).collect();
    let request = request(5, Duration::from_millis(50), Duration::from_secs(30));
    let in_doubt = names("doubt", 0..5);
    let (taken, given, settled, counted) = tokio::join!(
        try_enqueue(&queue, &in_doubt),
        queue.lease(request),
        queue.settle_many(&acks),
        queue.stats()
    );
    assert!(started.elapsed() < call_timeout * 10, "{:?}", started.elapsed());
    let errors = [taken.map(drop), given.map(drop), all_of(settled).map(drop), counted.map(drop)];
    for error in errors.map(|answer| answer.expect_err("it hangs")) {
        assert_unavailable(&error, &server);
        assert!(error.to_string().contains("no answer in time"), "{error}");
    }
    server.signal("CONT");

    for number in 0..100 {
        enqueue(&queue, &names("after", number..number + 1)).await;
        assert_eq!(queue.stats().await.expect("the queue counts").dead, 0);
    }
    let answers = try_enqueue(&queue, &in_doubt).await.expect("the queue takes it");
    assert_eq!(answers.len(), 5, "queued or duplicate, depending on the unanswered calls");
    // The unanswered acknowledgements were executed, or still can be.
    let acks: Vec<_> = held.into_iter().map(|lease| (lease, Settlement::Ack)).collect();
    assert_eq!(all_of(queue.settle_many(&acks).await).expect("the queue settles").len(), 5);
    let expected = [names("after", 0..100), first, second, in_doubt].concat();
    let leases = lease_in_time(&queue, expected.len()).await;
    assert_eq!(ids(&leases), set(&expected), "including the messages of the lost answer");
    settle_all(&queue, &leases, &Settlement::Ack).await;
    assert!(drain(&queue).await.is_empty());
    assert_eq!(leftovers(&server, 1), [""; 0]);
}

#[tokio::test]
async fn a_cancelled_waiting_lease_takes_no_message() {
    let (server, queue) = start().await;
    for number in 0..5 {
        let waiting = Arc::clone(&queue);
        let mut lanes = JoinSet::new();
        lanes.spawn(async move {
            let request = request(10, LONG, Duration::from_secs(60));
            waiting.lease(request).await
        });
        until_a_lease_waits(&server).await;
        lanes.shutdown().await;
        enqueue(&queue, &names("msg", number..number + 1)).await;
        let leases = lease(&queue, 10).await;
        assert_eq!((ids(&leases), leases[0].attempt), (set(&names("msg", number..number + 1)), 1));
        settle_all(&queue, &leases, &Settlement::Ack).await;
    }
}

#[tokio::test]
async fn calls_cancelled_midway_do_not_affect_later_calls() {
    let (server, queue) = start().await;
    let all = names("msg", 0..300);
    for (number, id) in all.chunks(1).enumerate() {
        let patience = Duration::from_micros(u64::try_from(number).expect("small") * 3);
        // The result is unknown.
        drop(timeout(patience, try_enqueue(&queue, id)).await);
    }
    let answers = try_enqueue(&queue, &all).await.expect("the queue takes it");
    assert_eq!(answers.len(), all.len());
    let leases = lease(&queue, 1_000).await;
    assert_eq!((ids(&leases), leases.len()), (set(&all), all.len()));
    for (number, lease) in leases.iter().enumerate() {
        let patience = Duration::from_micros(u64::try_from(number).expect("small") * 3);
        drop(timeout(patience, queue.settle_many(&[(lease.clone(), Settlement::Ack)])).await);
    }
    let again: Vec<_> = leases.iter().map(|lease| (lease.clone(), Settlement::Ack)).collect();
    assert_eq!(all_of(queue.settle_many(&again).await).expect("the queue settles").len(), all.len());
    enqueue(&queue, &names("last", 0..3)).await;
    let leases = lease(&queue, 10).await;
    assert!(leases.iter().all(has_own_body));
    settle_all(&queue, &leases, &Settlement::Ack).await;
    assert_eq!(ids(&leases), set(&names("last", 0..3)));
    assert_eq!(leftovers(&server, 1), [""; 0]);
}

#[tokio::test]
async fn more_calls_at_once_than_connections_wait_for_their_turn() {
    let (_server, queue) = start().await;
    let mut calls = JoinSet::new();
    for number in 0..200 {
        let queue = Arc::clone(&queue);
        calls.spawn(async move { enqueue(&queue, &names("msg", number..number + 1)).await });
    }
    while let Some(done) = calls.join_next().await {
        done.expect("no panic");
    }
    assert_eq!(drain(&queue).await, set(&names("msg", 0..200)));
}
