//! Thread that owns the writing connection of a file, and commits waiting work together.
//!
//! Callers send work and await its answer. The thread takes all waiting work, runs it in one `BEGIN
//! IMMEDIATE` transaction (`BEGIN` if all of it only reads), commits, and only then answers: an enqueue, a
//! lease and a settlement that arrive together share one wait for the disk. If one piece of a group fails,
//! the group is rolled back and each piece runs alone, so that only that piece fails. Work can therefore run
//! more than once and must not have effects outside the connection. A caller that is cancelled changes
//! nothing: its work is done completely or not at all.
//!
//! Before and after each transaction the path of the file is checked (`place.rs`).
//!
//! The thread ends when the last handle is dropped, and the drop waits for it: then the file is closed.

use std::path::Path;
use std::thread;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::checkpoints::Checkpoints;
use crate::connection;
use crate::fault::Fault;
use crate::migrations::Guard;
use crate::place::Place;

/// Maximum pieces of work in one commit. Each piece is already a batch.
const GROUP_MAX: usize = 64;

/// Handle to the thread that owns a file.
#[derive(Debug)]
pub(crate) struct Database {
    jobs: Option<mpsc::UnboundedSender<Box<dyn Job>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Database {
    /// Starts a thread that owns the connection which writes the file at `path`; another thread makes its checkpoints.
    pub(crate) fn writing(
        path: &Path,
        mut connection: Connection,
        guard: Option<Guard>,
    ) -> Result<Self, Fault> {
        let checkpoints = Checkpoints::of(&mut connection, path)?;
        Self::start(connection, guard, Some(checkpoints))
    }

    /// Starts a thread that owns the connection to a file, and works on it only while the guard permits it.
    pub(crate) fn new(connection: Connection, guard: Option<Guard>) -> Result<Self, Fault> {
        Self::start(connection, guard, None)
    }

    fn start(
        connection: Connection,
        guard: Option<Guard>,
        checkpoints: Option<Checkpoints>,
    ) -> Result<Self, Fault> {
        let (jobs, waiting) = mpsc::unbounded_channel();
        let thread = thread::Builder::new()
            .name("rollbook-sqlite".into())
            .spawn(move || {
                let place = Place::of(&connection);
                Owner { checkpoints, connection: Ok(connection), place, guard, waiting }.run();
            })
            .map_err(|error| Fault::Unavailable(format!("no thread to write the file: {error}")))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs `work` within a transaction that is durable when this returns.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.send(work, false).await
    }

    /// Runs `work`, which only reads. It sees one state of the file. It does not wait for another process
    /// that writes, unless it shares its transaction with work that writes.
    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.send(work, true).await
    }

    async fn send<T, F>(&self, piece: F, reads: bool) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let gone = || Fault::Broken("the thread that writes the file has ended".into());
        let (answer, answered) = oneshot::channel();
        let job = Box::new(Work { piece, reads, result: None, answer });
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // The callers of a thread that panicked have got an error: its channels are closed.
            drop(thread.join());
        }
    }
}

/// Work without its types.
trait Job: Send {
    fn reads(&self) -> bool;
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, outcome: Result<(), Fault>);
}

struct Work<T, F> {
    piece: F,
    /// Whether the work only reads.
    reads: bool,
    result: Option<T>,
    answer: oneshot::Sender<Result<T, Fault>>,
}

impl<T, F> Job for Work<T, F>
where
    T: Send,
    F: FnMut(&Connection) -> rusqlite::Result<T> + Send,
{
    fn reads(&self) -> bool {
        self.reads
    }

    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.result = Some((self.piece)(connection)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), Fault>) {
        let Self { result, answer, .. } = *self;
        let unrun = || Fault::Unavailable("the work did not run".into());
        // A cancelled caller does not need the answer.
        drop(answer.send(outcome.and_then(|()| result.ok_or_else(unrun))));
    }
}

/// State of the thread: the connection, or why it is closed.
struct Owner {
    /// Checkpoints of a connection that writes. Dropped first: the writing connection is the last that closes the file, and
    /// then copies the whole log into it.
    checkpoints: Option<Checkpoints>,
    connection: Result<Connection, Fault>,
    /// `None` if the connection has no file.
    place: Option<Place>,
    guard: Option<Guard>,
    waiting: mpsc::UnboundedReceiver<Box<dyn Job>>,
}

impl Owner {
    fn run(mut self) {
        while let Some(first) = self.waiting.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP_MAX
                && let Ok(next) = self.waiting.try_recv()
            {
                group.push(next);
            }
            self.commit(group);
        }
    }

    fn commit(&mut self, mut group: Vec<Box<dyn Job>>) {
        let outcome = self.attempt(&mut group);
        // The pieces run one by one only after a failure that one piece alone may have caused.
        if group.len() > 1
            && matches!(outcome, Err(Fault::Data(_) | Fault::Statement(_) | Fault::Deployment(_)))
        {
            for job in group {
                self.commit(vec![job]);
            }
            return;
        }
        for job in group {
            job.answer(outcome.clone());
        }
    }

    fn attempt(&mut self, group: &mut [Box<dyn Job>]) -> Result<(), Fault> {
        let connection = self.connection.as_ref().map_err(Clone::clone)?;
        let place = self.place.as_ref();
        let is_there = || place.map_or(Ok(()), Place::check);
        is_there()?;
        let outcome = self
            .checkpoints
            .as_ref()
            .map_or(Ok(()), Checkpoints::check)
            .and_then(|()| transaction(connection, self.guard.as_mut(), group))
            .and_then(|()| is_there());
        if let Err(fault @ Fault::Broken(_)) = &outcome {
            // After a failed fsync the kernel may report success for data it has dropped. Only opening
            // the file anew, in a new process, reads what is really there. The log is what is surely there.
            drop(connection::keep_log_at_close(connection));
            self.checkpoints = None;
            self.connection = Err(fault.clone());
        }
        outcome
    }
}

fn transaction(
    connection: &Connection,
    guard: Option<&mut Guard>,
    group: &mut [Box<dyn Job>],
) -> Result<(), Fault> {
    let only_reads = group.iter().all(|job| job.reads());
    connection.execute_batch(if only_reads { "BEGIN" } else { "BEGIN IMMEDIATE" })?;
    let outcome = guard.map_or(Ok(()), |guard| guard.check(connection)).and_then(|()| {
        group.iter_mut().try_for_each(|job| job.run(connection))?;
        Ok(connection.execute_batch("COMMIT")?)
    });
    // SQLite rolls back by itself after some errors (a full disk) and not after others.
    if outcome.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    outcome
}

#[cfg(test)]
mod tests {
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
        let (one, two, same, three) = tokio::join!(
            insert(&database, 1),
            insert(&database, 2),
            insert(&database, 1),
            insert(&database, 3)
        );
        assert_eq!((one, two, three), (Ok(()), Ok(()), Ok(())));
        assert!(matches!(same, Err(Fault::Data(_))), "{same:?}");
        assert_eq!(count(&database).await, Ok(3));
    }

    #[tokio::test]
    async fn work_of_a_cancelled_caller_is_still_done_completely() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = numbers(&folder).await;
        let mut gone = Box::pin(insert(&database, 1));
        std::future::poll_fn(|context| std::task::Poll::Ready(gone.as_mut().poll(context).is_pending()))
            .await;
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
                connection
                    .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| row.get::<_, u32>(0))
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
}
