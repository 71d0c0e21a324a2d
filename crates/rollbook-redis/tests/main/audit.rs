//! Single keys that disappear: the audit restores what the bodies prove, and reports no loss that did not
//! occur.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rollbook_core::queue::{Audit, Consumer as _, DeadLetterFilter, QueueAdmin as _, Settlement};
use rollbook_redis::{RedisQueue, RedisSettings};
use rollbook_testkit::process::{DEADLINE, until};
use rollbook_testkit::queues::request;
use rollbook_testkit::servers::redis::RedisServer;

use crate::random_load::RandomLoad;
use crate::support::{
    Log, dead_letter, enqueue, ids, key, lease, leftovers, names, open, retry, set, settings, settle_all,
    stats,
};

/// Maximum time until a message can be due in these tests.
const DUE_WITHIN: Duration = Duration::from_secs(600);
/// Duration of a lease in these tests.
const LEASE_FOR: Duration = Duration::from_millis(1500);

pub(crate) fn soon(server: &RedisServer) -> Arc<RedisQueue> {
    open(RedisSettings { due_ahead_max: DUE_WITHIN, lease_for: LEASE_FOR, ..settings(server.url()) })
}

pub(crate) async fn audit(queue: &RedisQueue, repair: bool) -> Audit {
    queue.audit(repair).await.expect("the queue is audited")
}

/// Adds five messages in each state: dead, delayed, leased again, leased, new. The leases do not expire.
async fn scene(queue: &RedisQueue) -> BTreeSet<String> {
    enqueue(queue, &names("dead", 0..5)).await;
    settle_all(queue, &lease(queue, 5).await, &dead_letter()).await;
    enqueue(queue, &names("delayed", 0..5)).await;
    settle_all(queue, &lease(queue, 5).await, &retry(Duration::from_secs(1))).await;
    enqueue(queue, &names("again", 0..5)).await;
    settle_all(queue, &lease(queue, 5).await, &retry(Duration::ZERO)).await;
    assert_eq!(hold(queue).await, set(&names("again", 0..5)));
    enqueue(queue, &names("held", 0..5)).await;
    assert_eq!(hold(queue).await, set(&names("held", 0..5)));
    enqueue(queue, &names("new", 0..5)).await;
    set(&["delayed", "again", "held", "new"].map(|prefix| names(prefix, 0..5)).concat())
}

async fn hold(queue: &RedisQueue) -> BTreeSet<String> {
    ids(&queue.lease(request(5, LEASE_FOR, Duration::ZERO)).await.expect("the queue gives"))
}

/// Leases and acknowledges until `count` messages are done or the deadline passes.
pub(crate) async fn drain_in_time(queue: &RedisQueue, count: usize) -> BTreeSet<String> {
    let (mut drained, started) = (BTreeSet::new(), Instant::now());
    while drained.len() < count {
        assert!(started.elapsed() < DEADLINE, "{} of {count}: {drained:?}", drained.len());
        let leases = queue.lease(request(100, Duration::from_secs(60), Duration::from_millis(100))).await;
        let leases = leases.expect("the queue gives");
        drained.extend(ids(&leases));
        settle_all(queue, &leases, &Settlement::Ack).await;
    }
    drained
}

#[tokio::test]
async fn after_any_key_disappears_every_message_with_a_body_is_delivered_again_or_listed() {
    for vanished in ["new", "again", "due", "tries", "leases", "ages", "dead", "failures", "meta", "requests"]
    {
        let server = RedisServer::start().await;
        let queue = soon(&server);
        let waiting = scene(&queue).await;
        assert!(audit(&queue, false).await.is_clean(), "before {vanished} is gone");
        assert_eq!(server.cli(&["del", &key(0, vanished)]), "1", "{vanished}");
        let seen = audit(&queue, false).await;
        let repaired = audit(&queue, true).await;
        assert_eq!(seen, repaired, "{vanished}: an audit without repair finds the same and changes nothing");
        let lost = match vanished {
            "due" | "dead" => (5, false),
            "leases" => (10, false),
            "new" | "again" => (0, true),
            _ => (0, false),
        };
        if !lost.1 {
            assert_eq!(repaired.stranded, lost.0, "{vanished}: {repaired:?}");
        }
        let after = audit(&queue, true).await;
        assert!(after.is_clean(), "{vanished}: {after:?}");
        assert_eq!(drain_in_time(&queue, waiting.len()).await, waiting, "{vanished}");
        let letters =
            queue.dead_letters(&DeadLetterFilter::default().page(None, 10)).await.expect("a listing");
        assert_eq!(letters.len(), 5, "{vanished}");
        if vanished == "failures" {
            assert!(
                letters.iter().all(|letter| letter.failure.detail.contains("reason unknown")),
                "{letters:?}"
            );
        }
        assert_eq!(stats(&queue).await.depth(), 0, "{vanished}");
        assert!(audit(&queue, false).await.is_clean(), "{vanished}");
    }
}

#[tokio::test]
async fn index_entries_without_a_message_are_removed() {
    let server = RedisServer::start().await;
    let queue = soon(&server);
    scene(&queue).await;
    server.cli(&["del", &key(0, "messages")]);
    let repaired = audit(&queue, true).await;
    assert!(repaired.dangling >= 10 && repaired.stranded == 0, "{repaired:?}");
    until("the streams are empty", async || {
        queue.lease(request(100, LEASE_FOR, Duration::ZERO)).await.expect("the queue gives");
        leftovers(&server, 1).is_empty()
    })
    .await;
}

#[tokio::test]
async fn missing_meta_alone_is_not_logged_as_a_loss() {
    let (log, _logging) = Log::capture();
    let server = RedisServer::start().await;
    let (worker, other) = (soon(&server), soon(&server));
    enqueue(&worker, &names("msg", 0..3)).await;
    settle_all(&other, &lease(&other, 1).await, &Settlement::Ack).await;
    server.cli(&["del", &key(0, "meta")]);
    assert_eq!(lease(&worker, 1).await.len(), 1);
    assert_eq!(lease(&worker, 1).await.len(), 1, "meta is recreated");
    assert_eq!(lease(&other, 1).await.len(), 0, "the other process sees the new epoch");
    assert_eq!(log.lines_with("was emptied or replaced"), [""; 0]);
    assert!(!log.lines_with("was missing and is recreated; no message is lost").is_empty());
    server.cli(&["flushall"]);
    enqueue(&worker, &names("later", 0..1)).await;
    lease(&worker, 1).await;
    assert_eq!(log.lines_with("was emptied or replaced").len(), 1, "a real loss is still logged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_during_traffic_finds_nothing_and_delivers_nothing_twice() {
    let server = RedisServer::start().await;
    let queues = [open(settings(server.url())), open(settings(server.url()))];
    let random_load = RandomLoad::begin(&queues, 2_000, 7);
    // A body without an index entry, so that every audit runs all steps.
    let alone = "return redis.call('HSET', KEYS[1], 'alone', string.rep('\\0', 9) .. 'the body of alone')";
    server.cli(&["eval", alone, "1", &key(0, "messages")]);
    for _ in 0..20 {
        let seen = audit(&queues[0], false).await;
        assert_eq!((seen.stranded, seen.dangling), (1, 0), "{seen:?}");
    }
    server.cli(&["hdel", &key(0, "messages"), "alone"]);
    let errors = random_load.end(&queues[1]).await;
    assert_eq!(errors, []);
    assert!(audit(&queues[0], true).await.is_clean());
    assert_eq!(leftovers(&server, 1), [""; 0]);
}
