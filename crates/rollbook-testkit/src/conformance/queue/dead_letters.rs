//! Dead letters, and the operator's view and actions.

use std::time::Duration;

use rollbook_core::delivery::MessageId;
use rollbook_core::queue::Enqueued::Queued;
use rollbook_core::queue::{
    DeadLetterFilter, DeadLetterSums, Discard, QueueError, QueueStats, Settled, Settlement,
};
use rollbook_core::retry::{Failure, Reason};

use super::{
    DEPTH_MAX, LEASE_FOR, Queue, QueueHarness, RETRY_AFTER, TICK, dead_letter, failure, numbered, retry,
};

fn all() -> DeadLetterFilter {
    DeadLetterFilter::default()
}

fn only(id: &str) -> DeadLetterFilter {
    DeadLetterFilter { id: Some(MessageId::new(id)), ..all() }
}

pub async fn a_dead_letter_keeps_id_body_and_failure(queue: Queue<impl QueueHarness>) {
    let sent = queue.delivery("a");
    queue.enqueue(&["a"]).await;
    queue.lease_one().await;
    queue.harness.advance(LEASE_FOR);
    let lease = queue.lease_one().await;
    queue.harness.advance(TICK);
    assert_eq!(queue.settle(&lease, dead_letter()).await, Settled::Done);
    let letters = queue.dead_letters(&all()).await;
    let [letter] = letters.as_slice() else { panic!("there is one dead letter: {letters:?}") };
    assert_eq!((&letter.id, &letter.body, letter.received_at), (&sent.id, &sent.body, sent.received_at));
    assert_eq!(
        (letter.attempts, &letter.failure),
        (1, &failure()),
        "the expired lease does not count as an attempt"
    );
    assert_eq!(letter.parked_at, sent.received_at.plus(LEASE_FOR + TICK));
}

pub async fn a_dead_letter_is_not_leased(queue: Queue<impl QueueHarness>) {
    queue.park(&["a"]).await;
    queue.harness.advance(LEASE_FOR * 100);
    queue.assert_nothing_is_due().await;
}

pub async fn dead_letters_survive_a_reopen(mut queue: Queue<impl QueueHarness>) {
    queue.park(&["b", "a"]).await;
    let before = queue.dead_letters(&all()).await;
    queue.harness.reopen().await;
    assert_eq!(queue.dead_letters(&all()).await, before);
    queue.park(&["c"]).await;
    assert_eq!(queue.dead_ids(&all()).await, ["b", "a", "c"]);
}

pub async fn redrive_resets_attempts_and_keeps_the_id(queue: Queue<impl QueueHarness>) {
    let sent = queue.delivery("a");
    queue.enqueue(&["a"]).await;
    queue.lease_one().await;
    queue.harness.advance(LEASE_FOR);
    let lease = queue.lease_one().await;
    queue.settle(&lease, dead_letter()).await;
    assert_eq!(queue.redrive(&all(), 10).await, 1);
    assert_eq!(queue.dead_ids(&all()).await, Vec::<String>::new());
    let again = queue.lease_one().await;
    assert_eq!((again.attempt, again.unsettled), (1, 0));
    assert_eq!((&again.id, &again.body, again.received_at), (&sent.id, &sent.body, sent.received_at));
    assert_eq!(queue.settle(&lease, Settlement::Ack).await, Settled::LeaseLost, "the old lease is over");
}

pub async fn redrive_stops_where_the_queue_is_full(queue: Queue<impl QueueHarness>) {
    queue.park(&["a", "b", "c"]).await;
    let others = numbered(DEPTH_MAX - 2);
    queue.enqueue(&others.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(queue.redrive(&all(), 10).await, 2);
    let full = QueueError::Full { depth: DEPTH_MAX, limit: DEPTH_MAX };
    assert_eq!(queue.harness.admin().redrive(&all().page(None, 10)).await, Err(full));
    assert_eq!(queue.stats().await.depth(), DEPTH_MAX);
    assert_eq!(queue.dead_ids(&all()).await, ["c"]);
}

pub async fn discard_is_final(mut queue: Queue<impl QueueHarness>) {
    queue.park(&["a", "b"]).await;
    assert_eq!(queue.discard(&only("a"), 10).await, 1);
    assert_eq!(queue.discard(&only("a"), 10).await, 0);
    queue.harness.reopen().await;
    assert_eq!(queue.redrive(&only("a"), 10).await, 0);
    assert_eq!(queue.dead_ids(&all()).await, ["b"]);
    queue.assert_nothing_is_due().await;
}

pub async fn redrive_and_discard_take_the_oldest_up_to_the_limit(queue: Queue<impl QueueHarness>) {
    queue.park(&["d", "b", "c", "a"]).await;
    assert_eq!(queue.redrive(&all(), 1).await, 1);
    assert_eq!(queue.lease_one().await.id.as_str(), "d");
    assert_eq!(queue.discard(&all(), 2).await, 2);
    assert_eq!(queue.dead_ids(&all()).await, ["a"]);
    assert_eq!((queue.redrive(&all(), 0).await, queue.discard(&all(), 0).await), (0, 0));
    assert_eq!(queue.dead_ids(&all()).await, ["a"]);
}

pub async fn redrive_and_discard_continue_after_a_step(queue: Queue<impl QueueHarness>) {
    let letters = ["a", "b", "c", "d", "e"];
    queue.park(&letters).await;
    let meant = only("d");
    for discards in [false, true] {
        let none = DeadLetterFilter { event_type: Some("no such type".into()), ..all() };
        let (mut after, mut steps, mut changed) = (None, 0, 0);
        loop {
            let admin = queue.harness.admin();
            let step = if discards {
                admin.discard(&none.page(after, 2)).await
            } else {
                admin.redrive(&none.page(after, 2)).await
            };
            let step = step.expect("a step");
            (steps, changed, after) = (steps + 1, changed + step.changed, step.next);
            if after.is_none() {
                break;
            }
        }
        assert_eq!((steps, changed), (3, 0), "a step examines at most its limit");
    }
    assert_eq!(queue.redrive(&meant, 1).await, 1, "an id is found at any position");
    assert_eq!(queue.dead_ids(&all()).await, ["a", "b", "c", "e"]);
    let first = queue.harness.admin().discard(&all().page(None, 3)).await.expect("a step");
    assert_eq!(first.changed, 3);
    let second = queue.harness.admin().discard(&all().page(first.next, 3)).await.expect("a step");
    assert_eq!((second.changed, second.next), (1, None));
}

pub async fn a_corrupt_entry_is_leased_with_its_damage_and_does_not_block_others(
    mut queue: Queue<impl QueueHarness>,
) {
    for id in ["a", "broken", "b"] {
        queue.enqueue(&[id]).await;
        queue.harness.advance(TICK);
    }
    queue.harness.corrupt(&MessageId::new("broken")).await;
    let mut given = Vec::new();
    for _ in 0..3 {
        given.extend(queue.lease(1).await);
    }
    assert_eq!(super::ids(&given), ["a", "broken", "b"]);
    let damages: Vec<bool> = given.iter().map(|lease| lease.unreadable.is_some()).collect();
    assert_eq!(damages, [false, true, false], "{given:?}");
    let failure = Failure { reason: Reason::CorruptEntry, ..failure() };
    assert_eq!(queue.settle(&given[1], Settlement::DeadLetter { failure }).await, Settled::Done);
    let letters = queue.dead_letters(&all()).await;
    let [letter] = letters.as_slice() else { panic!("the broken one is parked: {letters:?}") };
    assert_eq!((letter.id.as_str(), letter.failure.reason), ("broken", Reason::CorruptEntry));
    assert_eq!(letter.body, queue.delivery("broken").body);
    assert_eq!(
        queue.stats().await,
        QueueStats {
            leased: 2,
            dead: 1,
            oldest_received_at: Some(given[0].received_at),
            ..QueueStats::default()
        }
    );
}

pub async fn a_redelivered_dead_letter_runs_again(queue: Queue<impl QueueHarness>) {
    queue.park(&["a", "b"]).await;
    queue.harness.advance(TICK);
    let sent = queue.delivery("a");
    assert_eq!(queue.enqueue(&["a"]).await, [Queued]);
    assert_eq!(queue.dead_ids(&all()).await, ["b"], "the message has left the dead letters");
    let lease = queue.lease_one().await;
    assert_eq!((&lease.id, &lease.body, lease.received_at), (&sent.id, &sent.body, sent.received_at));
    assert_eq!((lease.attempt, lease.unsettled), (1, 0));
}

pub async fn dead_letters_are_found_by_id_type_reason_and_time(queue: Queue<impl QueueHarness>) {
    let failures = [
        ("a", Reason::StoreRefused, Some("user.created")),
        ("b", Reason::InvalidJson, None),
        ("c", Reason::StoreRefused, Some("user.deleted")),
        ("d", Reason::CrashLoop, Some("user.created")),
    ];
    let began_at = queue.now();
    for (id, reason, event_type) in failures {
        queue.enqueue(&[id]).await;
        let lease = queue.lease_one().await;
        let failure = Failure { reason, detail: String::new(), event_type: event_type.map(str::to_owned) };
        queue.settle(&lease, Settlement::DeadLetter { failure }).await;
        queue.harness.advance(Duration::from_secs(1));
    }
    let since = |seconds| Some(began_at.plus(Duration::from_secs(seconds)));
    let reason = |reason: &str| Some(reason.to_owned());
    let created = DeadLetterFilter { event_type: Some("user.created".into()), ..all() };
    for (filter, found) in [
        (all(), vec!["a", "b", "c", "d"]),
        (only("c"), vec!["c"]),
        (only("x"), vec![]),
        (created.clone(), vec!["a", "d"]),
        (DeadLetterFilter { event_type: Some("user".into()), ..all() }, vec![]),
        (DeadLetterFilter { reason: reason("store_refused"), ..all() }, vec!["a", "c"]),
        (DeadLetterFilter { reason: reason("no such reason"), ..all() }, vec![]),
        (DeadLetterFilter { since: since(2), ..all() }, vec!["c", "d"]),
        (DeadLetterFilter { since: since(2), reason: reason("crash_loop"), ..created.clone() }, vec!["d"]),
        (DeadLetterFilter { id: Some(MessageId::new("b")), ..created.clone() }, vec![]),
    ] {
        assert_eq!(queue.dead_ids(&filter).await, found, "{filter:?}");
    }
    assert_eq!(queue.redrive(&created, 1).await, 1, "redrive and discard use the same filter");
    assert_eq!(queue.discard(&created, 10).await, 1);
    assert_eq!(queue.dead_ids(&all()).await, ["b", "c"]);
}

pub async fn dead_letters_are_listed_page_by_page_oldest_first(queue: Queue<impl QueueHarness>) {
    queue.park(&["e", "a", "d", "b", "c"]).await;
    let mut pages = Vec::new();
    let mut after = None;
    // More pages than dead letters, so that a listing which never advances ends too.
    for _ in 0..6 {
        let page = queue.harness.admin().dead_letters(&all().page(after, 2)).await.expect("the queue lists");
        let Some(last) = page.last() else { break };
        after = Some(last.position);
        pages.push(page.iter().map(|letter| letter.id.to_string()).collect::<Vec<_>>());
    }
    assert_eq!(pages, [vec!["e", "a"], vec!["d", "b"], vec!["c"]]);
    let none = queue.harness.admin().dead_letters(&all().page(None, 0)).await;
    assert_eq!(none, Ok(Vec::new()));
}

pub async fn the_newest_dead_letters_are_listed_page_by_page_backwards(queue: Queue<impl QueueHarness>) {
    queue.park(&["e", "a", "d", "b", "c"]).await;
    let mut pages = Vec::new();
    let mut before = None;
    for _ in 0..6 {
        let page = queue.harness.admin().newest_dead_letters(&all().page(before, 2)).await.expect("it lists");
        let Some(last) = page.last() else { break };
        before = Some(last.position);
        pages.push(page.iter().map(|letter| letter.id.to_string()).collect::<Vec<_>>());
    }
    assert_eq!(pages, [vec!["c", "b"], vec!["d", "a"], vec!["e"]]);
    let one = queue.harness.admin().newest_dead_letters(&only("d").page(None, 2)).await.expect("it lists");
    assert_eq!(one.len(), 1);
    let position = Some(one[0].position);
    assert_eq!(queue.harness.admin().newest_dead_letters(&only("d").page(position, 2)).await, Ok(Vec::new()));
    assert_eq!(queue.harness.admin().newest_dead_letters(&all().page(None, 0)).await, Ok(Vec::new()));
    // The bodies are those of the letters.
    let letters = queue.harness.admin().newest_dead_letters(&all().page(None, 10)).await.expect("it lists");
    let mut forwards = queue.dead_letters(&all()).await;
    forwards.reverse();
    assert_eq!(letters, forwards);
}

pub async fn dead_letters_are_summed_by_reason_and_type_in_steps(queue: Queue<impl QueueHarness>) {
    let failures = [
        ("a", Reason::StoreRefused, Some("user.created")),
        ("b", Reason::InvalidJson, None),
        ("c", Reason::StoreRefused, Some("user.created")),
        ("d", Reason::StoreRefused, Some("user.deleted")),
    ];
    for (id, reason, event_type) in failures {
        queue.enqueue(&[id]).await;
        let lease = queue.lease_one().await;
        let failure = Failure { reason, detail: String::new(), event_type: event_type.map(str::to_owned) };
        queue.settle(&lease, Settlement::DeadLetter { failure }).await;
        queue.harness.advance(Duration::from_secs(1));
    }
    let refused = DeadLetterFilter { reason: Some("store_refused".into()), ..all() };
    for (filter, expected) in [
        (
            all(),
            vec![
                (Reason::InvalidJson, None, 1),
                (Reason::StoreRefused, Some("user.created"), 2),
                (Reason::StoreRefused, Some("user.deleted"), 1),
            ],
        ),
        (
            refused,
            vec![
                (Reason::StoreRefused, Some("user.created"), 2),
                (Reason::StoreRefused, Some("user.deleted"), 1),
            ],
        ),
        (only("b"), vec![(Reason::InvalidJson, None, 1)]),
        (only("x"), vec![]),
    ] {
        let (mut sums, mut after, mut steps) = (DeadLetterSums::default(), None, 0);
        loop {
            let step = queue.harness.admin().sum_dead_letters(&filter.page(after, 3)).await.expect("it sums");
            for (group, sum) in step.groups {
                sums.add_sum(group, sum);
            }
            (after, steps) = (step.next, steps + 1);
            if after.is_none() || steps > 5 {
                break;
            }
        }
        let found: Vec<_> = sums
            .groups
            .iter()
            .map(|((reason, event_type), sum)| (*reason, event_type.as_deref(), sum.count))
            .collect();
        assert_eq!(found, expected, "{filter:?}");
    }
    let sums = queue.harness.admin().sum_dead_letters(&all().page(None, 10)).await.expect("it sums");
    let created = &sums.groups[&(Reason::StoreRefused, Some("user.created".to_owned()))];
    let newest = &queue.dead_letters(&only("c")).await[0];
    assert_eq!(created.newest_at, newest.parked_at);
}

async fn records(queue: &Queue<impl QueueHarness>, id: &str) -> Vec<Discard> {
    queue.harness.admin().discards(&MessageId::new(id)).await.expect("it reads")
}

pub async fn a_discard_leaves_a_record_without_the_body(mut queue: Queue<impl QueueHarness>) {
    queue.park(&["a", "b"]).await;
    let parked = queue.dead_letters(&only("a")).await.remove(0);
    queue.harness.advance(TICK);
    let now = queue.now();
    assert_eq!(records(&queue, "a").await, []);
    assert_eq!(queue.discard(&only("a"), 10).await, 1);
    queue.harness.reopen().await;
    let expected = Discard {
        discarded_at: now,
        parked_at: parked.parked_at,
        attempts: parked.attempts,
        failure: parked.failure.clone(),
    };
    assert_eq!(records(&queue, "a").await, std::slice::from_ref(&expected));
    assert_eq!(records(&queue, "b").await, []);
    // A message that comes again and is discarded again has two records.
    queue.park(&["a"]).await;
    queue.harness.advance(TICK);
    assert_eq!(queue.discard(&only("a"), 10).await, 1);
    let twice = records(&queue, "a").await;
    assert_eq!((twice.len(), &twice[0]), (2, &expected));
    // What is redriven or removed leaves none.
    assert_eq!(queue.redrive(&only("b"), 10).await, 1);
    assert_eq!(records(&queue, "b").await, []);
}

pub async fn statistics_add_up(queue: Queue<impl QueueHarness>) {
    assert_eq!(queue.stats().await, QueueStats::default());
    queue.park(&["dead"]).await;
    let first = queue.delivery("first");
    queue.enqueue(&["first"]).await;
    queue.harness.advance(TICK);
    let later = queue.now();
    queue.enqueue(&["second", "third"]).await;
    let leases = queue.lease(2).await;
    let oldest_received_at = Some(first.received_at);
    let expected = QueueStats { ready: 1, leased: 2, delayed: 0, dead: 1, oldest_received_at };
    assert_eq!(queue.stats().await, expected);

    queue.settle(&leases[1], retry()).await;
    let expected = QueueStats { leased: 1, delayed: 1, ..expected };
    assert_eq!(queue.stats().await, expected);
    assert_eq!(expected.depth(), 3);

    queue.harness.advance(RETRY_AFTER);
    assert_eq!(
        queue.stats().await,
        QueueStats { ready: 2, delayed: 0, ..expected },
        "the backoff has passed"
    );
    queue.harness.advance(LEASE_FOR);
    let expected = QueueStats { ready: 3, leased: 0, delayed: 0, ..expected };
    assert_eq!(queue.stats().await, expected, "the lease has expired");

    queue.settle(&leases[0], Settlement::Ack).await;
    let expected = QueueStats { ready: 2, oldest_received_at: Some(later), ..expected };
    assert_eq!(queue.stats().await, expected, "the oldest remaining message counts");
}
