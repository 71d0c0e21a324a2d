//! Cost of Prometheus while a million messages wait: `/metrics` is requested while messages are processed.
//!
//! A scrape every 5 s takes less than a run differs from the next. So it is asked [`TOO_OFTEN`] times as often, and may
//! cost that many times as much.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rollbook_core::queue::{Consumer, Producer, Settlement};
use rollbook_simulator::history::{Event, History};
use rollbook_sqlite::{QueueSettings, SqliteQueue};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::Home;

use crate::Scale;
use crate::load::{self, BINARY, per_second};
use crate::report::{Baseline, Report, median, progress};
use rollbook_testkit::queues::{all_of, request};

pub(crate) const WAITING: usize = 1_000_000;
const MOVED: usize = 60_000;
const BATCH: usize = 100;
/// Interval of scrapes in the configuration of Prometheus (`ops/prometheus`).
const EVERY: Duration = Duration::from_secs(5);
const TOO_OFTEN: u32 = 20;
/// Maximum loss of throughput by a scrape every 5 s.
const COST_MAX: f64 = 0.01;
const ANSWER_MAX: Duration = Duration::from_millis(100);

/// Measures the embedded queue. The queue on Redis is measured with its backlog.
pub(crate) async fn measure(scale: Scale, report: &mut Report) {
    let history = load::history(2_000);
    let home = Home::new(BINARY).with("ROLLBOOK_LOG", "warn");
    home.migrate();
    let settings = QueueSettings { depth_max: u64::MAX, due_ahead_max: Duration::from_secs(600) };
    let queue = SqliteQueue::open(&home.data().join("queue.db"), settings, Arc::new(WallClock));
    let queue = queue.expect("a queue");
    let waiting = WAITING / scale.divisor;
    progress(&format!("a backlog of {waiting} in a file"));
    fill(&queue, &history, waiting).await;
    with_backlog(&queue, &home, "SQLite", &history, scale, report).await;
}

/// Moves messages through a queue with a backlog, with and without scrapes of a receiver.
pub(crate) async fn with_backlog(
    queue: &(impl Producer + Consumer),
    home: &Home,
    engine: &str,
    history: &History,
    scale: Scale,
    report: &mut Report,
) {
    let _receiver = home.start_ready(&["receive"]).await;
    let (mut turns, mut answers) = (Vec::new(), Vec::new());
    for turn in 0..scale.turns {
        progress(&format!("scraped with a backlog on {engine}, turn {}", turn + 1));
        let events = |kind| load::fresh(history, &format!("{kind}_{turn}"), MOVED / scale.divisor);
        let alone = through(queue, &events("alone")).await;
        let events = events("scraped");
        let moving = through(queue, &events);
        let scraped = tokio::select! {
            rate = moving => rate,
            () = scrape(home, &mut answers) => unreachable!("it never ends"),
        };
        turns.push((scraped, alone));
    }
    let of = |figure: fn(&(f64, f64)) -> f64| median(turns.iter().map(figure));
    let baseline = Baseline {
        name: "without scraping",
        rate: of(|turn| turn.1),
        ratio: of(|turn| turn.0 / turn.1),
        limit: Some(1.0 - COST_MAX * f64::from(TOO_OFTEN)),
    };
    let waiting = WAITING / scale.divisor;
    let detail = format!("{waiting} waiting; scraped every {:?}", EVERY / TOO_OFTEN);
    report.ratio(&format!("moved/s while scraped, {engine}"), of(|turn| turn.0), &baseline, &detail);
    answers.sort_unstable();
    let longest = answers.last().copied().unwrap_or_default();
    let detail = format!("{} answers, p50 {:?}", answers.len(), answers[answers.len() / 2]);
    report.answer(&format!("/metrics meanwhile, {engine}, the longest"), longest, ANSWER_MAX, &detail);
}

/// Scrapes until it is dropped.
async fn scrape(home: &Home, answers: &mut Vec<Duration>) {
    let mut times = tokio::time::interval(EVERY / TOO_OFTEN);
    loop {
        times.tick().await;
        let started = Instant::now();
        let answer = home.ops_get("/metrics").await.expect("an answer");
        assert!(answer.body.contains("\nrollbook_queue_depth"), "the queue's gauges are among them");
        answers.push(started.elapsed());
    }
}

pub(crate) async fn fill(queue: &impl Producer, history: &History, waiting: usize) {
    let mut filled = 0;
    while filled < waiting {
        let events = load::fresh(history, &format!("waiting_{filled}"), (waiting - filled).min(20_000));
        filled += events.len();
        take_in(queue, &events, 1_000).await;
    }
}

/// Messages a second that come in and are given out.
async fn through(queue: &(impl Producer + Consumer), events: &[Event]) -> f64 {
    let started = Instant::now();
    take_in(queue, events, BATCH).await;
    give_out(queue, events.len()).await;
    per_second(events.len(), started.elapsed())
}

pub(crate) async fn take_in(queue: &impl Producer, events: &[Event], batch: usize) {
    for batch in events.chunks(batch) {
        let deliveries: Vec<_> = batch.iter().map(load::delivery).collect();
        all_of(queue.enqueue_many(&deliveries).await).expect("a durable batch");
    }
}

pub(crate) async fn give_out(queue: &impl Consumer, count: usize) {
    let mut settled = 0;
    while settled < count {
        let request = request(BATCH, Duration::from_secs(60), Duration::ZERO);
        let leases = queue.lease(request).await.expect("leases");
        settled += leases.len();
        let settlements: Vec<_> = leases.into_iter().map(|lease| (lease, Settlement::Ack)).collect();
        all_of(queue.settle_many(&settlements).await).expect("settled");
    }
}
