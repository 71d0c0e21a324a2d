//! Retention in a file: rows that were erased before, rows that refuse, and parents with many rows.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rollbook_core::catalog::USERS;
use rollbook_core::store::{
    PendingCascades, PendingWork, RetentionLimits, RetentionStep, Rows as _, Store as _,
};
use rollbook_core::time::Timestamp;
use rollbook_sqlite::{Schema, SqliteStore, apply_migrations};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::{START, change_of, deleted, event, user};
use rusqlite::Connection;
use tempfile::TempDir;

const DUE: RetentionLimits = RetentionLimits {
    ledger_before: None,
    deleted_before: Some(Timestamp::from_millis(START + 1_000)),
    changes_before: None,
    limit: 1_000,
};

/// Time after which every refused row is due again.
const LONGER_THAN_A_WAIT: Duration = Duration::from_secs(3_600);

fn open(path: &Path) -> (SqliteStore, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START + 10_000)));
    let store = SqliteStore::open(path, Arc::<ManualClock>::clone(&clock)).expect("the store opens");
    (store, clock)
}

/// Returns a store with this many created and deleted users.
async fn deleted_users(count: i64) -> (TempDir, SqliteStore, Arc<ManualClock>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    apply_migrations(&path, Schema::Store).expect("the migrations apply");
    let (store, clock) = open(&path);
    for number in 0..count {
        let id = format!("user_{number}");
        let lives = event("user.created", START, &user(&id, START));
        let gone = event("user.deleted", START + number, &deleted("user", &id));
        let changes =
            [change_of(&format!("msg_{number}"), &lives), change_of(&format!("msg_gone_{number}"), &gone)];
        store.apply_many(&changes).await.expect("the store applies them");
    }
    (folder, store, clock)
}

async fn with_content(store: &SqliteStore) -> Vec<String> {
    let rows = store.rows(&USERS, None, 1_000).await.expect("the store lists rows");
    rows.into_iter().filter(|row| !row.columns["data"].is_null()).map(|row| row.id).collect()
}

#[tokio::test]
async fn a_row_that_refuses_to_lose_its_content_blocks_no_other_row_and_is_retried() {
    for action in ["ABORT, 'no'", "IGNORE"] {
        let (folder, store, clock) = deleted_users(20).await;
        let team = Connection::open(folder.path().join("store.db")).expect("the file opens");
        let trigger = format!(
            "CREATE TRIGGER keeps BEFORE UPDATE ON users WHEN NEW.id = 'user_7' BEGIN SELECT RAISE({action}); END"
        );
        team.execute_batch(&trigger).expect("a trigger");
        assert_eq!(
            store.retain(&DUE).await,
            Ok(RetentionStep { rows: 19, ..RetentionStep::default() }),
            "{action}"
        );
        assert_eq!(with_content(&store).await, ["user_7"]);
        assert_eq!(store.retain(&DUE).await, Ok(RetentionStep::default()), "it is not tried again in a loop");
        let left = store.cascades(None, 10).await.expect("a list");
        let line = &left.listed[0];
        assert_eq!((left.rows, line.id.as_str(), line.what), (1, "user_7", PendingWork::Content));
        assert!(line.last_error.as_deref().is_some_and(|why| why.contains("trigger")), "{line:?}");
        assert_eq!(store.cascade().await.expect("a turn").due_in, None, "it is retention's");

        clock.advance(LONGER_THAN_A_WAIT);
        assert_eq!(store.retain(&DUE).await, Ok(RetentionStep::default()), "it is still refused");
        assert_eq!(store.cascades(None, 1).await.expect("a list").listed[0].attempts, 2);
        team.execute_batch("DROP TRIGGER keeps").expect("it goes");
        clock.advance(LONGER_THAN_A_WAIT);
        assert_eq!(store.retain(&DUE).await, Ok(RetentionStep { rows: 1, ..RetentionStep::default() }));
        assert_eq!(with_content(&store).await, [""; 0]);
        assert_eq!(store.cascades(None, 1).await, Ok(PendingCascades::default()));
    }
}

/// Whichever columns the trigger restores: the row is recorded, and erased once the trigger is dropped.
#[tokio::test]
async fn a_row_with_content_that_a_trigger_restores_is_recorded_and_retried() {
    for column in ["data", "first_name"] {
        let (folder, store, clock) = deleted_users(3).await;
        let team = Connection::open(folder.path().join("store.db")).expect("the file opens");
        let trigger = format!(
            "UPDATE users SET first_name = 'Ines';
             CREATE TRIGGER keeps AFTER UPDATE ON users
             WHEN NEW.id = 'user_1' AND NEW.{column} IS NULL AND OLD.{column} IS NOT NULL
             BEGIN UPDATE users SET {column} = OLD.{column} WHERE id = NEW.id; END"
        );
        team.execute_batch(&trigger).expect("a trigger");
        assert_eq!(
            store.retain(&DUE).await,
            Ok(RetentionStep { rows: 2, ..RetentionStep::default() }),
            "{column}"
        );
        let left = store.cascades(None, 10).await.expect("a list");
        let line = &left.listed[0];
        assert_eq!((left.rows, line.id.as_str(), line.what), (1, "user_1", PendingWork::Content));
        assert_eq!(line.last_error.as_deref(), Some("a trigger of the table undoes the change"));
        team.execute_batch("DROP TRIGGER keeps").expect("it goes");
        clock.advance(LONGER_THAN_A_WAIT);
        assert_eq!(store.retain(&DUE).await, Ok(RetentionStep { rows: 1, ..RetentionStep::default() }));
        assert_eq!(store.cascades(None, 1).await, Ok(PendingCascades::default()));
        // Content that an earlier build has left in an erased row is erased too.
        team.execute_batch(&format!("UPDATE users SET {column} = 'x' WHERE id = 'user_2'")).expect("content");
        clock.advance(Duration::from_secs(7 * 86_400));
        assert_eq!(
            store.retain(&DUE).await,
            Ok(RetentionStep { rows: 1, ..RetentionStep::default() }),
            "{column}"
        );
    }
}

#[tokio::test]
async fn if_a_trigger_refuses_all_rows_each_is_recorded_and_the_next_call_retries_a_hundred() {
    let (folder, store, clock) = deleted_users(150).await;
    let team = Connection::open(folder.path().join("store.db")).expect("the file opens");
    let trigger = "CREATE TRIGGER keeps BEFORE UPDATE ON users BEGIN SELECT RAISE(ABORT, 'no'); END";
    team.execute_batch(trigger).expect("a trigger");
    for _ in 0..2 {
        assert_eq!(store.retain(&DUE).await, Ok(RetentionStep::default()));
        assert_eq!(store.cascades(None, 1).await.expect("a list").rows, 150);
    }
    team.execute_batch("DROP TRIGGER keeps").expect("it goes");
    clock.advance(LONGER_THAN_A_WAIT);
    let mut erased = 0;
    for _ in 0..2 {
        erased += store.retain(&DUE).await.expect("the store tidies").rows;
    }
    assert_eq!((erased, with_content(&store).await.len()), (150, 0));
}

#[tokio::test]
async fn steps_of_any_size_erase_all_that_is_due_once() {
    let (_folder, store, _) = deleted_users(25).await;
    let mut steps = Vec::new();
    loop {
        let step = store.retain(&RetentionLimits { limit: 10, ..DUE }).await.expect("the store tidies");
        if step == RetentionStep::default() {
            break;
        }
        steps.push(step.rows);
    }
    assert_eq!(steps, [10, 10, 5]);
    assert_eq!(with_content(&store).await, [""; 0]);
}

/// The first 10 of 40 old entries are kept. The limit is smaller than that: a step that ended with them would
/// remove nothing.
#[tokio::test]
async fn ledger_entries_that_refuse_to_go_keep_no_other_entry() {
    for action in ["ABORT, 'no'", "IGNORE", "ROLLBACK, 'no'"] {
        let (folder, store, _) = deleted_users(20).await;
        let path = folder.path().join("store.db");
        let team = Connection::open(&path).expect("the file opens");
        let trigger = format!(
            "CREATE TRIGGER theirs BEFORE DELETE ON deliveries WHEN OLD.subject_id IN ('user_0', 'user_1', 'user_2', 'user_3', 'user_4')
             BEGIN SELECT RAISE({action}); END"
        );
        team.execute_batch(&trigger).expect("a trigger");
        let ledger_before = Some(Timestamp::from_millis(START + 100_000));
        let due = RetentionLimits { ledger_before, limit: 4, ..RetentionLimits::default() };
        let mut gone = 0;
        for _ in 0..12 {
            gone += store.retain(&due).await.expect("the others go").ledger;
        }
        assert_eq!(gone, 30, "{action}");
        team.execute_batch("DROP TRIGGER theirs").expect("it goes");
        // After a restart all entries are tried again.
        let all = RetentionLimits { limit: 100, ..due };
        assert_eq!(open(&path).0.retain(&all).await.map(|done| done.ledger), Ok(10));
    }
}

#[tokio::test]
async fn retention_that_is_switched_off_leaves_no_entry_about_content() {
    let (folder, store, _) = deleted_users(1).await;
    let team = Connection::open(folder.path().join("store.db")).expect("the file opens");
    let trigger = "CREATE TRIGGER theirs BEFORE UPDATE ON users BEGIN SELECT RAISE(ABORT, 'no'); END";
    team.execute_batch(trigger).expect("a trigger");
    assert_eq!(store.retain(&DUE).await.map(|done| done.rows), Ok(0));
    assert_eq!(store.cascades(None, 10).await.expect("a list").rows, 1);
    store.retain(&RetentionLimits { deleted_before: None, ..DUE }).await.expect("nothing is due");
    assert_eq!(store.cascades(None, 10).await.expect("a list").rows, 0);
}

/// A row before the position of the round gets content again: a step that read all rows from the first would find it.
#[tokio::test]
async fn a_step_of_retention_does_not_read_again_what_was_erased_before() {
    let (folder, store, _) = deleted_users(30).await;
    let due = RetentionLimits { limit: 10, ..DUE };
    assert_eq!(store.retain(&due).await.map(|step| step.rows), Ok(10));
    let team = Connection::open(folder.path().join("store.db")).expect("the file opens");
    let restore = "UPDATE users SET data = '{}', version_hash = zeroblob(16) WHERE id = 'user_0'";
    assert_eq!(team.execute(restore, ()), Ok(1));
    assert_eq!(store.retain(&due).await.map(|step| step.rows), Ok(10));
    assert_eq!(with_content(&store).await.len(), 11, "ten rows that were not read yet, and the restored one");
    assert!(with_content(&store).await.contains(&"user_0".to_owned()), "the second step began after it");
    let mut erased = 0;
    while erased < 11 {
        erased += store.retain(&due).await.expect("a step").rows;
    }
    assert_eq!(with_content(&store).await, Vec::<String>::new(), "the next round finds it");
}
