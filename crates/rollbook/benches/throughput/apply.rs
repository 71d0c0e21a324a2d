//! Events applied a second.

use std::time::{Duration, Instant};

use rollbook_core::change::{Effect, Field, SubjectChange};
use rollbook_core::queue::Producer as _;
use rollbook_core::{catalog, event};
use rollbook_simulator::history::Event;
use rollbook_sqlite::{QueueSettings, Schema, SqliteQueue, apply_migrations};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::Home;
use rusqlite::types::Value;

use crate::Scale;
use crate::load::{self, BINARY, per_second};
use crate::report::{Baseline, Report, median, progress};
use rollbook_testkit::queues::all_of;

pub(crate) const EVENTS: usize = 40_000;
/// The worker's default batch.
pub(crate) const BATCH: usize = 100;
const RAW_RATIO_MIN: f64 = 0.6;
const POLL: Duration = Duration::from_millis(20);

pub(crate) async fn measure(scale: Scale, report: &mut Report) {
    let history = load::history(EVENTS / scale.divisor);
    let mut turns = Vec::new();
    for turn in 0..scale.turns {
        progress(&format!("applying {} events, turn {}", history.events.len(), turn + 1));
        let raw = raw_upserts(&history.events);
        let (ours, memory) = drain(&history.events).await;
        report.memory("work", memory);
        turns.push((ours, raw));
    }
    let of = |figure: fn(&(f64, f64)) -> f64| median(turns.iter().map(figure));
    let (ours, raw, ratio) = (of(|turn| turn.0), of(|turn| turn.1), of(|turn| turn.0 / turn.1));
    let baseline = Baseline { name: "raw upserts", rate: raw, ratio, limit: Some(RAW_RATIO_MIN) };
    report.ratio("applied/s", ours, &baseline, &format!("batch {BATCH}"));
}

/// Fills a queue, then lets `rollbook work` drain it. Returns events a second and the peak of memory.
async fn drain(events: &[Event]) -> (f64, u64) {
    let home = Home::new(BINARY).with("ROLLBOOK_LOG", "warn");
    std::fs::create_dir_all(home.data()).expect("a folder");
    let path = home.data().join("queue.db");
    apply_migrations(&path, Schema::Queue).expect("a queue");
    apply_migrations(&home.data().join("store.db"), Schema::Store).expect("a store");
    let queue = SqliteQueue::open(
        &path,
        QueueSettings { depth_max: u64::MAX, due_ahead_max: Duration::from_secs(600) },
        std::sync::Arc::new(WallClock),
    );
    let queue = queue.expect("a queue");
    for batch in events.chunks(1_000) {
        let deliveries: Vec<_> = batch.iter().map(load::delivery).collect();
        all_of(queue.enqueue_many(&deliveries).await).expect("a durable batch");
    }
    drop(queue);
    let rollbook = home.start_ready(&["work"]).await;
    // From the first sight of progress to the end, so that starting the process does not count.
    let (started, already) = loop {
        let applied = applied(&home).await;
        if applied > 0 {
            break (Instant::now(), applied);
        }
    };
    while applied(&home).await < events.len() {
        tokio::time::sleep(POLL).await;
    }
    (per_second(events.len() - already, started.elapsed()), rollbook.memory_peak())
}

/// Returns the number of changes that a process has applied; `None` while it does not answer.
pub(crate) async fn applied(home: &Home) -> usize {
    let applied = home.metric("rollbook_applied_total").await.unwrap_or(0.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let applied = applied as usize;
    applied
}

/// The least that the same rows cost: the same tables, one prepared upsert each, commits of the same size.
pub(crate) fn raw_upserts(events: &[Event]) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("raw.db");
    apply_migrations(&path, Schema::Store).expect("the same tables");
    let connection = rusqlite::Connection::open(path).expect("a file");
    let settings = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000;";
    connection.execute_batch(settings).expect("settings");
    raw_upserts_into(&connection, events)
}

/// Measures raw upserts into existing tables.
pub(crate) fn raw_upserts_into(connection: &rusqlite::Connection, events: &[Event]) -> f64 {
    let rows: Vec<(usize, Vec<Value>)> = events.iter().filter_map(row).collect();
    let statements = catalog::RESOURCES.map(upsert);
    let mut upserts = statements.each_ref().map(|sql| connection.prepare(sql).expect("a statement"));
    let started = Instant::now();
    for batch in rows.chunks(BATCH) {
        connection.execute_batch("BEGIN IMMEDIATE").expect("a transaction");
        for (table, values) in batch {
            upserts[*table].execute(rusqlite::params_from_iter(values)).expect("a row");
        }
        connection.execute_batch("COMMIT").expect("a commit");
    }
    per_second(events.len(), started.elapsed())
}

const LAST: [&str; 10] = [
    "data",
    "created_at",
    "updated_at",
    "deleted_at",
    "synced_at",
    "synced_by",
    "version_updated_at",
    "version_event_at",
    "version_hash",
    "version_deleted_at",
];

fn upsert(resource: &'static catalog::Resource) -> String {
    let columns: Vec<&str> =
        ["id"].into_iter().chain(resource.columns.iter().map(|column| column.name)).chain(LAST).collect();
    let set: Vec<String> =
        columns[1..].iter().map(|column| format!("{column} = excluded.{column}")).collect();
    format!(
        "INSERT INTO {} ({}) VALUES ({}) ON CONFLICT (id) DO UPDATE SET {}",
        resource.table,
        columns.join(", "),
        vec!["?"; columns.len()].join(", "),
        set.join(", ")
    )
}

/// An event as the values of its row, made beforehand: the raw client has nothing to read.
fn row(event: &Event) -> Option<(usize, Vec<Value>)> {
    let Effect::Merge(subject_change) = event::parse(&event.body, None).ok()?.effect else {
        return None;
    };
    let SubjectChange { resource, id, version, row } = *subject_change;
    let table = catalog::RESOURCES.iter().position(|known| *known == resource)?;
    let time =
        |at: Option<rollbook_core::time::Timestamp>| at.map_or(Value::Null, |at| Value::Text(at.to_string()));
    let text = |text: &str| Value::Text(text.to_owned());
    let mut values = vec![Value::Text(id)];
    if let Some(row) = &row {
        values.extend(row.values.iter().map(|field| match field {
            Field::Null => Value::Null,
            Field::Text(value) | Field::Json(value) => text(value),
            Field::Integer(number) => Value::Integer(*number),
            Field::Bool(yes) => Value::Integer(i64::from(*yes)),
            Field::Time(at) => time(Some(*at)),
        }));
        values.extend([text(&row.data), time(row.created_at), time(row.updated_at), Value::Null]);
    } else {
        values.extend(resource.columns.iter().map(|_| Value::Null));
        values.extend([Value::Null, Value::Null, Value::Null, time(Some(event.at))]);
    }
    values.extend([time(Some(event.at)), text(event.id.as_str())]);
    values.extend([version.updated_at, version.event_at].map(Value::Integer));
    values.push(Value::Blob(version.hash.to_vec()));
    values.push(if version.is_deleted { Value::Integer(version.event_at) } else { Value::Null });
    Some((table, values))
}
