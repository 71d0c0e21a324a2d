//! Files: connections of two processes, a full disk, a refused change.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{
    Consumer as _, Enqueued, LeaseRequest, Producer as _, QueueAdmin as _, QueueError,
};
use rollbook_core::store::{Changes as _, Ledger as _, Store as _, StoreError};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_sqlite::{QueueSettings, Schema, SqliteQueue, SqliteStore, apply_migrations};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::queues::{all_of, request};

const NOW: i64 = 1_785_312_000_000;
const SETTINGS: QueueSettings =
    QueueSettings { depth_max: 1_000_000, due_ahead_max: Duration::from_secs(600) };

fn clock() -> Arc<dyn Clock> {
    clock_at(NOW)
}

fn clock_at(millis: i64) -> Arc<dyn Clock> {
    Arc::new(ManualClock::new(Timestamp::from_millis(millis)))
}

fn queue(path: &Path) -> SqliteQueue {
    queue_at(path, clock())
}

fn queue_at(path: &Path, clock: Arc<dyn Clock>) -> SqliteQueue {
    apply_migrations(path, Schema::Queue).expect("the migrations apply");
    SqliteQueue::open(path, SETTINGS, clock).expect("the queue opens")
}

fn deliveries(name: &str, count: usize, size: usize) -> Vec<Delivery> {
    let delivery = |index| Delivery {
        id: MessageId::new(format!("msg_{name}_{index}")),
        received_at: clock().now(),
        traceparent: None,
        body: Bytes::from(vec![b'x'; size]),
    };
    (0..count).map(delivery).collect()
}

#[tokio::test]
async fn a_file_without_its_migrations_is_refused_with_the_command_that_fixes_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("new.db");
    let Err(QueueError::Deployment(text)) = SqliteQueue::open(&path, SETTINGS, clock()) else {
        panic!("a queue without tables was opened");
    };
    assert!(text.contains("rollbook migrate"), "{text}");
    let Err(StoreError::Deployment(text)) = SqliteStore::open(&path, clock()) else {
        panic!("a store without tables was opened");
    };
    assert!(text.contains("rollbook migrate"), "{text}");
}

/// Migrates as a newer Rollbook would: its step only adds (`expands`), or changes what this one relies on.
fn migrate_as_a_newer_one(path: &Path, expands: bool) {
    let newer = rusqlite::Connection::open(path).expect("the file opens");
    newer
        .execute_batch(&format!(
            "BEGIN IMMEDIATE;
             INSERT INTO rollbook_migrations SELECT max(number) + 1, 'later', {expands} FROM rollbook_migrations;
             COMMIT"
        ))
        .expect("the lock");
    let number: i64 = newer
        .query_row("SELECT max(number) FROM rollbook_migrations", [], |row| row.get(0))
        .expect("a number");
    newer.pragma_update(None, "user_version", number).expect("a version");
}

#[tokio::test]
async fn files_in_use_that_a_newer_rollbook_migrates_are_used_further_only_if_the_step_expands() {
    let folder = tempfile::tempdir().expect("a folder");
    let (queue_path, store_path) = (folder.path().join("queue.db"), folder.path().join("store.db"));
    let queue = queue(&queue_path);
    apply_migrations(&store_path, Schema::Store).expect("the migrations apply");
    let store = SqliteStore::open(&store_path, clock()).expect("the store opens");
    for path in [&queue_path, &store_path] {
        migrate_as_a_newer_one(path, true);
    }
    all_of(queue.enqueue_many(&deliveries("a", 1, 10)).await).expect("the queue takes deliveries");
    assert_eq!(store.apply_many(&[user_change("user_1")]).await.map(|outcomes| outcomes.len()), Ok(1));
    for path in [&queue_path, &store_path] {
        migrate_as_a_newer_one(path, false);
    }
    let of_queue = [
        all_of(queue.enqueue_many(&deliveries("b", 1, 10)).await).map(drop),
        queue.lease(at_once(1)).await.map(drop),
        queue.stats().await.map(drop),
        SqliteQueue::open(&queue_path, SETTINGS, clock()).map(drop),
    ];
    for refused in of_queue {
        let Err(QueueError::Deployment(text)) = refused else { panic!("{refused:?}") };
        assert!(text.contains("(later)") && text.contains("newer"), "{text}");
    }
    let of_store = [
        store.apply_many(&[user_change("user_2")]).await.map(drop),
        store.deliveries("user_1", 10).await.map(drop),
        store.ping().await,
        SqliteStore::open(&store_path, clock()).map(drop),
    ];
    for refused in of_store {
        let Err(StoreError::Deployment(text)) = refused else { panic!("{refused:?}") };
        assert!(text.contains("(later)") && text.contains("newer"), "{text}");
    }
}

fn user_change(id: &str) -> rollbook_core::change::Change {
    use rollbook_testkit::events::{START, change_of, event, user};
    change_of(&format!("msg_{id}"), &event("user.updated", START, &user(id, START)))
}

fn at_once(max: usize) -> LeaseRequest {
    request(max, Duration::from_secs(60), Duration::ZERO)
}

#[tokio::test]
async fn two_processes_on_one_file_share_one_queue() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("queue.db");
    let (receiver, worker) = (queue(&path), queue(&path));
    all_of(receiver.enqueue_many(&deliveries("a", 3, 100)).await).expect("the queue takes deliveries");
    assert_eq!(worker.lease(at_once(2)).await.expect("leases").len(), 2);
    assert_eq!(receiver.lease(at_once(2)).await.expect("leases").len(), 1);
    let again = all_of(worker.enqueue_many(&deliveries("a", 1, 100)).await).expect("an answer");
    assert_eq!(again, [Enqueued::Duplicate]);
    assert_eq!(receiver.stats().await.expect("counts").leased, 3);
}

#[tokio::test]
async fn a_worker_in_another_process_finds_a_message_within_its_wait() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("queue.db");
    let (receiver, worker) = (queue(&path), queue(&path));
    let wait = LeaseRequest { wait: Duration::from_secs(20), ..at_once(5) };
    let enqueue = async {
        all_of(receiver.enqueue_many(&deliveries("late", 1, 10)).await).expect("the queue takes deliveries");
    };
    let (leases, ()) = tokio::join!(worker.lease(wait), enqueue);
    assert_eq!(leases.expect("leases").len(), 1);
}

#[tokio::test]
async fn many_callers_at_once_each_get_their_own_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let queue = Arc::new(queue(&folder.path().join("queue.db")));
    let mut callers = tokio::task::JoinSet::new();
    for index in 0..100_usize {
        let queue = Arc::clone(&queue);
        callers.spawn(async move {
            let mine = deliveries(&format!("c{}", index / 2), 1 + index % 2, 50);
            all_of(queue.enqueue_many(&mine).await).expect("an answer").len() == mine.len()
        });
    }
    assert!(callers.join_all().await.into_iter().all(|whole| whole));
    // Two callers each sent the first of their pair's deliveries, one of them a second one.
    assert_eq!(queue.stats().await.expect("counts").ready, 100);
}

#[tokio::test]
async fn a_clock_that_goes_back_hides_no_message() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("queue.db");
    let (ahead, behind) = (queue_at(&path, clock_at(NOW + 7_200_000)), queue(&path));
    all_of(ahead.enqueue_many(&deliveries("first", 1, 10)).await).expect("the queue takes deliveries");
    all_of(behind.enqueue_many(&deliveries("second", 1, 10)).await).expect("the queue takes deliveries");
    let mut given = Vec::new();
    for _ in 0..2 {
        given.extend(behind.lease(at_once(1)).await.expect("leases"));
    }
    let given: Vec<&str> = given.iter().map(|lease| lease.id.as_str()).collect();
    assert_eq!(given, ["msg_first_0", "msg_second_0"]);
}

#[tokio::test]
async fn ping_fails_without_the_tables() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    apply_migrations(&path, Schema::Store).expect("the migrations apply");
    let store = SqliteStore::open(&path, clock()).expect("the store opens");
    assert_eq!(store.ping().await, Ok(()));
    let other = rusqlite::Connection::open(&path).expect("a second connection");
    other.execute_batch("DROP TABLE users").expect("no table");
    assert!(matches!(store.ping().await, Err(StoreError::Deployment(_))));
}

#[tokio::test]
async fn whoever_closes_a_file_leaves_no_log_also_after_its_reading_connections_were_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let (queue_path, store_path) = (folder.path().join("queue.db"), folder.path().join("store.db"));
    let log_of = |path: &Path| path.with_extension("db-wal");
    let queue = queue(&queue_path);
    for outcome in queue.enqueue_many(&deliveries("a", 3, 10)).await {
        outcome.expect("it is stored");
    }
    assert_eq!(queue.stats().await.expect("counts").depth(), 3);
    assert!(log_of(&queue_path).exists(), "the control");
    drop(queue);
    assert!(!log_of(&queue_path).exists(), "a copy of queue.db alone would lack the deliveries");

    apply_migrations(&store_path, Schema::Store).expect("the migrations apply");
    let store = SqliteStore::open(&store_path, clock()).expect("the store opens");
    store.apply_many(&[user_change("user_1")]).await.expect("a row");
    store.position_before(Timestamp::from_millis(NOW)).await.expect("a position");
    assert!(log_of(&store_path).exists(), "the control");
    drop(store);
    assert!(!log_of(&store_path).exists(), "a copy of store.db alone would lack the row");
}
