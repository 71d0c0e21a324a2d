//! Shared helpers of these tests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{
    Consumer as _, DeadLetterFilter, Enqueued, Lease, Producer as _, QueueAdmin as _, QueueError, QueueStats,
    Settled, Settlement,
};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::time::Timestamp;
use rollbook_redis::{ClockSource, KEY_PREFIX, Owner, RedisQueue, RedisSettings};
pub(crate) use rollbook_testkit::log::Log;
use rollbook_testkit::process::DEADLINE;
use rollbook_testkit::queues::{all_of, request};
use rollbook_testkit::servers::redis::RedisServer;

/// Duration longer than any test.
pub(crate) const LONG: Duration = Duration::from_secs(300);

pub(crate) fn settings(url: String) -> RedisSettings {
    RedisSettings {
        url,
        ca_file: None,
        fingerprints: Vec::new(),
        key_prefix: KEY_PREFIX.to_owned(),
        owner: Owner::default(),
        depth_max: 1_000_000,
        shards: 1,
        strict: true,
        trusted: false,
        replicas: 0,
        due_ahead_max: Duration::from_secs(600),
        lease_for: Duration::from_secs(60),
        call_timeout: Duration::from_secs(5),
        idle_poll: Duration::from_secs(20),
    }
}

/// Opens a queue on the server's own clock, as in production.
pub(crate) fn open(settings: RedisSettings) -> Arc<RedisQueue> {
    Arc::new(RedisQueue::new(settings, ClockSource::Server).expect("the settings can be used"))
}

/// Starts a server and opens a queue on it.
pub(crate) async fn start() -> (RedisServer, Arc<RedisQueue>) {
    let server = RedisServer::start().await;
    let queue = open(settings(server.url()));
    (server, queue)
}

pub(crate) fn names(prefix: &str, range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("{prefix}_{number:05}")).collect()
}

pub(crate) fn delivery(id: &str) -> Delivery {
    let received_at = Timestamp::from_millis(1_785_312_000_000);
    Delivery {
        id: MessageId::new(id),
        received_at,
        traceparent: None,
        body: format!("the body of {id}").into(),
    }
}

pub(crate) async fn try_enqueue(queue: &RedisQueue, ids: &[String]) -> Result<Vec<Enqueued>, QueueError> {
    let deliveries: Vec<Delivery> = ids.iter().map(|id| delivery(id)).collect();
    all_of(queue.enqueue_many(&deliveries).await)
}

/// Enqueues messages, all of which must be new.
pub(crate) async fn enqueue(queue: &RedisQueue, ids: &[String]) {
    let answers = try_enqueue(queue, ids).await.expect("the queue takes it");
    assert_eq!(answers, vec![Enqueued::Queued; ids.len()]);
}

/// Leases due messages for [`LONG`].
pub(crate) async fn lease(queue: &RedisQueue, max: usize) -> Vec<Lease> {
    let request = request(max, LONG, Duration::ZERO);
    let leases = queue.lease(request).await.expect("the queue gives");
    assert!(leases.iter().all(has_own_body), "each message has its own body");
    leases
}

/// Leases for [`LONG`] until `count` messages are held: some may still be leased by others.
pub(crate) async fn lease_in_time(queue: &RedisQueue, count: usize) -> Vec<Lease> {
    let started = Instant::now();
    let mut leases = Vec::new();
    while leases.len() < count {
        assert!(started.elapsed() < DEADLINE, "{} of {count} leased", leases.len());
        let request = request(count - leases.len(), LONG, Duration::from_secs(1));
        leases.extend(queue.lease(request).await.expect("the queue gives"));
    }
    leases
}

/// One step of a redrive; returns the number of redriven messages.
pub(crate) async fn redriven(
    queue: &RedisQueue,
    filter: &DeadLetterFilter,
    limit: usize,
) -> Result<usize, QueueError> {
    Ok(queue.redrive(&filter.page(None, limit)).await?.changed)
}

/// One step of discarding; returns the number of discarded messages.
pub(crate) async fn discarded(
    queue: &RedisQueue,
    filter: &DeadLetterFilter,
    limit: usize,
) -> Result<usize, QueueError> {
    Ok(queue.discard(&filter.page(None, limit)).await?.changed)
}

/// Returns whether the lease has the body that [`delivery`] creates.
pub(crate) fn has_own_body(lease: &Lease) -> bool {
    lease.body == format!("the body of {}", lease.id)
}

pub(crate) async fn settle(queue: &RedisQueue, leases: &[Lease], settlement: &Settlement) -> Vec<Settled> {
    let settlements: Vec<_> = leases.iter().map(|lease| (lease.clone(), settlement.clone())).collect();
    all_of(queue.settle_many(&settlements).await).expect("the queue settles")
}

/// Settles leases, all of which must be valid.
pub(crate) async fn settle_all(queue: &RedisQueue, leases: &[Lease], settlement: &Settlement) {
    assert_eq!(settle(queue, leases, settlement).await, vec![Settled::Done; leases.len()]);
}

/// Leases and acknowledges until nothing is due. Returns the ids.
pub(crate) async fn drain(queue: &RedisQueue) -> BTreeSet<String> {
    let mut drained = BTreeSet::new();
    loop {
        let leases = lease(queue, 100).await;
        if leases.is_empty() {
            return drained;
        }
        settle_all(queue, &leases, &Settlement::Ack).await;
        drained.extend(ids(&leases));
    }
}

pub(crate) async fn stats(queue: &RedisQueue) -> QueueStats {
    queue.stats().await.expect("the queue counts")
}

pub(crate) fn ids(leases: &[Lease]) -> BTreeSet<String> {
    leases.iter().map(|lease| lease.id.to_string()).collect()
}

pub(crate) fn set(ids: &[String]) -> BTreeSet<String> {
    ids.iter().cloned().collect()
}

pub(crate) fn retry(after: Duration) -> Settlement {
    Settlement::Retry { after, failure: failure() }
}

pub(crate) fn dead_letter() -> Settlement {
    Settlement::DeadLetter { failure: failure() }
}

fn failure() -> Failure {
    Failure { reason: Reason::StoreRefused, detail: "a test".to_owned(), event_type: None }
}

/// Name of a shard's key.
pub(crate) fn key(shard: u16, name: &str) -> String {
    format!("{{rollbook:{shard}}}:{name}")
}

/// Remaining data in the shards, by key. Must be empty after all messages are done.
pub(crate) fn leftovers(server: &RedisServer, shards: u16) -> Vec<String> {
    let count = "local kind = redis.call('TYPE', KEYS[1]).ok \
         return redis.call(({stream = 'XLEN', zset = 'ZCARD', hash = 'HLEN'})[kind] or 'EXISTS', KEYS[1])";
    let names = ["new", "again", "messages", "due", "tries", "leases", "ages", "dead", "failures"];
    let keys = (0..shards).flat_map(|shard| names.map(|name| key(shard, name)));
    let counted = keys.map(|key| format!("{key}: {}", server.cli(&["eval", count, "1", &key])));
    counted.filter(|text| !text.ends_with(": 0")).collect()
}
