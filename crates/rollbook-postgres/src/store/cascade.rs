//! Pending cascades, worked off in small steps, each committed, around rows that refuse their change.
//!
//! A worker takes the entry of a parent for a while. It searches for child rows that do not show their parent's state, many at
//! once, and repairs them in steps of a size that the database bears. The search that finds none removes the
//! entry while it holds the entry's lock: a worker that records the parent meanwhile waits, and records it again. Nothing else
//! holds that lock, so recording never waits for a repair.
//!
//! A row that refuses its change gets an entry of its own and is retried by itself. The search leaves it out, so every turn gets
//! on: each row of a parent is repaired or recorded once. The entry of the parent waits only for the ledger.

use std::time::{Duration, Instant};

use rollbook_core::catalog::RESOURCES;
use rollbook_core::store::cascades::{Entry, FOUND_MAX, LOGGED_MAX, RETRIED_MAX};
use rollbook_core::store::{CascadeStep, PendingWork, StoreError};
use sqlx::Row as _;

use super::PostgresStore;
use super::attempt::{Failed, refused};
use super::entries::about;
use super::parents::{Ids, Parents, Repair, Rows};
use super::pending::{self, Then};
use super::sql::Statements;
use crate::fault::NotKept;
use crate::transaction::{Session, Work};

/// Time limit of one search: it passes over all rows of a parent.
pub(super) const SEARCH_MAX: Duration = Duration::from_secs(600);

/// A turn, with the reason of a refusal as this engine knows it.
pub(super) type Turn<'a> = rollbook_core::store::turn::Turn<'a, Failed>;

/// Result of the work on an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Nothing is left, and the entry is removed.
    Done,
    /// The time is over. The entry is due at once: what the turn did is committed.
    Unfinished,
    /// Every row is repaired or recorded, but ledger entries could not be removed.
    Kept,
    /// The child rows could not be searched.
    Unsearched,
}

impl PostgresStore {
    /// One turn: refused rows that are due, and one parent.
    pub(super) async fn turn(&self) -> Result<CascadeStep, StoreError> {
        let entries = &self.statements.pending;
        let mut turn = Turn::new(Instant::now());
        let rows = pending::take(&self.database, entries, PendingWork::Row, RETRIED_MAX).await?;
        self.retry(&rows, &mut turn).await?;
        turn.renew(Instant::now());
        for entry in pending::take(&self.database, entries, PendingWork::Children, 1).await? {
            self.work_off(&entry, &mut turn).await?;
        }
        let left = pending::left(&self.database, entries).await?;
        Ok(CascadeStep { rows: turn.done.rows, refused: turn.done.refused, ..left })
    }

    /// Retries refused rows, each by itself, since it is known to fail.
    pub(super) async fn retry(&self, rows: &[Entry], turn: &mut Turn<'_>) -> Result<(), StoreError> {
        for entry in rows {
            if turn.is_over(Instant::now()) {
                self.release(entry).await?;
                continue;
            }
            let number = entry.resource.number;
            let ids = Ids::from([(number, std::iter::once(entry.id.clone()).collect())]);
            let (statements, now) = (&self.statements, self.clock.now());
            let repair = Repair { statements, rows: &ids, now };
            match self.steps().attempt(1, &Removing { statements, entry, work: &repair }).await? {
                Ok(changed) => turn.done.rows += changed,
                Err(why) => self.refuse(entry, why, turn).await?,
            }
        }
        Ok(())
    }

    async fn change_entry(&self, entry: &Entry, then: Then<'_>) -> Result<(), StoreError> {
        let (sql, values) = self.statements.pending.change(entry, then);
        Ok(self.database.rows(sql, values, |_| Ok(())).await.map(drop)?)
    }

    /// Makes an entry that was taken due at once.
    pub(super) async fn release(&self, entry: &Entry) -> Result<(), StoreError> {
        self.change_entry(entry, Then::Release).await
    }

    /// Records that a row refuses its change.
    pub(super) async fn refuse(
        &self,
        entry: &Entry,
        why: Failed,
        turn: &mut Turn<'_>,
    ) -> Result<(), StoreError> {
        self.change_entry(entry, Then::Refuse(why.text())).await?;
        if turn.done.refused < LOGGED_MAX {
            tracing::warn!(
                table = entry.resource.table,
                id = entry.id,
                error = why.text(),
                "a row refuses the change that its parent's deletion or retention requires; workers retry it, and continue with \
                 the other rows. Fix: the trigger, policy or constraint that refuses it, or the session that holds its lock"
            );
        }
        turn.done.refused += 1;
        turn.why = Some(why);
        Ok(())
    }

    /// Works on the entry of a parent, which is taken.
    pub(super) async fn work_off(&self, entry: &Entry, turn: &mut Turn<'_>) -> Result<(), StoreError> {
        turn.take(Instant::now());
        let kept;
        let then = match self.children(entry, turn).await? {
            Ended::Done => return Ok(()),
            Ended::Kept => {
                kept = turn.kept.text().unwrap_or_default();
                tracing::warn!(
                    table = entry.resource.table,
                    id = entry.id,
                    error = kept,
                    "ledger entries about erased subjects could not be removed; workers retry this. Fix: \
                     the trigger or policy of the table deliveries that keeps them"
                );
                Then::Postpone(&kept)
            }
            Ended::Unsearched => {
                kept = turn.why.as_ref().map(|why| why.text().to_owned()).unwrap_or_default();
                tracing::warn!(
                    table = entry.resource.table,
                    id = entry.id,
                    error = kept,
                    "child rows of a deleted parent can't be read; workers retry this, and continue with deliveries \
                     and other parents. Fix: the policy or function that fails"
                );
                Then::Postpone(&kept)
            }
            Ended::Unfinished => Then::Release,
        };
        self.change_entry(entry, then).await
    }

    /// Repairs or records every child row of a parent, as far as the time reaches.
    async fn children(&self, entry: &Entry, turn: &mut Turn<'_>) -> Result<Ended, StoreError> {
        let mut repaired = Ids::new();
        let mut is_first = true;
        loop {
            let search = Search { statements: &self.statements, entry };
            let Found { wrong, in_ledger } = match self.steps().long(SEARCH_MAX, &search).await {
                Ok(found) => found,
                Err(fault) => {
                    turn.why = Some(refused(fault)?);
                    return Ok(Ended::Unsearched);
                }
            };
            if std::mem::take(&mut is_first) {
                // However long the search took, at least one step follows.
                turn.renew(Instant::now());
            }
            if !in_ledger.is_empty() {
                let ended = self.forget(&in_ledger, entry, turn).await?;
                if ended != Ended::Done {
                    return Ok(ended);
                }
                continue;
            }
            if wrong.is_empty() {
                return Ok(Ended::Done);
            }
            if self.refuse_undone(entry, &wrong, &repaired, turn).await? {
                if turn.is_over(Instant::now()) {
                    return Ok(Ended::Unfinished);
                }
                continue;
            }
            repaired.clone_from(&wrong);
            for (number, ids) in wrong {
                let mut open: Vec<Vec<String>> = vec![ids.into_iter().collect()];
                while let Some(ids) = open.pop() {
                    if turn.is_over(Instant::now()) {
                        return Ok(Ended::Unfinished);
                    }
                    self.hold(entry, turn).await?;
                    self.step(entry, number, ids, &mut open, turn).await?;
                    turn.report();
                }
            }
        }
    }

    /// Records rows that were repaired and are found wrong again: something undoes the change, and repairing them over and over
    /// would never end. Returns whether there are any; at least one of them is recorded, however late it is.
    async fn refuse_undone(
        &self,
        entry: &Entry,
        found: &Ids,
        repaired: &Ids,
        turn: &mut Turn<'_>,
    ) -> Result<bool, StoreError> {
        let mut is_any = false;
        for (number, ids) in found {
            let Some(before) = repaired.get(number) else { continue };
            for id in ids.intersection(before) {
                if is_any && turn.is_over(Instant::now()) {
                    return Ok(true);
                }
                is_any = true;
                turn.done.rows = turn.done.rows.saturating_sub(1);
                self.hold(entry, turn).await?;
                let why = Failed::Refused(NotKept::Undone.to_string());
                self.refuse(&entry.child(RESOURCES[*number], id.clone()), why, turn).await?;
            }
        }
        Ok(is_any)
    }

    /// One step: as many of these rows as the pace allows. The rest, and rows to retry in smaller steps, go to `open`.
    pub(super) async fn step(
        &self,
        entry: &Entry,
        number: usize,
        mut ids: Vec<String>,
        open: &mut Vec<Vec<String>>,
        turn: &mut Turn<'_>,
    ) -> Result<(), StoreError> {
        let size = self.pace.size();
        if ids.len() > size {
            open.push(ids.split_off(size));
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
                // Halves, until the refused row is alone.
                let later = ids.split_off(ids.len() / 2);
                open.extend([later, ids]);
                return Ok(());
            }
            Err(why) => self.refuse(&entry.child(RESOURCES[number], ids.swap_remove(0)), why, turn).await?,
        }
        Ok(())
    }

    /// Keeps the entry from other workers for longer.
    pub(super) async fn hold(&self, entry: &Entry, turn: &mut Turn<'_>) -> Result<(), StoreError> {
        if turn.must_hold(Instant::now()) {
            self.change_entry(entry, Then::Hold).await?;
        }
        Ok(())
    }
}

/// Work that removes its entry in the same transaction.
pub(super) struct Removing<'a, W> {
    pub(super) statements: &'a Statements,
    pub(super) entry: &'a Entry,
    pub(super) work: &'a W,
}

impl<W: Work> Work for Removing<'_, W> {
    type Output = W::Output;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<W::Output> {
        let output = self.work.run(session).await?;
        pending::remove(&self.statements.pending, session, std::iter::once(self.entry)).await?;
        Ok(output)
    }
}

/// Result of a search.
#[derive(Default)]
struct Found {
    /// Child rows that do not show their parent's state.
    wrong: Ids,
    /// If there is none: the subjects that still have ledger entries to remove.
    in_ledger: Vec<String>,
}

/// Searches for child rows of a parent that do not show its state, without those that have an entry of their own, and then
/// for ledger entries: content goes first, so that a ledger that refuses keeps none. Removes the entry if it finds neither.
struct Search<'a> {
    statements: &'a Statements,
    entry: &'a Entry,
}

impl Work for Search<'_> {
    type Output = Found;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Found> {
        let entries = &self.statements.pending;
        let key = pending::key(self.entry);
        let Some(locked) = session.fetch(&entries.lock, key.arguments()?).await?.pop() else {
            return Ok(Found::default());
        };
        let (with_survivors, forget): (bool, bool) = (locked.try_get(0)?, locked.try_get(1)?);
        let parents = Parents::of(self.entry, with_survivors);
        let wrong = parents.rows(self.statements, session, Rows::Stale, true, FOUND_MAX).await?;
        let mut found = Found { wrong, ..Found::default() };
        if forget && found.wrong.is_empty() {
            // Those of refused rows, too: nothing needs them.
            let rows = parents.rows(self.statements, session, Rows::InLedger, false, FOUND_MAX).await?;
            found.in_ledger = rows.into_values().flatten().collect();
            let own = about(self.statements, std::slice::from_ref(&self.entry.id), "");
            if !own.run(session).await?.is_empty() {
                found.in_ledger.push(self.entry.id.clone());
            }
        }
        if found.wrong.is_empty() && found.in_ledger.is_empty() {
            session.fetch(&entries.done, key.into_arguments()?).await?;
        }
        Ok(found)
    }
}
