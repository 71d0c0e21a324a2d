//! Listing and removal of messages in long queues, across server changes and interrupted steps.

use std::collections::BTreeSet;
use std::sync::Arc;

use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{
    DISCARDS_KEPT, DeadLetterFilter, MessageState, MessagesCursor, QueueAdmin as _, QueueError, QueueStats,
    QueuedMessage, Settled, Settlement,
};
use rollbook_redis::{RedisQueue, RedisSettings};
use rollbook_testkit::process::until;
use rollbook_testkit::servers::redis::RedisServer;

use crate::random_load::RandomLoad;
use crate::replicas::start_replica;
use crate::support::{
    LONG, Log, dead_letter, delivery, drain, enqueue, ids, key, lease, leftovers, names, open, retry, set,
    settings, settle, settle_all, start, stats,
};

/// Reads pages of a listing from a cursor, up to a number of pages or to the end.
async fn pages(
    queue: &RedisQueue,
    from: Option<MessagesCursor>,
    limit: usize,
    count: usize,
) -> (Vec<QueuedMessage>, Option<MessagesCursor>) {
    let (mut all, mut after) = (Vec::new(), from);
    for _ in 0..count {
        let page = queue.messages(after.as_ref(), limit).await.expect("a page");
        assert!(page.messages.len() <= limit, "{} on a page of {limit}", page.messages.len());
        all.extend(page.messages);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    (all, after)
}

/// Ids of a complete listing.
pub(crate) async fn listed(queue: &RedisQueue, limit: usize) -> Vec<String> {
    let (all, end) = pages(queue, None, limit, 10_000).await;
    assert_eq!(end, None);
    assert!(
        all.iter().all(|message| message.body == delivery(message.id.as_str()).body),
        "each has its own body"
    );
    all.iter().map(|message| message.id.to_string()).collect()
}

pub(crate) async fn remove(queue: &RedisQueue, ids: &[String]) -> Result<usize, QueueError> {
    let ids: Vec<MessageId> = ids.iter().map(MessageId::new).collect();
    queue.remove_many(&ids).await
}

/// Enqueues in several calls, because one script call takes fewer messages.
async fn enqueue_in_order(queue: &RedisQueue, ids: &[String]) {
    for part in ids.chunks(1_000) {
        enqueue(queue, part).await;
    }
}

#[tokio::test]
async fn every_message_is_listed_once_for_any_page_size() {
    for shards in [1, 4] {
        let server = RedisServer::start().await;
        let queue = open(RedisSettings { shards, ..settings(server.url()) });
        let all = names("msg", 0..3_000);
        enqueue(&queue, &all).await;
        for limit in [7, 100, 499, 500, 501, 10_000] {
            let listed = listed(&queue, limit).await;
            assert_eq!((listed.len(), set(&listed)), (3_000, set(&all)), "{shards} shards, pages of {limit}");
        }
        let (page, _) = pages(&queue, None, usize::MAX, 1).await;
        assert!(page.len() <= 500, "{} bodies at once", page.len());
    }
}

#[tokio::test]
async fn dead_letters_are_skipped_page_by_page() {
    let (_server, queue) = start().await;
    let dead = names("dead", 0..1_000);
    enqueue(&queue, &dead).await;
    settle_all(&queue, &lease(&queue, 1_000).await, &dead_letter()).await;
    enqueue(&queue, &names("msg", 0..3)).await;
    assert_eq!(set(&listed(&queue, 100).await), set(&names("msg", 0..3)));
    assert_eq!(remove(&queue, &dead).await, Ok(1_000));
    assert_eq!((stats(&queue).await.depth(), stats(&queue).await.dead), (3, 0));
}

#[tokio::test]
async fn a_shard_keeps_the_last_ten_thousand_records_of_discards() {
    let (server, queue) = start().await;
    let fill = "for number = 1, ARGV[1] do \
                redis.call('XADD', KEYS[1], number .. '-1', 'i', 'msg_' .. number, 'f', '5 {\"reason\":\"too_deep\"}') end";
    server.cli(&["eval", fill, "1", &key(0, "discarded"), &DISCARDS_KEPT.to_string()]);
    let records = async |id: &str| queue.discards(&MessageId::new(id)).await.expect("records").len();
    assert_eq!((records("msg_1").await, records("msg_10000").await), (1, 1), "all pages are read");
    enqueue(&queue, &names("dead", 0..1)).await;
    settle_all(&queue, &lease(&queue, 1).await, &dead_letter()).await;
    queue.discard(&DeadLetterFilter::default().page(None, 10)).await.expect("it is discarded");
    assert_eq!(server.cli(&["xlen", &key(0, "discarded")]), DISCARDS_KEPT.to_string());
    assert_eq!((records("msg_1").await, records("msg_2").await, records("dead_00000").await), (0, 1, 1));
}

/// Changes the server during a listing, and asserts that no message is skipped.
async fn assert_listing_complete_after(change: impl AsyncFnOnce(&mut RedisServer) -> Option<RedisServer>) {
    let (mut server, queue) = start().await;
    let all = names("msg", 0..2_000);
    enqueue(&queue, &all).await;
    let (mut seen, after) = pages(&queue, None, 100, 12).await;
    assert!(after.is_some());
    let other = change(&mut server).await;
    let queue = open(settings(other.as_ref().unwrap_or(&server).url()));
    let (rest, end) = pages(&queue, after, 100, 100).await;
    seen.extend(rest);
    let seen: BTreeSet<String> = seen.iter().map(|message| message.id.to_string()).collect();
    assert_eq!((end, seen.len()), (None, all.len()));
}

#[tokio::test]
async fn a_listing_skips_no_message_when_the_server_restarts() {
    assert_listing_complete_after(async |server| {
        server.kill();
        server.restart().await;
        None
    })
    .await;
}

#[tokio::test]
async fn a_listing_skips_no_message_when_a_replica_takes_over() {
    assert_listing_complete_after(async |server| {
        let replica = start_replica(server).await;
        until("the replica has it all", || {
            std::future::ready(replica.cli(&["hlen", &key(0, "messages")]) == "2000")
        })
        .await;
        replica.cli(&["replicaof", "no", "one"]);
        Some(replica)
    })
    .await;
}

#[tokio::test]
async fn removing_messages_in_every_state_deletes_all_of_their_data_and_no_other_message() {
    let (server, queue) = start().await;
    let all = names("msg", 0..60);
    enqueue(&queue, &all).await;
    let first = lease(&queue, 50).await;
    settle_all(&queue, &first[..10], &dead_letter()).await;
    settle_all(&queue, &first[10..20], &retry(LONG)).await;
    settle_all(&queue, &first[20..40], &Settlement::Release).await;
    let again = lease(&queue, 10).await;
    let half = |range: std::ops::Range<usize>| all[range].iter().step_by(2).cloned();
    let gone: Vec<String> = half(0..60).collect();
    assert_eq!(remove(&queue, &gone).await, Ok(30));
    let now = stats(&queue).await;
    assert_eq!((now.ready, now.leased, now.delayed, now.dead), (10, 10, 5, 5));

    let settled = settle(&queue, &[&first[40..], &again[..]].concat(), &Settlement::Ack).await;
    let lost = settled.iter().filter(|settled| **settled == Settled::LeaseLost).count();
    assert_eq!(lost, 10);
    assert_eq!(drain(&queue).await.len(), 10);
    assert_eq!(remove(&queue, &all).await, Ok(10), "the remaining delayed and dead ones");
    assert_eq!(leftovers(&server, 1), [""; 0]);
    assert_eq!(stats(&queue).await, QueueStats::default());
}

#[tokio::test]
async fn a_message_is_found_and_removed_anywhere_in_a_long_stream() {
    let (server, queue) = start().await;
    let all = names("msg", 0..5_500);
    enqueue_in_order(&queue, &all).await;
    let held = lease(&queue, 10).await;
    let some: Vec<String> =
        [0, 9, 10, 999, 1_000, 3_456, 4_999, 5_499].map(|index: usize| all[index].clone()).into();
    let last = MessageId::new(&some[7]);
    let state = queue.message(&last).await.map(|found| found.map(|found| (found.state, found.attempts)));
    assert_eq!(state, Ok(Some((MessageState::Waiting, 0))));
    assert_eq!(remove(&queue, &some).await, Ok(8));
    assert_eq!(server.cli(&["xlen", &key(0, "new")]), "5492");
    assert_eq!(queue.message(&last).await, Ok(None));
    assert_eq!(listed(&queue, 500).await.len(), 5_492);
    enqueue(&queue, &some).await;
    settle_all(&queue, &held[1..9], &Settlement::Ack).await;
    let mut expected = set(&all);
    expected.retain(|id| !ids(&held[1..9]).contains(id));
    assert_eq!(drain(&queue).await, expected);
    assert_eq!(leftovers(&server, 1), [""; 0]);
}

#[tokio::test]
async fn a_message_is_found_although_its_receivers_clock_was_far_ahead() {
    let (server, queue) = start().await;
    enqueue_in_order(&queue, &names("msg", 0..3_000)).await;
    // Receipt time in the head of the value: the year 2096.
    let script = "local value = redis.call('HGET', KEYS[1], ARGV[1]) \
         return redis.call('HSET', KEYS[1], ARGV[1], string.sub(value, 1, 1) .. struct.pack('>i8', 4e12) .. string.sub(value, 10))";
    let id = &names("msg", 2_500..2_501)[0];
    assert_eq!(server.cli(&["eval", script, "1", &key(0, "messages"), id]), "0");
    assert_eq!(remove(&queue, std::slice::from_ref(id)).await, Ok(1));
    assert_eq!(server.cli(&["xlen", &key(0, "new")]), "2999");
}

#[tokio::test]
async fn an_interrupted_removal_removes_nothing_and_succeeds_when_repeated() {
    let broken = ["messages", "dead", "due", "ages", "tries", "failures", "leases", "again", "new"];
    for broken in broken {
        let (server, queue) = start().await;
        let all = names("msg", 0..4);
        enqueue(&queue, &all).await;
        settle_all(&queue, &lease(&queue, 1).await, &dead_letter()).await;
        settle_all(&queue, &lease(&queue, 1).await, &retry(LONG)).await;
        let held = lease(&queue, 1).await;
        let before = stats(&queue).await;
        // Another program overwrites one of the queue's keys.
        server.cli(&["rename", &key(0, broken), &key(0, "saved")]);
        server.cli(&["set", &key(0, broken), "x"]);
        let failed = remove(&queue, &all[..3]).await;
        assert!(matches!(failed, Err(QueueError::Deployment(_))), "{broken}: {failed:?}");
        server.cli(&["rename", &key(0, "saved"), &key(0, broken)]);
        assert_eq!(stats(&queue).await, before, "{broken}");
        assert_eq!(remove(&queue, &all[..3]).await, Ok(3), "{broken}");
        assert_eq!(settle(&queue, &held, &Settlement::Ack).await, [Settled::LeaseLost], "{broken}");
        assert_eq!(drain(&queue).await, set(&all[3..]), "{broken}: the others are as they were");
        assert_eq!(leftovers(&server, 1), [""; 0], "{broken}");
    }
}

#[tokio::test]
async fn a_batch_of_leases_is_deleted_with_its_last_message() {
    let (server, queue) = start().await;
    let all = names("msg", 0..10);
    enqueue(&queue, &all).await;
    settle_all(&queue, &lease(&queue, 5).await, &Settlement::Release).await;
    assert_eq!(lease(&queue, 5).await.len() + lease(&queue, 5).await.len(), 10);
    assert_eq!(remove(&queue, &all[..9]).await, Ok(9));
    assert_eq!(server.cli(&["zcard", &key(0, "leases")]), "1");
    assert_eq!(remove(&queue, &all).await, Ok(1));
    assert_eq!(leftovers(&server, 1), [""; 0]);
}

#[tokio::test]
async fn a_message_in_no_stream_is_removed_after_the_complete_stream_was_searched() {
    let (server, queue) = start().await;
    let all = names("msg", 0..3_000);
    enqueue_in_order(&queue, &all).await;
    let stream = server.cli(&["xrange", &key(0, "new"), "-", "+"]);
    let lines: Vec<&str> = stream.lines().collect();
    let place = lines.iter().position(|line| *line == all[2_345]).expect("an entry");
    assert_eq!(server.cli(&["xdel", &key(0, "new"), lines[place - 2]]), "1");
    assert_eq!(remove(&queue, &all[2_344..2_347]).await, Ok(3));
    assert_eq!(server.cli(&["xlen", &key(0, "new")]), "2997");
    assert_eq!(server.cli(&["hlen", &key(0, "messages")]), "2997");
}

#[tokio::test]
async fn a_message_of_a_deleted_stream_is_still_listed_and_removed() {
    let (server, queue) = start().await;
    enqueue(&queue, &names("new", 0..4)).await;
    enqueue(&queue, &names("again", 0..4)).await;
    let leases = lease(&queue, 8).await;
    settle_all(&queue, &leases[4..], &Settlement::Release).await;
    lease(&queue, 2).await;
    server.cli(&["del", &key(0, "new"), &key(0, "again")]);
    assert_eq!(listed(&queue, 10).await.len(), 8);
    let gone = [names("new", 0..2), names("again", 0..2)].concat();
    assert_eq!(remove(&queue, &gone).await, Ok(4));
    let left = [names("new", 2..4), names("again", 2..4)].concat();
    assert_eq!(drain(&queue).await, set(&left), "the others are delivered again");
    assert_eq!(leftovers(&server, 1), [""; 0]);
}

#[tokio::test]
async fn a_removal_is_as_durable_as_a_delivery() {
    let (mut server, queue) = start().await;
    enqueue(&queue, &names("msg", 0..20)).await;
    lease(&queue, 10).await;
    assert_eq!(remove(&queue, &names("msg", 5..15)).await, Ok(10));
    server.kill();
    server.restart().await;
    let queue = open(settings(server.url()));
    let expected = [names("msg", 0..5), names("msg", 15..20)].concat();
    assert_eq!(set(&listed(&queue, 100).await), set(&expected));
    assert_eq!(stats(&queue).await.leased, 5);
}

#[tokio::test]
async fn removals_during_a_storm_lose_no_other_message_and_leave_no_data_behind() {
    let (log, _logging) = Log::capture();
    let (server, queue) = start().await;
    let queues = [Arc::clone(&queue), open(settings(server.url()))];
    let random_load = RandomLoad::begin(&queues, 2_000, 9);
    for part in names("gone", 0..300).chunks(10) {
        enqueue(&queue, part).await;
        // Each is now waiting, leased, delayed, a dead letter or done.
        random_load.until_more_have_ended(5).await;
        remove(&queue, part).await.expect("the queue removes");
        let left = listed(&queue, 500).await;
        assert!(part.iter().all(|id| !left.contains(id)), "{part:?}");
    }
    assert_eq!(random_load.end(&queue).await, []);
    assert_eq!(leftovers(&server, 1), [""; 0]);
    assert_eq!(log.lines_with("entries without a message"), [""; 0]);
}
