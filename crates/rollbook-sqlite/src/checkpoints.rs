//! Checkpoints of a file: they copy its write-ahead log into it.
//!
//! SQLite does this within a commit, once the log is long: that commit, and all that wait for it, take several milliseconds more.
//! Here a thread with a connection of its own copies the log while the writer goes on. A log begins anew only if all of it is
//! copied, and a thread never catches up while commits follow each other. So a commit copies the last part itself, and waits for
//! the disk.
//!
//! A copy that fails is the end of this file for the process. SQLite notes what an earlier part of the copy wrote as done, and
//! the kernel forgets pages that the disk did not take: another attempt would succeed without them. They are all in the log,
//! which therefore must not be copied and removed at the close either. SQLite forgets its note once no process has the file open.

use std::ffi::c_int;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use rusqlite::hooks::Wal;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, MAIN_DB};

use crate::connection::{self, CHECKPOINT_BYTES};
use crate::fault::Fault;

/// The thread copies whenever this part of a log of [`CHECKPOINT_BYTES`] is new, as a divisor.
const NEW_PART: u32 = 4;
/// A commit copies the rest if it is at most this part of such a log, as a divisor.
const REST_PART: u32 = 8;
/// A commit copies what it can of a log that is this many times as long: someone reads an old state, or the disk is slow.
const LENGTH_MAX: u32 = 4;

/// Step of a commit towards a log that is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// Wakes the thread.
    Wake,
    /// Copies the log itself.
    Copy,
}

/// Returns what a commit does that leaves this many pages in the log.
fn step(pages: u32, copied: u32, is_copying: bool, log_pages: u32) -> Step {
    let rest = pages.saturating_sub(copied);
    let is_long = pages >= log_pages;
    if pages >= log_pages * LENGTH_MAX || is_long && !is_copying && rest <= log_pages / REST_PART {
        Step::Copy
    } else if !is_copying && (is_long || rest >= log_pages / NEW_PART) {
        Step::Wake
    } else {
        Step::Nothing
    }
}

/// Message to the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Copy,
    End,
}

/// Progress of the checkpoints, which the writer and the thread share.
#[derive(Debug, Default)]
struct State {
    /// Pages of the log that are in the file, as the last copy found.
    copied: AtomicU32,
    /// Whether the thread works, or is about to.
    is_copying: AtomicBool,
    /// Why a copy failed.
    failed: OnceLock<Fault>,
}

/// Checkpoints of a file, made by a thread.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    state: Arc<State>,
    wake: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    /// Starts a thread that makes the checkpoints of the connection which writes the file at `path`.
    ///
    /// # Errors
    /// The file can't be opened again, or there is no thread.
    pub(crate) fn of(connection: &mut Connection, path: &Path) -> Result<Self, Fault> {
        let page_bytes: u32 = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        let log_pages = CHECKPOINT_BYTES / page_bytes.max(1);
        let own = connection::open(path)?;
        connection::keep_log_at_close(&own)?;
        let state = Arc::new(State::default());
        let (wake, woken) = mpsc::channel();
        let its_state = Arc::clone(&state);
        let thread = thread::Builder::new()
            .name("rollbook-checkpoint".into())
            .spawn(move || copy_when_woken(&own, &its_state, &woken))
            .map_err(|error| Fault::Unavailable(format!("no thread for checkpoints: {error}")))?;
        let (writers_state, writers_wake) = (Arc::clone(&state), wake.clone());
        // It takes the place of SQLite's own checkpoints. An error here would fail a commit that is durable already.
        let committed = move |log: &mut Wal, pages: c_int| {
            writers_state.committed(log, u32::try_from(pages).unwrap_or(0), log_pages, &writers_wake);
            Ok(())
        };
        connection.wal_hook(Some(committed))?;
        Ok(Self { state, wake, thread: Some(thread) })
    }

    /// Fails after a copy has failed.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        self.state.check()
    }

    /// Ends the thread, and fails after a copy has failed.
    pub(crate) fn end(self) -> Result<(), Fault> {
        let state = Arc::clone(&self.state);
        drop(self);
        state.check()
    }

    /// Returns what lets the next check find that a copy has failed.
    #[cfg(test)]
    pub(crate) fn failing(&self) -> impl Fn() + Send + 'static + use<> {
        let state = Arc::clone(&self.state);
        move || state.note(Err(failure(rusqlite::ffi::SQLITE_IOERR_FSYNC)))
    }
}

#[cfg(test)]
fn failure(code: c_int) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None)
}

impl Drop for Checkpoints {
    /// Ends the thread. Its connection is closed then, so that the writing one can be the last.
    fn drop(&mut self) {
        // An error means that the thread has panicked, which has closed its connection too.
        self.wake.send(Message::End).ok();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl State {
    fn check(&self) -> Result<(), Fault> {
        self.failed.get().map_or(Ok(()), |fault| Err(fault.clone()))
    }

    fn committed(&self, log: &mut Wal, pages: u32, log_pages: u32, wake: &Sender<Message>) {
        if self.failed.get().is_some() {
            return;
        }
        if self.copied.load(Ordering::Relaxed) > pages {
            // The log has begun anew.
            self.copied.store(0, Ordering::Relaxed);
        }
        let is_copying = self.is_copying.load(Ordering::Acquire);
        match step(pages, self.copied.load(Ordering::Relaxed), is_copying, log_pages) {
            Step::Nothing => {}
            Step::Wake => {
                // Before the thread is woken: it takes this back.
                self.is_copying.store(true, Ordering::Release);
                // Without the thread a commit copies a long log.
                wake.send(Message::Copy).ok();
            }
            Step::Copy => self.note(log.checkpoint_v2(CheckpointMode::PASSIVE)),
        }
    }

    /// Notes the result of a copy: pages of the log, and pages of it that are copied. Another copy under way, or a full disk, is not a
    /// failure: nothing of such a copy counts as done.
    fn note(&self, result: rusqlite::Result<(c_int, c_int)>) {
        match result.map_err(Fault::from) {
            Ok((_, copied)) => self.copied.store(u32::try_from(copied).unwrap_or(0), Ordering::Relaxed),
            Err(Fault::Unavailable(_) | Fault::OutOfSpace(_)) => {}
            Err(fault) => {
                let text = format!(
                    "the write-ahead log was not copied into the file: {fault}. Fix: end every process that has the file \
                     open, check the disk, then start them again"
                );
                // The first one counts.
                drop(self.failed.set(Fault::Broken(text)));
            }
        }
    }
}

/// Copies the log each time that it is woken, until the end.
fn copy_when_woken(own: &Connection, state: &State, woken: &Receiver<Message>) {
    while woken.recv() == Ok(Message::Copy) {
        if state.failed.get().is_none() {
            state.note(own.wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::PASSIVE));
        }
        state.is_copying.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use rusqlite::ffi;

    use super::*;

    #[test]
    fn a_commit_wakes_the_thread_copies_the_rest_and_copies_all_only_if_the_thread_is_late() {
        const LOG: u32 = 4_000;
        for (pages, copied, is_copying, expected) in [
            (999, 0, false, Step::Nothing),
            (1_000, 0, false, Step::Wake),
            (1_000, 0, true, Step::Nothing),
            (1_999, 1_000, false, Step::Nothing),
            (3_999, 3_000, false, Step::Nothing),
            // Long enough to begin anew.
            (4_000, 0, false, Step::Wake),
            (4_000, 3_499, false, Step::Wake),
            (4_000, 3_500, false, Step::Copy),
            (4_000, 3_500, true, Step::Nothing),
            (15_999, 0, true, Step::Nothing),
            (16_000, 0, true, Step::Copy),
            // The thread found more than there is: the log has begun anew.
            (10, 4_000, false, Step::Nothing),
        ] {
            assert_eq!(step(pages, copied, is_copying, LOG), expected, "{pages} {copied} {is_copying}");
        }
    }

    /// File with its writer.
    struct File {
        folder: tempfile::TempDir,
        checkpoints: Option<Checkpoints>,
        writer: Connection,
    }

    impl File {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("a.db");
            let mut writer = connection::make(&path, 4_096).expect("a file");
            writer
                .execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB) STRICT")
                .expect("a table");
            let checkpoints = Some(Checkpoints::of(&mut writer, &path).expect("a thread"));
            Self { folder, checkpoints, writer }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("a.db")
        }

        /// Commits this many MiB, one in a transaction.
        fn commit(&self, mib: usize) {
            for _ in 0..mib {
                self.writer.execute("INSERT INTO t (body) VALUES (randomblob(1048576))", []).expect("a row");
            }
        }

        fn state(&self) -> &State {
            &self.checkpoints.as_ref().expect("it runs").state
        }

        /// Waits until the thread has nothing to do.
        fn settle(&self) {
            let begun = Instant::now();
            while self.state().is_copying.load(Ordering::Acquire) {
                assert!(begun.elapsed() < Duration::from_secs(60), "the thread does not end its copy");
                thread::yield_now();
            }
        }

        /// Sizes of the file and of its log, in MiB.
        fn sizes(&self) -> (u64, u64) {
            let of = |name: &str| {
                std::fs::metadata(self.folder.path().join(name)).map_or(0, |file| file.len() >> 20)
            };
            (of("a.db"), of("a.db-wal"))
        }

        /// Closes the file, and returns its folder.
        fn close(self) -> tempfile::TempDir {
            let Self { folder, checkpoints, writer } = self;
            drop(checkpoints);
            drop(writer);
            folder
        }
    }

    #[test]
    fn the_thread_copies_what_is_committed_and_the_log_begins_anew_while_commits_follow_each_other() {
        let file = File::new();
        file.commit(10);
        file.settle();
        let (copied, _) = file.sizes();
        assert!(copied >= 3, "{copied} MiB: the log is not long enough for a commit to copy anything");
        for _ in 0..11 {
            file.commit(10);
            file.settle();
        }
        let (_, log) = file.sizes();
        assert!(log < 100, "{log} MiB of log after 120 MiB");
        let folder = file.close();
        assert!(
            !folder.path().join("a.db-wal").exists(),
            "the last one that closes the file copies all of the log"
        );
    }

    #[test]
    fn the_log_grows_while_someone_reads_an_old_state_and_begins_anew_afterwards() {
        let file = File::new();
        file.commit(1);
        let reader = connection::open_reader(&file.path()).expect("the file");
        let count = || reader.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
        reader.execute_batch("BEGIN").expect("a transaction");
        assert_eq!(count(), Ok(1));
        file.commit(80);
        assert_eq!(count(), Ok(1), "the old state");
        let (_, grown) = file.sizes();
        assert!(grown >= 80, "{grown} MiB of log");
        reader.execute_batch("COMMIT").expect("the end");
        file.settle();
        // The first commit copies all of the log, the second one begins it anew, which cuts the file.
        file.commit(2);
        let (_, cut) = file.sizes();
        assert!(cut < grown, "{cut} of {grown} MiB of log");
        assert_eq!(count(), Ok(83));
    }

    #[test]
    fn two_writers_of_a_file_lose_no_commit_and_copy_at_different_times() {
        let file = File::new();
        let mut other = connection::open(&file.path()).expect("the same file");
        let others = Checkpoints::of(&mut other, &file.path()).expect("a thread");
        // In turns: a writer that waits for the lock would give up after some seconds on a slow disk.
        for _ in 0..30 {
            file.commit(2);
            other.execute("INSERT INTO t (body) VALUES (randomblob(1048576))", []).expect("a row");
        }
        assert_eq!((file.checkpoints.as_ref().expect("it runs").check(), others.check()), (Ok(()), Ok(())));
        drop(others);
        drop(other);
        let path = file.path();
        let _folder = file.close();
        let file = connection::open(&path).expect("a file");
        let count = "SELECT count(*) FROM t WHERE length(body) = 1048576";
        assert_eq!(file.query_row(count, [], |row| row.get(0)), Ok(90));
        assert_eq!(file.query_row("PRAGMA integrity_check", [], |row| row.get(0)), Ok("ok".to_owned()));
    }

    #[test]
    fn after_a_copy_that_failed_nothing_is_copied_and_a_full_disk_or_another_copy_fails_nothing() {
        let file = File::new();
        let check = || file.checkpoints.as_ref().expect("it runs").check();
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_BUSY, ffi::SQLITE_NOMEM, ffi::SQLITE_IOERR_SHMSIZE] {
            file.state().note(Err(failure(code)));
        }
        assert_eq!(check(), Ok(()));
        file.state().note(Err(failure(ffi::SQLITE_IOERR_FSYNC)));
        assert!(matches!(check(), Err(Fault::Broken(_))), "{:?}", check());
        let (before, _) = file.sizes();
        file.commit(80);
        file.settle();
        let (after, log) = file.sizes();
        assert!(before == after && log >= 80, "{before} and {after} MiB, {log} MiB of log");
    }
}
