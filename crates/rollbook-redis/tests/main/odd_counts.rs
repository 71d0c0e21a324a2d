//! Counts that another program or damage put into our keys. One such message is its own failure: its neighbours are
//! leased, settled and listed as ever.

use std::time::Duration;

use rollbook_core::queue::{Consumer as _, Lease, QueueAdmin as _, Settlement};
use rollbook_redis::RedisQueue;
use rollbook_testkit::queues::request;
use rollbook_testkit::servers::redis::RedisServer;

use crate::support::{LONG, enqueue, ids, key, names, open, retry, set, settings, settle_all, stats};

/// A body that can be read: format 0, the time of receipt, the body.
const PUT: &str = "redis.call('HSET', KEYS[2], 'odd', string.char(0) .. string.rep('\\0', 8) .. '{}') ";

/// What is no count, what is below any, and what no answer can hold.
const COUNTS: [&str; 6] = ["x", "", "-5", "1e99", "nan", "99999999999"];

async fn take(queue: &RedisQueue, count: &str) -> Vec<Lease> {
    let given = queue.lease(request(10, LONG, Duration::ZERO)).await;
    given.unwrap_or_else(|error| panic!("{count:?}: {error}"))
}

/// A message with damaged counts, put there by this script; then one as usual.
async fn is_given_with_its_neighbour(script: &str) {
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
        // What is given again is no worse.
        settle_all(&queue, &given, &retry(Duration::ZERO)).await;
        let given = take(&queue, count).await;
        settle_all(&queue, &given, &Settlement::Ack).await;
        assert_eq!(stats(&queue).await.depth(), 0, "{count:?}");
    }
}

#[tokio::test]
async fn a_damaged_count_of_a_new_entry_keeps_no_neighbour_from_its_worker() {
    is_given_with_its_neighbour("redis.call('XADD', KEYS[1], '*', 'i', 'odd', 'a', ARGV[1], 'u', ARGV[1])")
        .await;
}

#[tokio::test]
async fn a_damaged_count_of_a_message_that_is_due_again_keeps_no_neighbour_from_its_worker() {
    let due = "redis.call('ZADD', KEYS[4], 1, 'odd') ";
    is_given_with_its_neighbour(&format!("{due} redis.call('HSET', KEYS[5], 'odd', ARGV[1])")).await;
    is_given_with_its_neighbour(&format!("{due} redis.call('HSET', KEYS[5], 'odd', '7:' .. ARGV[1])")).await;
}
