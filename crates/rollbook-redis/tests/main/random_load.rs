//! Random load: lanes of several processes do at random everything that lanes may do, then the result is
//! checked.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rollbook_core::queue::{
    Consumer as _, DeadLetterFilter, QueueAdmin as _, QueueError, Settled, Settlement,
};
use rollbook_redis::RedisQueue;
use rollbook_testkit::process::until;
use rollbook_testkit::queues::request;
use tokio::task::JoinSet;

use crate::support::{dead_letter, drain, has_own_body, names, redriven, retry, stats, try_enqueue};

/// Events so far.
#[derive(Default)]
struct Seen {
    /// Acknowledged as durable.
    accepted: BTreeSet<String>,
    /// Settled by the holder of the lease, or possibly settled: an error leaves it open.
    ended: BTreeSet<String>,
    errors: Vec<QueueError>,
    is_over: bool,
}

/// A running random_load.
pub(crate) struct RandomLoad {
    seen: Arc<Mutex<Seen>>,
    producers: JoinSet<()>,
    workers: JoinSet<()>,
    total: usize,
}

impl RandomLoad {
    /// Starts two producers and two workers on each queue.
    pub(crate) fn begin(queues: &[Arc<RedisQueue>], total: usize, chance: u64) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (mut producers, mut workers) = (JoinSet::new(), JoinSet::new());
        let count = queues.len() * 2;
        for (lane, queue) in (0..count).zip(queues.iter().cycle()) {
            let share = names("msg", total * lane / count..total * (lane + 1) / count);
            let rng =
                |kind| fastrand::Rng::with_seed(chance * 100 + kind + u64::try_from(lane).expect("few"));
            producers.spawn(produce(Arc::clone(queue), share, Arc::clone(&seen), rng(0)));
            workers.spawn(work(Arc::clone(queue), Arc::clone(&seen), rng(50)));
        }
        Self { seen, producers, workers, total }
    }

    /// Waits until `count` further messages have been settled, or all.
    pub(crate) async fn until_more_have_ended(&self, count: usize) {
        let ended = || self.seen.lock().expect("no panic").ended.len();
        let enough = (ended() + count).min(self.total);
        until("messages end", || std::future::ready(ended() >= enough)).await;
    }

    /// Waits for the end, and fails if a message is lost or stuck. Returns the errors that occurred.
    pub(crate) async fn end(mut self, queue: &RedisQueue) -> Vec<QueueError> {
        while let Some(ended) = self.producers.join_next().await {
            ended.expect("no panic");
        }
        until("nothing waits and nothing is leased", || async {
            queue.stats().await.is_ok_and(|stats| stats.depth() == 0)
        })
        .await;
        // Not aborted: a worker must record everything that it has settled.
        self.seen.lock().expect("no panic").is_over = true;
        while let Some(ended) = self.workers.join_next().await {
            ended.expect("no panic");
        }
        let seen = std::mem::take(&mut *self.seen.lock().expect("no panic"));
        assert_eq!(seen.accepted.len(), self.total);
        let lost: Vec<_> = seen.accepted.difference(&seen.ended).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        let dead = stats(queue).await.dead;
        assert!(dead > 0, "no message became a dead letter");
        let redriven = redriven(queue, &DeadLetterFilter::default(), 100_000).await.expect("a step");
        assert_eq!((redriven as u64, drain(queue).await.len() as u64), (dead, dead));
        seen.errors
    }
}

/// Sends its share in batches of random size, each repeatedly until it is acknowledged.
async fn produce(queue: Arc<RedisQueue>, share: Vec<String>, seen: Arc<Mutex<Seen>>, mut rng: fastrand::Rng) {
    let mut rest = &share[..];
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(rng.usize(1..=20).min(rest.len()));
        match try_enqueue(&queue, batch).await {
            Ok(answers) => {
                assert!(answers.len() == batch.len());
                seen.lock().expect("no panic").accepted.extend(batch.iter().cloned());
                rest = after;
                // Svix sends some deliveries twice. Those already done are processed again.
                if rng.u8(..10) == 0 {
                    let again = try_enqueue(&queue, batch).await;
                    assert!(again.is_err() || again.is_ok_and(|answers| answers.len() == batch.len()));
                }
            }
            Err(error) => {
                seen.lock().expect("no panic").errors.push(error);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Leases and settles at random, and sometimes lets a lease expire.
async fn work(queue: Arc<RedisQueue>, seen: Arc<Mutex<Seen>>, mut rng: fastrand::Rng) {
    while !seen.lock().expect("no panic").is_over {
        let (lease_for, wait) = (rng.u64(30..300), rng.u64(0..50));
        let (lease_for, wait) = (Duration::from_millis(lease_for), Duration::from_millis(wait));
        let request = request(rng.usize(1..=30), lease_for, wait);
        let leases = match queue.lease(request).await {
            Ok(leases) => leases,
            Err(error) => {
                seen.lock().expect("no panic").errors.push(error);
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
        };
        assert!(leases.iter().all(has_own_body), "each message has its own body");
        let settlements = leases.into_iter().filter_map(|lease| {
            let settlement = match rng.u8(..100) {
                0..72 => Settlement::Ack,
                72..75 => dead_letter(),
                75..88 => retry(Duration::from_millis(rng.u64(0..30))),
                88..95 => Settlement::Release,
                // A worker that crashes.
                _ => return None,
            };
            Some((lease, settlement))
        });
        let settlements: Vec<_> = settlements.collect();
        // A worker that stalls: half of its leases expire meanwhile.
        if rng.u8(..20) == 0 {
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        let answers = queue.settle_many(&settlements).await;
        let mut seen = seen.lock().expect("no panic");
        let stood = |index: usize| answers[index].as_ref().map_or(true, |answer| *answer == Settled::Done);
        for (index, (lease, settlement)) in settlements.iter().enumerate() {
            let is_end = matches!(settlement, Settlement::Ack | Settlement::DeadLetter { .. });
            if is_end && stood(index) {
                seen.ended.insert(lease.id.to_string());
            }
        }
        seen.errors.extend(answers.into_iter().filter_map(Result::err));
    }
}
