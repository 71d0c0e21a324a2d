//! Connections that the server closed or the network dropped while idle: no call fails because of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rollbook_core::queue::{
    Consumer as _, DeadLetterFilter, Enqueued, Lease, QueueAdmin as _, QueueError, Settled, Settlement,
};
use rollbook_redis::{RedisQueue, RedisSettings};
use rollbook_testkit::process::until;
use rollbook_testkit::queues::request;
use rollbook_testkit::servers::proxy::{Break, Direction, Fault, FaultProxy};
use rollbook_testkit::servers::redis::RedisServer;
use tokio::task::JoinSet;

use crate::removal::remove;
use crate::support::{LONG, enqueue, ids, lease, names, open, set, settings, settle_all, start, try_enqueue};

/// Uses several connections concurrently, so that they are idle afterwards, and leaves the queue empty.
async fn use_connections(queue: &Arc<RedisQueue>) {
    let mut calls = JoinSet::new();
    for number in 0..8 {
        let queue = Arc::clone(queue);
        calls.spawn(async move { enqueue(&queue, &names("warm", number..number + 1)).await });
    }
    while let Some(done) = calls.join_next().await {
        done.expect("no panic");
    }
    settle_all(queue, &lease(queue, 8).await, &Settlement::Ack).await;
}

fn acknowledged(leases: &[Lease]) -> Vec<(Lease, Settlement)> {
    leases.iter().map(|lease| (lease.clone(), Settlement::Ack)).collect()
}

/// Closes the idle connections by method number `way`, and returns when they are closed.
async fn close_idle(server: &mut RedisServer, way: usize) {
    match way {
        0 => drop(server.cli(&["client", "kill", "type", "normal"])),
        1 => {
            server.cli(&["config", "set", "timeout", "1"]);
            until("the server closes what is idle", || {
                std::future::ready(server.cli(&["client", "list"]).lines().count() == 1)
            })
            .await;
            server.cli(&["config", "set", "timeout", "0"]);
        }
        _ => {
            server.kill();
            server.restart().await;
        }
    }
}

#[tokio::test]
async fn no_call_fails_because_the_server_closed_idle_connections() {
    let (mut server, queue) = start().await;
    for way in 0..3 {
        use_connections(&queue).await;
        close_idle(&mut server, way).await;
        for id in names("msg", 0..6).chunks(1) {
            assert_eq!(try_enqueue(&queue, id).await, Ok(vec![Enqueued::Queued]), "{way}");
        }
        use_connections_of_leases(&mut server, &queue, way).await;
    }
}

/// Calls of workers and operators, each as the first one after connections were closed.
async fn use_connections_of_leases(server: &mut RedisServer, queue: &Arc<RedisQueue>, way: usize) {
    close_idle(server, way).await;
    let leases = lease(queue, 10).await;
    assert_eq!(ids(&leases), set(&names("msg", 0..6)), "{way}");
    close_idle(server, way).await;
    assert_eq!(queue.count_attempt(&leases[0]).await, Ok(Settled::Done), "{way}");
    close_idle(server, way).await;
    assert_eq!(queue.settle_many(&acknowledged(&leases)).await, vec![Ok(Settled::Done); 6], "{way}");
    close_idle(server, way).await;
    assert_eq!(queue.stats().await.map(|stats| stats.depth()), Ok(0), "{way}");
    close_idle(server, way).await;
    assert_eq!(
        queue.dead_letters(&DeadLetterFilter::default().page(None, 1)).await.map(|page| page.len()),
        Ok(0)
    );
    close_idle(server, way).await;
    assert_eq!(remove(queue, &names("msg", 0..1)).await, Ok(0), "{way}");
}

/// Waits until the connections used last have been idle long enough to be checked.
async fn until_idle() {
    let used_at = Instant::now();
    until("connections are idle", || std::future::ready(used_at.elapsed() >= Duration::from_millis(150)))
        .await;
}

#[tokio::test]
async fn a_connection_dropped_by_the_network_is_replaced_within_the_time_of_one_call() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.port());
    let call_timeout = Duration::from_secs(4);
    let queue = open(RedisSettings { call_timeout, ..settings(proxy.url(&server.url())) });
    use_connections(&queue).await;
    until_idle().await;
    proxy.forget();
    let started = Instant::now();
    for id in names("msg", 0..6).chunks(1) {
        assert!(try_enqueue(&queue, id).await.is_ok());
    }
    let leases = lease(&queue, 10).await;
    assert_eq!(leases.len(), 6);
    assert!(started.elapsed() < call_timeout, "one delay for all of them: {:?}", started.elapsed());
    until_idle().await;
    proxy.forget();
    let started = Instant::now();
    assert_eq!(queue.settle_many(&acknowledged(&leases)).await, vec![Ok(Settled::Done); 6]);
    assert!(started.elapsed() < call_timeout, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_lane_that_waits_on_a_dropped_connection_still_gets_the_next_message() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.port());
    let queue = open(RedisSettings {
        call_timeout: Duration::from_secs(2),
        idle_poll: Duration::from_secs(2),
        ..settings(proxy.url(&server.url()))
    });
    let other = open(settings(server.url()));
    // Opens the connection of its blocking read.
    let waited = queue.lease(request(1, LONG, Duration::from_millis(300))).await;
    assert!(waited.is_ok_and(|leases| leases.is_empty()));
    proxy.forget();
    enqueue(&other, &names("msg", 0..1)).await;
    let leases = queue.lease(request(1, LONG, Duration::from_secs(50))).await.expect("the queue gives");
    assert_eq!(ids(&leases), set(&names("msg", 0..1)));
}

#[tokio::test]
async fn a_slow_server_is_waited_for_and_gets_no_call_twice() {
    let (server, queue) = start().await;
    use_connections(&queue).await;
    until_idle().await;
    server.signal("STOP");
    let slow = Arc::clone(&queue);
    let mut calls = JoinSet::new();
    calls.spawn(async move { try_enqueue(&slow, &names("msg", 0..1)).await });
    // Longer than a quarter of the call's time limit, after which another connection is tried.
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.signal("CONT");
    let answer = calls.join_next().await.expect("a call").expect("no panic");
    assert_eq!(answer, Ok(vec![Enqueued::Queued]), "the answer of the first call");
}

/// Drops the answer of the next script and resets its connection.
fn lose_an_answer(proxy: &FaultProxy) {
    let is_done = AtomicBool::new(false);
    proxy.fail(
        Direction::ToServer,
        Fault::when(move |chunk| {
            let is_call = chunk.windows(7).any(|word| word == b"EVALSHA");
            (is_call && !is_done.swap(true, Ordering::Relaxed)).then_some(Break::LoseAnswer)
        }),
    );
}

#[tokio::test]
async fn a_settlement_with_a_lost_answer_is_not_reported_as_a_lost_lease() {
    let server = RedisServer::start().await;
    let proxy = FaultProxy::start(server.port());
    let queue = open(settings(proxy.url(&server.url())));
    use_connections(&queue).await;
    lose_an_answer(&proxy);
    let answers = try_enqueue(&queue, &names("msg", 0..2)).await;
    assert_eq!(answers, Ok(vec![Enqueued::Duplicate; 2]), "the first call has enqueued them");
    let leases = lease(&queue, 2).await;
    lose_an_answer(&proxy);
    for answer in queue.settle_many(&acknowledged(&leases)).await {
        let Err(QueueError::Unavailable(why)) = answer else { panic!("{answer:?}") };
        assert!(why.contains("the connection broke before the answer"), "{why}");
    }
    assert_eq!(
        queue.settle_many(&acknowledged(&leases)).await,
        [Ok(Settled::LeaseLost), Ok(Settled::LeaseLost)]
    );
    assert_eq!(queue.stats().await.map(|stats| stats.depth()), Ok(0));
}
