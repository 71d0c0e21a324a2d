//! Events applied a second from Redis to Postgres, and what an event costs of Redis's memory until then.

use std::time::Duration;

use rollbook_core::queue::Producer as _;
use rollbook_simulator::history::Event;
use rollbook_testkit::process::{Home, Process};
use rollbook_testkit::servers::postgres::PostgresServer;
use rollbook_testkit::servers::redis::RedisServer;

use super::{
    home, info, new_database, postgres_sharer, queue, raw_postgres, redis_sharer, start_postgres,
    start_redis, turns,
};
use crate::Scale;
use crate::apply::{BATCH, EVENTS, applied};
use crate::cpu::{Split, Watch, Who};
use crate::load::{self, per_second};
use crate::report::{Baseline, Report, median, progress};
use rollbook_testkit::queues::all_of;

const WORKERS: [usize; 2] = [1, 2];
const RAW_RATIO_MIN: f64 = 0.6;
/// Each look makes a worker count what is in Redis, too.
pub(super) const POLL: Duration = Duration::from_millis(50);

pub(crate) async fn measure(scale: Scale, report: &mut Report) {
    let history = load::history(EVENTS / scale.divisor);
    let events = &history.events[..];
    let postgres = start_postgres().await;
    let (mut raws, mut drained, mut memory) = (Vec::new(), [Vec::new(), Vec::new()], 0);
    for turn in 0..turns(scale) {
        progress(&format!("raw upserts on Postgres, turn {}", turn + 1));
        let database = new_database(&postgres, &format!("raw_{turn}")).await;
        raws.push(raw_postgres::upserts(events, &database).await);
        for (workers, drained) in WORKERS.into_iter().zip(&mut drained) {
            progress(&format!("applying from Redis to Postgres, {workers} at work, turn {}", turn + 1));
            let redis = start_redis().await;
            memory = fill(&redis, events).await;
            let database = format!("ours_{turn}_{workers}");
            drained.push(drain(events.len(), workers, &redis, &postgres, &database, report).await);
        }
    }
    for (workers, drained) in WORKERS.into_iter().zip(&drained) {
        report_drained(report, workers, drained, &raws);
    }
    let bodies: usize = events.iter().map(|event| event.body.len()).sum();
    report.bytes("Redis memory per queued event", memory, "mean body", bodies, events.len());
}

fn report_drained(report: &mut Report, workers: usize, drained: &[Drained], raws: &[f64]) {
    let ratio = median(drained.iter().zip(raws).map(|(ours, raw)| ours.rate / raw));
    let baseline = Baseline {
        name: "raw upserts",
        rate: median(raws.iter().copied()),
        ratio,
        limit: Some(RAW_RATIO_MIN),
    };
    let rate = median(drained.iter().map(|drained| drained.rate));
    let shown = drained
        .iter()
        .find(|drained| drained.rate.total_cmp(&rate).is_eq())
        .expect("the median is one of them");
    let detail = format!("batch {BATCH}; raw: 1 connection, no queue, no ledger; {}", shown.split.text);
    report.ratio(&format!("applied/s, Redis to Postgres, {workers} at work"), rate, &baseline, &detail);
}

struct Drained {
    /// Events a second.
    rate: f64,
    /// CPU time meanwhile.
    split: Split,
}

/// Fills the queue. Returns by how many bytes Redis's memory grew.
async fn fill(redis: &RedisServer, events: &[Event]) -> usize {
    let queue = queue(redis, true);
    let before: usize = info(redis, "used_memory");
    for batch in events.chunks(1_000) {
        let deliveries: Vec<_> = batch.iter().map(load::delivery).collect();
        all_of(queue.enqueue_many(&deliveries).await).expect("a durable batch");
    }
    info::<usize>(redis, "used_memory") - before
}

/// Lets workers drain the queue.
async fn drain(
    events: usize,
    workers: usize,
    redis: &RedisServer,
    postgres: &PostgresServer,
    database: &str,
    report: &mut Report,
) -> Drained {
    new_database(postgres, database).await;
    let store = postgres_sharer(postgres).await;
    let workers: Vec<(Home, Process)> = (0..workers)
        .map(|_| {
            let home = home(redis).with("DATABASE_URL", postgres.url(database));
            let process = home.start(&["work"]);
            (home, process)
        })
        .collect();
    let sharers = [("workers", Who::children_with("work")), redis_sharer(redis), store];
    // From the first sight of progress to the end, so that starting the processes does not count.
    let (watch, already) = loop {
        let applied = applied_by(&workers).await;
        if applied > 0 {
            break (Watch::start(&sharers), applied);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    while applied_by(&workers).await < events {
        tokio::time::sleep(POLL).await;
    }
    let drained = Drained { rate: per_second(events - already, watch.elapsed()), split: watch.split() };
    for (_, process) in &workers {
        report.memory("work on Redis and Postgres", process.memory_peak());
    }
    drained
}

/// Returns the number of changes that these processes have applied together.
pub(super) async fn applied_by(workers: &[(Home, Process)]) -> usize {
    let mut sum = 0;
    for (home, _) in workers {
        sum += applied(home).await;
    }
    sum
}
