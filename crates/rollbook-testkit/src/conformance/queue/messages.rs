//! Operator's view of queued messages, and permanent removal.

use std::collections::BTreeMap;

use rollbook_core::delivery::MessageId;
use rollbook_core::queue::Enqueued::{Duplicate, Queued};
use rollbook_core::queue::{DeadLetterFilter, MessageState, QueueStats, QueuedMessage, Settled, Settlement};

use super::{
    DEPTH_MAX, LEASE_FOR, Queue, QueueHarness, RETRY_AFTER, TICK, ids, numbered, retry, settlements,
};

/// More pages than there are messages in any test here, so that a listing which never advances ends too.
const PAGES_MAX: usize = 1_000;

impl<H: QueueHarness> Queue<H> {
    /// Returns all pages of a listing, from first to last.
    async fn pages(&self, limit: usize) -> Vec<Vec<QueuedMessage>> {
        let (mut pages, mut after) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let page = self.harness.admin().messages(after.as_ref(), limit).await;
            let page = page.expect("the queue lists messages");
            assert!(page.messages.len() <= limit, "{} on a page of {limit}", page.messages.len());
            pages.push(page.messages);
            after = page.next;
            if after.is_none() {
                return pages;
            }
        }
        panic!("no end after {PAGES_MAX} pages");
    }

    /// Returns all messages. Asserts that none occurs twice.
    async fn listed(&self, limit: usize) -> BTreeMap<String, QueuedMessage> {
        let all: Vec<QueuedMessage> = self.pages(limit).await.into_iter().flatten().collect();
        let count = all.len();
        let by_id: BTreeMap<_, _> =
            all.into_iter().map(|message| (message.id.to_string(), message)).collect();
        assert_eq!(by_id.len(), count, "none comes twice");
        by_id
    }

    /// Returns the message found by its id. Asserts that the listing shows the same.
    async fn find(&self, id: &str) -> Option<QueuedMessage> {
        let found = self.harness.admin().message(&MessageId::new(id)).await;
        let found = found.expect("the queue finds messages");
        assert_eq!(found, self.listed(10).await.remove(id), "{id} in the listing (right)");
        found
    }

    async fn state_of(&self, id: &str) -> (MessageState, u32) {
        let found = self.find(id).await.unwrap_or_else(|| panic!("{id} is there"));
        (found.state, found.attempts)
    }

    async fn remove(&self, ids: &[&str]) -> usize {
        let ids: Vec<MessageId> = ids.iter().map(|&id| MessageId::new(id)).collect();
        self.harness.admin().remove_many(&ids).await.expect("the queue removes messages")
    }

    /// Asserts that a removed message is not listed, never leased and not counted, also after a crash.
    async fn assert_gone(&mut self, id: &str) {
        for _ in 0..2 {
            assert_eq!(self.find(id).await, None, "{id}");
            let only = DeadLetterFilter { id: Some(MessageId::new(id)), ..DeadLetterFilter::default() };
            assert_eq!(self.dead_ids(&only).await, [""; 0], "{id}");
            assert_eq!(self.stats().await, QueueStats::default(), "{id}");
            assert_eq!(self.redrive(&only, 10).await, 0, "{id}");
            self.harness.advance(LEASE_FOR.max(RETRY_AFTER));
            self.assert_nothing_is_due().await;
            self.harness.reopen().await;
        }
    }
}

pub async fn a_message_is_listed_with_its_body_in_every_state(queue: Queue<impl QueueHarness>) {
    let sent = queue.delivery("a");
    queue.enqueue(&["a"]).await;
    let received_at = sent.received_at;
    let expected = QueuedMessage {
        id: sent.id,
        received_at,
        traceparent: None,
        attempts: 0,
        state: MessageState::Waiting,
        body: sent.body,
    };
    assert_eq!(queue.find("a").await, Some(expected.clone()));

    let lease = queue.lease_one().await;
    let leased = MessageState::Leased { until: queue.now().plus(LEASE_FOR) };
    let leased = QueuedMessage { attempts: 0, state: leased, ..expected.clone() };
    assert_eq!(queue.find("a").await, Some(leased));

    queue.settle(&lease, retry()).await;
    let delayed = MessageState::Delayed { until: queue.now().plus(RETRY_AFTER) };
    let delayed = QueuedMessage { attempts: 1, state: delayed, ..expected.clone() };
    assert_eq!(queue.find("a").await, Some(delayed));

    queue.harness.advance(RETRY_AFTER);
    let due = QueuedMessage { attempts: 1, ..expected.clone() };
    assert_eq!(queue.find("a").await, Some(due), "the backoff has passed");

    queue.lease_one().await;
    let leased = MessageState::Leased { until: queue.now().plus(LEASE_FOR) };
    assert_eq!(queue.state_of("a").await, (leased, 1), "the attempt under way is not counted yet");
    queue.harness.advance(LEASE_FOR);
    let left = QueuedMessage { attempts: 1, ..expected };
    assert_eq!(queue.find("a").await, Some(left), "the lease has expired");
}

pub async fn a_released_message_waits_without_a_counted_attempt(queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["a"]).await;
    let lease = queue.lease_one().await;
    queue.settle(&lease, Settlement::Release).await;
    assert_eq!(queue.state_of("a").await, (MessageState::Waiting, 0));
}

pub async fn done_and_dead_messages_are_not_listed_and_a_redriven_one_is(queue: Queue<impl QueueHarness>) {
    queue.park(&["dead"]).await;
    queue.enqueue(&["done"]).await;
    let lease = queue.lease_one().await;
    queue.settle(&lease, Settlement::Ack).await;
    for id in ["dead", "done", "never"] {
        assert_eq!(queue.find(id).await, None, "{id}");
    }
    queue.redrive(&DeadLetterFilter::default(), 1).await;
    assert_eq!(queue.state_of("dead").await, (MessageState::Waiting, 0));
    assert_eq!(queue.find("dead").await.map(|found| found.body), Some(queue.delivery("dead").body));
}

pub async fn listing_messages_changes_nothing(queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["leased", "waiting"]).await;
    let leases = queue.lease(1).await;
    let before = queue.stats().await;
    queue.listed(1).await;
    assert_eq!(queue.stats().await, before);
    assert_eq!(queue.lease_one().await.attempt, 1);
    assert_eq!(queue.settle(&leases[0], Settlement::Ack).await, Settled::Done);
}

pub async fn pages_show_every_message_once_whatever_their_size(queue: Queue<impl QueueHarness>) {
    assert_eq!(queue.pages(10).await.concat(), []);
    let all = numbered(60);
    queue.enqueue(&all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for lease in queue.lease(20).await.iter().skip(10) {
        queue.settle(lease, retry()).await;
    }
    for limit in [1, 2, 29, 30, 31, 59, 60, 61, 1_000] {
        let listed = queue.listed(limit).await;
        assert_eq!(listed.keys().cloned().collect::<Vec<_>>(), all, "pages of {limit}");
        for message in listed.values() {
            assert_eq!(message.body, queue.delivery(message.id.as_str()).body);
        }
    }
}

pub async fn messages_that_stay_are_listed_while_others_come_and_go(queue: Queue<impl QueueHarness>) {
    let all = numbered(DEPTH_MAX);
    let (stay, go) = all.split_at(all.len() / 2);
    queue.enqueue(&all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let (mut seen, mut after) = (BTreeMap::new(), None);
    for pair in go.chunks(2) {
        let page = queue.harness.admin().messages(after.as_ref(), 4).await.expect("the queue lists messages");
        seen.extend(page.messages.into_iter().map(|message| (message.id.to_string(), message)));
        after = page.next;
        // One message is removed, one is removed and enqueued again, and all leased ones change their state.
        assert_eq!(queue.remove(&[&pair[0], &pair[1]]).await, 2);
        queue.enqueue(&[&pair[1]]).await;
        for lease in queue.lease(5).await {
            queue.settle(&lease, retry()).await;
        }
        queue.harness.advance(RETRY_AFTER / 4);
    }
    for _ in 0..PAGES_MAX {
        let Some(behind) = after else { break };
        let page = queue.harness.admin().messages(Some(&behind), 4).await.expect("the queue lists messages");
        seen.extend(page.messages.into_iter().map(|message| (message.id.to_string(), message)));
        after = page.next;
    }
    assert_eq!(after, None);
    let missing: Vec<_> = stay.iter().filter(|id| !seen.contains_key(*id)).collect();
    assert_eq!(missing, [""; 0]);
}

pub async fn a_damaged_message_is_listed_with_what_is_left_of_it(mut queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["a", "broken", "b"]).await;
    queue.harness.corrupt(&MessageId::new("broken")).await;
    let listed = queue.listed(10).await;
    assert_eq!(listed.keys().collect::<Vec<_>>(), ["a", "b", "broken"]);
    let sent = queue.delivery("broken");
    assert_eq!((&listed["broken"].body, listed["broken"].received_at), (&sent.body, sent.received_at));
    assert_eq!(queue.find("broken").await.as_ref(), Some(&listed["broken"]));
    assert_eq!(queue.remove(&["broken"]).await, 1);
    assert_eq!(queue.lease(10).await.len(), 2);
    assert_eq!(queue.dead_ids(&DeadLetterFilter::default()).await, [""; 0]);
}

pub async fn no_debug_of_a_message_shows_its_body(queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["a"]).await;
    let page = queue.harness.admin().messages(None, 10).await.expect("the queue lists messages");
    assert_eq!(page.messages[0].body, "the body of a");
    let text = format!("{page:?} {:?}", queue.find("a").await);
    assert!(text.contains("Waiting") && !text.contains("the body"), "{text}");
}

pub async fn removing_a_waiting_message_is_final(mut queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["a"]).await;
    assert_eq!(queue.remove(&["a"]).await, 1);
    queue.assert_gone("a").await;
}

pub async fn removing_a_delayed_message_is_final(mut queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["a"]).await;
    let lease = queue.lease_one().await;
    queue.settle(&lease, retry()).await;
    assert_eq!(queue.remove(&["a"]).await, 1);
    queue.assert_gone("a").await;
}

pub async fn removing_a_dead_letter_is_final(mut queue: Queue<impl QueueHarness>) {
    queue.park(&["a"]).await;
    assert_eq!(queue.remove(&["a"]).await, 1);
    queue.assert_gone("a").await;
}

pub async fn removing_a_leased_message_is_final_and_its_lease_is_lost(mut queue: Queue<impl QueueHarness>) {
    for settlement in settlements() {
        for came_again in [false, true] {
            let id = format!("{}_{came_again}", settlement.label());
            queue.enqueue(&[&id]).await;
            let mut lease = queue.lease_one().await;
            if came_again {
                queue.settle(&lease, Settlement::Release).await;
                lease = queue.lease_one().await;
            }
            assert_eq!(queue.remove(&[&id]).await, 1, "{id}");
            assert_eq!(queue.stats().await, QueueStats::default(), "{id}");
            assert_eq!(queue.settle(&lease, settlement.clone()).await, Settled::LeaseLost, "{id}");
            queue.assert_gone(&id).await;
        }
    }
}

pub async fn removing_a_message_with_an_expired_lease_is_final(mut queue: Queue<impl QueueHarness>) {
    queue.enqueue(&["a"]).await;
    let lost = queue.lease_one().await;
    queue.harness.advance(LEASE_FOR);
    let held = queue.lease_one().await;
    queue.harness.advance(LEASE_FOR);
    assert_eq!(queue.remove(&["a"]).await, 1);
    for lease in [lost, held] {
        assert_eq!(queue.settle(&lease, Settlement::Ack).await, Settled::LeaseLost);
    }
    queue.assert_gone("a").await;
}

pub async fn a_removed_id_may_come_again_as_new(queue: Queue<impl QueueHarness>) {
    let mut old = Vec::new();
    for settlement in settlements() {
        assert_eq!(queue.enqueue(&["a"]).await, [Queued]);
        queue.harness.advance(TICK);
        let lease = queue.lease_one().await;
        assert_eq!((lease.attempt, lease.unsettled), (1, 0), "nothing is known of the one before");
        old.push((lease.clone(), Settlement::Ack));
        if settlement != Settlement::Ack {
            queue.settle(&lease, settlement).await;
        }
        assert_eq!(queue.remove(&["a"]).await, 1);
    }
    assert_eq!(queue.enqueue(&["a", "a"]).await, [Queued, Duplicate]);
    assert_eq!(queue.state_of("a").await, (MessageState::Waiting, 0));
    let lost = vec![Ok(Settled::LeaseLost); old.len()];
    assert_eq!(
        queue.harness.consumer().settle_many(&old).await,
        lost,
        "old leases have no effect on the new message"
    );
    let lease = queue.lease_one().await;
    assert_eq!(queue.settle(&lease, Settlement::Ack).await, Settled::Done);
    queue.assert_nothing_is_due().await;
}

pub async fn missing_messages_are_not_counted_as_removed(queue: Queue<impl QueueHarness>) {
    queue.park(&["dead"]).await;
    queue.enqueue(&["a", "b", "c"]).await;
    assert_eq!(queue.remove(&[]).await, 0);
    assert_eq!(queue.remove(&["x"]).await, 0);
    assert_eq!(queue.remove(&["x", "a", "dead", "a", "y"]).await, 2, "twice named is removed once");
    assert_eq!(queue.remove(&["a", "dead"]).await, 0);
    let stats = queue.stats().await;
    assert_eq!((stats.ready, stats.depth(), stats.dead), (2, 2, 0));
    assert_eq!(ids(&queue.lease(10).await), ["b", "c"]);
}

pub async fn a_removed_message_leaves_its_neighbours_and_makes_room(queue: Queue<impl QueueHarness>) {
    let all = numbered(DEPTH_MAX);
    queue.enqueue(&all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let leases = queue.lease(40).await;
    for lease in &leases[20..] {
        queue.settle(lease, retry()).await;
    }
    let before = queue.stats().await;
    let gone: Vec<&str> = all.iter().map(String::as_str).skip(1).step_by(2).collect();
    assert_eq!(queue.remove(&gone).await, gone.len());
    let stats = queue.stats().await;
    assert_eq!((stats.leased, stats.delayed, stats.ready), (10, 10, 30));
    assert_eq!(stats.oldest_received_at, before.oldest_received_at);
    assert_eq!(queue.enqueue(&gone).await, vec![Queued; gone.len()], "there is room again");
    assert!(queue.try_enqueue(&["one_more"]).await.is_err());
    for (index, lease) in leases[..20].iter().enumerate() {
        let expected = if index % 2 == 0 { Settled::Done } else { Settled::LeaseLost };
        assert_eq!(queue.settle(lease, Settlement::Ack).await, expected, "{lease:?}");
    }
    queue.harness.advance(RETRY_AFTER);
    assert_eq!(queue.lease(1_000).await.len(), 90, "each once");
}

pub async fn the_oldest_message_is_the_oldest_that_was_not_removed(queue: Queue<impl QueueHarness>) {
    for id in ["a", "b", "c"] {
        queue.enqueue(&[id]).await;
        queue.harness.advance(TICK);
    }
    let lease = queue.lease(1).await.remove(0);
    queue.settle(&lease, retry()).await;
    let received_at = |stats: QueueStats| stats.oldest_received_at;
    assert_eq!(received_at(queue.stats().await), Some(lease.received_at));
    queue.remove(&["a"]).await;
    assert_eq!(received_at(queue.stats().await), Some(lease.received_at.plus(TICK)));
    queue.remove(&["b", "c"]).await;
    assert_eq!(queue.stats().await, QueueStats::default());
}
