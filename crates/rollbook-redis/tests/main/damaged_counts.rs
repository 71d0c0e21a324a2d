//! Counts in the queue's keys that another program or damage has changed. Such a message affects only itself:
//! other messages are leased, settled and listed as usual.

use std::time::Duration;

use rollbook_core::queue::{Consumer as _, Lease, QueueAdmin as _, Settlement};
use rollbook_redis::RedisQueue;
use rollbook_testkit::queues::request;
use rollbook_testkit::servers::redis::RedisServer;

use crate::support::{LONG, enqueue, ids, key, names, open, retry, set, settings, settle_all, stats};

/// Stores a valid body: format 0, time of receipt, body.
const PUT: &str = "redis.call('HSET', KEYS[2], 'odd', string.char(0) .. string.rep('\\0', 8) .. '{}') ";

/// Values that are not numbers, below the minimum, or above the maximum of an answer.
const COUNTS: [&str; 6] = ["x", "", "-5", "1e99", "nan", "99999999999"];

async fn take(queue: &RedisQueue, count: &str) -> Vec<Lease> {
    let given = queue.lease(request(10, LONG, Duration::ZERO)).await;
    given.unwrap_or_else(|error| panic!("{count:?}: {error}"))
}

/// Stores a message with damaged counts by this script, then a normal one, and asserts that both are leased.
async fn assert_leased_with_a_normal_message(script: &str) {
    for count in COUNTS {
        let server = RedisServer::start().await;
        let queue = open(settings(server.url()));
        enqueue(&queue, &names("msg", 0..1)).await;
        let keys = ["new", "messages", "again", "due", "tries"].map(|name| key(0, name));
        let mut arguments = vec!["eval".to_owned(), format!("{PUT}{script}"), "5".to_owned()];
        arguments.extend(keys);
        arguments.push(count.to_owned());
        server.cli(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let page = queue.messages(None, 10).await.unwrap_or_else(|error| panic!("{count:?}: {error}"));
        assert_eq!(page.messages.len(), 2, "{count:?}");
        let given = take(&queue, count).await;
        assert_eq!(ids(&given), set(&["msg_00000".to_owned(), "odd".to_owned()]), "{count:?}");
        assert_eq!(queue.messages(None, 10).await.map(|page| page.messages.len()), Ok(2), "{count:?}");
        // A second delivery works too.
        settle_all(&queue, &given, &retry(Duration::ZERO)).await;
        let given = take(&queue, count).await;
        settle_all(&queue, &given, &Settlement::Ack).await;
        assert_eq!(stats(&queue).await.depth(), 0, "{count:?}");
    }
}

#[tokio::test]
async fn a_damaged_count_of_a_new_entry_does_not_block_other_messages() {
    assert_leased_with_a_normal_message(
        "redis.call('XADD', KEYS[1], '*', 'i', 'odd', 'a', ARGV[1], 'u', ARGV[1])",
    )
    .await;
}

#[tokio::test]
async fn a_damaged_count_of_a_message_that_is_due_again_does_not_block_other_messages() {
    let due = "redis.call('ZADD', KEYS[4], 1, 'odd') ";
    assert_leased_with_a_normal_message(&format!("{due} redis.call('HSET', KEYS[5], 'odd', ARGV[1])")).await;
    assert_leased_with_a_normal_message(&format!(
        "{due} redis.call('HSET', KEYS[5], 'odd', '7:' .. ARGV[1])"
    ))
    .await;
}
