//! Retention, in small steps. Ledger entries and rows are removed in transactions of their own. A row that refuses to lose its
//! content is recorded and retried by itself; all other rows go on. Child rows of parents that lose their content lose theirs
//! in the same transaction if they are few; more of them are recorded and left to [`super::steps`].

use std::sync::Arc;
use std::time::Instant;

use rollbook_core::catalog::Resource;
use rollbook_core::lock::lock;
use rollbook_core::store::cascades::{Entry, RETRIED_MAX};
use rollbook_core::store::turn::Kept;
use rollbook_core::store::{PendingWork, RetentionLimits, RetentionStep, StoreError};

use super::pending;
use super::steps::Turn;
use super::tables::Tables;
use super::{SqliteStore, upkeep};
use crate::fault::Fault;

/// Maximum rows that are read at once.
const PAGE_MAX: usize = 1000;

impl SqliteStore {
    /// One step of retention.
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
        let left = |gone: u64| due.limit.saturating_sub(usize::try_from(gone).unwrap_or(usize::MAX));
        while left(turn.ledger) > 0 && !(turn.kept.count > 0 && turn.is_over(Instant::now())) {
            let limit = PAGE_MAX.min(left(turn.ledger));
            let (from, except) = lock(&self.ledger_sweep).next(self.clock.now());
            let except = serde_json::Value::from(except).to_string();
            let page = self.database.read(move |connection| {
                let position = (from.as_deref().unwrap_or_default(), except.as_str());
                upkeep::old_entries(connection, before, position, limit)
            });
            let page = page.await?;
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
                 restart. Fix: the trigger or foreign key of the table deliveries that keeps them"
            );
        }
        Ok(turn.ledger)
    }

    async fn erase_deleted(&self, due: &RetentionLimits) -> Result<u64, StoreError> {
        let Some(before) = due.deleted_before else {
            // Without retention, rows that refused to lose their content may keep it.
            self.database.execute("DELETE FROM rollbook_cascades WHERE what = 'content'", ()).await?;
            return Ok(0);
        };
        let mut turn = Turn::new(Instant::now());
        let mut erased = self.erase_again(&mut turn).await?;
        lock(&self.sweep).begin(self.clock.now(), before);
        loop {
            let left = due.limit.saturating_sub(usize::try_from(erased).unwrap_or(usize::MAX));
            let next = lock(&self.sweep).next();
            let Some((resource, from)) = next.filter(|_| left > 0) else { return Ok(erased) };
            let (statements, limit) = (Arc::clone(&self.statements), PAGE_MAX.min(left));
            let page = self.database.read(move |connection| {
                upkeep::deleted(connection, &statements, resource, (&from, before), limit)
            });
            let page = page.await?;
            let ids = page.iter().filter(|row| !row.is_erased).map(|row| row.cursor.id.clone()).collect();
            erased += self.erase_rows(resource, ids, &mut turn).await?;
            if turn.is_stopped_by_refusals(Instant::now()) {
                // These are recorded: the next call goes on after them.
                return Ok(erased);
            }
            // Only now: what fails is read again.
            lock(&self.sweep).read(resource, page.last().map(|row| &row.cursor), page.len() >= limit);
        }
    }

    /// Retries rows that refused to lose their content, as far as they are due.
    async fn erase_again(&self, turn: &mut Turn<'_>) -> Result<u64, StoreError> {
        let mut erased = 0;
        for entry in self.take(PendingWork::Content, RETRIED_MAX).await? {
            if turn.is_over(Instant::now()) {
                self.release(&entry).await?;
                continue;
            }
            let again = entry.clone();
            let work = move |tables: &Tables<'_>| {
                let erased = upkeep::erase_content(tables, again.resource, std::slice::from_ref(&again.id))?;
                pending::remove(tables.connection, &again)?;
                Ok(erased)
            };
            match self.change_around_children(work).await {
                Ok(count) => erased += count,
                Err(Fault::Data(why) | Fault::Statement(why)) => self.refuse(&entry, why, turn).await?,
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(erased)
    }

    /// Erases the content of these rows, in steps. Returns how many there were.
    async fn erase_rows(
        &self,
        resource: &'static Resource,
        ids: Vec<String>,
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
            let (some, began_at) = (ids.clone(), Instant::now());
            let work = move |tables: &Tables<'_>| upkeep::erase_content(tables, resource, &some);
            match self.change_around_children(work).await {
                Ok(count) => {
                    self.pace.took(ids.len(), began_at.elapsed());
                    erased += count;
                }
                Err(Fault::Data(_) | Fault::Statement(_)) if ids.len() > 1 => {
                    // Halves, until the refused row is alone.
                    let later = ids.split_off(ids.len() / 2);
                    open.extend([later, ids]);
                }
                Err(Fault::Data(why) | Fault::Statement(why)) => {
                    let entry = Entry::new(resource, ids.swap_remove(0), PendingWork::Content);
                    self.refuse(&entry, why, turn).await?;
                }
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(erased)
    }
}
