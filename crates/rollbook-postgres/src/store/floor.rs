//! Number of `changes_pending` after which the sequencer begins to read.
//!
//! Moved lines are dead rows, and another session's long transaction keeps the server from removing them: a read from the
//! first number on would pass over all of them each time. A line with a low number may still become visible, so the
//! sequencer may begin after a number only when every transaction that could have drawn a lower one has ended. Such a
//! transaction holds a lock on the table from before it draws a number until its end (decision 0284).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sqlx::Row as _;
use sqlx::postgres::PgArguments;

use crate::transaction::Session;
use crate::types::Sql;

/// Number of moved lines after which the beginning is moved: the next reads pass over about as many dead rows.
const LINES: u64 = 5_000;
/// Time after which the reads begin at the first number again: whoever restores the tables from a backup may restart the
/// numbers.
const AGE_MAX: Duration = Duration::from_secs(600);
/// Number of steps between two looks whether the transactions have ended.
const STEPS: u32 = 20;

/// Beginning of the reads, in one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Floor {
    /// No line up to this number can become visible any more.
    pub(super) number: i64,
    /// Lines moved since the last candidate.
    moved: u64,
    /// Greatest number of moved lines, and the transactions that may have drawn a lower one.
    candidate: Option<(i64, BTreeSet<String>)>,
    /// Steps until the next look.
    pause: u32,
    /// Time at which the number was raised from zero.
    since: Option<Instant>,
}

/// Transactions that write to the table: (none). Transactions that are prepared for two-phase commit have lost their name.
pub(super) fn writers(schema: &str) -> Sql {
    Sql::from(format!(
        r#"SELECT virtualtransaction FROM pg_catalog.pg_locks
           WHERE relation = '"{schema}".changes_pending'::regclass AND mode = 'RowExclusiveLock'
                 AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
                 AND pid IS DISTINCT FROM pg_backend_pid()"#
    ))
}

async fn read(session: &mut Session<'_>, writers: &Sql) -> sqlx::Result<BTreeSet<String>> {
    session.fetch(writers, PgArguments::default()).await?.iter().map(|row| row.try_get(0)).collect()
}

impl Floor {
    /// The beginning of the next read.
    pub(super) fn now(&self) -> Self {
        let is_old = self.since.is_some_and(|since| since.elapsed() > AGE_MAX);
        if is_old { Self::default() } else { self.clone() }
    }

    /// To be called before a read. Returns whether all transactions that could have drawn a number up to the candidate's have
    /// ended: if the read then leaves no visible line, it has seen their last ones.
    pub(super) async fn is_reached(&mut self, session: &mut Session<'_>, sql: &Sql) -> sqlx::Result<bool> {
        let Some((_, candidates)) = &self.candidate else { return Ok(false) };
        if self.pause > 0 {
            self.pause -= 1;
            return Ok(false);
        }
        let open = read(session, sql).await?;
        let has_ended = open.is_disjoint(candidates) && !open.iter().any(|name| name.starts_with("-1/"));
        self.pause = if has_ended { 0 } else { STEPS };
        Ok(has_ended)
    }

    /// To be called after a read that left no visible line, if [`Self::is_reached`].
    pub(super) fn raise(&mut self) {
        if let Some((number, _)) = self.candidate.take() {
            self.number = number;
            self.since = self.since.or_else(|| Some(Instant::now()));
        }
    }

    /// To be called after lines up to this number were moved.
    pub(super) async fn moved(
        &mut self,
        session: &mut Session<'_>,
        sql: &Sql,
        lines: u64,
        number: i64,
    ) -> sqlx::Result<()> {
        self.moved += lines;
        if self.moved >= LINES && self.candidate.is_none() {
            // Whoever drew a lower number holds its lock since before the line of this number was committed.
            self.candidate = Some((number, read(session, sql).await?));
            self.moved = 0;
        }
        Ok(())
    }
}
