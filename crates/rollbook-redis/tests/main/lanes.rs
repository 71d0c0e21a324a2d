//! Several processes at the same time.

use std::time::Duration;

use rollbook_core::queue::{Consumer as _, Settled, Settlement};
use rollbook_testkit::process::until;
use rollbook_testkit::servers::redis::RedisServer;

use crate::random_load::RandomLoad;
use crate::support::{
    dead_letter, enqueue, ids, key, lease, lease_in_time, leftovers, names, open, retry, set, settings,
    settle, settle_all, start, stats,
};
use rollbook_testkit::queues::{all_of, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_lanes_lose_no_message_and_leave_none_stuck() {
    let seed = fastrand::u64(..1_000_000);
    println!("seed {seed}");
    let server = RedisServer::start().await;
    let queues = [open(settings(server.url())), open(settings(server.url()))];
    let errors = RandomLoad::begin(&queues, 3_000, seed).end(&queues[1]).await;
    assert_eq!(errors, []);
    assert_eq!(leftovers(&server, 1), [""; 0]);
}

#[tokio::test]
async fn a_paused_process_can_settle_nothing_after_another_one_took_over() {
    let (server, paused) = start().await;
    let other = open(settings(server.url()));
    for settlement in [Settlement::Ack, retry(Duration::ZERO), dead_letter(), Settlement::Release] {
        enqueue(&paused, &names("msg", 0..3)).await;
        let request = request(10, Duration::from_millis(1), Duration::ZERO);
        let lost = paused.lease(request).await.expect("the queue gives");
        let taken = lease_in_time(&other, 3).await;
        assert!(taken.iter().all(|lease| (lease.attempt, lease.unsettled) == (1, 1)), "{taken:?}");
        assert_eq!(settle(&paused, &lost, &settlement).await, [Settled::LeaseLost; 3], "{settlement:?}");
        assert_eq!((stats(&other).await.leased, stats(&other).await.depth()), (3, 3), "{settlement:?}");
        settle_all(&other, &taken, &Settlement::Ack).await;
        assert_eq!(
            settle(&paused, &lost, &settlement).await,
            [Settled::LeaseLost; 3],
            "nor after it is settled"
        );
        assert_eq!(leftovers(&server, 1), [""; 0], "{settlement:?}");
    }
}

#[tokio::test]
async fn a_lease_survives_the_loss_of_all_connections_of_its_process() {
    let (server, queue) = start().await;
    enqueue(&queue, &names("msg", 0..3)).await;
    let leases = lease(&queue, 10).await;
    server.cli(&["client", "kill", "type", "normal"]);
    // The first call may find a broken connection; the next one opens a new one.
    until("the queue settles", || async {
        let acks: Vec<_> = leases.iter().map(|lease| (lease.clone(), Settlement::Ack)).collect();
        all_of(queue.settle_many(&acks).await).is_ok_and(|settled| settled == [Settled::Done; 3])
    })
    .await;
    assert_eq!(leftovers(&server, 1), [""; 0]);
}

#[tokio::test]
async fn consumers_of_ended_processes_are_deleted_once_they_hold_nothing() {
    let (server, idle) = start().await;
    let holder = open(settings(server.url()));
    enqueue(&idle, &names("done", 0..1)).await;
    settle_all(&idle, &lease(&idle, 1).await, &Settlement::Ack).await;
    enqueue(&holder, &names("held", 0..1)).await;
    let held = lease(&holder, 1).await;
    let consumers = || server.cli(&["xinfo", "consumers", &key(0, "new"), "workers"]).matches("name").count();
    assert_eq!(consumers(), 2);
    let requests = || server.cli(&["hlen", &key(0, "requests")]);
    assert_eq!(requests(), "2", "each may still repeat its request");

    // The periodic cleanup of every queue, with a shorter limit.
    let script = concat!(
        "#!lua flags=allow-oom\n",
        include_str!("../../src/scripts/prelude.lua"),
        include_str!("../../src/scripts/reap.lua")
    );
    let names_of_keys = [
        "new",
        "again",
        "messages",
        "due",
        "tries",
        "leases",
        "ages",
        "dead",
        "failures",
        "meta",
        "requests",
        "discarded",
        "bell",
    ];
    let keys = names_of_keys.map(|name| key(0, name));
    let count = keys.len().to_string();
    let reap = |silent_for: &str| {
        let mut command = vec!["eval", script, &count];
        command.extend(keys.iter().map(String::as_str).chain(["", silent_for]));
        server.cli(&command)
    };
    assert_eq!(reap("60000"), "0", "no consumer has been idle for so long");
    until("the silent one is deleted", || std::future::ready(reap("0") == "1")).await;
    assert_eq!((consumers(), reap("-1").as_str()), (1, "0"), "a consumer that holds a message stays");
    assert_eq!(requests(), "1");
    settle_all(&holder, &held, &Settlement::Ack).await;
    assert_eq!(reap("-1"), "1");
    assert_eq!(requests(), "0");

    // A deleted consumer of a living process exists again after its next lease.
    enqueue(&idle, &names("later", 0..2)).await;
    assert_eq!(ids(&lease(&idle, 2).await), set(&names("later", 0..2)));
    assert_eq!(consumers(), 1);
}

#[tokio::test]
async fn a_lease_of_the_maximum_duration_works() {
    let (_server, queue) = start().await;
    enqueue(&queue, &names("msg", 0..1)).await;
    let request = request(1, Duration::MAX, Duration::ZERO);
    assert_eq!(queue.lease(request).await.expect("the queue gives").len(), 1);
    assert!(lease(&queue, 1).await.is_empty());
}
