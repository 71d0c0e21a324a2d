//! Triggers of a team that affect one row fail that row alone.

use std::path::Path;
use std::sync::Arc;

use rollbook_core::change::Change;
use rollbook_core::store::{Store as _, StoreError};
use rollbook_core::time::Timestamp;
use rollbook_sqlite::{Schema, SqliteStore, apply_migrations};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::{START, change_of, event, organization, user};

const SECRET: &str = "ImASecret";

fn user_change(id: &str) -> Change {
    let mut data = user(id, START);
    data["last_name"] = SECRET.into();
    change_of(&format!("msg_{id}"), &event("user.updated", START, &data))
}

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, Arc::new(ManualClock::new(Timestamp::from_millis(START))))
        .expect("the store opens")
}

#[tokio::test]
async fn a_trigger_that_raises_or_ignores_one_row_fails_that_row_and_the_others_are_applied() {
    for action in ["RAISE(ABORT, 'no')", "RAISE(FAIL, 'no')", "RAISE(ROLLBACK, 'no')", "RAISE(IGNORE)"] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        apply_migrations(&path, Schema::Store).expect("the migrations apply");
        let store = open(&path);
        let connection = rusqlite::Connection::open(&path).expect("the file");
        let trigger = format!(
            "CREATE TRIGGER theirs BEFORE INSERT ON users WHEN NEW.id = 'user_bad' BEGIN SELECT {action}; END"
        );
        connection.execute_batch(&trigger).expect("a trigger");
        for changes in
            [&[user_change("user_good"), user_change("user_bad")][..], &[user_change("user_bad")][..]]
        {
            let result = store.apply_many(changes).await;
            let Err(StoreError::Event(text)) = result else { panic!("{action}: {result:?}") };
            assert!(text.contains("trigger") && !text.contains(SECRET), "{text}");
        }
        let rows: i64 = connection
            .query_row("SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM deliveries)", [], |row| {
                row.get(0)
            })
            .expect("a count");
        assert_eq!(rows, 0, "{action}: nothing of the batch was written");
        assert!(store.apply_many(&[user_change("user_good")]).await.is_ok(), "{action}");
    }
}

#[tokio::test]
async fn a_broken_trigger_of_one_table_does_not_block_the_other_tables() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    apply_migrations(&path, Schema::Store).expect("the migrations apply");
    let store = open(&path);
    let connection = rusqlite::Connection::open(&path).expect("the file");
    for (body, words) in [
        ("INSERT INTO nosuch VALUES (NEW.last_name)", "no such table: main.nosuch"),
        ("SELECT json_extract('{}', NEW.last_name)", "a statement fails"),
    ] {
        let trigger = format!("CREATE TRIGGER theirs AFTER INSERT ON users BEGIN {body}; END");
        connection.execute_batch(&trigger).expect("a trigger");
        let result = store.apply_many(&[user_change("user_1")]).await;
        let Err(StoreError::Ambiguous(inner)) = result else { panic!("{body}: {result:?}") };
        assert!(matches!(*inner, StoreError::Deployment(_)), "{inner:?}");
        assert!(inner.to_string().contains(words) && !inner.to_string().contains(SECRET), "{inner}");
        let other =
            change_of("msg_org", &event("organization.updated", START, &organization("org_1", START)));
        assert!(store.apply_many(&[other]).await.is_ok());
        connection.execute_batch("DROP TRIGGER theirs").expect("it goes");
    }
    assert!(store.apply_many(&[user_change("user_1")]).await.is_ok());
}

#[tokio::test]
async fn a_trigger_that_drops_the_ledger_entry_of_one_delivery_refuses_that_delivery_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    apply_migrations(&path, Schema::Store).expect("the migrations apply");
    let store = open(&path);
    let connection = rusqlite::Connection::open(&path).expect("the file");
    connection
        .execute_batch(
            "CREATE TRIGGER theirs BEFORE INSERT ON deliveries WHEN NEW.svix_id = 'msg_user_bad'
             BEGIN SELECT RAISE(IGNORE); END",
        )
        .expect("a trigger");
    for changes in [&[user_change("user_good"), user_change("user_bad")][..], &[user_change("user_bad")]] {
        let result = store.apply_many(changes).await;
        let Err(StoreError::Event(text)) = result else { panic!("{result:?}") };
        assert_eq!(text, "a trigger of the table deliveries keeps the ledger entry from being written");
    }
    for _ in 0..2 {
        assert!(store.apply_many(&[user_change("user_good")]).await.is_ok(), "also when it comes again");
    }
    connection.execute_batch("DROP TRIGGER theirs").expect("it goes");
    assert!(store.apply_many(&[user_change("user_bad")]).await.is_ok());
}

#[tokio::test]
async fn a_trigger_that_removes_or_changes_a_ledger_entry_refuses_its_delivery() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    apply_migrations(&path, Schema::Store).expect("the migrations apply");
    let store = open(&path);
    let connection = rusqlite::Connection::open(&path).expect("the file");
    for (body, reason) in [
        ("DELETE FROM deliveries", "keeps the ledger entry from being written"),
        ("UPDATE deliveries SET svix_id = 'msg_other'", "keeps the ledger entry from being written"),
        ("UPDATE deliveries SET outcome = 'fine'", "changes the ledger entry"),
        ("UPDATE deliveries SET subject_id = NULL", "changes the ledger entry"),
    ] {
        let trigger = format!(
            "CREATE TRIGGER theirs AFTER INSERT ON Deliveries WHEN NEW.svix_id = 'msg_user_bad'
             BEGIN {body} WHERE svix_id = NEW.svix_id; END"
        );
        connection.execute_batch(&trigger).expect("a trigger");
        let result = store.apply_many(&[user_change("user_bad")]).await;
        assert_eq!(
            result,
            Err(StoreError::Event(format!("a trigger of the table deliveries {reason}"))),
            "{body}"
        );
        assert!(store.apply_many(&[user_change("user_good")]).await.is_ok(), "first, or again");
        connection.execute_batch("DROP TRIGGER theirs").expect("it goes");
    }
    assert!(store.apply_many(&[user_change("user_bad")]).await.is_ok());
}
