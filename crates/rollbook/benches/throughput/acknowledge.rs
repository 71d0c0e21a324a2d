//! Durable acknowledgements a second.
//!
//! Three baselines: the HTTP stack alone, with both cores for it and the load generator; raw inserts
//! alone, with one core; and what the two come to when they share the cores, which is the most that any
//! receiver with this HTTP stack and this disk could reach on this machine.

use std::time::Instant;

use rollbook_simulator::history::Event;
use rollbook_testkit::process::Home;

use crate::Scale;
use crate::hammer::{hammer, requests};
use crate::load::{self, BINARY, NullReceiver, per_second};
use crate::report::{Baseline, Report, median, progress};

/// Connections, and deliveries to send over them.
const LOADS: [(usize, usize); 4] = [(1, 4_000), (16, 30_000), (64, 100_000), (256, 100_000)];
/// The ratio to raw inserts that must be reached from 64 connections on.
const RAW_RATIO_MIN: f64 = 0.7;

pub(crate) async fn measure(scale: Scale, report: &mut Report) {
    let history = load::history(2_000);
    let null = NullReceiver::start().await;
    for (connections, deliveries) in LOADS {
        let count = (deliveries / scale.divisor).max(connections);
        let mut turns = Vec::new();
        for turn in 0..scale.turns {
            progress(&format!("acknowledgements, {connections} connections, turn {}", turn + 1));
            let events = load::fresh(&history, &format!("{connections}_{turn}"), count);
            // A fresh file for each turn, as the raw client has.
            let home = Home::new(BINARY).with("ROLLBOOK_LOG", "warn");
            home.migrate();
            let rollbook = home.start_ready(&["receive"]).await;
            turns.push(measure_turn(&events, connections, &null, &home).await);
            report.memory("receive", rollbook.memory_peak());
        }
        report_turns(report, connections, &turns);
    }
}

struct Turn {
    null: f64,
    ours: f64,
    raw: f64,
    batch: f64,
}

impl Turn {
    /// A delivery takes both cores for `1 / null` seconds and one of them for `1 / raw`.
    fn together(&self) -> f64 {
        1.0 / (1.0 / self.null + 0.5 / self.raw)
    }
}

async fn measure_turn(events: &[Event], connections: usize, null: &NullReceiver, home: &Home) -> Turn {
    let requests = requests(events);
    let rate = async |address| {
        per_second(events.len(), hammer(address, &requests, connections, None, &[]).await.elapsed)
    };
    let null = rate(null.address).await;
    let before = enqueued(home).await;
    let ours = rate(home.listen).await;
    let batch = batch_between(before, enqueued(home).await);
    Turn { null, ours, raw: raw_inserts(events, batch), batch }
}

/// Deliveries and batches that the receiver has enqueued.
pub(crate) async fn enqueued(home: &Home) -> (f64, f64) {
    let metric = async |name: &str| {
        home.metric_with(&format!("rollbook_batch_size_{name}"), "enqueue").await.expect("a metric")
    };
    (metric("sum").await, metric("count").await)
}

/// The mean batch between two moments.
pub(crate) fn batch_between(before: (f64, f64), after: (f64, f64)) -> f64 {
    (after.0 - before.0) / (after.1 - before.1)
}

/// The least that durable inserts cost: one table, one prepared statement, commits of the same size.
fn raw_inserts(events: &[Event], batch: f64) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let connection = rusqlite::Connection::open(folder.path().join("raw.db")).expect("a file");
    connection
        .execute_batch(
            "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA wal_autocheckpoint = 2000;
             CREATE TABLE raw (id TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;",
        )
        .expect("a table");
    let mut insert = connection.prepare("INSERT INTO raw (id, body) VALUES (?1, ?2)").expect("a statement");
    let started = Instant::now();
    for batch in load::batches(events, batch) {
        connection.execute_batch("BEGIN IMMEDIATE").expect("a transaction");
        for event in batch {
            insert.execute((event.id.as_str(), &event.body[..])).expect("a row");
        }
        connection.execute_batch("COMMIT").expect("a commit");
    }
    per_second(events.len(), started.elapsed())
}

fn report_turns(report: &mut Report, connections: usize, turns: &[Turn]) {
    let of = |figure: &dyn Fn(&Turn) -> f64| median(turns.iter().map(figure));
    let what = format!("acknowledged/s, {connections} connections");
    let (ours, detail) = (of(&|turn| turn.ours), format!("batch {:.1}", of(&|turn| turn.batch)));
    let mut against = |name, theirs: fn(&Turn) -> f64, limit| {
        let ratio = of(&|turn| turn.ours / theirs(turn));
        report.ratio(&what, ours, &Baseline { name, rate: of(&theirs), ratio, limit }, &detail);
    };
    against("HTTP without a queue", |turn| turn.null, None);
    against("both on these cores", Turn::together, None);
    against("raw inserts", |turn| turn.raw, (connections >= 64).then_some(RAW_RATIO_MIN));
}
