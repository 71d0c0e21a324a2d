//! Removal of ledger entries by an erasure: the entries about subjects and all their rows, in steps.
//!
//! The reading connection scans the ledger once for each [`FOUND_MAX`] subjects, so that no delivery waits
//! for the scan. Entries that it finds are removed in steps.

use std::sync::Arc;

use rollbook_core::store::StoreError;
use rollbook_core::store::cascades::{Entry, FOUND_MAX};

use super::SqliteStore;
use super::pending::as_limit;
use super::steps::Turn;
use super::tables::Tables;

/// Maximum entries that one scan returns.
const LINES_MAX: usize = 10_000;

/// Selects entries about these subjects (a JSON array) after a `svix-id`, in the order of the table.
const ABOUT: &str = "SELECT svix_id FROM deliveries
    WHERE svix_id > ?2 AND +subject_id IN (SELECT value FROM json_each(?1)) ORDER BY svix_id LIMIT ?3";

impl SqliteStore {
    /// Removes the ledger entries about these parents and all their rows.
    pub(super) async fn forget(&self, entries: &[Entry], turn: &mut Turn<'_>) -> Result<(), StoreError> {
        let mut ids: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
        for entry in entries {
            for number in 0..self.statements.dependents(entry.resource, true).count() {
                let mut after = Some(String::new());
                while let Some(from) = after.take() {
                    let page = self.page(entry, number, from).await?;
                    if page.len() >= FOUND_MAX {
                        after = page.last().cloned();
                    }
                    ids.extend(page);
                    if ids.len() >= FOUND_MAX {
                        self.forget_ids(&std::mem::take(&mut ids), entries, turn).await?;
                    }
                }
            }
        }
        self.forget_ids(&ids, entries, turn).await
    }

    /// Returns the ids of child rows of a parent by one link, after an id.
    async fn page(&self, entry: &Entry, number: usize, from: String) -> Result<Vec<String>, StoreError> {
        let Some((_, dependents)) = self.statements.dependents(entry.resource, true).nth(number) else {
            return Ok(Vec::new());
        };
        let values = (entry.id.clone(), from, as_limit(FOUND_MAX));
        Ok(self.scans().await?.rows(dependents.ids.clone(), values, |row| row.get(0)).await?)
    }

    async fn forget_ids(
        &self,
        ids: &[String],
        entries: &[Entry],
        turn: &mut Turn<'_>,
    ) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let ids: serde_json::Value = ids.iter().map(String::as_str).collect();
        let ids: Arc<str> = ids.to_string().into();
        let mut after = String::new();
        loop {
            let values = (Arc::clone(&ids), after.clone(), as_limit(LINES_MAX));
            let found: Vec<String> = self.scans().await?.rows(ABOUT, values, |row| row.get(0)).await?;
            let Some(last) = found.last() else { return Ok(()) };
            after.clone_from(last);
            let mut open = vec![found];
            while let Some(some) = open.pop() {
                for entry in entries {
                    self.hold(entry, turn).await?;
                }
                self.remove_entries(some, &mut open, turn).await?;
                turn.report();
            }
        }
    }

    /// Does one step: removes as many of these entries as the pace permits. The rest, and entries to retry in smaller
    /// steps, go to `open`.
    pub(super) async fn remove_entries(
        &self,
        mut some: Vec<String>,
        open: &mut Vec<Vec<String>>,
        turn: &mut Turn<'_>,
    ) -> Result<(), StoreError> {
        let size = self.ledger_pace.size();
        if some.len() > size {
            open.push(some.split_off(size));
        }
        let ids: serde_json::Value = some.iter().map(String::as_str).collect();
        let ids = ids.to_string();
        match self.paced(&self.ledger_pace, some.len(), move |tables| remove(tables, &ids)).await? {
            Ok((gone, None)) => turn.ledger += gone,
            Ok((gone, Some((count, example)))) => {
                turn.ledger += gone;
                turn.kept.add(count, example, "a trigger of the table keeps the entry");
            }
            Err(_) if some.len() > 1 => {
                let later = some.split_off(some.len() / 2);
                open.extend([later, some]);
            }
            Err(why) => turn.kept.add(1, some.swap_remove(0), &why),
        }
        Ok(())
    }
}

/// Removes these entries (a JSON array). Returns how many were removed, and how many remain with an example.
pub(super) fn remove(tables: &Tables<'_>, ids: &str) -> rusqlite::Result<(u64, Option<(u64, String)>)> {
    let these = "FROM deliveries WHERE svix_id IN (SELECT value FROM json_each(?1))";
    let gone = tables.connection.prepare_cached(&format!("DELETE {these}"))?.execute((ids,))? as u64;
    let mut left = tables.connection.prepare_cached(&format!("SELECT count(*), min(svix_id) {these}"))?;
    let (count, example): (u64, Option<String>) =
        left.query_row((ids,), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((gone, example.map(|example| (count, example))))
}
