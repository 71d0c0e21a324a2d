//! Statements of the reconciler's port.

use rollbook_core::catalog::{Link, Resource};
use rollbook_core::source::Lookup;
use rollbook_core::store::{LOCK_MAX, PRUNED_MAX, RUNS_KEPT_MIN};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

/// Columns of a [`Lookup`]: the id, and the ids of the organization and the user where the table has them.
fn lookup_columns(resource: &'static Resource) -> String {
    let column = |name: &str| if resource.is_link(name) { name.to_owned() } else { "NULL::text".to_owned() };
    format!("id, {}, {}", column("organization_id"), column("user_id"))
}

/// Reads a [`Lookup`] from the first columns.
pub(super) fn lookup(row: &PgRow) -> sqlx::Result<Lookup> {
    Ok(Lookup { id: row.try_get(0)?, organization_id: row.try_get(1)?, user_id: row.try_get(2)? })
}

/// Content of those of these rows that have any: (ids).
pub(super) fn contents(schema: &str, resource: &'static Resource) -> String {
    let table = resource.table;
    format!(
        r#"SELECT id, data::text FROM "{schema}".{table} WHERE id = ANY ($1::text[]) AND data IS NOT NULL"#
    )
}

/// One page of the living rows in the order of the index `…_living`: (time to start at, id to start after, time of the end,
/// latest `synced_at`, limit). Positions are whole milliseconds. A team's trigger may have set a `created_at` with a part of
/// a millisecond: such a row follows its own position in the order, and the last condition keeps it from being returned twice.
pub(super) fn living(schema: &str, resource: &'static Resource) -> String {
    format!(
        r#"SELECT {columns}, created_at FROM "{schema}".{table}
           WHERE deleted_at IS NULL
                 AND (created_at, id COLLATE "C") > (coalesce($1::timestamptz, '-infinity'), $2)
                 AND created_at < coalesce($3::timestamptz, 'infinity') AND synced_at < $4
                 AND (id COLLATE "C" > $2 OR created_at >= coalesce($1::timestamptz, '-infinity') + interval '1 ms')
           ORDER BY created_at, id COLLATE "C" LIMIT $5"#,
        columns = lookup_columns(resource),
        table = resource.table,
    )
}

/// One page of the living rows without a `created_at`: (latest `synced_at`, id to start after, limit). The order names both
/// columns of the index, although `created_at` is null in all of these rows: otherwise Postgres sorts them.
pub(super) fn undated(schema: &str, resource: &'static Resource) -> String {
    format!(
        r#"SELECT {columns} FROM "{schema}".{table}
           WHERE deleted_at IS NULL AND created_at IS NULL AND synced_at < $1 AND id COLLATE "C" > $2
           ORDER BY created_at, id COLLATE "C" LIMIT $3"#,
        columns = lookup_columns(resource),
        table = resource.table,
    )
}

/// Number of living rows.
pub(super) fn count_living(schema: &str, resource: &'static Resource) -> String {
    format!(r#"SELECT count(*) FROM "{schema}".{table} WHERE deleted_at IS NULL"#, table = resource.table)
}

/// Number of living child rows of these parents, up to a limit: (ids, limit).
pub(super) fn count_children(schema: &str, child: &'static Resource, link: &Link) -> String {
    format!(
        r#"SELECT count(*) FROM (SELECT FROM "{schema}".{table}
                                 WHERE {column} = ANY ($1::text[]) AND deleted_at IS NULL LIMIT $2) AS child"#,
        table = child.table,
        column = link.column,
    )
}

/// Condition that a lock has ended. An end further in the future than the longest lock was written by a clock that was
/// ahead, so that such a lock counts as ended.
pub(super) fn has_ended(held_until: &str) -> String {
    let seconds = LOCK_MAX.as_secs();
    format!(
        "({held_until} <= clock_timestamp() OR {held_until} > clock_timestamp() + {seconds} * interval '1 second')"
    )
}

/// Takes or renews a lock: (name, holder, milliseconds). Returns a row if the holder has it then.
pub(super) fn lock(schema: &str) -> String {
    let until = "clock_timestamp() + $3::int8 * interval '1 millisecond'";
    format!(
        r#"INSERT INTO "{schema}".reconcile_locks AS lock (name, holder, held_until) VALUES ($1, $2, {until})
           ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = {until}
           WHERE lock.holder = excluded.holder OR {has_ended}
           RETURNING true"#,
        has_ended = has_ended("lock.held_until"),
    )
}

/// Removes old held objects that wait for nothing and belong to no unfinished run: (before).
pub(super) fn prune_held(schema: &str) -> String {
    format!(
        r#"DELETE FROM "{schema}".reconcile_held WHERE (run, table_name, id) IN
               (SELECT run, table_name, id FROM "{schema}".reconcile_held AS held
                WHERE noted_at < $1 AND state <> 'waiting'
                      AND NOT EXISTS (SELECT FROM "{schema}".reconcile_runs AS run
                                      WHERE run.id = held.run AND run.finished_at IS NULL)
                ORDER BY noted_at LIMIT {PRUNED_MAX})"#
    )
}

/// Removes old finished runs without held objects: (before).
pub(super) fn prune_runs(schema: &str) -> String {
    format!(
        r#"DELETE FROM "{schema}".reconcile_runs WHERE id IN
               (SELECT id FROM "{schema}".reconcile_runs AS run
                WHERE finished_at < $1
                      AND NOT EXISTS (SELECT FROM "{schema}".reconcile_held AS held WHERE held.run = run.id)
                      AND id NOT IN (SELECT id FROM "{schema}".reconcile_runs
                                     ORDER BY started_at DESC, id DESC LIMIT {RUNS_KEPT_MIN})
                ORDER BY started_at LIMIT {PRUNED_MAX})"#
    )
}

/// SELECT of runs; a condition or an order follows.
pub(super) fn runs(schema: &str) -> String {
    format!(
        r#"SELECT id, started_at, saved_at, finished_at, state, is_dry, progress, last_error
           FROM "{schema}".reconcile_runs"#
    )
}
