//! Pending cascades, worked off in small steps, each committed, around rows that refuse their change.
//!
//! A worker takes the entry of a parent for a while. Searches for child rows that do not show their parent's state have a
//! connection of their own, since they pass over all rows of the parent: no delivery waits for them. The rows they find are
//! repaired in steps on the writing connection, sized by the duration of the last. A search that finds none removes the
//! entry, unless the parent was recorded anew meanwhile.
//!
//! A row that refuses its change gets an entry of its own and is retried by itself. The search leaves it out, so every turn gets
//! on: each row of a parent is repaired or recorded once. The entry of the parent waits only for the ledger.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rollbook_core::catalog::Resource;
use rollbook_core::pace::Pace;
use rollbook_core::store::cascades::{Entry, FOUND_MAX, LOGGED_MAX, RETRIED_MAX, TAKEN_FOR};
use rollbook_core::store::{CascadeStep, PendingWork, StoreError};
use rusqlite::Connection;

use super::SqliteStore;
use super::pending;
use super::sql::Statements;
use super::tables::Tables;
use crate::fault::{Fault, NotKept};
use crate::select::select;

/// Maximum intended duration of a step: deliveries wait for it.
pub(super) const STEP_TIME: Duration = Duration::from_millis(200);
/// The pause after a step, in which another process finds the file's lock free: it asks every 2 ms, and would wait for
/// seconds if steps followed each other at once.
const PAUSE_AFTER_STEP: Duration = Duration::from_millis(5);

/// Rows by their tables.
type Found = Vec<(&'static Resource, Vec<String>)>;

/// A turn, with texts as reasons of refusals.
pub(super) type Turn<'a> = rollbook_core::store::turn::Turn<'a, String>;

/// Result of the work on the rows of a parent.
pub(super) enum Ended {
    /// Every row is repaired or has an entry of its own. With the parent's entry at the time of the last search.
    Done(Entry),
    /// The time is over. The entry is due at once: what the turn did is committed.
    Unfinished,
    /// Another worker has finished it.
    Gone,
}

impl SqliteStore {
    /// One turn: refused rows that are due, and one parent.
    pub(super) async fn turn(&self) -> Result<CascadeStep, StoreError> {
        let left = self.left().await?;
        if left.due_in != Some(Duration::ZERO) {
            return Ok(left);
        }
        let mut turn = Turn::new(Instant::now());
        for entry in self.take(PendingWork::Row, RETRIED_MAX).await? {
            self.retry(&entry, &mut turn).await?;
        }
        turn.renew(Instant::now());
        for entry in self.take(PendingWork::Children, 1).await? {
            self.work_off(&entry, &mut turn).await?;
        }
        Ok(CascadeStep { rows: turn.done.rows, refused: turn.done.refused, ..self.left().await? })
    }

    async fn left(&self) -> Result<CascadeStep, StoreError> {
        let now = self.clock.now();
        Ok(self.database.read(move |connection| pending::left(connection, now)).await?)
    }

    pub(super) async fn take(&self, what: PendingWork, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let now = self.clock.now();
        Ok(self.database.run(move |connection| pending::take(connection, what, limit, now)).await?)
    }

    /// Retries a refused row.
    async fn retry(&self, entry: &Entry, turn: &mut Turn<'_>) -> Result<(), StoreError> {
        if turn.is_over(Instant::now()) {
            return self.release(entry).await;
        }
        let again = entry.clone();
        let work = move |tables: &Tables<'_>| {
            let changed = tables.repair_alone(again.resource, &again.id)?;
            pending::remove(tables.connection, &again)?;
            Ok(changed)
        };
        match self.attempt(work).await? {
            Ok(changed) => turn.done.rows += u64::from(changed),
            Err(why) => self.refuse(entry, why, turn).await?,
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

    /// Does a step as [`Self::attempt`] does, records its duration for the pace, and pauses for other processes.
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
        tokio::time::sleep(PAUSE_AFTER_STEP).await;
        Ok(outcome)
    }

    /// Makes an entry that was taken due at once.
    pub(super) async fn release(&self, entry: &Entry) -> Result<(), StoreError> {
        let (entry, now) = (entry.clone(), self.clock.now());
        Ok(self.database.run(move |connection| pending::hold(connection, &entry, now)).await?)
    }

    /// Keeps the entry from other workers for longer.
    pub(super) async fn hold(&self, entry: &Entry, turn: &mut Turn<'_>) -> Result<(), StoreError> {
        if !turn.must_hold(Instant::now()) {
            return Ok(());
        }
        let (entry, until) = (entry.clone(), self.clock.now().plus(TAKEN_FOR));
        Ok(self.database.run(move |connection| pending::hold(connection, &entry, until)).await?)
    }

    /// Records that a row refuses its change.
    pub(super) async fn refuse(
        &self,
        entry: &Entry,
        why: String,
        turn: &mut Turn<'_>,
    ) -> Result<(), StoreError> {
        self.postpone(entry, &why).await?;
        if turn.done.refused < LOGGED_MAX {
            tracing::warn!(
                table = entry.resource.table,
                id = entry.id,
                error = why,
                "a row refuses the change that its parent's deletion or retention requires; workers retry it, and continue with \
                 the other rows. Fix: the trigger or constraint that refuses it"
            );
        }
        turn.done.refused += 1;
        turn.why = Some(why);
        Ok(())
    }

    /// Postpones an entry, longer each time.
    pub(super) async fn postpone(&self, entry: &Entry, why: &str) -> Result<(), StoreError> {
        let (entry, why, now) = (entry.clone(), why.to_owned(), self.clock.now());
        Ok(self.database.run(move |connection| pending::refuse(connection, &entry, &why, now)).await?)
    }

    /// Works on the entry of a parent, which is taken.
    async fn work_off(&self, entry: &Entry, turn: &mut Turn<'_>) -> Result<(), StoreError> {
        turn.take(Instant::now());
        match self.children(entry, turn).await? {
            Ended::Gone => Ok(()),
            Ended::Unfinished => self.release(entry).await,
            Ended::Done(entry) => {
                if entry.forget {
                    self.forget(std::slice::from_ref(&entry), turn).await?;
                }
                self.conclude(&entry, turn).await
            }
        }
    }

    /// Removes an entry with all its rows repaired or recorded, or postpones it: ledger entries could not be removed.
    pub(super) async fn conclude(&self, entry: &Entry, turn: &Turn<'_>) -> Result<(), StoreError> {
        match turn.kept.text() {
            None => self.finish(entry).await,
            Some(kept) => self.postpone(entry, &kept).await,
        }
    }

    /// Removes an entry of which nothing is left. If the parent was recorded anew meanwhile, the entry is due.
    async fn finish(&self, entry: &Entry) -> Result<(), StoreError> {
        let (entry, now) = (entry.clone(), self.clock.now());
        let remove = move |connection: &Connection| {
            if pending::remove(connection, &entry)? { Ok(()) } else { pending::hold(connection, &entry, now) }
        };
        Ok(self.database.run(remove).await?)
    }

    /// Repairs or records every child row of a parent, as far as the time reaches.
    pub(super) async fn children(&self, entry: &Entry, turn: &mut Turn<'_>) -> Result<Ended, StoreError> {
        let mut repaired: BTreeSet<(&'static str, String)> = BTreeSet::new();
        let mut is_first = true;
        loop {
            let statements = std::sync::Arc::clone(&self.statements);
            let of = entry.clone();
            let searched =
                self.scans().await?.read(move |connection| search(connection, &statements, &of)).await?;
            let Some((now, found)) = searched else { return Ok(Ended::Gone) };
            if std::mem::take(&mut is_first) {
                // However long the search took, at least one step follows.
                turn.renew(Instant::now());
            }
            if found.is_empty() {
                return Ok(Ended::Done(now));
            }
            let (undone, found) = split(found, &repaired);
            for (number, (resource, id)) in undone.into_iter().enumerate() {
                // At least one is recorded, however late it is: the turn gets on.
                if number > 0 && turn.is_over(Instant::now()) {
                    return Ok(Ended::Unfinished);
                }
                turn.done.rows = turn.done.rows.saturating_sub(1);
                self.hold(entry, turn).await?;
                self.refuse(&entry.child(resource, id), NotKept::Undone.to_string(), turn).await?;
            }
            repaired = found
                .iter()
                .flat_map(|(resource, ids)| ids.iter().map(|id| (resource.table, id.clone())))
                .collect();
            for (resource, ids) in found {
                let mut open = vec![ids];
                while let Some(ids) = open.pop() {
                    if turn.is_over(Instant::now()) {
                        return Ok(Ended::Unfinished);
                    }
                    self.hold(entry, turn).await?;
                    self.step(entry, resource, ids, &mut open, turn).await?;
                    turn.report();
                }
            }
        }
    }

    /// One step: as many of these rows as the pace allows. The rest, and rows to retry in smaller steps, go to `open`.
    async fn step(
        &self,
        entry: &Entry,
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
        let work = move |tables: &Tables<'_>| tables.repair_all(resource, &some);
        match self.paced(&self.pace, ids.len(), work).await? {
            Ok(changed) => turn.done.rows += changed,
            Err(_) if ids.len() > 1 => {
                // Halves, until the refused row is alone.
                let later = ids.split_off(ids.len() / 2);
                open.extend([later, ids]);
            }
            Err(why) => {
                let row = entry.child(resource, ids.swap_remove(0));
                self.refuse(&row, why, turn).await?;
            }
        }
        Ok(())
    }
}

/// Returns the rows that were repaired before and are found wrong again, since a trigger undoes the change; and the others.
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

/// Returns an entry as it is now, and the child rows of its parent that do not show its state, without those that have an
/// entry of their own; `None` if the entry is gone.
fn search(
    connection: &Connection,
    statements: &Statements,
    of: &Entry,
) -> rusqlite::Result<Option<(Entry, Found)>> {
    let Some(entry) = pending::find(connection, of)? else { return Ok(None) };
    let mut found = Found::new();
    let mut room = FOUND_MAX;
    for (resource, dependents) in statements.dependents(entry.resource, entry.survivors) {
        let values = (&entry.id, pending::as_limit(room));
        let ids: Vec<String> = select(connection, &dependents.wrong, values, |row| row.get(0))?;
        room -= ids.len();
        if !ids.is_empty() {
            found.push((resource, ids));
        }
    }
    Ok(Some((entry, found)))
}
