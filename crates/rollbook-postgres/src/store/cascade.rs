//! Working off what is left of cascades: in small steps, each committed, around rows that refuse their change.
//!
//! A line about a parent is taken for a while, and worked off by looking for rows that do not have what they should,
//! many at once, and repairing them in steps of the size that the database bears. The look that finds none removes the
//! line, with its lock held: what is noted meanwhile waits for that and is noted anew. Nothing else holds the line's lock, so
//! that noting does not wait for a repair. A row that is refused gets a line of its own, and is tried again by itself.

use std::time::{Duration, Instant};

use rollbook_core::store::{CascadeStep, ErasedCounts, ErasureProgress, PendingWork, StoreError};
use sqlx::Row as _;

use super::PostgresStore;
use super::attempt::Failed;
use super::inherit::{Ids, Parents, Repair, Rows};
use super::ledger::{self, Kept};
use super::lines::{self, Change, Left, Line, TAKEN_FOR, Take, Then};
use super::sql::{Statements, number_of};
use crate::transaction::{Session, Work};

/// How long one call works.
const TURN: Duration = Duration::from_secs(10);
/// Maximum rows that are looked for at once: each look passes over those that are right already.
const FOUND_MAX: usize = 50_000;
/// How long one look may take: it passes over all rows of a parent.
pub(super) const LOOK_MAX: Duration = Duration::from_secs(600);
/// Maximum rows with lines of their own that are tried again in one turn.
pub(super) const RETRIED_MAX: usize = 100;
/// Maximum rows that one turn finds to be refused. Where a trigger refuses all of them, the rest waits.
pub(super) const REFUSED_MAX: u64 = 100;

/// What has been done so far, and by when a turn ends.
pub(super) struct Turn<'a> {
    pub(super) done: CascadeStep,
    /// Lines of the ledger that were removed.
    pub(super) ledger: u64,
    /// Why a row was refused last.
    pub(super) why: Option<Failed>,
    /// Lines of the ledger that something keeps.
    pub(super) kept: Kept,
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
            kept: Kept::default(),
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

/// How work on a line has ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Nothing is left, and the line is gone.
    Done,
    /// The time is over.
    Unfinished,
    /// Too many rows are refused.
    Refused,
    /// The rows are as they should be, but something keeps lines of the ledger.
    Kept,
}

impl PostgresStore {
    /// One turn: rows that were refused, as far as they are due, and one parent.
    pub(super) async fn turn(&self) -> Result<CascadeStep, StoreError> {
        let lines = &self.statements.lines;
        let mut turn = Turn::default();
        let rows = Take { statements: lines, what: PendingWork::Row, limit: RETRIED_MAX };
        let rows = self.database.run(&rows).await?;
        self.retry(&rows, &mut turn).await?;
        turn.renew();
        let parent = Take { statements: lines, what: PendingWork::Children, limit: 1 };
        for line in self.database.run(&parent).await? {
            self.work_off(&line, &mut turn).await?;
        }
        let left = self.database.run(&Left { statements: lines }).await?;
        Ok(CascadeStep { rows: turn.done.rows, refused: turn.done.refused, ..left })
    }

    /// Tries rows again that were refused: each by itself, since it is known to fail.
    async fn retry(&self, rows: &[Line], turn: &mut Turn<'_>) -> Result<(), StoreError> {
        for line in rows {
            if turn.is_over() {
                self.release(line).await?;
                continue;
            }
            let number = number_of(line.resource);
            let ids = Ids::from([(number, std::iter::once(line.id.clone()).collect())]);
            let (statements, now) = (&self.statements, self.clock.now());
            let repair = Repair { statements, rows: &ids, now };
            match self.steps().attempt(1, &Removing { statements, line, work: &repair }).await? {
                Ok(changed) => turn.done.rows += changed,
                Err(why) => self.refuse(line, why, turn).await?,
            }
        }
        Ok(())
    }

    /// Leaves a line that was taken to whoever comes next.
    pub(super) async fn release(&self, line: &Line) -> Result<(), StoreError> {
        let statements = &self.statements.lines;
        Ok(self.database.run(&Change { statements, line, then: Then::Release }).await?)
    }

    /// Notes that a row is refused.
    pub(super) async fn refuse(
        &self,
        line: &Line,
        why: Failed,
        turn: &mut Turn<'_>,
    ) -> Result<(), StoreError> {
        let then = Then::Refuse(why.text());
        self.database.run(&Change { statements: &self.statements.lines, line, then }).await?;
        tracing::warn!(
            table = line.resource.table,
            id = line.id,
            error = why.text(),
            "a row refuses what follows from its parent's deletion or from retention; it is tried again by itself, \
             all other rows go on. Fix: the trigger or constraint that refuses it, or what holds its lock"
        );
        turn.done.refused += 1;
        turn.why = Some(why);
        Ok(())
    }

    /// Works off a parent's line, which is taken.
    pub(super) async fn work_off(&self, line: &Line, turn: &mut Turn<'_>) -> Result<(), StoreError> {
        let before = turn.done.refused;
        turn.held_at = Instant::now();
        let lines = &self.statements.lines;
        let kept;
        let then = match self.children(line, before, turn).await? {
            Ended::Done => return Ok(()),
            Ended::Kept => {
                kept = turn.kept.to_string();
                tracing::warn!(
                    table = line.resource.table,
                    id = line.id,
                    error = kept,
                    "lines about what was erased stay in the ledger; their removal is tried again by itself. Fix: the \
                     trigger or policy of the table deliveries that keeps them"
                );
                Then::Postpone(&kept)
            }
            Ended::Unfinished => Then::Release,
            Ended::Refused => Then::Postpone(turn.why.as_ref().map_or("rows are refused", Failed::text)),
        };
        Ok(self.database.run(&Change { statements: lines, line, then }).await?)
    }

    async fn children(&self, line: &Line, before: u64, turn: &mut Turn<'_>) -> Result<Ended, StoreError> {
        let mut repaired = Ids::new();
        loop {
            let look = Look { statements: &self.statements, line };
            let Found { mut wrong, in_ledger } = self.steps().long(LOOK_MAX, &look).await?;
            self.refuse_undone(line, &mut wrong, &repaired, turn).await?;
            if !in_ledger.is_empty() {
                let ended = self.forget(&in_ledger, line, turn).await?;
                if ended != Ended::Done {
                    return Ok(ended);
                }
                continue;
            }
            if wrong.is_empty() {
                return Ok(if turn.done.refused - before >= REFUSED_MAX {
                    Ended::Refused
                } else {
                    Ended::Done
                });
            }
            repaired.clone_from(&wrong);
            for (number, ids) in wrong {
                let mut open: Vec<Vec<String>> = vec![ids.into_iter().collect()];
                while let Some(ids) = open.pop() {
                    if turn.is_over() {
                        return Ok(Ended::Unfinished);
                    }
                    if turn.done.refused - before >= REFUSED_MAX {
                        return Ok(Ended::Refused);
                    }
                    self.hold(line, turn).await?;
                    self.step(line, number, ids, &mut open, turn).await?;
                    turn.report();
                }
            }
        }
    }

    /// Notes the rows that were repaired and are found wrong again, and takes them out: a trigger undoes the change, and to
    /// repair them for ever would end nowhere.
    async fn refuse_undone(
        &self,
        line: &Line,
        found: &mut Ids,
        repaired: &Ids,
        turn: &mut Turn<'_>,
    ) -> Result<(), StoreError> {
        for (number, ids) in found.iter_mut() {
            let Some(before) = repaired.get(number) else { continue };
            let undone: Vec<String> = ids.intersection(before).cloned().collect();
            for id in undone {
                ids.remove(&id);
                let parent = Some((line.resource, line.id.clone()));
                let resource = rollbook_core::catalog::RESOURCES[*number];
                let row = Line { parent, ..Line::new(resource, id, PendingWork::Row) };
                let why = Failed::Refused("a trigger of the table undoes the change".to_owned());
                self.refuse(&row, why, turn).await?;
            }
        }
        found.retain(|_, ids| !ids.is_empty());
        Ok(())
    }

    /// One step: as many of these rows as the pace says. The rest, and what is to be tried in smaller steps, is open.
    async fn step(
        &self,
        line: &Line,
        number: usize,
        mut ids: Vec<String>,
        open: &mut Vec<Vec<String>>,
        turn: &mut Turn<'_>,
    ) -> Result<(), StoreError> {
        let size = self.pace.size();
        if ids.len() > size {
            let rest = ids.split_off(size);
            open.push(rest);
        }
        let rows = Ids::from([(number, ids.iter().cloned().collect())]);
        let repair = Repair { statements: &self.statements, rows: &rows, now: self.clock.now() };
        match self.steps().paced(&self.pace, ids.len(), &repair).await? {
            Ok(changed) => turn.done.rows += changed,
            Err(Failed::TimedOut(_)) if ids.len() > 1 => {
                open.push(ids);
                return Ok(());
            }
            Err(Failed::Refused(_)) if ids.len() > 1 => {
                // Half by half, until what is refused stands alone.
                let later = ids.split_off(ids.len() / 2);
                open.extend([later, ids]);
                return Ok(());
            }
            Err(why) => {
                let resource = rollbook_core::catalog::RESOURCES[number];
                let parent = Some((line.resource, line.id.clone()));
                let row = Line { parent, ..Line::new(resource, ids[0].clone(), PendingWork::Row) };
                self.refuse(&row, why, turn).await?;
            }
        }
        Ok(())
    }

    /// Keeps others from a line that is worked off.
    pub(super) async fn hold(&self, line: &Line, turn: &mut Turn<'_>) -> Result<(), StoreError> {
        if turn.held_at.elapsed() >= TAKEN_FOR / 4 {
            turn.held_at = Instant::now();
            let statements = &self.statements.lines;
            self.database.run(&Change { statements, line, then: Then::Hold }).await?;
        }
        Ok(())
    }
}

/// Work that a line stood for: it goes with it.
pub(super) struct Removing<'a, W> {
    pub(super) statements: &'a Statements,
    pub(super) line: &'a Line,
    pub(super) work: &'a W,
}

impl<W: Work> Work for Removing<'_, W> {
    type Output = W::Output;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<W::Output> {
        let output = self.work.run(session).await?;
        lines::remove(&self.statements.lines, session, std::iter::once(self.line)).await?;
        Ok(output)
    }
}

/// What is left of a parent's line.
#[derive(Default)]
struct Found {
    /// Rows that do not have what they should.
    wrong: Ids,
    /// Where there is none: the ids that lines of the ledger are about.
    in_ledger: Vec<String>,
}

/// Looks for rows of a parent that do not have what they should, beside those that are known to be refused, and then for
/// lines of the ledger: content goes first, so that a ledger that refuses keeps none. Where there is neither, the line goes.
struct Look<'a> {
    statements: &'a Statements,
    line: &'a Line,
}

impl Work for Look<'_> {
    type Output = Found;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Found> {
        let lines = &self.statements.lines;
        let key = || self.line.key().map_err(sqlx::Error::Encode);
        let Some(locked) = session.fetch(&lines.lock, key()?).await?.pop() else {
            return Ok(Found::default());
        };
        let (with_survivors, forget): (bool, bool) = (locked.try_get(0)?, locked.try_get(1)?);
        let id = std::iter::once(self.line.id.clone()).collect();
        let parents =
            Parents { ids: std::iter::once((self.line.resource.table, id)).collect(), with_survivors };
        let wrong = parents.rows(self.statements, session, Rows::Wrong, true, FOUND_MAX).await?;
        let mut found = Found { wrong, ..Found::default() };
        if forget && found.wrong.is_empty() {
            // Also those of rows that are refused: they have no reason to stay.
            let rows = parents.rows(self.statements, session, Rows::InLedger, false, FOUND_MAX).await?;
            found.in_ledger = rows.into_values().flatten().collect();
            let own = ledger::About {
                statements: self.statements,
                ids: std::slice::from_ref(&self.line.id),
                after: "",
            };
            if !own.run(session).await?.is_empty() {
                found.in_ledger.push(self.line.id.clone());
            }
        }
        if found.wrong.is_empty() && found.in_ledger.is_empty() {
            session.fetch(&lines.done, key()?).await?;
        }
        Ok(found)
    }
}
