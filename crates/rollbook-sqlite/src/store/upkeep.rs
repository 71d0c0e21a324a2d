//! What an operator or time takes away.

use std::collections::BTreeSet;

use rollbook_core::catalog::{LINKS_MAX, RESOURCES, Resource};
use rollbook_core::store::{Due, ErasedCounts, Tidied};

use super::apply::Tables;
use super::write::{Write, Writer};

/// What an erasure is told by, in the place of a `svix-id`.
const ERASED_BY: &str = "erase";

/// Removes what is kept of these subjects and of what is theirs.
pub(super) fn erase(
    tables: &Tables<'_>,
    subjects: &[(&'static Resource, String)],
) -> rusqlite::Result<ErasedCounts> {
    let mut gone: BTreeSet<String> = BTreeSet::new();
    for (resource, id) in subjects {
        gone.insert(id.clone());
        gone.extend(dependents(tables, resource, id)?);
        let before = tables.stored(resource, id)?;
        let state = before.unwrap_or_default().forgotten(tables.now);
        let write = Write { id, row: None, parents: [None; LINKS_MAX], before, state, synced_by: ERASED_BY };
        Writer::new(tables, resource)?.write(&write)?;
        tables.pass_on(resource, id, true)?;
    }
    let mut forget = tables
        .connection
        .prepare_cached("DELETE FROM deliveries WHERE subject_id IN (SELECT value FROM json_each(?1))")?;
    let ids: serde_json::Value = gone.iter().map(String::as_str).collect();
    let ledger = forget.execute((ids.to_string(),))?;
    Ok(ErasedCounts { rows: gone.len() as u64, ledger: ledger as u64 })
}

fn dependents(tables: &Tables<'_>, parent: &Resource, id: &str) -> rusqlite::Result<Vec<String>> {
    let mut ids = Vec::new();
    for table in RESOURCES.into_iter().map(|resource| tables.statements.of(resource)) {
        for dependents in table.links.iter().filter(|one| one.link.parent == parent) {
            let mut statement = tables.connection.prepare_cached(&dependents.ids)?;
            for found in statement.query_map((id,), |row| row.get(0))? {
                ids.push(found?);
            }
        }
    }
    Ok(ids)
}

/// One small step of what time brings about.
pub(super) fn tidy(tables: &Tables<'_>, due: &Due) -> rusqlite::Result<Tidied> {
    let mut tidied = Tidied::default();
    if let Some(before) = due.ledger_before {
        let mut prune = tables.connection.prepare_cached(
            "DELETE FROM deliveries WHERE svix_id IN
                 (SELECT svix_id FROM deliveries WHERE applied_at < ?1 ORDER BY applied_at LIMIT ?2)",
        )?;
        tidied.ledger = prune.execute((before.to_string(), limit(due.limit)))? as u64;
    }
    let Some(before) = due.deleted_before else { return Ok(tidied) };
    for resource in RESOURCES {
        let left = due.limit.saturating_sub(usize::try_from(tidied.rows).unwrap_or(usize::MAX));
        let mut statement = tables.connection.prepare_cached(&tables.statements.of(resource).erase_ended)?;
        let ended: Vec<String> = statement
            .query_map((before.to_string(), limit(left)), |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for id in &ended {
            tables.pass_on(resource, id, false)?;
        }
        tidied.rows += ended.len() as u64;
    }
    Ok(tidied)
}

fn limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
