//! Large messages: no answer exceeds its byte limit, except for a single message.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{
    Consumer as _, DeadLetterFilter, LeaseRequest, PAGE_BYTES_MAX, Producer as _, QueueAdmin as _,
};
use rollbook_redis::{RedisQueue, RedisSettings};
use rollbook_testkit::queues::{all_of, request};
use rollbook_testkit::servers::redis::RedisServer;

use crate::support::{LONG, dead_letter, delivery, names, open, settings, settle_all};

const MIB: usize = 1 << 20;
const COUNT: usize = 24;

/// Starts a queue with messages of one MiB: half of them are incompressible, half compress to almost nothing.
async fn start(shards: u16) -> (RedisServer, Arc<RedisQueue>) {
    let server = RedisServer::start().await;
    let queue = open(RedisSettings { shards, ..settings(server.url()) });
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(MIB).collect();
    let deliveries: Vec<Delivery> = names("msg", 0..COUNT)
        .iter()
        .enumerate()
        .map(|(number, id)| Delivery {
            body: if number % 2 == 0 { noise.clone() } else { vec![7; MIB] }.into(),
            ..delivery(id)
        })
        .collect();
    all_of(queue.enqueue_many(&deliveries).await).expect("the queue takes it");
    (server, queue)
}

#[tokio::test]
async fn leases_of_all_shards_together_stay_within_the_requested_bytes() {
    for shards in [1, 3] {
        let (server, queue) = start(shards).await;
        let mut given = 0;
        while given < COUNT {
            let limited = LeaseRequest { bytes_max: 5 * MIB, ..request(100, LONG, Duration::ZERO) };
            let leases = queue.lease(limited).await.expect("the queue gives");
            assert!((1..=5).contains(&leases.len()), "{}", leases.len());
            given += leases.len();
            assert_eq!(lag(&server, shards), COUNT - given, "autoscalers still see the waiting messages");
            settle_all(&queue, &leases, &dead_letter()).await;
        }
        let (mut after, mut pages) = (None, Vec::new());
        loop {
            let page =
                queue.dead_letters(&DeadLetterFilter::default().page(after, 500)).await.expect("a page");
            let Some(last) = page.last() else { break };
            after = Some(last.position);
            pages.push(page.len());
        }
        assert!(pages.iter().all(|count| *count <= PAGE_BYTES_MAX / MIB), "{pages:?}");
        assert_eq!(pages.iter().sum::<usize>(), COUNT);
        assert!(pages.len() <= COUNT / 4, "pages are well filled: {pages:?}");
        let step =
            queue.count_dead_letters(&DeadLetterFilter::default().page(None, 500)).await.expect("a count");
        assert_eq!((step.changed, step.next), (COUNT, None));
    }
}

/// Number of entries that the groups have not delivered yet, by Redis's own count.
fn lag(server: &RedisServer, shards: u16) -> usize {
    let lag = |shard| {
        let text = server.cli(&["xinfo", "groups", &crate::support::key(shard, "new")]);
        let mut lines = text.lines().skip_while(|line| *line != "lag");
        lines.nth(1).and_then(|lag| lag.parse::<usize>().ok()).unwrap_or(usize::MAX)
    };
    (0..shards).map(lag).sum()
}

#[tokio::test]
async fn a_page_of_messages_is_limited_in_bytes_and_the_pages_contain_all() {
    let (_server, queue) = start(2).await;
    let (mut after, mut seen) = (None, Vec::<MessageId>::new());
    loop {
        let page = queue.messages(after.as_ref(), 500).await.expect("a page");
        assert!(page.messages.len() <= PAGE_BYTES_MAX / MIB, "{}", page.messages.len());
        seen.extend(page.messages.into_iter().map(|message| message.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    seen.sort();
    assert_eq!(seen, names("msg", 0..COUNT).iter().map(MessageId::new).collect::<Vec<_>>());
}
