//! Retention, in small steps: ledger and rows have transactions of their own, and a row that refuses to lose its content
//! keeps that from nobody else. It is tried again with the next walk from the beginning.

use std::sync::{Arc, MutexGuard, PoisonError};

use rollbook_core::catalog::Resource;
use rollbook_core::store::{Due, StoreError, Tidied};
use rollbook_core::sweep::Sweep;
use rollbook_core::time::Timestamp;

use super::{SqliteStore, upkeep};
use crate::fault::Fault;

/// Maximum rows that are read at once.
const PAGE_MAX: usize = 1000;

impl SqliteStore {
    /// What is due, at most so many lines and rows.
    pub(super) async fn retain(&self, due: &Due) -> Result<Tidied, StoreError> {
        let ledger = self.prune(due).await;
        let rows = self.erase_deleted(due).await;
        Ok(Tidied { ledger: ledger?, rows: rows? })
    }

    async fn prune(&self, due: &Due) -> Result<u64, StoreError> {
        let Some(before) = due.ledger_before else { return Ok(0) };
        let limit = due.limit;
        Ok(self.change(self.clock.now(), move |tables| upkeep::prune(tables, before, limit)).await?)
    }

    async fn erase_deleted(&self, due: &Due) -> Result<u64, StoreError> {
        let Some(before) = due.deleted_before else { return Ok(0) };
        self.sweep().begin(self.clock.now(), before);
        let mut erased = 0;
        loop {
            let left = due.limit.saturating_sub(usize::try_from(erased).unwrap_or(usize::MAX));
            let next = self.sweep().next();
            let Some((resource, from)) = next.filter(|_| left > 0) else { return Ok(erased) };
            let (statements, limit) = (Arc::clone(&self.statements), PAGE_MAX.min(left));
            let page = self.database.read(move |connection| {
                upkeep::deleted(connection, &statements, resource, (&from, before), limit)
            });
            let page = page.await?;
            let ids = page.iter().filter(|row| !row.is_erased).map(|row| row.cursor.id.clone()).collect();
            erased += self.erase_rows(resource, ids).await?;
            // Only now: what fails is read again.
            self.sweep().read(resource, page.last().map(|row| &row.cursor), page.len() >= limit);
        }
    }

    fn sweep(&self) -> MutexGuard<'_, Sweep> {
        self.sweep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn erase_rows(&self, resource: &'static Resource, ids: Vec<String>) -> Result<u64, StoreError> {
        let mut erased = 0;
        let mut open = vec![ids];
        while let Some(mut ids) = open.pop() {
            if ids.is_empty() {
                continue;
            }
            let some = ids.clone();
            let now: Timestamp = self.clock.now();
            match self.change(now, move |tables| upkeep::erase_content(tables, resource, &some)).await {
                Ok(count) => erased += count,
                Err(Fault::Data(_)) if ids.len() > 1 => {
                    // Half by half, until what is refused stands alone.
                    let later = ids.split_off(ids.len() / 2);
                    open.extend([later, ids]);
                }
                Err(Fault::Data(why)) => tracing::warn!(
                    table = resource.table,
                    id = ids[0],
                    error = why,
                    "a deleted row refuses to lose its content; it is tried again within hours, all others go on. Fix: \
                     the trigger that refuses it"
                ),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(erased)
    }
}
