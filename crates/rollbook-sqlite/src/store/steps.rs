//! Working off what is left of cascades: in small steps, each committed, around rows that refuse their change.
//!
//! A line about a parent is taken for a while. Looks for its rows that are wrong have a connection of their own, since
//! they pass over all rows of the parent: no delivery waits for them. What they find is repaired in steps on the writing
//! connection, whose size follows from how long they take. A look that finds none, of the line as it then was, removes it. A
//! row that is refused gets a line of its own and is tried again by itself.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rollbook_core::catalog::Resource;
use rollbook_core::pace::Pace;
use rollbook_core::store::{CascadeStep, ErasedCounts, ErasureProgress, PendingWork, StoreError};
use rusqlite::Connection;

use super::SqliteStore;
use super::apply::Tables;
use super::lines::{self, Line, TAKEN_FOR};
use super::sql::Statements;
use crate::fault::{Fault, Undone};

/// How long one call works.
const TURN: Duration = Duration::from_secs(10);
/// How long a step should take at most: deliveries wait for it.
pub(super) const STEP_TIME: Duration = Duration::from_millis(200);
/// The pause after a step, in which another process finds the file's lock free: it asks every 2 ms, and would wait for
/// seconds if steps followed each other at once.
const BREATH: Duration = Duration::from_millis(5);
/// Maximum rows that are looked for at once: each look passes over those that are right already.
pub(super) const FOUND_MAX: usize = 50_000;
/// Maximum rows with lines of their own that are tried again in one turn.
pub(super) const RETRIED_MAX: usize = 100;
/// Maximum rows that one turn finds to be refused. Where a trigger refuses all of them, the rest waits.
pub(super) const REFUSED_MAX: u64 = 100;

/// Rows by their tables.
type Found = Vec<(&'static Resource, Vec<String>)>;

/// What has been done so far, and by when a turn ends.
pub(super) struct Turn<'a> {
    pub(super) done: CascadeStep,
    /// Lines of the ledger that were removed.
    pub(super) ledger: u64,
    /// Why a row was refused last.
    pub(super) why: Option<String>,
    deadline: Option<Instant>,
    held_at: Instant,
    progress: Option<&'a ErasureProgress<'a>>,
}

impl Default for Turn<'_> {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            done: CascadeStep::default(),
            ledger: 0,
            why: None,
            deadline: Some(now + TURN),
            held_at: now,
            progress: None,
        }
    }
}

impl<'a> Turn<'a> {
    /// One that goes on to the end and reports how far it has come.
    pub(super) fn to_the_end(progress: &'a ErasureProgress<'a>) -> Self {
        Self { deadline: None, progress: Some(progress), ..Self::default() }
    }

    /// Begins the time anew: what refuses must not use up that of what does not.
    fn renew(&mut self) {
        self.deadline = self.deadline.map(|_| Instant::now() + TURN);
    }

    pub(super) fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    pub(super) fn report(&self) {
        if let Some(progress) = self.progress {
            progress(ErasedCounts { rows: self.done.rows, ledger: self.ledger });
        }
    }
}

/// How work on the rows of a parent has ended.
pub(super) enum Ended {
    /// A look has found none that is wrong, beside those that are known to refuse their change; the line as it was then.
    Done(Line),
    /// The time is over.
    Unfinished,
    /// Too many rows are refused.
    Refused,
    /// Another worker was faster.
    Gone,
}

impl SqliteStore {
    /// One turn: rows that were refused, as far as they are due, and one parent.
    pub(super) async fn turn(&self) -> Result<CascadeStep, StoreError> {
        let left = self.left().await?;
        if left.due_in != Some(Duration::ZERO) {
            return Ok(left);
        }
        let mut turn = Turn::default();
        for line in self.take(PendingWork::Row, RETRIED_MAX).await? {
            self.retry(&line, &mut turn).await?;
        }
        turn.renew();
        for line in self.take(PendingWork::Children, 1).await? {
            self.work_off(&line, &mut turn).await?;
        }
        Ok(CascadeStep { rows: turn.done.rows, refused: turn.done.refused, ..self.left().await? })
    }

    async fn left(&self) -> Result<CascadeStep, StoreError> {
        let now = self.clock.now();
        Ok(self.database.read(move |connection| lines::left(connection, now)).await?)
    }

    pub(super) async fn take(&self, what: PendingWork, limit: usize) -> Result<Vec<Line>, StoreError> {
        let now = self.clock.now();
        Ok(self.database.run(move |connection| lines::take(connection, what, limit, now)).await?)
    }

    /// Tries a row again that was refused.
    async fn retry(&self, line: &Line, turn: &mut Turn<'_>) -> Result<(), StoreError> {
        if turn.is_over() {
            return self.release(line).await;
        }
        let again = line.clone();
        let work = move |tables: &Tables<'_>| {
            let changed = tables.repair_alone(again.resource, &again.id)?;
            lines::remove(tables.connection, &again)?;
            Ok(changed)
        };
        match self.attempt(work).await? {
            Ok(changed) => turn.done.rows += u64::from(changed),
            Err(why) => self.refuse(line, why, turn).await?,
        }
        Ok(())
    }

    /// Does a step in a transaction of its own. The inner error says why rows are refused.
    ///
    /// # Errors
    /// The file can't be written now, or not at all.
    pub(super) async fn attempt<T: Send + 'static>(
        &self,
        work: impl Fn(&Tables<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Result<T, String>, Fault> {
        match self.change(self.clock.now(), work).await {
            Ok(done) => Ok(Ok(done)),
            Err(Fault::Data(why) | Fault::Statement(why)) => Ok(Err(why)),
            Err(fault) => Err(fault),
        }
    }

    /// Likewise, lets the pace know how long it took, and leaves the file to others for a moment.
    pub(super) async fn paced<T: Send + 'static>(
        &self,
        pace: &Pace,
        rows: usize,
        work: impl Fn(&Tables<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<Result<T, String>, Fault> {
        let began_at = Instant::now();
        let outcome = self.attempt(work).await?;
        if outcome.is_ok() {
            pace.took(rows, began_at.elapsed());
        }
        tokio::time::sleep(BREATH).await;
        Ok(outcome)
    }

    /// Leaves a line that was taken to whoever comes next.
    pub(super) async fn release(&self, line: &Line) -> Result<(), StoreError> {
        let (line, now) = (line.clone(), self.clock.now());
        Ok(self.database.run(move |connection| lines::hold(connection, &line, now)).await?)
    }

    /// Keeps others from a line that is worked off.
    pub(super) async fn hold(&self, line: &Line, turn: &mut Turn<'_>) -> Result<(), StoreError> {
        if turn.held_at.elapsed() < TAKEN_FOR / 4 {
            return Ok(());
        }
        turn.held_at = Instant::now();
        let (line, until) = (line.clone(), self.clock.now().plus(TAKEN_FOR));
        Ok(self.database.run(move |connection| lines::hold(connection, &line, until)).await?)
    }

    /// Notes that a row is refused.
    pub(super) async fn refuse(
        &self,
        line: &Line,
        why: String,
        turn: &mut Turn<'_>,
    ) -> Result<(), StoreError> {
        self.postpone(line, &why).await?;
        tracing::warn!(
            table = line.resource.table,
            id = line.id,
            error = why,
            "a row refuses what follows from its parent's deletion or from retention; it is tried again by itself, \
             all other rows go on. Fix: the trigger or constraint that refuses it"
        );
        turn.done.refused += 1;
        turn.why = Some(why);
        Ok(())
    }

    /// Has a line wait, longer each time.
    pub(super) async fn postpone(&self, line: &Line, why: &str) -> Result<(), StoreError> {
        let (line, why, now) = (line.clone(), why.to_owned(), self.clock.now());
        Ok(self.database.run(move |connection| lines::refuse(connection, &line, &why, now)).await?)
    }

    /// Works off a parent's line, which is taken.
    async fn work_off(&self, line: &Line, turn: &mut Turn<'_>) -> Result<(), StoreError> {
        turn.held_at = Instant::now();
        match self.children(line, turn).await? {
            Ended::Gone => Ok(()),
            Ended::Unfinished => self.release(line).await,
            Ended::Refused => {
                let why = turn.why.clone().unwrap_or_default();
                self.postpone(line, &why).await
            }
            Ended::Done(line) => {
                if line.forget
                    && let Some(kept) = self.forget(std::slice::from_ref(&line), turn).await?
                {
                    return self.postpone(&line, &kept.to_string()).await;
                }
                self.finish(&line).await
            }
        }
    }

    /// Removes a line of which nothing is left. What was noted meanwhile is due.
    pub(super) async fn finish(&self, line: &Line) -> Result<(), StoreError> {
        let (line, now) = (line.clone(), self.clock.now());
        let remove = move |connection: &Connection| {
            if lines::remove(connection, &line)? { Ok(()) } else { lines::hold(connection, &line, now) }
        };
        Ok(self.database.run(remove).await?)
    }

    /// Repairs the rows of a parent.
    pub(super) async fn children(&self, line: &Line, turn: &mut Turn<'_>) -> Result<Ended, StoreError> {
        let before = turn.done.refused;
        let mut repaired: BTreeSet<(&'static str, String)> = BTreeSet::new();
        loop {
            let statements = std::sync::Arc::clone(&self.statements);
            let of = line.clone();
            let looked =
                self.looks().await?.read(move |connection| look(connection, &statements, &of)).await?;
            let Some((now, found)) = looked else { return Ok(Ended::Gone) };
            if found.is_empty() {
                return Ok(Ended::Done(now));
            }
            let (undone, found) = split(found, &repaired);
            for (resource, id) in undone {
                let noted = turn.done.refused - before;
                // At least one is noted, however late it is: the turn gets on.
                if noted >= REFUSED_MAX || noted > 0 && turn.is_over() {
                    return Ok(Ended::Refused);
                }
                self.refuse(&child(line, resource, id), Undone.to_string(), turn).await?;
            }
            repaired = found
                .iter()
                .flat_map(|(resource, ids)| ids.iter().map(|id| (resource.table, id.clone())))
                .collect();
            for (resource, ids) in found {
                let mut open = vec![ids];
                while let Some(ids) = open.pop() {
                    if turn.is_over() {
                        return Ok(Ended::Unfinished);
                    }
                    if turn.done.refused - before >= REFUSED_MAX {
                        return Ok(Ended::Refused);
                    }
                    self.hold(line, turn).await?;
                    self.step(line, resource, ids, &mut open, turn).await?;
                    turn.report();
                }
            }
        }
    }

    /// One step: as many of these rows as the pace says. The rest, and what is to be tried in smaller steps, is open.
    async fn step(
        &self,
        line: &Line,
        resource: &'static Resource,
        mut ids: Vec<String>,
        open: &mut Vec<Vec<String>>,
        turn: &mut Turn<'_>,
    ) -> Result<(), StoreError> {
        let size = self.pace.size();
        if ids.len() > size {
            open.push(ids.split_off(size));
        }
        let some = ids.clone();
        let work = move |tables: &Tables<'_>| {
            some.iter().try_fold(0, |changed, id| Ok(changed + u64::from(tables.repair(resource, id)?)))
        };
        match self.paced(&self.pace, ids.len(), work).await? {
            Ok(changed) => turn.done.rows += changed,
            Err(_) if ids.len() > 1 => {
                // Half by half, until what is refused stands alone.
                let later = ids.split_off(ids.len() / 2);
                open.extend([later, ids]);
            }
            Err(why) => {
                let row = child(line, resource, ids.swap_remove(0));
                self.refuse(&row, why, turn).await?;
            }
        }
        Ok(())
    }
}

/// The line of one row of a parent.
fn child(of: &Line, resource: &'static Resource, id: String) -> Line {
    let parent = Some((of.resource, of.id.clone()));
    Line { parent, ..Line::new(resource, id, PendingWork::Row) }
}

/// Rows that were repaired before and are found wrong again, since a trigger undoes the change; and the others.
fn split(
    found: Found,
    repaired: &BTreeSet<(&'static str, String)>,
) -> (Vec<(&'static Resource, String)>, Found) {
    let mut undone = Vec::new();
    let mut others = Vec::new();
    for (resource, ids) in found {
        let (again, first): (Vec<String>, Vec<String>) =
            ids.into_iter().partition(|id| repaired.contains(&(resource.table, id.clone())));
        undone.extend(again.into_iter().map(|id| (resource, id)));
        if !first.is_empty() {
            others.push((resource, first));
        }
    }
    (undone, others)
}

/// A line as it is now, and the rows of its parent that are wrong, beside those that are known to be refused; `None` where
/// the line is gone.
fn look(
    connection: &Connection,
    statements: &Statements,
    of: &Line,
) -> rusqlite::Result<Option<(Line, Found)>> {
    let Some(line) = lines::find(connection, of)? else { return Ok(None) };
    let mut found = Found::new();
    let mut room = FOUND_MAX;
    for (resource, dependents) in statements.dependents(line.resource, line.survivors) {
        let mut statement = connection.prepare_cached(&dependents.wrong)?;
        let ids = statement.query_map((&line.id, lines::as_limit(room)), |row| row.get(0))?;
        let ids = ids.collect::<rusqlite::Result<Vec<String>>>()?;
        room -= ids.len();
        if !ids.is_empty() {
            found.push((resource, ids));
        }
    }
    Ok(Some((line, found)))
}
