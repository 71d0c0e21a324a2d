//! Retention: old ledger entries are removed, and rows that were deleted long ago lose their content.
//!
//! Each step is a transaction of its own, about the ledger or about rows: slow rows keep no ledger entry. A row that refuses
//! to lose its content is recorded and retried by itself; all other rows go on. A parent that loses its content is recorded
//! in the same transaction, for its child rows, so that a crash right after it loses nothing.

use std::time::{Duration, Instant};

use rollbook_core::catalog::{Resource, children_of};
use rollbook_core::lock::lock;
use rollbook_core::store::cascades::{Entry, RETRIED_MAX};
use rollbook_core::store::turn::Kept;
use rollbook_core::store::{PendingWork, RetentionLimits, RetentionStep, StoreError};
use rollbook_core::sweep::Cursor;
use rollbook_core::time::Timestamp;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::PostgresStore;
use super::attempt::{Failed, run_deferred};
use super::cascade::{Removing, SEARCH_MAX, Turn};
use super::entries::old;
use super::parents::{BATCH_MAX, Find, Parents, Repair, Rows};
use super::pending;
use super::sql::Statements;
use crate::fault::NotKept;
use crate::transaction::{InOrder, Session, Statement, Work};
use crate::types::Time;
use crate::values::Values;

/// Maximum rows that are read at once.
const PAGE_MAX: usize = 1000;

fn fits(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

impl PostgresStore {
    /// One step of retention. A failure of one part does not stop the other.
    pub(super) async fn retain(&self, due: &RetentionLimits) -> Result<RetentionStep, StoreError> {
        let ledger = self.prune(due).await;
        let changes = self.prune_changes(due).await;
        let rows = self.erase_deleted(due).await;
        Ok(RetentionStep { ledger: ledger?, rows: rows?, changes: changes? })
    }

    /// Removes old ledger entries. Those that can't be removed are passed and stay until a later round.
    async fn prune(&self, due: &RetentionLimits) -> Result<u64, StoreError> {
        let Some(before) = due.ledger_before else { return Ok(0) };
        let mut turn = Turn::new(Instant::now());
        // What is kept takes time and does not count: otherwise a few entries in each page would slow down all others.
        while fits(turn.ledger) < due.limit && !(turn.kept.count > 0 && turn.is_over(Instant::now())) {
            let (from, except) = lock(&self.ledger_sweep).next(self.clock.now());
            let limit = PAGE_MAX.min(due.limit - fits(turn.ledger));
            let old = old(&self.statements, before, from.as_deref(), &except, limit);
            let page = self.steps().long(SEARCH_MAX, &old).await?;
            if page.is_empty() {
                lock(&self.ledger_sweep).end();
                break;
            }
            let kept = turn.kept.count;
            let mut open = vec![page.iter().map(|(_, id)| id.clone()).collect()];
            while let Some(some) = open.pop() {
                self.remove_entries(some, &mut open, &mut turn).await?;
            }
            lock(&self.ledger_sweep).pass(page, turn.kept.count > kept);
        }
        if turn.kept.count > 0 {
            let Kept { count, example, why } = &turn.kept;
            tracing::warn!(
                count,
                example,
                error = why,
                "old ledger entries can't be removed; all others are, and these are tried again in a few hours and after a \
                 restart. Fix: the trigger, policy or foreign key of the table deliveries that keeps them"
            );
        }
        Ok(turn.ledger)
    }

    async fn erase_deleted(&self, due: &RetentionLimits) -> Result<u64, StoreError> {
        let Some(before) = due.deleted_before else {
            // Without retention, rows that refused to lose their content may keep it.
            let forget = &self.statements.pending.forget_content;
            self.database.rows(forget, Values::default(), |_| Ok(())).await?;
            return Ok(0);
        };
        let mut turn = Turn::new(Instant::now());
        let mut erased = self.erase_again(before, &mut turn).await?;
        lock(&self.sweep).begin(self.clock.now(), before);
        while fits(erased) < due.limit {
            let Some((resource, from)) = lock(&self.sweep).next() else { break };
            let limit = PAGE_MAX.min(due.limit - fits(erased));
            let values = Values::default().with(from.moment()).with(Time(before)).with(from.id.as_str());
            let (sql, values) = (&self.statements.of(resource).deleted, values.with_limit(limit));
            let page = InOrder(Statement { sql, values, read: deleted });
            let rows = self.steps().long(SEARCH_MAX, &page).await?;
            let ids = rows.iter().filter(|row| !row.is_erased).map(|row| row.cursor.id.clone()).collect();
            erased += self.erase_rows(resource, ids, before, &mut turn).await?;
            if turn.is_stopped_by_refusals(Instant::now()) {
                // These are recorded: the next round goes on after them.
                break;
            }
            // Only now: what an outage interrupts is read again.
            lock(&self.sweep).read(resource, rows.last().map(|row| &row.cursor), rows.len() >= limit);
        }
        Ok(erased)
    }

    /// Retries rows that refused to lose their content, as far as they are due.
    async fn erase_again(&self, before: Timestamp, turn: &mut Turn<'_>) -> Result<u64, StoreError> {
        let entries = &self.statements.pending;
        let mut erased = 0;
        for entry in pending::take(&self.database, entries, PendingWork::Content, RETRIED_MAX).await? {
            if turn.is_over(Instant::now()) {
                self.release(&entry).await?;
                continue;
            }
            let ids = std::slice::from_ref(&entry.id);
            let erase = EraseContent { statements: &self.statements, resource: entry.resource, ids, before };
            let removing = Removing { statements: &self.statements, entry: &entry, work: &erase };
            match self.steps().attempt(1, &removing).await? {
                Ok(parents) => erased += self.settle(parents).await?,
                Err(why) => self.refuse(&entry, why, turn).await?,
            }
        }
        Ok(erased)
    }

    /// Erases the content of these rows, in steps. Returns how many lost it.
    async fn erase_rows(
        &self,
        resource: &'static Resource,
        ids: Vec<String>,
        before: Timestamp,
        turn: &mut Turn<'_>,
    ) -> Result<u64, StoreError> {
        let mut erased = 0;
        let mut open = vec![ids];
        while let Some(mut ids) = open.pop() {
            if turn.is_stopped_by_refusals(Instant::now()) {
                break;
            }
            let size = self.pace.size();
            if ids.len() > size {
                open.push(ids.split_off(size));
            }
            if ids.is_empty() {
                continue;
            }
            let erase = EraseContent { statements: &self.statements, resource, ids: &ids, before };
            match self.steps().paced(&self.pace, ids.len(), &erase).await? {
                Ok(done) => erased += self.settle(done).await?,
                Err(Failed::TimedOut(_)) if ids.len() > 1 => open.push(ids),
                Err(Failed::Refused(_)) if ids.len() > 1 => {
                    let later = ids.split_off(ids.len() / 2);
                    open.extend([later, ids]);
                }
                Err(why) => {
                    let entry = Entry::new(resource, ids.swap_remove(0), PendingWork::Content);
                    self.refuse(&entry, why, turn).await?;
                }
            }
        }
        Ok(erased)
    }

    /// Erases the content of the child rows of parents that have just lost theirs, if they are few; more of them are left to
    /// [`super::cascade`]. Returns how many rows had lost their content.
    async fn settle(&self, erased: Erased) -> Result<u64, StoreError> {
        let Erased { count, parents } = erased;
        if parents.is_empty() {
            return Ok(count);
        }
        let mut meant = Parents::default();
        for entry in &parents {
            meant.ids.entry(entry.resource.table).or_default().insert(entry.id.clone());
        }
        let find =
            Find { statements: &self.statements, parents: &meant, which: Rows::Stale, limit: BATCH_MAX };
        let Ok(rows) = self.steps().attempt(BATCH_MAX, &find).await? else {
            self.left.notify_one();
            return Ok(count);
        };
        let all = rows.values().map(std::collections::BTreeSet::len).sum::<usize>();
        let repair = Repair { statements: &self.statements, rows: &rows, now: self.clock.now() };
        if all < BATCH_MAX && self.steps().attempt(BATCH_MAX, &repair).await?.is_ok() {
            let remove = &self.statements.pending.remove;
            self.database.rows(remove, pending::removing(parents.iter()), |_| Ok(())).await?;
        } else {
            self.left.notify_one();
        }
        Ok(count)
    }
}

/// A row with a deletion of its own.
struct Deleted {
    cursor: Cursor,
    is_erased: bool,
}

fn deleted(row: &PgRow) -> sqlx::Result<Deleted> {
    let Time(deleted_at) = row.try_get(1)?;
    let cursor = Cursor { deleted_at, exact: Some(row.try_get(3)?), id: row.try_get(0)? };
    Ok(Deleted { cursor, is_erased: row.try_get(2)? })
}

/// Result of a step of erasing.
#[derive(Default)]
pub(super) struct Erased {
    /// Rows that have lost their content.
    count: u64,
    /// The parents among them, recorded for their child rows.
    parents: Vec<Entry>,
}

/// Erases the content of rows that were deleted before a time.
pub(super) struct EraseContent<'a> {
    pub(super) statements: &'a Statements,
    pub(super) resource: &'static Resource,
    pub(super) ids: &'a [String],
    pub(super) before: Timestamp,
}

impl Work for EraseContent<'_> {
    type Output = Erased;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Erased> {
        let table = self.statements.of(self.resource);
        let ids = Values::default().with(self.ids);
        let locked = session.fetch(&table.lock, ids.arguments()?).await?.len();
        let due = ids.with(Time(self.before));
        let rows = session.fetch(&table.erase_content, due.arguments()?).await?;
        run_deferred(session).await?;
        if !session.fetch(&table.still_due, due.into_arguments()?).await?.is_empty() {
            return Err(NotKept::of(self.ids.len(), locked, rows.len()).into());
        }
        let count = rows.len() as u64;
        let is_parent = children_of(self.resource).next().is_some();
        let entry = |row: &PgRow| Ok(Entry::new(self.resource, row.try_get(0)?, PendingWork::Children));
        let noted: Vec<Entry> = rows.iter().filter(|_| is_parent).map(entry).collect::<sqlx::Result<_>>()?;
        let parents = pending::note(&self.statements.pending, session, &noted, Duration::ZERO).await?;
        Ok(Erased { count, parents })
    }
}
