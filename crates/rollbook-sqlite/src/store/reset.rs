//! An operator's reset of a row, so that a fresh reading of Clerk's API can revive it.
//!
//! The transaction holds the file's write lock: no other writer has read the row before, and its child rows are repaired in
//! the same transaction or recorded as pending.

use rollbook_core::catalog::Resource;
use rollbook_core::merge::SubjectState;
use rollbook_core::store::Reset;
use rollbook_core::table_layout::{RESET_BY, content_columns, links_column};
use rollbook_core::time::Timestamp;
use rusqlite::Error::StatementChangedRows;
use rusqlite::ToSql;

use super::cascade::Pass;
use super::tables::Tables;
use crate::fault::NotKept;

/// Resets a row that has the expected state.
pub(super) fn reset(
    tables: &Tables<'_>,
    resource: &'static Resource,
    id: &str,
    expected: &SubjectState,
) -> rusqlite::Result<Reset> {
    let state = expected.reset();
    let stored = tables.stored(resource, id)?;
    let Some(stored) = stored.filter(|stored| stored == expected || *stored == state) else {
        return Ok(Reset::Changed);
    };
    let done = Reset::Done(Timestamp::from_millis(state.floor));
    if state.is_erased_by_operator() {
        return Ok(done);
    }
    if state != stored {
        let (now, links) = (tables.now.to_string(), state.links.to_column());
        let mut values: Vec<&dyn ToSql> = vec![&id, &now, &state.floor];
        if !resource.links.is_empty() {
            values.push(&links);
        }
        let mut update = tables.connection.prepare_cached(&statement(resource))?;
        if update.execute(values.as_slice())? == 0 {
            return Err(StatementChangedRows(0));
        }
    }
    tables.settle(resource, id, Pass::Repair)?;
    tables.pass_on_and_check(resource, id)?;
    if tables.stored(resource, id)? != Some(state) {
        return Err(NotKept::Undone.into());
    }
    Ok(done)
}

/// Writes a reset row: (id, now, floor), and for tables with links (`version_links`).
fn statement(resource: &'static Resource) -> String {
    let from_parents = if resource.links.is_empty() { "NULL" } else { "version_parents_deleted_at" };
    let links = links_column(resource).map(|name| format!("{name} = ?4"));
    let nothing = content_columns(resource).map(|name| format!("{name} = NULL")).chain(links);
    format!(
        "UPDATE {table} SET {nothing}, deleted_at = {from_parents}, synced_at = ?2, synced_by = '{RESET_BY}',
             version_updated_at = {min}, version_event_at = {min}, version_hash = x'', version_deleted_at = NULL,
             version_floor = ?3
         WHERE id = ?1",
        table = resource.table,
        nothing = nothing.collect::<Vec<_>>().join(", "),
        min = i64::MIN,
    )
}
