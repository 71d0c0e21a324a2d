//! Ids that another program or damage has stored and that are not UTF-8.

use std::time::Duration;

use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{Consumer as _, DeadLetterFilter, MessageState, QueueAdmin as _, Settlement};
use rollbook_redis::{RedisQueue, RedisSettings};
use rollbook_testkit::queues::request;
use rollbook_testkit::servers::redis::RedisServer;

use crate::support::{
    LONG, dead_letter, discarded, enqueue, key, leftovers, names, open, redriven, retry, set, settings,
    settle_all, stats,
};

const SHARDS: u16 = 3;
const NAME: &str = "bytes:6f6464ff2f";

/// Stores a message with an id that is not UTF-8, in a shard other than that of the id.
fn put(server: &RedisServer) {
    let script = "redis.call('XADD', KEYS[1], '*', 'i', 'odd\\255/') \
         return redis.call('HSET', KEYS[2], 'odd\\255/', '\\9' .. string.rep('\\0', 8) .. 'a body')";
    server.cli(&["eval", script, "2", &key(1, "new"), &key(1, "messages")]);
}

async fn start() -> (RedisServer, std::sync::Arc<RedisQueue>) {
    let server = RedisServer::start().await;
    let queue = open(RedisSettings { shards: SHARDS, ..settings(server.url()) });
    // Sets all shards up.
    enqueue(&queue, &names("msg", 0..30)).await;
    settle_all(&queue, &give(&queue, 30).await, &Settlement::Ack).await;
    put(&server);
    (server, queue)
}

async fn give(queue: &RedisQueue, max: usize) -> Vec<rollbook_core::queue::Lease> {
    let mut leases = Vec::new();
    for _ in 0..SHARDS {
        leases.extend(queue.lease(request(max, LONG, Duration::ZERO)).await.expect("the queue gives"));
    }
    leases
}

#[tokio::test]
async fn a_message_with_a_binary_id_is_leased_settled_listed_and_found_like_any_other() {
    let (server, queue) = start().await;
    for settlement in [Settlement::Release, retry(Duration::ZERO), dead_letter()] {
        let leases = give(&queue, 10).await;
        assert_eq!((leases.len(), leases[0].id.as_str(), &leases[0].body[..]), (1, NAME, &b"a body"[..]));
        assert!(leases[0].unreadable.is_some());
        let found =
            queue.message(&MessageId::new(NAME)).await.expect("the queue answers").expect("it is there");
        assert!(matches!(found.state, MessageState::Leased { .. }), "{found:?}");
        settle_all(&queue, &leases, &settlement).await;
    }
    let only = DeadLetterFilter { id: Some(MessageId::new(NAME)), ..DeadLetterFilter::default() };
    for filter in [&only, &DeadLetterFilter::default()] {
        let letters = queue.dead_letters(&filter.page(None, 10)).await.expect("the queue lists");
        assert_eq!((letters.len(), letters[0].id.as_str()), (1, NAME));
    }
    assert_eq!(redriven(&queue, &only, 10).await, Ok(1));
    let page = queue.messages(None, 10).await.expect("the queue lists");
    assert_eq!(page.messages.len() + rest(&queue, page.next).await, 1);
    settle_all(&queue, &give(&queue, 10).await, &dead_letter()).await;
    assert_eq!(discarded(&queue, &only, 10).await, Ok(1));
    assert_eq!(leftovers(&server, SHARDS), [""; 0]);
}

async fn rest(queue: &RedisQueue, mut next: Option<rollbook_core::queue::MessagesCursor>) -> usize {
    let mut count = 0;
    while let Some(after) = next {
        let page = queue.messages(Some(&after), 10).await.expect("the queue lists");
        (count, next) = (count + page.messages.len(), page.next);
    }
    count
}

#[tokio::test]
async fn a_message_with_a_binary_id_is_removed_from_any_shard() {
    let (server, queue) = start().await;
    assert_eq!(queue.remove_many(&[MessageId::new(NAME)]).await, Ok(1));
    assert_eq!((stats(&queue).await.depth(), leftovers(&server, SHARDS)), (0, Vec::new()));
    put(&server);
    enqueue(&queue, &names("later", 0..1)).await;
    let ids: std::collections::BTreeSet<String> =
        give(&queue, 10).await.iter().map(|lease| lease.id.to_string()).collect();
    assert_eq!(ids, set(&["later_00000".to_owned(), NAME.to_owned()]));
}
