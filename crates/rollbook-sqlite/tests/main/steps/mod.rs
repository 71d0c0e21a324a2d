//! Work in steps: large cascades and erasures, and triggers that are slow or refuse.

mod cascades;
mod erasing;
mod refusals;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rollbook_core::change::Change;
use rollbook_core::store::Store as _;
use rollbook_core::time::Timestamp;
use rollbook_sqlite::{Schema, SqliteStore, apply_migrations};
use rollbook_testkit::clock::ManualClock;
pub(super) use rollbook_testkit::conformance::store::work_off;
use rollbook_testkit::events::START;
pub(super) use rollbook_testkit::events::{joined, organization_deleted};
use rusqlite::Connection;
use tempfile::TempDir;

/// More rows than one transaction repairs in addition to its own.
pub(super) const MEMBERS: u32 = 2_500;

/// A file with a store, and the team's own connection to it.
pub(super) struct World {
    pub(super) store: SqliteStore,
    pub(super) clock: Arc<ManualClock>,
    pub(super) team: Connection,
    folder: TempDir,
}

impl World {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        apply_migrations(&path, Schema::Store).expect("the migrations apply");
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START)));
        let team = Connection::open(&path).expect("the file opens");
        team.busy_timeout(Duration::from_secs(60)).expect("a setting");
        Self { store: open(&path, &clock), clock, team, folder }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("store.db")
    }

    /// Returns another worker on the same file.
    pub(super) fn other(&self) -> SqliteStore {
        open(&self.path(), &self.clock)
    }

    pub(super) async fn apply(&self, changes: &[Change]) {
        self.store.apply_many(changes).await.expect("the store applies them");
    }

    /// Creates members of an organization as a store writes them, each with a ledger entry.
    pub(super) fn members(&self, organization: &str, count: u32) {
        self.sql(&format!(
            "WITH RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < {count})
             INSERT INTO organization_memberships
                 (id, organization_id, user_id, role, data, synced_at, synced_by, version_updated_at, version_event_at,
                  version_hash)
             SELECT 'orgmem_{organization}_' || i, '{organization}', 'user_' || i, 'r', '{{\"a\":1}}', 't', 'm', 1, 1,
                    CAST(printf('%016d', i) AS BLOB) FROM numbers;
             WITH RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < {count})
             INSERT INTO deliveries
                 (svix_id, event_type, subject_id, outcome, event_at, received_at, applied_at, attempts)
             SELECT 'msg_{organization}_' || i, 'organizationMembership.created', 'orgmem_{organization}_' || i,
                    'inserted', '2026-07-29T08:00:00.000Z', '2026-07-29T08:00:00.000Z', '2026-07-29T08:00:00.000Z', 1
             FROM numbers"
        ));
    }

    pub(super) fn sql(&self, sql: &str) {
        self.team.execute_batch(sql).expect("the team's statement");
    }

    /// Creates a trigger before updates of memberships with this condition.
    pub(super) fn trigger(&self, when: &str, body: &str) {
        self.sql(&format!(
            "DROP TRIGGER IF EXISTS theirs;
             CREATE TRIGGER theirs BEFORE UPDATE ON organization_memberships WHEN {when} BEGIN SELECT {body}; END"
        ));
    }

    pub(super) fn no_trigger(&self) {
        self.sql("DROP TRIGGER IF EXISTS theirs");
    }

    pub(super) fn count(&self, what: &str) -> u64 {
        self.team.query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get(0)).expect("a count")
    }

    /// Counts members with this condition.
    pub(super) fn members_where(&self, condition: &str) -> u64 {
        self.count(&format!("organization_memberships WHERE {condition}"))
    }

    pub(super) fn lines(&self) -> u64 {
        self.count("rollbook_cascades")
    }

    /// Makes all pending work due.
    pub(super) fn make_due(&self) {
        self.clock.advance(Duration::from_secs(3_600));
    }
}

fn open(path: &Path, clock: &Arc<ManualClock>) -> SqliteStore {
    SqliteStore::open(path, Arc::<ManualClock>::clone(clock)).expect("the store opens")
}
