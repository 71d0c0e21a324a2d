//! Redis's memory: size of a message, and behaviour when the memory is full.

use std::time::Duration;

use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{
    Consumer as _, DeadLetterFilter, Enqueued, Producer as _, QueueAdmin as _, QueueError, Settlement,
};
use rollbook_core::time::Timestamp;
use rollbook_redis::RedisQueue;
use rollbook_simulator::history::{History, HistorySettings};
use rollbook_testkit::servers::redis::RedisServer;

use crate::removal::{listed, remove};
use crate::support::{
    LONG, dead_letter, discarded, drain, enqueue, ids, lease, leftovers, names, open, redriven, retry, set,
    settings, settle_all, start, stats, try_enqueue,
};
use rollbook_testkit::queues::{all_of, request};

fn memory(server: &RedisServer) -> u64 {
    let info = server.cli(&["info", "memory"]);
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("Redis counts");
    used.trim().parse().expect("a number")
}

fn limit(server: &RedisServer, bytes: u64) {
    assert_eq!(server.cli(&["config", "set", "maxmemory", &bytes.to_string()]), "OK");
}

fn assert_no_room(refused: &Result<Vec<Enqueued>, QueueError>) {
    let Err(QueueError::OutOfSpace(text)) = refused else { panic!("no room: {refused:?}") };
    assert!(text.contains("Redis at 127.0.0.1:") && text.contains("maxmemory"), "{text}");
}

#[tokio::test]
async fn memory_and_its_limit_are_reported_and_zero_means_no_limit() {
    let (server, queue) = start().await;
    let room = queue.space().await.expect("it may be asked");
    assert!(room.memory_used.is_some_and(|used| used > 100_000), "{room:?}");
    assert_eq!((room.memory_limit, room.disk_available), (None, None));
    limit(&server, 123_456_789);
    assert_eq!(queue.space().await.map(|room| room.memory_limit), Ok(Some(123_456_789)));
    // A user without this permission does not make the queue unhealthy.
    server.cli(&["acl", "setuser", "default", "-info"]);
    assert_eq!(queue.space().await.map(|room| room.memory_used), Ok(None));
}

#[tokio::test]
async fn without_free_memory_deliveries_are_refused_and_everything_else_works() {
    let (server, queue) = start().await;
    enqueue(&queue, &names("msg", 0..50)).await;
    limit(&server, 1);
    let refuse = async |queue: &RedisQueue| {
        assert_no_room(&try_enqueue(queue, &names("more", 0..5)).await);
        // Duplicates are not detected then either.
        assert_no_room(&try_enqueue(queue, &names("msg", 0..5)).await);
    };
    refuse(&queue).await;
    assert_eq!((stats(&queue).await.depth(), stats(&queue).await.ready), (50, 50));

    assert_eq!(listed(&queue, 20).await.len(), 50);
    assert_eq!(remove(&queue, &names("msg", 45..50)).await, Ok(5));
    let leases = lease(&queue, 40).await;
    settle_all(&queue, &leases[..10], &Settlement::Ack).await;
    settle_all(&queue, &leases[10..20], &retry(Duration::ZERO)).await;
    settle_all(&queue, &leases[20..30], &dead_letter()).await;
    settle_all(&queue, &leases[30..], &Settlement::Release).await;
    assert_eq!(redriven(&queue, &DeadLetterFilter::default(), 5).await, Ok(5));
    assert_eq!(discarded(&queue, &DeadLetterFilter::default(), 5).await, Ok(5));
    refuse(&queue).await;

    // Also for a process that starts now, on a server without scripts and group.
    server.cli(&["script", "flush"]);
    server.cli(&["xgroup", "destroy", "{rollbook:0}:new", "workers"]);
    server.cli(&["xgroup", "destroy", "{rollbook:0}:again", "workers"]);
    let other = open(settings(server.url()));
    refuse(&other).await;
    assert_eq!(drain(&other).await.len(), 30);
    assert_eq!(leftovers(&server, 1), [""; 0]);
    limit(&server, 0);
    enqueue(&queue, &names("more", 0..5)).await;
}

#[tokio::test]
async fn draining_frees_memory_for_deliveries() {
    let (server, queue) = start().await;
    enqueue(&queue, &names("first", 0..1)).await;
    limit(&server, memory(&server) + 2 * 1024 * 1024);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut big = |id: String| {
        let body = std::iter::repeat_with(|| rng.u8(..)).take(10_000).collect::<Vec<_>>();
        Delivery {
            id: MessageId::new(id),
            received_at: Timestamp::from_millis(0),
            traceparent: None,
            body: body.into(),
        }
    };
    let mut taken = 0;
    let refused = loop {
        let batch: Vec<Delivery> = names("big", taken..taken + 10).into_iter().map(&mut big).collect();
        match all_of(queue.enqueue_many(&batch).await) {
            Ok(answers) => assert_eq!(answers, [Enqueued::Queued; 10]),
            refused => break refused,
        }
        taken += 10;
        assert!(taken < 1_000, "the limit holds");
    };
    assert_no_room(&refused);
    assert!(taken > 50, "{taken}");
    let depth = u64::try_from(taken).expect("few") + 1;
    assert_eq!(stats(&queue).await.depth(), depth, "refused deliveries enqueued nothing");
    let request = request(1_000, LONG, Duration::ZERO);
    let leases = queue.lease(request).await.expect("the queue gives");
    settle_all(&queue, &leases, &Settlement::Ack).await;
    enqueue(&queue, &names("later", 0..10)).await;
    assert_eq!(ids(&lease(&queue, 100).await), set(&names("later", 0..10)));
}

#[tokio::test]
async fn a_waiting_message_needs_less_memory_than_the_bytes_of_its_body() {
    const COUNT: usize = 50_000;
    let (server, queue) = start().await;
    let history = History::generate(&HistorySettings::default());
    let event = |number: usize| &history.events[number % history.events.len()];
    // Ids of Svix's length.
    let id = |number: usize| MessageId::new(format!("msg_{number:027}"));
    let deliver = |number| Delivery {
        id: id(number),
        received_at: event(number).at,
        traceparent: None,
        body: event(number).body.clone(),
    };
    let deliveries: Vec<Delivery> = (0..COUNT).map(deliver).collect();
    // The fixed costs of a server and a queue do not count.
    enqueue(&queue, &names("first", 0..1)).await;
    drain(&queue).await;
    let before = memory(&server);
    for batch in deliveries.chunks(1_000) {
        all_of(queue.enqueue_many(batch).await).expect("the queue takes it");
    }
    let taken = memory(&server) - before;
    let bodies: usize = deliveries.iter().map(|delivery| delivery.body.len()).sum();
    let share = f64::from(u32::try_from(taken).expect("some MiB"))
        / f64::from(u32::try_from(bodies).expect("some MiB"));
    println!(
        "{} bytes of memory for each waiting message with a body of {} bytes: {share:.2}",
        taken / COUNT as u64,
        bodies / COUNT
    );
    assert!(share < 1.0, "{share}");
}
