//! Cost of a long queue: enqueue and lease on Redis, without and with a backlog.

use std::time::Instant;

use rollbook_redis::RedisQueue;
use rollbook_simulator::history::{Event, History};
use rollbook_testkit::servers::redis::RedisServer;

use super::{home, queue, start_redis, turns};
use crate::Scale;
use crate::load::{self, per_second};
use crate::report::{Baseline, Report, median, progress};
use crate::scrape::{self, WAITING, give_out, take_in};

const MOVED: usize = 20_000;
const BATCH: usize = 100;
/// Minimum ratio of the speed with a backlog to the speed without one.
const RATIO_MIN: f64 = 0.9;

/// Messages a second.
struct Rates {
    taken_in: f64,
    given_out: f64,
}

pub(crate) async fn measure(scale: Scale, report: &mut Report) {
    let history = load::history(2_000);
    let waiting = WAITING / scale.divisor;
    progress(&format!("a backlog of {waiting}"));
    let (empty, full) = (start_redis().await, start_redis().await);
    fill(&full, &history, waiting).await;
    // Both at a time, so that a slower minute of the machine slows both.
    let receiver = home(&full);
    let (empty, full) = (queue(&empty, true), queue(&full, true));
    let mut measured = Vec::new();
    for turn in 0..turns(scale) {
        progress(&format!("with a backlog of {waiting}, turn {}", turn + 1));
        let events = load::fresh(&history, &format!("moved_{turn}"), MOVED / scale.divisor);
        measured.push((through(&empty, &events).await, through(&full, &events).await));
    }
    let mut line = |what, figure: fn(&Rates) -> f64| {
        let of = |figure: &dyn Fn(&(Rates, Rates)) -> f64| median(measured.iter().map(figure));
        let ratio = of(&|(empty, full)| figure(full) / figure(empty));
        let rate = of(&|(empty, _)| figure(empty));
        let baseline = Baseline { name: "with an empty queue", rate, ratio, limit: Some(RATIO_MIN) };
        report.ratio(
            what,
            of(&|(_, full)| figure(full)),
            &baseline,
            &format!("{waiting} waiting; batch {BATCH}"),
        );
    };
    line("enqueued/s with a backlog", |rates| rates.taken_in);
    line("leased and settled/s with a backlog", |rates| rates.given_out);
    scrape::with_backlog(&full, &receiver, "Redis", &history, scale, report).await;
}

/// Not waiting for the disk, which is not what is measured.
async fn fill(redis: &RedisServer, history: &History, waiting: usize) {
    redis.cli(&["CONFIG", "SET", "appendfsync", "no"]);
    scrape::fill(&queue(redis, false), history, waiting).await;
    redis.cli(&["CONFIG", "SET", "appendfsync", "always"]);
}

async fn through(queue: &RedisQueue, events: &[Event]) -> Rates {
    let started = Instant::now();
    take_in(queue, events, BATCH).await;
    let taken_in = per_second(events.len(), started.elapsed());
    let started = Instant::now();
    give_out(queue, events.len()).await;
    Rates { taken_in, given_out: per_second(events.len(), started.elapsed()) }
}
