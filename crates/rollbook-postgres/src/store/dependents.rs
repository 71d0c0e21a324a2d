//! Statements about rows that have parents.

use rollbook_core::catalog::{Link, Resource};
use rollbook_core::table_layout::content_columns;

use super::columns::{has_content, listed};
use crate::types::Sql;

/// `version_updated_at` and `version_event_at` of a row without content.
const MIN: &str = "-9223372036854775808";

/// Statements about the child rows of one table.
pub(super) struct Dependents {
    /// SELECT of the table number and the ids of rows, as `child`, joined with their parents; a condition follows.
    pub(super) select: String,
    /// Condition of a `child` that is stale: it does not show its parents' deletion or erasure, or shows too much.
    pub(super) is_stale: String,
    /// Number of the table, and its name in SQL.
    pub(super) table: (usize, String),
    resource: &'static Resource,
    pub(super) links: &'static [Link],
    /// Repairs rows: (ids, now). Returns a row for each that changed. A row that has lost its content to an erased parent
    /// becomes a row without content when that parent is reset, so that a fresh reading fills it again.
    pub(super) repair: Sql,
    /// Finds a row that is stale after its repair: (ids).
    pub(super) still_stale: Sql,
}

impl Dependents {
    pub(super) fn new(schema: &str, number: usize, resource: &'static Resource) -> Option<Self> {
        let table = format!(r#""{schema}".{}"#, resource.table);
        let (mut joins, mut ends, mut erased) = (Vec::new(), Vec::new(), Vec::new());
        for (number, link) in resource.links.iter().enumerate() {
            let (parent, of, column) = (format!("parent_{number}"), link.parent.table, link.column);
            joins.push(format!(r#"LEFT JOIN "{schema}".{of} AS {parent} ON {parent}.id = child.{column}"#));
            let is_erased = format!(r"{parent}.version_hash = '\xff'");
            if link.cascades {
                ends.push(format!("{parent}.deleted_at"));
                erased.push(format!("coalesce({is_erased}, false)"));
            } else {
                let is_erased_by_operator = format!("{is_erased} AND {parent}.version_floor > 0");
                ends.push(format!("CASE WHEN {is_erased_by_operator} THEN {parent}.deleted_at END"));
                erased.push(format!("coalesce({is_erased_by_operator}, false)"));
            }
        }
        let (joins, end, erased) = (joins.join(" "), ends.join(", "), erased.join(" OR "));
        let nothing = content_columns(resource)
            .map(|name| format!("{name} = CASE WHEN found.erased THEN NULL ELSE stored.{name} END"));
        let lost = format!(
            "NOT found.erased AND octet_length(stored.version_hash) = 16 AND NOT {}",
            has_content("stored", resource)
        );
        let unknown = [("version_updated_at", MIN), ("version_event_at", MIN), ("version_hash", "''")];
        let unknown = unknown
            .map(|(name, none)| format!("{name} = CASE WHEN {lost} THEN {none} ELSE stored.{name} END"));
        let repair = format!(
            r"UPDATE {table} AS stored
               SET version_parents_deleted_at = found.ended_at, synced_at = $2, version_revision = version_revision + 1,
                   deleted_at = CASE WHEN version_deleted_at IS NULL THEN found.ended_at ELSE stored.deleted_at END,
                   {nothing}, {unknown}
               FROM (SELECT child.id, least({end}) AS ended_at, {erased} AS erased
                     FROM {table} AS child {joins} WHERE child.id = ANY ($1::text[])) AS found
               WHERE stored.id = found.id AND {is_stale}
               RETURNING true",
            nothing = listed(nothing),
            unknown = listed(unknown),
            is_stale = is_stale(resource, "stored", "found.ended_at", "found.erased"),
        );
        let select = format!("SELECT {number}::int4, child.id FROM {table} AS child {joins}");
        let is_stale = is_stale(resource, "child", &format!("least({end})"), &erased);
        (!resource.links.is_empty()).then(|| Self {
            still_stale: format!("{select} WHERE child.id = ANY ($1::text[]) AND {is_stale} LIMIT 1").into(),
            select,
            is_stale,
            table: (number, table.clone()),
            resource,
            links: resource.links,
            repair: repair.into(),
        })
    }

    /// SELECT of stale child rows by a link, at most `limit`; `parents` gives (id, when deleted, whether the content is
    /// erased). Returns the table number, id, two nulls, and the number of this part.
    pub(super) fn stale_children(&self, link: &Link, parents: &str, part: usize, limit: usize) -> String {
        let ((number, table), column) = (&self.table, link.column);
        let is_stale = is_stale(self.resource, "child", "parent.ended_at", "parent.erased");
        format!(
            "(SELECT {number}::int4, child.id, NULL::int8, NULL::bool, {part}::int4
              FROM {parents} AS parent (id, ended_at, erased) JOIN {table} AS child ON child.{column} = parent.id
              WHERE {is_stale}
              LIMIT {limit})"
        )
    }
}

/// Condition of a row that is stale. A row that was deleted by itself shows its own deletion time for good, so the
/// parents' deletion does not make it stale: a write without effect would run a team's triggers.
fn is_stale(resource: &'static Resource, row: &str, end: &str, erased: &str) -> String {
    format!(
        "({row}.version_deleted_at IS NULL
          AND ({row}.version_parents_deleted_at IS DISTINCT FROM {end} OR {row}.deleted_at IS NULL AND {end} IS NOT NULL)
          OR ({erased}) AND {})",
        has_content(row, resource)
    )
}
