//! Data destroyed from outside: work continues automatically, and the log reports it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rollbook_core::delivery::Delivery;
use rollbook_core::queue::{
    Consumer as _, DeadLetterFilter, Enqueued, Lease, Producer as _, QueueError, Settled, Settlement,
};
use rollbook_core::trace::Traceparent;
use rollbook_redis::RedisQueue;
use rollbook_testkit::process::until;
use rollbook_testkit::servers::redis::RedisServer;
use tokio::task::JoinSet;

use crate::support::{
    LONG, Log, dead_letter, delivery, drain, enqueue, ids, key, lease, leftovers, names, open, redriven,
    retry, set, settings, settle, settle_all, start, stats, try_enqueue,
};
use rollbook_testkit::queues::{all_of, request};

/// Maximum time until a worker must have recovered.
const RECOVERY_MAX: Duration = Duration::from_secs(1);

/// Messages in every state: ten new ones leased, ten leased for the second time, ten released, ten never
/// leased, one dead letter.
struct Scene {
    held_new: Vec<Lease>,
    held_again: Vec<Lease>,
}

async fn scene(queue: &RedisQueue) -> Scene {
    enqueue(queue, &names("dead", 0..1)).await;
    settle_all(queue, &lease(queue, 1).await, &dead_letter()).await;
    enqueue(queue, &names("new", 0..10)).await;
    let held_new = lease(queue, 10).await;
    enqueue(queue, &names("again", 0..10)).await;
    settle_all(queue, &lease(queue, 10).await, &retry(Duration::ZERO)).await;
    let held_again = lease(queue, 10).await;
    enqueue(queue, &names("released", 0..10)).await;
    settle_all(queue, &lease(queue, 10).await, &Settlement::Release).await;
    enqueue(queue, &names("waiting", 0..10)).await;
    assert_eq!((held_new.len(), held_again.len()), (10, 10));
    Scene { held_new, held_again }
}

/// Everything that another process can lease within a second.
async fn lease_as_other_process(server: &RedisServer) -> (Arc<RedisQueue>, Vec<Lease>) {
    let other = open(settings(server.url()));
    let started = Instant::now();
    let mut given = Vec::new();
    loop {
        let leases = lease(&other, 100).await;
        if leases.is_empty() {
            break;
        }
        given.extend(leases);
    }
    assert!(started.elapsed() < RECOVERY_MAX, "{:?}", started.elapsed());
    (other, given)
}

#[tokio::test]
async fn a_destroyed_group_is_recreated_and_no_message_is_lost_or_stuck() {
    let (log, _logging) = Log::capture();
    let server = RedisServer::start().await;
    for destroyed in [&["new"][..], &["again"], &["new", "again"]] {
        server.cli(&["flushall"]);
        let queue = open(settings(server.url()));
        let Scene { held_new, held_again } = scene(&queue).await;
        for stream in destroyed {
            assert_eq!(server.cli(&["xgroup", "destroy", &key(0, stream), "workers"]), "1");
        }
        let mut expected = set(&[names("released", 0..10), names("waiting", 0..10)].concat());
        if destroyed.contains(&"new") {
            expected.extend(ids(&held_new));
        }
        if destroyed.contains(&"again") {
            expected.extend(ids(&held_again));
        }
        let (other, given) = lease_as_other_process(&server).await;
        assert_eq!((ids(&given), given.len()), (expected.clone(), expected.len()));
        for (lease, before) in given
            .iter()
            .filter_map(|lease| Some((lease, held_again.iter().find(|held| held.id == lease.id)?)))
        {
            assert_eq!(lease.attempt, before.attempt, "attempts are still counted");
        }
        settle_all(&other, &given, &Settlement::Ack).await;
        for held in held_new.iter().chain(&held_again) {
            let settled = settle(&queue, std::slice::from_ref(held), &Settlement::Ack).await;
            let was_taken_over = expected.contains(held.id.as_str());
            assert_eq!(
                settled,
                [if was_taken_over { Settled::LeaseLost } else { Settled::Done }],
                "{held:?}"
            );
        }
        assert_eq!((stats(&queue).await.depth(), stats(&queue).await.dead), (0, 1));
        settle_all(&other, &lease(&other, 1).await, &Settlement::Ack).await;
        assert_eq!(
            leftovers(&server, 1),
            ["{rollbook:0}:messages: 1", "{rollbook:0}:dead: 1", "{rollbook:0}:failures: 1"]
        );
    }
    let text = log.lines_with("was missing and is recreated");
    assert_eq!(text.len(), 3, "one line each time: {text:?}");
    assert!(
        text.iter().all(|line| line.contains("WARN") && line.contains("Redis at 127.0.0.1:")),
        "{text:?}"
    );
}

#[tokio::test]
async fn settlements_while_the_group_is_missing_succeed() {
    let (server, queue) = start().await;
    let Scene { held_new, held_again } = scene(&queue).await;
    for stream in ["new", "again"] {
        server.cli(&["xgroup", "destroy", &key(0, stream), "workers"]);
    }
    assert_eq!(stats(&queue).await.depth(), 40, "counting needs no groups");
    settle_all(&queue, &held_new[..5], &Settlement::Ack).await;
    settle_all(&queue, &held_new[5..], &retry(Duration::ZERO)).await;
    settle_all(&queue, &held_again[..5], &Settlement::Ack).await;
    settle_all(&queue, &held_again[5..], &dead_letter()).await;
    let mut expected = set(&[names("released", 0..10), names("waiting", 0..10)].concat());
    expected.extend(ids(&held_new[5..]));
    assert_eq!(drain(&queue).await, expected);
    assert_eq!((stats(&queue).await.depth(), stats(&queue).await.dead), (0, 6));
}

#[tokio::test]
async fn after_streams_are_deleted_every_message_with_a_body_is_delivered() {
    let (log, _logging) = Log::capture();
    for deleted in [&["new"][..], &["again"], &["new", "again"]] {
        let (server, queue) = start().await;
        let Scene { held_new, held_again } = scene(&queue).await;
        for stream in deleted {
            server.cli(&["del", &key(0, stream)]);
        }
        // Creates the stream again, without a group.
        enqueue(&queue, &names("later", 0..1)).await;
        let mut expected =
            set(&[names("released", 0..10), names("waiting", 0..10), names("later", 0..1)].concat());
        if deleted.contains(&"new") {
            expected.extend(ids(&held_new));
        }
        if deleted.contains(&"again") {
            expected.extend(ids(&held_again));
        }
        let (other, given) = lease_as_other_process(&server).await;
        assert_eq!((ids(&given), given.len()), (expected.clone(), expected.len()), "{deleted:?}");
        settle_all(&other, &given, &Settlement::Ack).await;
        let left =
            [held_new, held_again].concat().into_iter().filter(|held| !expected.contains(held.id.as_str()));
        settle_all(&queue, &left.collect::<Vec<_>>(), &Settlement::Ack).await;
        assert_eq!((stats(&queue).await.depth(), stats(&queue).await.dead), (0, 1), "{deleted:?}");
    }
    assert_eq!(log.lines_with("was missing and is recreated").len(), 3);
}

#[tokio::test]
async fn after_a_stream_is_deleted_messages_delivered_before_are_delivered_again() {
    let (server, queue) = start().await;
    enqueue(&queue, &names("again", 0..5)).await;
    settle_all(&queue, &lease(&queue, 5).await, &retry(Duration::ZERO)).await;
    let held = lease(&queue, 5).await;
    server.cli(&["del", &key(0, "again")]);
    let (other, given) = lease_as_other_process(&server).await;
    assert_eq!((ids(&given), given.len()), (ids(&held), 5));
    settle_all(&other, &given, &Settlement::Ack).await;
    assert_eq!(stats(&queue).await.depth(), 0);
}

#[tokio::test]
async fn an_interrupted_step_does_not_change_the_lease() {
    for (broken, how) in [("dead", dead_letter()), ("failures", dead_letter()), ("tries", retry(LONG))] {
        let (server, queue) = start().await;
        enqueue(&queue, &names("msg", 0..1)).await;
        let held = lease(&queue, 1).await;
        // Another program overwrites one of the queue's keys.
        server.cli(&["set", &key(0, broken), "x"]);
        let failed = queue.settle_many(&[(held[0].clone(), how.clone())]).await;
        assert!(matches!(failed[..], [Err(QueueError::Deployment(_))]), "{broken}: {failed:?}");
        server.cli(&["del", &key(0, broken)]);
        assert_eq!(settle(&queue, &held, &how).await, [Settled::Done], "{broken}");
        let now = stats(&queue).await;
        assert_eq!(now.dead + now.delayed, 1, "{broken}: {now:?}");
    }
}

#[tokio::test]
async fn a_truncated_value_does_not_block_other_messages() {
    let (server, queue) = start().await;
    let all = names("msg", 0..3);
    enqueue(&queue, &all).await;
    settle_all(&queue, &lease(&queue, 3).await, &retry(Duration::ZERO)).await;
    server.cli(&["hset", &key(0, "messages"), &all[1], "x"]);
    let given = queue.lease(request(10, LONG, Duration::ZERO)).await.expect("the queue gives");
    let (unread, read): (Vec<_>, Vec<_>) = given.into_iter().partition(|lease| lease.unreadable.is_some());
    assert_eq!(ids(&read), set(&[all[0].clone(), all[2].clone()]));
    assert_eq!(settle(&queue, &unread, &dead_letter()).await, [Settled::Done]);
    let now = stats(&queue).await;
    assert_eq!((now.leased, now.dead), (2, 1), "the unreadable message is a dead letter");
}

#[tokio::test]
async fn a_message_that_an_earlier_worker_could_not_read_is_complete_for_a_later_one() {
    let (server, queue) = start().await;
    let traceparent = Traceparent::parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let sent = Delivery { traceparent, ..delivery("msg_1") };
    all_of(queue.enqueue_many(std::slice::from_ref(&sent)).await).expect("the queue takes it");
    let set_format = |format: &str| {
        let script = "local value = redis.call('HGET', KEYS[1], 'msg_1') \
             redis.call('HSET', KEYS[1], 'msg_1', string.char(ARGV[1]) .. string.sub(value, 2)) \
             return string.byte(value)";
        server.cli(&["eval", script, "1", &key(0, "messages"), format])
    };
    // An earlier worker does not know this format, just as this one does not know format 99.
    let format = set_format("99");
    assert_eq!(format, "2");
    let unread = queue.lease(request(10, LONG, Duration::ZERO)).await.expect("the queue gives");
    assert!(unread[0].unreadable.as_ref().is_some_and(|why| why.contains("99")), "{unread:?}");
    settle_all(&queue, &unread, &dead_letter()).await;
    set_format(&format);
    assert_eq!(redriven(&queue, &DeadLetterFilter::default(), 10).await, Ok(1));
    let [given] = &lease(&queue, 10).await[..] else { panic!("one is due") };
    assert_eq!((given.traceparent, &given.body), (sent.traceparent, &sent.body));
}

/// Empties the queue under a worker and a receiver in two processes, neither of which restarts, and asserts
/// that both continue.
async fn assert_work_continues_after(empty: impl AsyncFnOnce(&mut RedisServer)) {
    let (log, logging) = Log::capture();
    let (mut server, worker) = start().await;
    let receiver = open(settings(server.url()));
    let Scene { held_new, held_again } = scene(&worker).await;
    enqueue(&receiver, &names("before", 0..3)).await;
    empty(&mut server).await;

    // Connections may have broken: one error per connection, and only for a short time.
    let started = Instant::now();
    while !matches!(
        try_enqueue(&receiver, &names("after", 0..3)).await,
        Ok(_) | Err(QueueError::Deployment(_))
    ) {
        assert!(started.elapsed() < RECOVERY_MAX, "the receiver continues");
    }
    enqueue(&receiver, &names("new", 0..3)).await;
    let request = request(1, Duration::from_secs(60), Duration::ZERO);
    while let Err(error) = worker.lease(request.clone()).await {
        assert!(matches!(error, QueueError::Unavailable(_)) && started.elapsed() < RECOVERY_MAX, "{error}");
    }
    assert_eq!(lease(&worker, 100).await.len(), 5);
    assert!(started.elapsed() < RECOVERY_MAX, "{:?}", started.elapsed());
    for held in [&held_new, &held_again] {
        assert!(
            settle(&worker, held, &Settlement::Ack)
                .await
                .iter()
                .all(|settled| *settled == Settled::LeaseLost)
        );
    }
    assert_eq!((stats(&worker).await.leased, stats(&worker).await.depth()), (6, 6));
    let text = log.lines_with("emptied or replaced");
    assert_eq!(text.len(), 1, "once: {text:?}");
    assert!(text[0].contains("ERROR") && text[0].contains("Redis at 127.0.0.1:"), "{text:?}");
    assert!(log.lines_with("no message is lost").is_empty(), "messages are lost");
    drop(logging);
}

#[tokio::test]
async fn after_flushall_receivers_and_workers_continue_and_log_that_the_queue_was_emptied() {
    assert_work_continues_after(async |server| drop(server.cli(&["flushall"]))).await;
}

#[tokio::test]
async fn after_a_restart_without_data_receivers_and_workers_continue_and_log_it() {
    assert_work_continues_after(async |server| {
        server.kill();
        server.restart_empty().await;
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_starts_after_flushall_gets_messages_enqueued_meanwhile() {
    let (server, receiver) = start().await;
    enqueue(&receiver, &names("before", 0..3)).await;
    server.cli(&["flushall"]);
    enqueue(&receiver, &names("after", 0..3)).await;
    let answers = try_enqueue(&receiver, &names("after", 0..3)).await.expect("the queue takes it");
    assert_eq!(answers, [Enqueued::Duplicate; 3]);
    assert_eq!(drain(&open(settings(server.url()))).await, set(&names("after", 0..3)));
}

#[tokio::test]
async fn scripts_missing_on_the_server_are_loaded_again() {
    let (server, queue) = start().await;
    let forget = || assert_eq!(server.cli(&["script", "flush"]), "OK");
    enqueue(&queue, &names("msg", 0..5)).await;
    forget();
    enqueue(&queue, &names("msg", 5..10)).await;
    forget();
    let leases = lease(&queue, 10).await;
    forget();
    settle_all(&queue, &leases, &Settlement::Ack).await;
    forget();
    assert_eq!(stats(&queue).await.depth(), 0);
    assert_eq!(leases.len(), 10);
}

/// Waits until a client is in a blocking read.
pub(crate) async fn until_a_lease_waits(server: &RedisServer) {
    let is_blocked = |line: &str| line.contains("cmd=xread") && line.contains("flags=b");
    until("a lease waits", || std::future::ready(server.cli(&["client", "list"]).lines().any(is_blocked)))
        .await;
}

#[tokio::test]
async fn a_waiting_lease_continues_to_wait_while_the_data_is_destroyed() {
    let destructions: [&[&str]; 3] =
        [&["flushall"], &["del", "{rollbook:0}:new"], &["xgroup", "destroy", "{rollbook:0}:new", "workers"]];
    for (number, destruction) in destructions.into_iter().enumerate() {
        let (server, queue) = start().await;
        // Adds data to destroy.
        enqueue(&queue, &names("first", 0..1)).await;
        drain(&queue).await;
        let waiting = Arc::clone(&queue);
        let mut lanes = JoinSet::new();
        lanes.spawn(async move {
            let request = request(1, Duration::from_secs(60), Duration::from_secs(50));
            waiting.lease(request).await
        });
        until_a_lease_waits(&server).await;
        server.cli(destruction);
        enqueue(&queue, &names("msg", number..number + 1)).await;
        let enqueued_at = Instant::now();
        let leases = lanes.join_next().await.expect("a lane").expect("no panic").expect("the queue gives");
        assert_eq!(ids(&leases), set(&names("msg", number..number + 1)));
        assert!(enqueued_at.elapsed() < RECOVERY_MAX, "{destruction:?}: {:?}", enqueued_at.elapsed());
    }
}
