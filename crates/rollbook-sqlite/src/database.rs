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

use rusqlite::{Connection, Params, Row};
use tokio::sync::{mpsc, oneshot};

use crate::checkpoints::Checkpoints;
use crate::connection;
use crate::fault::Fault;
use crate::migrations::Guard;
use crate::place::Place;
use crate::select::select;

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

    /// Runs one SELECT as [`Self::read`] does, and reads its rows.
    pub(crate) async fn rows<T: Send + 'static>(
        &self,
        sql: impl AsRef<str> + Send + 'static,
        values: impl Params + Clone + Send + 'static,
        read: impl Fn(&Row<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Vec<T>, Fault> {
        self.read(move |connection| select(connection, sql.as_ref(), values.clone(), &read)).await
    }

    /// Runs one statement that writes, as [`Self::run`] does.
    pub(crate) async fn execute(
        &self,
        sql: &'static str,
        values: impl Params + Clone + Send + 'static,
    ) -> Result<(), Fault> {
        self.run(move |connection| connection.prepare_cached(sql)?.execute(values.clone()).map(drop)).await
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
    /// Checkpoints of a connection that writes. They end first: the writing connection is the last of this process that closes
    /// the file, and then copies the whole log into it.
    checkpoints: Option<Checkpoints>,
    connection: Result<Connection, Fault>,
    /// `None` if the connection has no file.
    place: Option<Place>,
    guard: Option<Guard>,
    waiting: mpsc::UnboundedReceiver<Box<dyn Job>>,
}

impl Drop for Owner {
    /// Closes the file. After a failed copy the log stays.
    fn drop(&mut self) {
        let copied = self.checkpoints.take().map_or(Ok(()), Checkpoints::end);
        if let (Err(_), Ok(connection)) = (copied, &self.connection) {
            drop(connection::keep_log_at_close(connection));
        }
    }
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
mod tests;
