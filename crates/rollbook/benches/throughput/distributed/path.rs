//! The whole path with everything on this machine: load generator, receiver, Redis, workers, Postgres.

use rollbook_testkit::process::{Home, Process};
use rollbook_testkit::servers::postgres::PostgresServer;

use super::apply::{POLL, applied_by};
use super::{home, new_database, postgres_sharer, redis_sharer, start_postgres, start_redis, turns};
use crate::Scale;
use crate::cpu::{Split, Who};
use crate::hammer::{hammer, requests};
use crate::load::{self, per_second};
use crate::report::{Report, median, progress};

const EVENTS: usize = 40_000;
const CONNECTIONS: usize = 64;
const WORKERS: [usize; 2] = [1, 2];
/// Events a second that are to be reached.
const RATE_MIN: f64 = 5_000.0;

pub(crate) async fn measure(scale: Scale, report: &mut Report) {
    let postgres = start_postgres().await;
    for workers in WORKERS {
        let mut runs = Vec::new();
        for turn in 0..turns(scale) {
            progress(&format!("the whole path, {workers} at work, turn {}", turn + 1));
            let database = format!("path_{workers}_{turn}");
            runs.push(run(EVENTS / scale.divisor, workers, &postgres, &database, report).await);
        }
        let of = |figure: fn(&Run) -> f64| median(runs.iter().map(figure));
        let rate = of(|run| run.rate);
        let shown =
            runs.iter().find(|run| run.rate.total_cmp(&rate).is_eq()).expect("the median is one of them");
        let detail = format!("acknowledged at {:.0}/s; {}", shown.acknowledged, shown.split.text);
        report.rate(&format!("events/s, the whole path, {workers} at work"), rate, RATE_MIN, &detail);
    }
}

struct Run {
    /// Events a second from the first delivery until all are applied.
    rate: f64,
    acknowledged: f64,
    /// CPU time meanwhile.
    split: Split,
}

async fn run(
    count: usize,
    workers: usize,
    postgres: &PostgresServer,
    database: &str,
    report: &mut Report,
) -> Run {
    let events = load::history(count).events;
    let requests = requests(&events);
    let redis = start_redis().await;
    new_database(postgres, database).await;
    let receiver = home(&redis);
    let receiving = receiver.start_ready(&["receive"]).await;
    let mut working: Vec<(Home, Process)> = Vec::new();
    for _ in 0..workers {
        let home = home(&redis).with("DATABASE_URL", postgres.url(database));
        let process = home.start_ready(&["work"]).await;
        working.push((home, process));
    }
    let sharers = [
        ("generator", Who::this()),
        ("receiver", Who::children_with("receive")),
        ("workers", Who::children_with("work")),
        redis_sharer(&redis),
        postgres_sharer(postgres).await,
    ];
    let sent = hammer(receiver.listen, &requests, CONNECTIONS, None, &sharers).await;
    while applied_by(&working).await < events.len() {
        tokio::time::sleep(POLL).await;
    }
    let elapsed = sent.watch.elapsed();
    let split = sent.watch.split();
    report.memory("receive on Redis", receiving.memory_peak());
    for (_, process) in &working {
        report.memory("work on Redis and Postgres", process.memory_peak());
    }
    Run {
        rate: per_second(events.len(), elapsed),
        acknowledged: per_second(events.len(), sent.elapsed),
        split,
    }
}
