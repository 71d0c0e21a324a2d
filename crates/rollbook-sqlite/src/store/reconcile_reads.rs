//! Reads of the reconciler's port.

use rollbook_core::catalog::{Link, Resource};
use rollbook_core::drift::Drift;
use rollbook_core::source::{Lookup, Window};
use rollbook_core::store::{Freshness, Head, Held, HeldCount, HeldKey, HeldState, Living, Run, RunState};
use rollbook_core::table_layout::STATE_COLUMNS;
use rollbook_core::time::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, Row};
use serde_json::json;

use super::pending::as_limit;
use super::sql::named;
use super::tables::read_stored;
use crate::select::select;

/// Text before every time.
const FIRST: &str = "";
/// Text after every time.
const LAST: &str = "~";

/// Returns the bound of a range of times as text.
fn bound(at: Timestamp) -> String {
    match at.as_millis() {
        i64::MIN => FIRST.to_owned(),
        i64::MAX => LAST.to_owned(),
        _ => at.to_string(),
    }
}

/// Ids as a JSON array, which a statement reads with `json_each`.
pub(super) fn id_list(ids: &[String]) -> String {
    json!(ids).to_string()
}

pub(super) fn heads(
    connection: &Connection,
    resource: &'static Resource,
    ids: &[String],
) -> rusqlite::Result<Vec<Head>> {
    let sql = format!(
        "SELECT {}, {}, id FROM {} WHERE id IN (SELECT value FROM json_each(?1))",
        STATE_COLUMNS.join(", "),
        named(resource),
        resource.table
    );
    let read = |row: &Row<'_>| Ok(Head { state: read_stored(row)?, id: row.get("id")? });
    select(connection, &sql, (id_list(ids),), read)
}

pub(super) fn contents(
    connection: &Connection,
    resource: &'static Resource,
    ids: &[String],
) -> rusqlite::Result<Vec<(String, String)>> {
    let sql = format!(
        "SELECT id, data FROM {} WHERE id IN (SELECT value FROM json_each(?1)) AND data IS NOT NULL",
        resource.table
    );
    select(connection, &sql, (id_list(ids),), |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Columns of a [`Lookup`]: the id, and the ids of the organization and the user where the table has them.
fn lookup_columns(resource: &'static Resource) -> String {
    let column = |name: &'static str| if resource.is_link(name) { name } else { "NULL" };
    format!("id, {}, {}", column("organization_id"), column("user_id"))
}

fn lookup(row: &Row<'_>) -> rusqlite::Result<Lookup> {
    Ok(Lookup { id: row.get(0)?, organization_id: row.get(1)?, user_id: row.get(2)? })
}

/// Living rows in the order of the index `…_living`: (time to start at, id to start after, end, untouched since, limit).
fn living_sql(resource: &'static Resource) -> String {
    format!(
        "SELECT {}, created_at FROM {}
         WHERE deleted_at IS NULL AND (created_at, id) > (?1, ?2) AND created_at < ?3 AND synced_at < ?4
         ORDER BY created_at, id LIMIT ?5",
        lookup_columns(resource),
        resource.table
    )
}

pub(super) fn living(
    connection: &Connection,
    resource: &'static Resource,
    window: Window,
    untouched_since: Timestamp,
    after: Option<&Living>,
    limit: usize,
) -> rusqlite::Result<Vec<Living>> {
    let after = after.filter(|after| after.created_at >= window.from);
    let (from, id) = after.map_or((window.from, ""), |after| (after.created_at, after.lookup.id.as_str()));
    let values = (bound(from), id, bound(window.to), untouched_since.to_string(), as_limit(limit));
    let read = |row: &Row<'_>| Ok(Living { created_at: time(row, 3)?, lookup: lookup(row)? });
    select(connection, &living_sql(resource), values, read)
}

/// Living rows without a `created_at`: (untouched since, id to start after, limit).
fn undated_sql(resource: &'static Resource) -> String {
    format!(
        "SELECT {} FROM {}
         WHERE deleted_at IS NULL AND created_at IS NULL AND synced_at < ?1 AND id > ?2 ORDER BY id LIMIT ?3",
        lookup_columns(resource),
        resource.table
    )
}

pub(super) fn undated(
    connection: &Connection,
    resource: &'static Resource,
    untouched_since: Timestamp,
    after: &str,
    limit: usize,
) -> rusqlite::Result<Vec<Lookup>> {
    let values = (untouched_since.to_string(), after, as_limit(limit));
    select(connection, &undated_sql(resource), values, lookup)
}

fn count_living_sql(resource: &'static Resource) -> String {
    format!("SELECT count(*) FROM {} WHERE deleted_at IS NULL", resource.table)
}

pub(super) fn count_living(connection: &Connection, resource: &'static Resource) -> rusqlite::Result<u64> {
    connection.prepare_cached(&count_living_sql(resource))?.query_row((), |row| row.get(0))
}

fn count_children_sql(child: &'static Resource, link: &Link) -> String {
    format!(
        "SELECT count(*) FROM (SELECT 1 FROM {table}
                               WHERE {column} IN (SELECT value FROM json_each(?1)) AND +deleted_at IS NULL LIMIT ?2)",
        table = child.table,
        column = link.column,
    )
}

/// Counts living child rows of these parents, at most `limit`.
pub(super) fn count_children(
    connection: &Connection,
    child: &'static Resource,
    link: &Link,
    ids: &[String],
    limit: u64,
) -> rusqlite::Result<u64> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let values = (id_list(ids), limit);
    connection.prepare_cached(&count_children_sql(child, link))?.query_row(values, |row| row.get(0))
}

const RUNS: &str =
    "SELECT id, started_at, saved_at, finished_at, state, is_dry, progress, last_error FROM reconcile_runs";

pub(super) fn run(connection: &Connection, id: &str) -> rusqlite::Result<Option<Run>> {
    Ok(select(connection, &format!("{RUNS} WHERE id = ?1"), (id,), read_run)?.pop())
}

pub(super) fn runs(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<Run>> {
    let sql = format!("{RUNS} ORDER BY started_at DESC, id DESC LIMIT ?1");
    select(connection, &sql, (as_limit(limit),), read_run)
}

fn read_run(row: &Row<'_>) -> rusqlite::Result<Run> {
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

pub(super) fn held(
    connection: &Connection,
    run: &str,
    state: HeldState,
    after: Option<&HeldKey>,
    limit: usize,
) -> rusqlite::Result<Vec<Held>> {
    let (table, id) = after.map_or(("", ""), |after| (after.table.as_str(), after.id.as_str()));
    let sql = "SELECT table_name, id, kind, state, noted_at FROM reconcile_held
               WHERE run = ?1 AND state = ?2 AND (table_name, id) > (?3, ?4) ORDER BY table_name, id LIMIT ?5";
    select(connection, sql, (run, state.as_str(), table, id, as_limit(limit)), |row| {
        Ok(Held {
            key: HeldKey { table: row.get(0)?, id: row.get(1)? },
            kind: parsed(row, 2, "a kind of drift", Drift::parse)?,
            state: parsed(row, 3, "a state of a held object", HeldState::parse)?,
            noted_at: time(row, 4)?,
        })
    })
}

pub(super) fn count_held(connection: &Connection, run: Option<&str>) -> rusqlite::Result<Vec<HeldCount>> {
    let sql = "SELECT run, table_name, kind, state, count(*) FROM reconcile_held
               WHERE ?1 IS NULL OR run = ?1
               GROUP BY run, table_name, kind, state ORDER BY run, table_name, kind, state";
    select(connection, sql, (run,), |row| {
        Ok(HeldCount {
            run: row.get(0)?,
            table: row.get(1)?,
            kind: parsed(row, 2, "a kind of drift", Drift::parse)?,
            state: parsed(row, 3, "a state of a held object", HeldState::parse)?,
            count: row.get(4)?,
        })
    })
}

pub(super) fn freshness(connection: &Connection) -> rusqlite::Result<Vec<Freshness>> {
    let sql = "SELECT resource, complete_since, last_walk_at, drift FROM reconcile_walks ORDER BY resource";
    select(connection, sql, (), |row| {
        Ok(Freshness {
            table: row.get(0)?,
            complete_since: optional_time(row, 1)?,
            last_walk_at: time(row, 2)?,
            drift: row.get(3)?,
        })
    })
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    parsed(row, column, "a time", Timestamp::parse)
}

fn optional_time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    match row.get_ref(column)?.data_type() {
        Type::Null => Ok(None),
        _ => time(row, column).map(Some),
    }
}

fn parsed<T>(
    row: &Row<'_>,
    column: usize,
    what: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    parse(&text).ok_or_else(|| rusqlite::Error::InvalidColumnType(column, what.to_owned(), Type::Text))
}

#[cfg(test)]
mod tests {
    use rollbook_core::source::RECONCILED;

    use super::*;
    use crate::migrations::{Schema, apply_migrations};

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
