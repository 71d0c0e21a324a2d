//! Triggers of a team that affect one row fail that row alone.

use std::path::Path;
use std::sync::Arc;

use rollbook_core::change::{Applied, Change};
use rollbook_core::store::{Rows as _, Store as _, StoreError};
use rollbook_core::time::Timestamp;
use rollbook_sqlite::{Schema, SqliteStore, apply_migrations};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::{START, change_of, deleted, event, membership, organization, user};

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

/// A store with an organization and two members, and a connection of the team.
async fn with_members() -> (tempfile::TempDir, SqliteStore, rusqlite::Connection) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    apply_migrations(&path, Schema::Store).expect("the migrations apply");
    let store = open(&path);
    let organization = event("organization.created", START, &organization("org_1", START));
    let mut changes = vec![change_of("msg_org", &organization)];
    for number in 1..=2 {
        let (user_id, id) = (format!("user_{number}"), format!("orgmem_{number}"));
        changes.push(user_change(&user_id));
        let data = membership(&id, "org_1", &user_id, START);
        changes.push(change_of(&format!("msg_{id}"), &event("organizationMembership.created", START, &data)));
    }
    store.apply_many(&changes).await.expect("applied");
    let connection = rusqlite::Connection::open(&path).expect("the file");
    (folder, store, connection)
}

fn deletion(object: &str, id: &str) -> Change {
    change_of(
        &format!("msg_{id}_deleted"),
        &event(&format!("{object}.deleted"), START + 5, &deleted(object, id)),
    )
}

fn living(connection: &rusqlite::Connection, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table} WHERE deleted_at IS NULL");
    connection.query_row(&sql, [], |row| row.get(0)).expect("a count")
}

#[tokio::test]
async fn a_trigger_of_the_ledger_or_of_a_later_table_that_undoes_a_deletion_refuses_its_batch() {
    let joined = membership("orgmem_9", "org_1", "user_2", START);
    let joined = change_of("msg_joined", &event("organizationMembership.created", START, &joined));
    for (on, changes) in [
        ("deliveries WHEN NEW.outcome = 'deleted'", vec![deletion("user", "user_1")]),
        ("organization_memberships WHEN NEW.id = 'orgmem_9'", vec![deletion("user", "user_1"), joined]),
    ] {
        let (_folder, store, connection) = with_members().await;
        let trigger = format!(
            "CREATE TRIGGER theirs AFTER INSERT ON {on} BEGIN
                 UPDATE users SET deleted_at = NULL, version_deleted_at = NULL WHERE id = 'user_1';
             END"
        );
        connection.execute_batch(&trigger).expect("a trigger");
        let why = "a trigger of the table undoes the change".to_owned();
        assert_eq!(store.apply_many(&changes).await, Err(StoreError::Event(why)), "{on}");
        assert_eq!((living(&connection, "users"), living(&connection, "organization_memberships")), (2, 2));
        let other = store.apply_many(&[deletion("user", "user_2")]).await;
        assert_eq!(other, Ok(vec![Applied::Deleted]), "{on}");
        connection.execute_batch("DROP TRIGGER theirs").expect("it goes");
        assert_eq!(store.apply_many(&changes).await.map(|applied| applied[0]), Ok(Applied::Deleted), "{on}");
        assert_eq!((living(&connection, "users"), living(&connection, "organization_memberships")), (0, 0));
    }
}

#[tokio::test]
async fn child_rows_that_a_later_trigger_revives_are_found_and_repaired() {
    let revive = "UPDATE organization_memberships SET deleted_at = NULL, version_parents_deleted_at = NULL
                  WHERE user_id = 'user_1'";
    let late = event(
        "organizationMembership.updated",
        START + 9,
        &membership("orgmem_1", "org_1", "user_1", START + 9),
    );
    for (on, changes) in [
        ("AFTER INSERT ON deliveries WHEN NEW.outcome = 'deleted'", vec![deletion("user", "user_1")]),
        // The row of the batch itself, which is written with its parent's deletion.
        (
            "AFTER INSERT ON deliveries WHEN NEW.outcome = 'updated'",
            vec![deletion("user", "user_1"), change_of("msg_late", &late)],
        ),
        // The repair of another parent's child.
        (
            "AFTER UPDATE ON organization_memberships WHEN NEW.user_id = 'user_2' AND NEW.deleted_at IS NOT NULL",
            vec![deletion("user", "user_1"), deletion("user", "user_2")],
        ),
    ] {
        let (_folder, store, connection) = with_members().await;
        connection
            .execute_batch(&format!("CREATE TRIGGER theirs {on} BEGIN {revive}; END"))
            .expect("a trigger");
        let result = store.apply_many(&changes).await;
        assert!(result.is_ok_and(|applied| applied.contains(&Applied::Deleted)), "{on}");
        let is_recorded = store.cascades(None, 10).await.expect("it reads").parents > 0;
        assert!(is_recorded, "{on}: the child row shows no deletion");
        connection.execute_batch("DROP TRIGGER theirs").expect("it goes");
        while store.cascade().await.expect("a turn").parents_left > 0 {}
        let (users, memberships) =
            (living(&connection, "users"), living(&connection, "organization_memberships"));
        assert_eq!(users, memberships, "{on}");
    }
}
