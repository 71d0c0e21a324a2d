//! A large organization is deleted, erased by an operator and erased by retention in a file of its own,
//! without and with a trigger of about a millisecond a row, while another worker applies deliveries: prints
//! how long each took, and how long the others waited.
//!
//! `ops/large-cascades sqlite 300000`

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rollbook_core::catalog::ORGANIZATIONS;
use rollbook_core::store::{Erasure as _, RetentionLimits, Store as _};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_sqlite::{Schema, SqliteStore, apply_migrations};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::events::{START, change_of, deleted, event, organization, user};
use rusqlite::Connection;
use tokio::task::JoinSet;

const DEFAULT_MEMBERS: u32 = 300_000;
/// Counts the rows of a table, which takes about a millisecond.
const TRIGGER: &str = "CREATE TABLE work (n INTEGER PRIMARY KEY);
    WITH RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < 20000)
    INSERT INTO work SELECT i FROM numbers;
    CREATE TRIGGER slow BEFORE UPDATE ON organization_memberships
    BEGIN SELECT count(*) FROM work WHERE n % 2 = length(NEW.id) % 2; END";

fn open(path: &Path) -> Arc<SqliteStore> {
    let clock: Arc<dyn Clock> = Arc::new(WallClock);
    Arc::new(SqliteStore::open(path, clock).expect("the store opens"))
}

fn members(team: &Connection, organization: &str, count: u32) {
    let sql = format!(
        "BEGIN;
         WITH RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < {count})
         INSERT INTO organization_memberships
             (id, organization_id, user_id, role, data, synced_at, synced_by, version_updated_at, version_event_at,
              version_hash)
         SELECT 'orgmem_{organization}_' || i, '{organization}', 'user_' || i, 'r',
                '{{\"a\":\"' || hex(randomblob(300)) || '\"}}', 't', 'm', 1, 1, randomblob(16) FROM numbers;
         WITH RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < {count})
         INSERT INTO deliveries
             (svix_id, event_type, subject_id, outcome, event_at, received_at, applied_at, attempts)
         SELECT 'msg_' || hex(randomblob(12)), 'organizationMembership.updated', 'orgmem_{organization}_' || i,
                'updated', '2026-07-29T08:00:00.000Z', '2026-07-29T08:00:00.000Z', '2026-07-29T08:00:00.000Z', 1
         FROM numbers;
         COMMIT"
    );
    team.execute_batch(&sql).expect("members");
}

fn count(team: &Connection, condition: &str) -> u64 {
    let sql = format!("SELECT count(*) FROM organization_memberships WHERE {condition}");
    team.query_row(&sql, [], |row| row.get(0)).expect("a count")
}

/// Applies a user every few milliseconds until it is ended; returns how many, and the longest time of one.
async fn neighbours(
    store: Arc<SqliteStore>,
    name: String,
    stop: tokio::sync::oneshot::Receiver<()>,
) -> (u32, Duration) {
    let (mut applied, mut longest) = (0, Duration::ZERO);
    let mut stop = std::pin::pin!(stop);
    loop {
        let id = format!("user_{name}_{applied}");
        let change = change_of(&format!("msg_{id}"), &event("user.created", START, &user(&id, START)));
        let began_at = Instant::now();
        store.apply_many(&[change]).await.expect("a neighbour is applied");
        longest = longest.max(began_at.elapsed());
        applied += 1;
        tokio::select! {
            _ = &mut stop => return (applied, longest),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}

/// Does work while another process's worker applies deliveries, and prints both durations.
async fn with_deliveries<F: Future<Output = String>>(path: &Path, name: &str, work: F) {
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let mut others = JoinSet::new();
    others.spawn(neighbours(open(path), name.to_owned(), stopped));
    let began_at = Instant::now();
    let done = work.await;
    let took = began_at.elapsed();
    _ = stop.send(());
    let (applied, longest) = others.join_next().await.expect("there is one").expect("no panic");
    println!(
        "{name}: {done} after {took:.1?}; {applied} others applied meanwhile, the slowest in {longest:.2?}"
    );
}

async fn deletes(path: &Path, team: &Connection, organization: &str) {
    let store = open(path);
    let gone = event("organization.deleted", START + 5, &deleted("organization", organization));
    let gone = [change_of(&format!("msg_gone_{organization}"), &gone)];
    with_deliveries(path, organization, async {
        let began_at = Instant::now();
        store.apply_many(&gone).await.expect("it is applied");
        let acknowledged = began_at.elapsed();
        while store.cascade().await.expect("it is worked off").due_in.is_some() {}
        let living = count(team, &format!("organization_id = '{organization}' AND deleted_at IS NULL"));
        format!("deleted, {living} members alive, acknowledged after {acknowledged:.2?}, all")
    })
    .await;
}

async fn erases(path: &Path, team: &Connection, organization: &str) {
    let store = open(path);
    let subjects = [(&ORGANIZATIONS, organization.to_owned())];
    with_deliveries(path, organization, async {
        let erased = store.erase(&subjects, Timestamp::from_millis(START + 100)).await.expect("it is erased");
        let left = count(team, &format!("organization_id = '{organization}' AND data IS NOT NULL"));
        format!("erased, {} rows, {} ledger entries, {left} with content left,", erased.rows, erased.ledger)
    })
    .await;
}

async fn retains(path: &Path, team: &Connection, id: &str) {
    let store = open(path);
    let due = RetentionLimits {
        ledger_before: None,
        deleted_before: Some(Timestamp::from_millis(START + 1_000)),
        changes_before: None,
        limit: 1_000,
    };
    with_deliveries(path, &format!("{id}_again"), async {
        store.retain(&due).await.expect("it tidies");
        while store.cascade().await.expect("it is worked off").due_in.is_some() {}
        let left = count(team, &format!("organization_id = '{id}' AND data IS NOT NULL"));
        format!("content erased by retention, {left} with content left,")
    })
    .await;
}

#[tokio::main]
async fn main() {
    let members_of = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(DEFAULT_MEMBERS);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    apply_migrations(&path, Schema::Store).expect("the migrations apply");
    let team = Connection::open(&path).expect("the file opens");
    team.busy_timeout(Duration::from_secs(60)).expect("a setting");
    let lives = event("organization.created", START, &organization("org_deleted", START));
    open(&path).apply_many(&[change_of("msg_lives", &lives)]).await.expect("the store applies it");
    for organization in ["org_deleted", "org_erased", "org_deleted_slowly", "org_erased_slowly"] {
        members(&team, organization, members_of);
    }
    println!("{members_of} members each, one ledger entry each");
    deletes(&path, &team, "org_deleted").await;
    retains(&path, &team, "org_deleted").await;
    erases(&path, &team, "org_erased").await;
    team.execute_batch(TRIGGER).expect("a trigger");
    println!("with a trigger of about 1 ms a row:");
    deletes(&path, &team, "org_deleted_slowly").await;
    erases(&path, &team, "org_erased_slowly").await;
}
