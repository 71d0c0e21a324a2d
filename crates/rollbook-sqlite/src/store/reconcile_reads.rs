//! Statements of the reconciler's reads, and values of their rows.

use rollbook_core::catalog::{Link, Resource};
use rollbook_core::source::Lookup;
use rollbook_core::store::{Run, RunState};
use rollbook_core::table_layout::STATE_COLUMNS;
use rollbook_core::time::Timestamp;
use rusqlite::Row;
use serde_json::json;

use super::sql::named;
use crate::select::{parsed, parsed_if_any};

/// Text before every time.
const FIRST: &str = "";
/// Text after every time.
const LAST: &str = "~";

/// Returns the bound of a range of times as text.
pub(super) fn bound(at: Timestamp) -> String {
    match at.as_millis() {
        i64::MIN => FIRST.to_owned(),
        i64::MAX => LAST.to_owned(),
        _ => at.to_string(),
    }
}

/// Ids as a JSON array, which a statement reads with `json_each`.
pub(super) fn id_list(ids: &[&str]) -> String {
    json!(ids).to_string()
}

/// States of existing rows, with their ids: (ids).
pub(super) fn heads_sql(resource: &'static Resource) -> String {
    let (state, named, table) = (STATE_COLUMNS.join(", "), named(resource), resource.table);
    format!("SELECT {state}, {named}, id FROM {table} WHERE id IN (SELECT value FROM json_each(?1))")
}

/// Columns of a [`Lookup`]: the id, and the ids of the organization and the user where the table has them.
fn lookup_columns(resource: &'static Resource) -> String {
    let column = |name: &'static str| if resource.is_link(name) { name } else { "NULL" };
    format!("id, {}, {}", column("organization_id"), column("user_id"))
}

/// Reads a [`Lookup`] from the first columns.
pub(super) fn lookup(row: &Row<'_>) -> rusqlite::Result<Lookup> {
    Ok(Lookup { id: row.get(0)?, organization_id: row.get(1)?, user_id: row.get(2)? })
}

/// Living rows in the order of the index `…_living`: (time to start at, id to start after, end, untouched since, limit).
pub(super) fn living_sql(resource: &'static Resource) -> String {
    format!(
        "SELECT {}, created_at FROM {}
         WHERE deleted_at IS NULL AND (created_at, id) > (?1, ?2) AND created_at < ?3 AND synced_at < ?4
         ORDER BY created_at, id LIMIT ?5",
        lookup_columns(resource),
        resource.table
    )
}

/// Living rows without a `created_at`: (untouched since, id to start after, limit).
pub(super) fn undated_sql(resource: &'static Resource) -> String {
    format!(
        "SELECT {} FROM {}
         WHERE deleted_at IS NULL AND created_at IS NULL AND synced_at < ?1 AND id > ?2 ORDER BY id LIMIT ?3",
        lookup_columns(resource),
        resource.table
    )
}

/// Number of living rows.
pub(super) fn count_living_sql(resource: &'static Resource) -> String {
    format!("SELECT count(*) FROM {} WHERE deleted_at IS NULL", resource.table)
}

/// Number of living child rows of these parents, up to a limit: (ids, limit).
pub(super) fn count_children_sql(child: &'static Resource, link: &Link) -> String {
    format!(
        "SELECT count(*) FROM (SELECT 1 FROM {table}
                               WHERE {column} IN (SELECT value FROM json_each(?1)) AND +deleted_at IS NULL LIMIT ?2)",
        table = child.table,
        column = link.column,
    )
}

/// SELECT of runs; a condition or an order follows.
pub(super) const RUNS: &str =
    "SELECT id, started_at, saved_at, finished_at, state, is_dry, progress, last_error FROM reconcile_runs";

/// Reads a run.
pub(super) fn read_run(row: &Row<'_>) -> rusqlite::Result<Run> {
    Ok(Run {
        id: row.get(0)?,
        started_at: time(row, 1)?,
        saved_at: time(row, 2)?,
        finished_at: optional_time(row, 3)?,
        state: parsed(row, 4, "a state of a run", RunState::parse)?,
        is_dry: row.get(5)?,
        progress: row.get(6)?,
        last_error: row.get(7)?,
    })
}

/// Reads a time.
pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    parsed(row, column, "a time", Timestamp::parse)
}

/// Reads a time that may be null.
pub(super) fn optional_time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    parsed_if_any(row, column, "a time", Timestamp::parse)
}

#[cfg(test)]
mod tests {
    use rollbook_core::source::RECONCILED;

    use super::*;
    use crate::migrations::{Schema, apply_migrations};
    use crate::select::select;

    #[test]
    fn living_rows_are_paged_and_counted_by_their_index() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        apply_migrations(&path, Schema::Store).expect("the migrations apply");
        let connection = crate::connection::open(&path).expect("a file");
        for resource in RECONCILED {
            let index = format!("INDEX {}_living", resource.table);
            for sql in [living_sql(resource), undated_sql(resource), count_living_sql(resource)] {
                let mut explained =
                    connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("a statement");
                let plan = explained.raw_query().mapped(|row| row.get::<_, String>("detail"));
                let plan: Vec<String> = plan.map(|line| line.expect("a line")).collect();
                assert!(plan.len() == 1 && plan[0].contains(&index), "{sql}: {plan:?}");
            }
        }
    }

    #[test]
    fn the_view_freshness_has_a_row_for_each_resource_and_does_not_read_the_whole_ledger() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        apply_migrations(&path, Schema::Store).expect("the migrations apply");
        let connection = crate::connection::open(&path).expect("a file");
        let entries = "INSERT INTO deliveries VALUES
                         ('msg_1', 'user.updated', 'user_1', 'updated', '2026-07-29T08:00:05.000Z', 't', 't1', 1, 1),
                         ('msg_2', 'user.updated', 'user_2', 'updated', '2026-07-29T08:00:03.000Z', 't', 't2', 1, 1),
                         ('reconcile:1', 'reconcile.stale', 'user_1', 'updated', '2026-07-29T09:00:00.000Z', 't', 't3', 1, 1);
                     INSERT INTO reconcile_walks VALUES ('users', NULL, 't4', 2)";
        connection.execute_batch(entries).expect("entries");
        let view =
            "SELECT group_concat(resource || coalesce(last_walk_at || drift, ''), ' '), min(applied_through),
                           max(applied_through)
                    FROM (SELECT * FROM freshness ORDER BY resource)";
        let found: (String, String, String) = connection
            .query_row(view, (), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .expect("the view");
        let through = "2026-07-29T08:00:05.000Z".to_owned();
        let resources = "organization_domains organization_invitations organization_memberships organizations permissions roles \
                         userst42 waitlist_entries";
        assert_eq!(found, (resources.to_owned(), through.clone(), through));
        let plan: Vec<String> =
            select(&connection, "EXPLAIN QUERY PLAN SELECT * FROM freshness", (), |row| row.get("detail"))
                .expect("a plan");
        assert!(plan.contains(&"SCAN deliveries USING INDEX deliveries_by_age".to_owned()), "{plan:?}");
    }
}
