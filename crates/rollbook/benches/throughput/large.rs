//! Large tables: applying to two million users and four million ledger entries, compared with raw upserts into the same
//! tables, on both engines.
//!
//! The store is used as a worker uses it, without queue and process: what is measured is what tables of this size
//! cost. Events are about users picked at random, so nearly each one needs pages that no other one needs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rollbook_core::change::Change;
use rollbook_core::delivery::MessageId;
use rollbook_core::event;
use rollbook_core::store::FullStore;
use rollbook_core::time::Timestamp;
use rollbook_simulator::history::Event;
use rollbook_sqlite::{Schema, SqliteStore, apply_migrations};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::events;

use crate::Scale;
use crate::apply::{BATCH, raw_upserts_into, without_triggers};
use crate::load::{self, per_second};
use crate::report::{Baseline, Report, median, progress};

const USERS: usize = 2_000_000;
const ENTRIES_PER_USER: usize = 2;
const EVENTS: usize = 20_000;
const TURNS_MAX: usize = 3;
const RAW_RATIO_MIN: f64 = 0.4;
/// Maximum time to read the ledger entries of one subject.
const ENTRIES_WITHIN: Duration = Duration::from_millis(500);

/// Size of the tables.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) users: usize,
    pub(crate) events: usize,
    pub(crate) turns: usize,
}

impl Size {
    pub(crate) fn of(scale: Scale) -> Self {
        Self {
            users: USERS / scale.divisor,
            events: EVENTS / scale.divisor,
            turns: scale.turns.min(TURNS_MAX),
        }
    }

    pub(crate) const fn entries(self) -> usize {
        self.users * ENTRIES_PER_USER
    }

    /// Updates of users picked at random, each newer than those of the turn before.
    pub(crate) fn events(self, turn: usize) -> Vec<Event> {
        let mut random = fastrand::Rng::with_seed(turn as u64);
        let picked = |index: usize| {
            let id = format!("user_{:09}", random.usize(0..self.users) + 1);
            let at = events::START + i64::try_from(turn * EVENTS + index).expect("a small number");
            let body = events::event("user.updated", at, &events::user(&id, at));
            Event {
                id: MessageId::new(format!("msg_{turn}_{:016x}", random.u64(..))),
                event_type: "user.updated".to_owned(),
                at: Timestamp::from_millis(at),
                body: Bytes::from(body.to_string()),
            }
        };
        (0..self.events).map(picked).collect()
    }
}

pub(crate) async fn measure(scale: Scale, report: &mut Report) {
    let size = Size::of(scale);
    progress(&format!("filling SQLite with {} users and {} entries", size.users, size.entries()));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    apply_migrations(&path, Schema::Store).expect("the tables");
    let raw = rusqlite::Connection::open(&path).expect("a file");
    without_triggers(&raw);
    fill(&raw, size);
    let store = SqliteStore::open(&path, Arc::new(WallClock)).expect("a store");
    let mut turns = Vec::new();
    for turn in 0..size.turns {
        progress(&format!("applying to large tables on SQLite, turn {}", turn + 1));
        let ours = applied(&store, &size.events(turn * 2)).await;
        turns.push((ours, raw_upserts_into(&raw, &size.events(turn * 2 + 1))));
    }
    report_turns(report, "SQLite", size, &turns);
    report_ledger(report, "SQLite", size, &store).await;
}

/// Events a second that a store applies in a worker's batches.
pub(crate) async fn applied(store: &dyn FullStore, events: &[Event]) -> f64 {
    let change = |event: &Event| {
        let parsed = event::parse(&event.body, None).expect("an event");
        parsed.into_change(&load::lease(event))
    };
    let changes: Vec<Change> = events.iter().map(change).collect();
    let started = Instant::now();
    for batch in changes.chunks(BATCH) {
        store.apply_many(batch).await.expect("it is applied");
    }
    per_second(changes.len(), started.elapsed())
}

pub(crate) fn report_turns(report: &mut Report, engine: &str, size: Size, turns: &[(f64, f64)]) {
    let of = |figure: fn(&(f64, f64)) -> f64| median(turns.iter().map(figure));
    let (ours, rate, ratio) = (of(|turn| turn.0), of(|turn| turn.1), of(|turn| turn.0 / turn.1));
    let baseline = Baseline { name: "raw upserts", rate, ratio, limit: Some(RAW_RATIO_MIN) };
    let detail = format!("batch {BATCH}, {} users, {} entries", size.users, size.entries());
    report.ratio(&format!("applied/s, large, {engine}"), ours, &baseline, &detail);
}

pub(crate) async fn report_ledger(report: &mut Report, engine: &str, size: Size, store: &dyn FullStore) {
    let started = Instant::now();
    let entries = store.deliveries("user_000000007", 100).await.expect("the ledger answers");
    let took = started.elapsed();
    assert!(entries.len() >= ENTRIES_PER_USER, "the ledger has its entries");
    let detail = format!("of {} in the ledger", size.entries());
    report.answer(&format!("entries of one user, {engine}"), took, ENTRIES_WITHIN, &detail);
}

/// Rows of some 2 KB, and entries of the last week. Entries are in the order of their ids, which are random in their times.
fn fill(connection: &rusqlite::Connection, size: Size) {
    let (users, entries) = (size.users, size.entries());
    let filled = connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; BEGIN;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {users})
         INSERT INTO users (id, first_name, primary_email_address, data, synced_at, synced_by,
                            version_updated_at, version_event_at, version_hash)
         SELECT printf('user_%09d', i), 'Ines', 'u' || i || '@work.example', '{{\"m\": \"' || hex(randomblob(900)) || '\"}}',
                '2026-07-01T00:00:00.000Z', 'msg', 1, 1, randomblob(16) FROM n;
         WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {entries} - 1)
         INSERT INTO deliveries
         SELECT printf('msg_%027d', i), 'user.updated', printf('user_%09d', i % {users} + 1), 'updated',
                strftime('%Y-%m-%dT%H:%M:%fZ', 1784707200 + i % 604800, 'unixepoch'),
                strftime('%Y-%m-%dT%H:%M:%fZ', 1784707200 + i % 604800, 'unixepoch'),
                strftime('%Y-%m-%dT%H:%M:%fZ', 1784707200 + i % 604800, 'unixepoch'), 1, 1 + i / 1000 FROM n;
         COMMIT; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000;"
    ));
    filled.expect("the tables are filled");
}
