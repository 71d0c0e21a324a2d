//! Several sets of keys, as a cluster needs them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rollbook_core::queue::{
    Consumer as _, DeadLetterFilter, Enqueued, Producer as _, QueueAdmin as _, QueueError, Settled,
    Settlement,
};
use rollbook_redis::{DueTimes, RedisQueue, RedisSettings};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::servers::redis::RedisServer;
use tokio::task::JoinSet;

use crate::storm::Storm;
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
async fn messages_spread_over_all_shards_and_come_back_from_all_of_them() {
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

    // Answers come in the order of the question, whatever shard each is of.
    let twice: Vec<_> = leases[130..150].iter().map(|lease| (lease.clone(), Settlement::Ack)).collect();
    let settled = all_of(queue.settle_many(&twice).await).expect("the queue settles");
    assert_eq!(settled, [[Settled::LeaseLost; 10], [Settled::Done; 10]].concat());
}

#[tokio::test]
async fn leases_of_different_shards_are_told_apart_also_where_their_entries_have_the_same_names() {
    let server = RedisServer::start().await;
    let clock = Arc::new(ManualClock::new(delivery("any").received_at));
    let settings = RedisSettings { shards: SHARDS, ..settings(server.url()) };
    let queue = RedisQueue::new(settings, DueTimes::Clock(clock)).expect("the settings can be used");
    // Its clock stands still, so the first entry of each shard has the same name.
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
async fn no_shard_is_served_before_the_others() {
    let (_server, queue) = start_sharded().await;
    enqueue(&queue, &names("msg", 0..200)).await;
    let mut firsts = BTreeSet::new();
    for _ in 0..SHARDS {
        let leases = lease(&queue, 1).await;
        firsts.insert(leases[0].id.to_string());
        let fuller = lease(&queue, 60).await;
        assert_eq!(fuller.len(), 60, "one shard alone has not so many");
        settle_all(&queue, &[leases, fuller].concat(), &Settlement::Release).await;
    }
    assert!(firsts.len() > 1, "{firsts:?}");
}

#[tokio::test]
async fn dead_letters_of_all_shards_are_one_listing_in_order_with_limits_over_all() {
    let (_server, queue) = start_sharded().await;
    let all = names("msg", 0..60);
    for id in all.chunks(1) {
        enqueue(&queue, id).await;
        settle_all(&queue, &lease(&queue, 1).await, &dead_letter()).await;
    }
    let any = DeadLetterFilter::default();
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = queue.dead_letters(&any, after, 7).await.expect("a page");
        let Some(last) = page.last() else { break };
        after = Some(last.position);
        listed.extend(page);
    }
    let listed_ids: Vec<String> = listed.iter().map(|letter| letter.id.to_string()).collect();
    assert_eq!(set(&listed_ids), set(&all));
    assert_eq!(listed.len(), 60);
    assert!(listed.is_sorted_by(|one, next| one.position < next.position && one.died_at <= next.died_at));

    assert_eq!(redriven(&queue, &any, 20).await, Ok(20));
    assert_eq!(drain(&queue).await, set(&listed_ids[..20]), "the oldest");
    assert_eq!(discarded(&queue, &any, 30).await, Ok(30));
    let left = queue.dead_letters(&any, None, 100).await.expect("a page");
    let left: Vec<String> = left.into_iter().map(|letter| letter.id.to_string()).collect();
    assert_eq!(left, listed_ids[50..]);
}

#[tokio::test]
async fn a_shard_that_is_full_says_so_and_draining_it_makes_room() {
    let server = RedisServer::start().await;
    let queue = open(RedisSettings { shards: SHARDS, depth_max: 40, ..settings(server.url()) });
    let all = names("msg", 0..200);
    let mut taken = 0;
    for id in all.chunks(1) {
        match try_enqueue(&queue, id).await {
            Ok(answers) => taken += answers.len(),
            Err(full) => {
                assert_eq!(full, QueueError::Full { depth: 10, limit: 10 }, "each shard has its share");
            }
        }
    }
    assert_eq!(taken, 40);
    assert_eq!(drain(&queue).await.len(), 40);
    enqueue(&queue, &all[..4]).await;
}

#[tokio::test]
async fn another_number_of_shards_is_refused_and_takes_nothing_in_beside_the_old_ones() {
    for (there, ours) in [(1, 4), (4, 1), (4, 8), (8, 4)] {
        let server = RedisServer::start().await;
        enqueue(&sharded(&server, there), &names("msg", 0..1)).await;
        let queue = sharded(&server, ours);
        for id in names("other", 0..32).chunks(1) {
            let Err(QueueError::Deployment(told)) = try_enqueue(&queue, id).await else {
                panic!("{there} {ours}")
            };
            for part in
                ["Redis at 127.0.0.1:", &format!("has {there} shards"), &format!("queue_shards is {ours}")]
            {
                assert!(told.contains(part), "{part}: {told}");
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
async fn data_of_a_newer_format_are_refused_and_left_as_they_are() {
    let (server, old) = start_sharded().await;
    enqueue(&old, &names("msg", 0..20)).await;
    for shard in 0..SHARDS {
        server.cli(&["hset", &key(shard, "meta"), "format", "2"]);
    }
    let queue = sharded(&server, SHARDS);
    let Err(QueueError::Deployment(told)) = try_enqueue(&queue, &names("msg", 20..21)).await else {
        panic!()
    };
    assert!(told.contains("format 2") && told.contains("Redis at 127.0.0.1:"), "{told}");
    assert!(matches!(queue.stats().await, Err(QueueError::Deployment(_))));
    assert_eq!(stats(&old).await.depth(), 20);
}

#[tokio::test]
async fn several_shards_are_waited_on_at_once() {
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
async fn lanes_over_several_shards_lose_nothing_either() {
    let server = RedisServer::start().await;
    let queues = [sharded(&server, SHARDS), sharded(&server, SHARDS)];
    let errors = Storm::begin(&queues, 1_000, 3).end(&queues[0]).await;
    assert_eq!(errors, []);
    assert_eq!(leftovers(&server, SHARDS), [""; 0]);
}
