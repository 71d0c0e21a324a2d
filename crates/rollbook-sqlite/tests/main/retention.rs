//! Retention on a file: what was erased before, and a row that refuses.

use std::path::Path;
use std::sync::Arc;

use rollbook_core::catalog::USERS;
use rollbook_core::store::{Due, Store as _, Tidied};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_sqlite::{Schema, SqliteStore, apply_migrations};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::{START, change_of, deleted, event, user};
use rusqlite::Connection;
use tempfile::TempDir;

const DUE: Due =
    Due { ledger_before: None, deleted_before: Some(Timestamp::from_millis(START + 1_000)), limit: 1_000 };

fn open(path: &Path) -> SqliteStore {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp::from_millis(START + 10_000)));
    SqliteStore::open(path, clock).expect("the store opens")
}

/// A store with this many users who were created and deleted.
async fn deleted_users(count: i64) -> (TempDir, SqliteStore) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    apply_migrations(&path, Schema::Store).expect("the migrations apply");
    let store = open(&path);
    for number in 0..count {
        let id = format!("user_{number}");
        let lives = event("user.created", START, &user(&id, START));
        let gone = event("user.deleted", START + number, &deleted("user", &id));
        let changes =
            [change_of(&format!("msg_{number}"), &lives), change_of(&format!("msg_gone_{number}"), &gone)];
        store.apply_many(&changes).await.expect("the store applies them");
    }
    (folder, store)
}

async fn with_content(store: &SqliteStore) -> Vec<String> {
    let rows = store.rows(&USERS, None, 1_000).await.expect("the store lists rows");
    rows.into_iter().filter(|row| !row.columns["data"].is_null()).map(|row| row.id).collect()
}

#[tokio::test]
async fn a_row_that_refuses_to_lose_its_content_keeps_retention_from_nobody_else() {
    let (folder, store) = deleted_users(20).await;
    let team = Connection::open(folder.path().join("store.db")).expect("the file opens");
    team.execute_batch(
        "CREATE TRIGGER keeps BEFORE UPDATE ON users WHEN NEW.id = 'user_7' BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    .expect("a trigger");
    assert_eq!(store.tidy(&DUE).await, Ok(Tidied { ledger: 0, rows: 19 }));
    assert_eq!(with_content(&store).await, ["user_7"]);
    assert_eq!(store.tidy(&DUE).await, Ok(Tidied::default()), "it is not tried again in a loop");
    team.execute_batch("DROP TRIGGER keeps").expect("it goes");
    assert_eq!(open(&folder.path().join("store.db")).tidy(&DUE).await, Ok(Tidied { ledger: 0, rows: 1 }));
    assert_eq!(with_content(&store).await, [""; 0]);
}

#[tokio::test]
async fn steps_of_any_size_erase_all_that_is_due_once() {
    let (_folder, store) = deleted_users(25).await;
    let mut steps = Vec::new();
    loop {
        let step = store.tidy(&Due { limit: 10, ..DUE }).await.expect("the store tidies");
        if step == Tidied::default() {
            break;
        }
        steps.push(step.rows);
    }
    assert_eq!(steps, [10, 10, 5]);
    assert_eq!(with_content(&store).await, [""; 0]);
}
