//! One step of work on many rows: time-outs and refusals are results of the step, not outages.

use std::time::{Duration, Instant};

use rollbook_core::pace::Pace;
use rollbook_core::store::StoreError;

use crate::address::Address;
use crate::fault::{self, Fault};
use crate::transaction::{Database, End, Session, Work};

/// Maximum duration of a step of several rows: a smaller step may succeed, and others wait for its locks no longer.
const SEVERAL_MAX: Duration = Duration::from_secs(5);
/// Maximum wait for a lock in a step of several rows.
const LOCK_MAX: Duration = Duration::from_secs(1);
/// Part of the statement timeout that a single row waits for a lock: 1 / this.
const LOCK_SHARE: u32 = 2;

/// Reason why a step was rolled back although the database works. The texts contain no values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// A time limit was reached; a smaller step may succeed.
    TimedOut(String),
    /// At least one of the rows is refused.
    Refused(String),
}

impl Failed {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::TimedOut(text) | Self::Refused(text) => text,
        }
    }
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::TimedOut(text) => Self::Unavailable(text),
            Failed::Refused(text) => Self::Event(text),
        }
    }
}

/// Runs steps in transactions of their own.
pub(super) struct Steps<'a> {
    pub(super) database: &'a Database,
    /// Configured statement timeout.
    pub(super) statement_timeout: Duration,
}

impl Steps<'_> {
    /// Runs work on this many rows.
    ///
    /// # Errors
    /// The database is unreachable, or its deployment is wrong.
    pub(super) async fn attempt<W: Work>(
        &self,
        rows: usize,
        work: &W,
    ) -> Result<Result<W::Output, Failed>, Fault> {
        let (statement, lock) = if rows > 1 {
            (SEVERAL_MAX.min(self.statement_timeout), LOCK_MAX.min(self.statement_timeout / LOCK_SHARE))
        } else {
            (self.statement_timeout, self.statement_timeout / LOCK_SHARE)
        };
        let address = self.database.address();
        match self.database.run(&Guarded { address, statement, lock, work }).await {
            Err(Fault::Ambiguous(inner)) => {
                // A trigger may have ended or changed the session; in an outage nothing else works either.
                self.database.run(&Writable).await?;
                Ok(Err(Failed::Refused(inner.to_string())))
            }
            // What is deferred to the commit is refused there.
            Err(fault) => refused(fault).map(Err),
            done => done,
        }
    }

    /// Runs work like [`Self::attempt`], and reports its duration to the pace.
    pub(super) async fn paced<W: Work>(
        &self,
        pace: &Pace,
        rows: usize,
        work: &W,
    ) -> Result<Result<W::Output, Failed>, Fault> {
        let began_at = Instant::now();
        let outcome = self.attempt(rows, work).await?;
        match &outcome {
            Ok(_) => pace.took(rows, began_at.elapsed()),
            Err(Failed::TimedOut(_)) => pace.timed_out(rows),
            Err(Failed::Refused(_)) => {}
        }
        Ok(outcome)
    }

    /// Runs work that may take up to `limit`, such as reading all child rows of a large parent.
    pub(super) async fn long<W: Work>(&self, limit: Duration, work: &W) -> Result<W::Output, Fault> {
        let patient = Patient { limit, work };
        self.database.run_within(limit + self.statement_timeout, &patient).await
    }
}

/// Work with a longer statement timeout.
struct Patient<'a, W> {
    limit: Duration,
    work: &'a W,
}

impl<W: Work> Work for Patient<'_, W> {
    type Output = W::Output;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<W::Output> {
        session.script(format!("SET LOCAL statement_timeout = {}", self.limit.as_millis().max(1))).await?;
        self.work.run(session).await
    }
}

/// Checks that the database answers and accepts writes.
struct Writable;

impl Work for Writable {
    type Output = ();
    const END: End = End::Rollback;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<()> {
        session.must_be_writable().await
    }
}

struct Guarded<'a, W> {
    address: &'a Address,
    statement: Duration,
    lock: Duration,
    work: &'a W,
}

impl<W: Work> Work for Guarded<'_, W> {
    type Output = Result<W::Output, Failed>;

    fn judge(&self, address: &Address, error: &sqlx::Error) -> Fault {
        fault::judge_rows(address, error)
    }

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Self::Output> {
        let (statement, lock) = (self.statement.as_millis().max(1), self.lock.as_millis().max(1));
        session
            .script(format!("SET LOCAL statement_timeout = {statement}; SET LOCAL lock_timeout = {lock}"))
            .await?;
        match self.inner(session).await {
            Ok(output) => Ok(Ok(output)),
            Err(error) => {
                let failed = classify(self.address, &error).ok_or(error)?;
                abandon(session).await?;
                Ok(Err(failed))
            }
        }
    }
}

impl<W: Work> Guarded<'_, W> {
    /// Runs the work and the constraint triggers that a team has deferred: no time limit would apply to these at the commit.
    async fn inner(&self, session: &mut Session<'_>) -> sqlx::Result<W::Output> {
        let output = self.work.run(session).await?;
        run_deferred(session).await?;
        Ok(output)
    }
}

/// Runs the triggers and constraints that a team has deferred to the commit: what is read next shows what they did.
pub(super) async fn run_deferred(session: &mut Session<'_>) -> sqlx::Result<()> {
    session.script("SET CONSTRAINTS ALL IMMEDIATE".to_owned()).await
}

/// Rolls back, so that the transaction's end finds nothing to commit and the connection is as good as before.
pub(super) async fn abandon(session: &mut Session<'_>) -> sqlx::Result<()> {
    session.script("ROLLBACK; BEGIN".to_owned()).await
}

/// Classifies an error that a smaller step may avoid; `None` if the database itself is at fault.
pub(super) fn classify(address: &Address, error: &sqlx::Error) -> Option<Failed> {
    let fault = fault::judge(address, error);
    if is_timeout(error) {
        return Some(Failed::TimedOut(fault.to_string()));
    }
    refused(fault).ok()
}

/// Returns the refusal of a row, also by a policy that may apply to that row alone.
///
/// # Errors
/// Returns the fault itself if the database is at fault.
pub(super) fn refused(fault: Fault) -> Result<Failed, Fault> {
    match fault {
        Fault::Data(text) => Ok(Failed::Refused(text)),
        Fault::Ambiguous(inner) if matches!(*inner, Fault::Deployment(_)) => {
            Ok(Failed::Refused(inner.to_string()))
        }
        other => Err(other),
    }
}

/// Whether a statement, or its wait for a lock, took too long.
pub(super) fn is_timeout(error: &sqlx::Error) -> bool {
    fault::database_error(error).is_some_and(|error| matches!(error.code(), "57014" | "55P03"))
}
