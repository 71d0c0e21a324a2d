//! Several shards, as in a cluster.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rollbook_core::queue::{
    Consumer as _, DeadLetterFilter, Enqueued, Producer as _, QueueAdmin as _, QueueError, Settled,
    Settlement,
};
use rollbook_redis::{ClockSource, RedisQueue, RedisSettings};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::servers::redis::RedisServer;
use tokio::task::JoinSet;

use crate::random_load::RandomLoad;
use crate::support::{
    LONG, dead_letter, delivery, discarded, drain, enqueue, ids, key, lease, lease_in_time, leftovers, names,
    open, redriven, retry, set, settings, settle_all, stats, try_enqueue,
};
use rollbook_testkit::queues::{all_of, request};

const SHARDS: u16 = 4;

fn sharded(server: &RedisServer, shards: u16) -> Arc<RedisQueue> {
    open(RedisSettings { shards, ..settings(server.url()) })
}

async fn start_sharded() -> (RedisServer, Arc<RedisQueue>) {
    let server = RedisServer::start().await;
    let queue = sharded(&server, SHARDS);
    (server, queue)
}

#[tokio::test]
async fn messages_spread_over_all_shards_and_are_delivered_from_all_of_them() {
    let (server, queue) = start_sharded().await;
    let all = names("msg", 0..200);
    enqueue(&queue, &all).await;
    for shard in 0..SHARDS {
        let waiting: usize = server.cli(&["xlen", &key(shard, "new")]).parse().expect("a number");
        assert!((25..75).contains(&waiting), "shard {shard}: {waiting}");
    }
    assert_eq!(try_enqueue(&queue, &all).await.expect("the queue takes it"), [Enqueued::Duplicate; 200]);
    let leases = lease_in_time(&queue, 200).await;
    assert_eq!((ids(&leases), leases.len()), (set(&all), 200));
    settle_all(&queue, &leases[..50], &Settlement::Ack).await;
    settle_all(&queue, &leases[50..90], &retry(LONG)).await;
    settle_all(&queue, &leases[90..120], &Settlement::Release).await;
    settle_all(&queue, &leases[120..140], &dead_letter()).await;
    let counted = stats(&queue).await;
    assert_eq!((counted.ready, counted.leased, counted.delayed, counted.dead), (30, 60, 40, 20));
    assert_eq!(counted.oldest_received_at, Some(delivery("any").received_at));

    // Answers are in the order of the request, for any shard.
    let twice: Vec<_> = leases[130..150].iter().map(|lease| (lease.clone(), Settlement::Ack)).collect();
    let settled = all_of(queue.settle_many(&twice).await).expect("the queue settles");
    assert_eq!(settled, [[Settled::LeaseLost; 10], [Settled::Done; 10]].concat());
}

#[tokio::test]
async fn leases_of_different_shards_are_distinguished_although_their_entries_have_equal_ids() {
    let server = RedisServer::start().await;
    let clock = Arc::new(ManualClock::new(delivery("any").received_at));
    let settings = RedisSettings { shards: SHARDS, ..settings(server.url()) };
    let queue = RedisQueue::new(settings, ClockSource::Clock(clock)).expect("the settings can be used");
    // The clock is fixed, so the first entry of each shard has the same id.
    enqueue(&queue, &names("msg", 0..40)).await;
    let mut firsts = Vec::new();
    for _ in 0..SHARDS {
        firsts.extend(lease(&queue, 1).await);
    }
    let entries: BTreeSet<&str> =
        firsts.iter().filter_map(|lease| Some(lease.token.0.rsplit_once('/')?.1)).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    let tokens: BTreeSet<&str> = firsts.iter().map(|lease| lease.token.0.as_str()).collect();
    assert_eq!(tokens.len(), firsts.len());
    settle_all(&queue, &firsts, &Settlement::Ack).await;
    assert_eq!(stats(&queue).await.depth(), 36);
}

#[tokio::test]
async fn no_shard_is_always_served_first() {
    let (_server, queue) = start_sharded().await;
    enqueue(&queue, &names("msg", 0..200)).await;
    let mut firsts = BTreeSet::new();
    for _ in 0..SHARDS {
        let leases = lease(&queue, 1).await;
        firsts.insert(leases[0].id.to_string());
        let fuller = lease(&queue, 60).await;
        assert_eq!(fuller.len(), 60, "one shard alone has fewer");
        settle_all(&queue, &[leases, fuller].concat(), &Settlement::Release).await;
    }
    assert!(firsts.len() > 1, "{firsts:?}");
}

#[tokio::test]
async fn dead_letters_of_all_shards_are_listed_in_one_order_with_common_limits() {
    let (_server, queue) = start_sharded().await;
    let all = names("msg", 0..60);
    for id in all.chunks(1) {
        enqueue(&queue, id).await;
        settle_all(&queue, &lease(&queue, 1).await, &dead_letter()).await;
    }
    let any = DeadLetterFilter::default();
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = queue.dead_letters(&any.page(after, 7)).await.expect("a page");
        let Some(last) = page.last() else { break };
        after = Some(last.position);
        listed.extend(page);
    }
    let listed_ids: Vec<String> = listed.iter().map(|letter| letter.id.to_string()).collect();
    assert_eq!(set(&listed_ids), set(&all));
    assert_eq!(listed.len(), 60);
    assert!(listed.is_sorted_by(|one, next| one.position < next.position && one.parked_at <= next.parked_at));

    assert_eq!(redriven(&queue, &any, 20).await, Ok(20));
    assert_eq!(drain(&queue).await, set(&listed_ids[..20]), "the oldest ones");
    assert_eq!(discarded(&queue, &any, 30).await, Ok(30));
    let left = queue.dead_letters(&any.page(None, 100)).await.expect("a page");
    let left: Vec<String> = left.into_iter().map(|letter| letter.id.to_string()).collect();
    assert_eq!(left, listed_ids[50..]);
}

#[tokio::test]
async fn a_full_shard_refuses_deliveries_until_it_is_drained() {
    let server = RedisServer::start().await;
    let queue = open(RedisSettings { shards: SHARDS, depth_max: 40, ..settings(server.url()) });
    let all = names("msg", 0..200);
    let mut taken = 0;
    for id in all.chunks(1) {
        match try_enqueue(&queue, id).await {
            Ok(answers) => taken += answers.len(),
            Err(full) => {
                assert_eq!(full, QueueError::Full { depth: 10, limit: 10 }, "each shard has its own limit");
            }
        }
    }
    assert_eq!(taken, 40);
    assert_eq!(drain(&queue).await.len(), 40);
    enqueue(&queue, &all[..4]).await;
}

#[tokio::test]
async fn a_different_number_of_shards_is_refused_and_enqueues_nothing() {
    for (there, ours) in [(1, 4), (4, 1), (4, 8), (8, 4)] {
        let server = RedisServer::start().await;
        enqueue(&sharded(&server, there), &names("msg", 0..1)).await;
        let queue = sharded(&server, ours);
        for id in names("other", 0..32).chunks(1) {
            let Err(QueueError::Deployment(text)) = try_enqueue(&queue, id).await else {
                panic!("{there} {ours}")
            };
            for part in
                ["Redis at 127.0.0.1:", &format!("has {there} shards"), &format!("queue_shards is {ours}")]
            {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
        let request = request(1, LONG, Duration::ZERO);
        assert!(matches!(queue.lease(request).await, Err(QueueError::Deployment(_))));
        assert!(matches!(queue.stats().await, Err(QueueError::Deployment(_))));
        assert_eq!(drain(&sharded(&server, there)).await, set(&names("msg", 0..1)));
        assert_eq!(leftovers(&server, 8), [""; 0]);
    }
}

#[tokio::test]
async fn data_of_a_newer_format_is_refused_and_not_changed() {
    let (server, old) = start_sharded().await;
    enqueue(&old, &names("msg", 0..20)).await;
    for shard in 0..SHARDS {
        server.cli(&["hset", &key(shard, "meta"), "format", "2"]);
    }
    let queue = sharded(&server, SHARDS);
    let Err(QueueError::Deployment(text)) = try_enqueue(&queue, &names("msg", 20..21)).await else {
        panic!()
    };
    assert!(text.contains("format 2") && text.contains("Redis at 127.0.0.1:"), "{text}");
    assert!(matches!(queue.stats().await, Err(QueueError::Deployment(_))));
    assert_eq!(stats(&old).await.depth(), 20);
}

#[tokio::test]
async fn a_waiting_lane_listens_to_all_shards() {
    let (_server, queue) = start_sharded().await;
    for id in names("msg", 0..8).chunks(1) {
        let waiting = Arc::clone(&queue);
        let mut lanes = JoinSet::new();
        lanes.spawn(async move {
            let request = request(1, LONG, Duration::from_secs(50));
            waiting.lease(request).await.expect("the queue gives")
        });
        tokio::task::yield_now().await;
        all_of(queue.enqueue_many(&[delivery(&id[0])]).await).expect("the queue takes it");
        let leases = lanes.join_next().await.expect("a lane").expect("no panic");
        assert_eq!(ids(&leases), set(id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_over_several_shards_lose_no_message() {
    let server = RedisServer::start().await;
    let queues = [sharded(&server, SHARDS), sharded(&server, SHARDS)];
    let errors = RandomLoad::begin(&queues, 1_000, 3).end(&queues[0]).await;
    assert_eq!(errors, []);
    assert_eq!(leftovers(&server, SHARDS), [""; 0]);
}
