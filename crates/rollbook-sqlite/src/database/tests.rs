//! Tests of the thread that writes a file.

use super::*;
use rusqlite::ffi;

fn open(folder: &tempfile::TempDir) -> Database {
    let connection = connection::open(&folder.path().join("a.db")).expect("a file");
    Database::new(connection, None).expect("a thread")
}

async fn numbers(folder: &tempfile::TempDir) -> Database {
    let database = open(folder);
    let table = "CREATE TABLE numbers (n INTEGER PRIMARY KEY, filler BLOB) STRICT";
    database.run(move |connection| connection.execute_batch(table)).await.expect("a table");
    database
}

async fn insert(database: &Database, number: i64) -> Result<(), Fault> {
    database
        .run(move |connection| connection.execute("INSERT INTO numbers (n) VALUES (?1)", [number]))
        .await?;
    Ok(())
}

async fn count(database: &Database) -> Result<i64, Fault> {
    database
        .run(|connection| connection.query_row("SELECT count(*) FROM numbers", [], |row| row.get(0)))
        .await
}

#[tokio::test]
async fn work_that_waits_together_is_committed_together() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = numbers(&folder).await;
    // The first piece blocks the thread until twenty more wait.
    let (started, begun) = oneshot::channel();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (mut started, held) = (Some(started), std::sync::Mutex::new(held));
    let first = database.run(move |_| {
        _ = started.take().map(|started| started.send(()));
        _ = held.lock().map(|held| held.recv());
        Ok(())
    });
    let mut rest: Vec<_> = (0..20).map(|number| Box::pin(insert(&database, number))).collect();
    let log = || std::fs::metadata(folder.path().join("a.db-wal")).map_or(0, |file| file.len());
    let before = log();
    let all = async {
        begun.await.expect("the first piece runs");
        for waiting in &mut rest {
            // One poll sends the work; the answer can't have arrived yet.
            assert!(
                std::future::poll_fn(|context| std::task::Poll::Ready(
                    waiting.as_mut().poll(context).is_pending()
                ))
                .await
            );
        }
        release.send(()).expect("the first piece waits");
        for waiting in rest {
            waiting.await.expect("a row");
        }
    };
    let (first, ()) = tokio::join!(first, all);
    assert_eq!(first, Ok(()));
    assert_eq!(count(&database).await, Ok(20));
    // Twenty rows on one page: one commit writes that page to the log once.
    let frame = 24 + 8_192;
    assert!(log() - before <= 2 * frame, "{} bytes of log", log() - before);
}

#[tokio::test]
async fn nothing_is_written_to_a_file_that_was_removed_or_replaced_and_all_is_well_once_it_is_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = numbers(&folder).await;
    insert(&database, 1).await.expect("a row");
    let (path, elsewhere) = (folder.path().join("a.db"), folder.path().join("b.db"));
    let refused = async |number: i64, how: &str| {
        for outcome in [insert(&database, number).await, count(&database).await.map(drop)] {
            let Err(Fault::Deployment(text)) = outcome else { panic!("{how}: {outcome:?}") };
            assert!(text.contains(how) && text.contains("a.db"), "{text}");
        }
    };
    std::fs::rename(&path, &elsewhere).expect("it moves");
    refused(2, "removed").await;
    std::fs::write(&path, "another file").expect("a file");
    refused(3, "replaced by another file").await;
    std::fs::rename(&elsewhere, &path).expect("it moves back");
    assert_eq!(count(&database).await, Ok(1), "nothing was written meanwhile");
    insert(&database, 4).await.expect("a row");
}

#[tokio::test]
async fn a_read_does_not_wait_for_another_process_that_writes() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = numbers(&folder).await;
    insert(&database, 1).await.expect("a row");
    let other = connection::open(&folder.path().join("a.db")).expect("the same file");
    other.execute_batch("BEGIN IMMEDIATE; INSERT INTO numbers (n) VALUES (2)").expect("the lock");
    let read = database
        .read(|connection| connection.query_row("SELECT count(*) FROM numbers", [], |row| row.get(0)));
    // Work that writes fails if it does not get the lock in time.
    assert_eq!(read.await, Ok(1));
    other.execute_batch("COMMIT").expect("a commit");
    assert_eq!(count(&database).await, Ok(2));
}

#[tokio::test]
async fn a_failing_piece_does_not_fail_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = numbers(&folder).await;
    let (one, two, same, three) =
        tokio::join!(insert(&database, 1), insert(&database, 2), insert(&database, 1), insert(&database, 3));
    assert_eq!((one, two, three), (Ok(()), Ok(()), Ok(())));
    assert!(matches!(same, Err(Fault::Data(_))), "{same:?}");
    assert_eq!(count(&database).await, Ok(3));
}

#[tokio::test]
async fn work_of_a_cancelled_caller_is_still_done_completely() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = numbers(&folder).await;
    let mut gone = Box::pin(insert(&database, 1));
    std::future::poll_fn(|context| std::task::Poll::Ready(gone.as_mut().poll(context).is_pending())).await;
    drop(gone);
    assert_eq!(insert(&database, 2).await, Ok(()));
    assert_eq!(count(&database).await, Ok(2));
}

#[tokio::test]
async fn a_full_disk_fails_the_batch_and_keeps_the_rest_until_there_is_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = numbers(&folder).await;
    insert(&database, 1).await.expect("a row");
    // SQLite treats a limit on the file's pages like a full disk.
    let limit = |pages: u32| {
        database.run(move |connection| {
            connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| row.get::<_, u32>(0))
        })
    };
    limit(1).await.expect("the file as it is");
    let filler = "INSERT INTO numbers (filler) VALUES (zeroblob(100000))";
    let refused = database.run(move |connection| connection.execute(filler, [])).await;
    assert!(matches!(refused, Err(Fault::OutOfSpace(_))), "{refused:?}");
    assert_eq!(count(&database).await, Ok(1));
    limit(u32::MAX - 1).await.expect("no limit");
    assert_eq!(database.run(move |connection| connection.execute(filler, [])).await, Ok(1));
    assert_eq!(count(&database).await, Ok(2));
}

#[tokio::test]
async fn after_an_io_error_every_call_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    let database = numbers(&folder).await;
    let failing = database.run(|_| -> rusqlite::Result<()> {
        Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_FSYNC), None))
    });
    assert!(matches!(failing.await, Err(Fault::Broken(_))));
    assert!(matches!(insert(&database, 1).await, Err(Fault::Broken(_))));
    drop(database);
    let log = std::fs::metadata(folder.path().join("a.db-wal")).map_or(0, |file| file.len());
    assert!(log > 0, "the log is what is surely there: it is not copied and removed at the close");
    let opened_anew = open(&folder);
    assert_eq!(insert(&opened_anew, 1).await, Ok(()));
}

/// Opens the file as the one that writes it. Returns what lets its next check find that a copy of the log has failed.
fn writing(folder: &tempfile::TempDir) -> (Database, impl Fn() + Send + 'static + use<>) {
    let path = folder.path().join("a.db");
    let mut connection = connection::open(&path).expect("a file");
    let checkpoints = Checkpoints::of(&mut connection, &path).expect("a thread");
    let failing = checkpoints.failing();
    (Database::start(connection, None, Some(checkpoints)).expect("a thread"), failing)
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS numbers (n INTEGER PRIMARY KEY, filler BLOB) STRICT";

#[tokio::test]
async fn after_a_failed_copy_of_the_log_every_call_fails_and_the_log_stays_whenever_the_file_is_closed() {
    for is_used_again in [true, false] {
        let folder = tempfile::tempdir().expect("a folder");
        let (database, failing) = writing(&folder);
        database.run(|connection| connection.execute_batch(TABLE)).await.expect("a table");
        assert_eq!(insert(&database, 1).await, Ok(()));
        failing();
        if is_used_again {
            for _ in 0..2 {
                let refused = insert(&database, 2).await;
                assert!(
                    matches!(&refused, Err(Fault::Broken(text)) if text.contains("Fix: ")),
                    "{refused:?}"
                );
            }
        }
        drop(database);
        assert!(folder.path().join("a.db-wal").exists(), "used again: {is_used_again}");
        let (opened_anew, _) = writing(&folder);
        assert_eq!(count(&opened_anew).await, Ok(1));
        drop(opened_anew);
        assert!(!folder.path().join("a.db-wal").exists(), "all is well now");
    }
}
