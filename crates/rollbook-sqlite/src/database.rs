//! One file, one writing connection, one thread; what waits is committed together.
//!
//! Callers send work and await its answer. The thread takes all that waits, runs it in one `BEGIN
//! IMMEDIATE` transaction, commits, and only then answers: an enqueue, a lease and a settlement that
//! meet share one wait for the disk. When one piece of a group fails, the group is rolled back and each
//! piece runs alone, so that it fails alone; work can therefore run more than once and must not have
//! effects outside the connection. A caller that goes away changes nothing: its work is done or not done
//! as a whole.
//!
//! The thread ends when the last handle goes, which waits for it: a closed database is closed.

use std::path::Path;
use std::thread;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::connection;
use crate::fault::Fault;

/// How many pieces of work one commit may carry. Each is a batch already.
const GROUP_MAX: usize = 64;

/// A handle to the thread that owns a file.
#[derive(Debug)]
pub(crate) struct Database {
    jobs: Option<mpsc::UnboundedSender<Box<dyn Job>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Database {
    /// Opens the file and starts its thread.
    pub(crate) fn open(path: &Path) -> Result<Self, Fault> {
        let connection = connection::open(path)?;
        let (jobs, waiting) = mpsc::unbounded_channel();
        let thread = thread::Builder::new()
            .name("rollbook-sqlite".into())
            .spawn(move || Owner { connection: Ok(connection), waiting }.run())
            .map_err(|error| Fault::Unavailable(format!("no thread for {}: {error}", path.display())))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs `work` within a transaction that is durable when this returns.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let gone = || Fault::Broken("the thread that writes the file has ended".into());
        let (answer, answered) = oneshot::channel();
        let job = Box::new(Work { work, result: None, answer });
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has answered its callers by going; there is nobody left to tell.
            drop(thread.join());
        }
    }
}

/// Work without its types.
trait Job: Send {
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, outcome: Result<(), Fault>);
}

struct Work<T, F> {
    work: F,
    result: Option<T>,
    answer: oneshot::Sender<Result<T, Fault>>,
}

impl<T, F> Job for Work<T, F>
where
    T: Send,
    F: FnMut(&Connection) -> rusqlite::Result<T> + Send,
{
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.result = Some((self.work)(connection)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), Fault>) {
        let Self { result, answer, .. } = *self;
        let unrun = || Fault::Unavailable("the work did not run".into());
        // Whoever asked may be gone; then nobody needs the answer.
        drop(answer.send(outcome.and_then(|()| result.ok_or_else(unrun))));
    }
}

/// The thread's state: the connection, or why there is none any more.
struct Owner {
    connection: Result<Connection, Fault>,
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
        // Only a failure that may be one piece's alone is worth running the pieces one by one.
        if group.len() > 1 && matches!(outcome, Err(Fault::Data(_) | Fault::Deployment(_))) {
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
        let outcome = transaction(connection, group);
        if let Err(fault @ Fault::Broken(_)) = &outcome {
            // After a failed fsync the kernel may report success for data it has dropped. Only opening
            // the file anew, in a new process, reads what is really there.
            self.connection = Err(fault.clone());
        }
        outcome
    }
}

fn transaction(connection: &Connection, group: &mut [Box<dyn Job>]) -> Result<(), Fault> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let outcome = group
        .iter_mut()
        .try_for_each(|job| job.run(connection))
        .and_then(|()| connection.execute_batch("COMMIT"));
    // SQLite rolls back by itself after some errors (a full disk) and not after others.
    if outcome.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    Ok(outcome?)
}
