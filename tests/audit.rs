//! Audit of a run: no acknowledged delivery is missing, nothing was applied that was never sent, and nothing
//! is left.

use std::collections::BTreeSet;
use std::path::Path;

use rollbook_core::catalog::RESOURCES;
use rollbook_core::store::Rows as _;

use rollbook_core::time::{Clock, Timestamp};
use rollbook_simulator::history::History;
use rollbook_simulator::truth::Comparison;
use rollbook_sqlite::SqliteStore;
use rollbook_testkit::clock::ManualClock;

/// Result of a run, in Jepsen's words for queues.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Audit {
    /// Acknowledged, and in no ledger.
    pub(crate) lost: usize,
    /// In the ledger, and never sent.
    pub(crate) unexpected: usize,
    /// Messages that are not settled at the end.
    pub(crate) stuck: u64,
    /// Dead letters.
    pub(crate) dead: u64,
}

pub(crate) const CLEAN: Audit = Audit { lost: 0, unexpected: 0, stuck: 0, dead: 0 };

fn count(connection: &rusqlite::Connection, sql: &str) -> u64 {
    connection.query_row(sql, [], |row| row.get(0)).expect("a count")
}

/// Messages that are not settled.
pub(crate) fn waiting(data: &Path) -> u64 {
    let queue = rusqlite::Connection::open(data.join("queue.db")).expect("the queue's file");
    queue.busy_timeout(std::time::Duration::from_secs(10)).expect("a setting");
    count(&queue, "SELECT count(*) FROM messages")
}

/// Returns the ids of all applied deliveries.
pub(crate) fn ledger(data: &Path) -> BTreeSet<String> {
    let store = rusqlite::Connection::open(data.join("store.db")).expect("the store's file");
    let mut ledger = store.prepare("SELECT svix_id FROM deliveries").expect("a ledger");
    ledger.query_map([], |row| row.get(0)).expect("rows").collect::<Result<_, _>>().expect("ids")
}

/// Compares the acknowledged and sent ids with the ledger, by reading the files.
pub(crate) fn audit(data: &Path, acknowledged: &BTreeSet<&str>, sent: &BTreeSet<&str>) -> Audit {
    let ledger = ledger(data);
    let queue = rusqlite::Connection::open(data.join("queue.db")).expect("the queue's file");
    Audit {
        lost: acknowledged.iter().filter(|id| !ledger.contains(**id)).count(),
        unexpected: ledger.iter().filter(|id| !sent.contains(id.as_str())).count(),
        stuck: waiting(data),
        dead: count(&queue, "SELECT count(*) FROM dead_letters"),
    }
}

/// Compares all rows with the data of the simulated Clerk.
pub(crate) async fn compare(data: &Path, history: &History) -> Comparison {
    let clock: std::sync::Arc<dyn Clock> = std::sync::Arc::new(ManualClock::new(Timestamp::from_millis(0)));
    let store = SqliteStore::open(&data.join("store.db"), clock).expect("the store opens");
    let mut rows = Vec::new();
    for resource in RESOURCES {
        let all = store.rows(resource, None, usize::MAX).await.expect("rows");
        rows.extend(all.into_iter().map(|row| (resource.table, row)));
    }
    history.truth.compare(rows.into_iter())
}
