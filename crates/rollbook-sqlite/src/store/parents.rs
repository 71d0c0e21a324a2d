//! Statements about the state that child rows take from their parents: search for rows that do not show it, and repair.

use rollbook_core::catalog::{Link, Resource};
use rollbook_core::table_layout::content_columns;

use super::columns::has_content;

/// Statements about the rows of one table that name a parent in one column.
pub(super) struct Dependents {
    pub(super) link: &'static Link,
    /// Child rows of a parent that do not show the state of their parents, without rows that are known to
    /// refuse it: (parent, limit).
    pub(super) wrong: String,
    /// Child rows of a parent that do not show it, including rows that are known to refuse it: (parent, limit).
    pub(super) still_wrong: String,
    /// Ids of child rows of a parent after an id, in order: (parent, id, limit).
    pub(super) ids: String,
    /// Whether a parent has more child rows than a number: (parent, number).
    pub(super) more: String,
}

/// Statements about single rows of a table of child rows.
pub(super) struct Own {
    /// Whether a row does not show the state of its parents, and is not known to refuse it: (id).
    pub(super) is_wrong: String,
    /// Whether a row does not show it, even if it is known to refuse it: (id).
    pub(super) is_still_wrong: String,
    /// Gives a row the state that it takes from all its parents: (id, now). A row that has lost its content
    /// to an erased parent becomes a row without content when that parent is reset, so that a fresh reading
    /// fills it again.
    pub(super) repair: String,
}

/// `version_updated_at` and `version_event_at` of a row without content.
const MIN: &str = "-9223372036854775808";

/// Common parts of a table's statements.
struct Parts {
    joins: String,
    end: String,
    erased: String,
    /// Condition of a `child` that does not show the state of its parents.
    differs: String,
    /// Condition of a `child` without a pending entry of its own.
    is_unknown: String,
}

impl Parts {
    fn new(resource: &'static Resource) -> Self {
        let (mut joins, mut ends, mut erased) = (Vec::new(), Vec::new(), Vec::new());
        for (number, link) in resource.links.iter().enumerate() {
            let parent = format!("parent_{number}");
            let counts = if link.cascades {
                "1".to_owned()
            } else {
                format!("{parent}.version_hash = x'ff' AND {parent}.version_floor > 0")
            };
            let (of, column) = (link.parent.table, link.column);
            joins.push(format!("LEFT JOIN {of} AS {parent} ON {parent}.id = child.{column}"));
            ends.push(format!("CASE WHEN {counts} THEN {parent}.deleted_at END"));
            erased.push(format!("coalesce({counts} AND {parent}.version_hash = x'ff', 0)"));
        }
        let earliest = |one, other| format!("min(coalesce({one}, {other}), coalesce({other}, {one}))");
        // The row's own state counts too: a trigger may have restored content.
        erased.push("child.version_hash = x'ff'".to_owned());
        let end = ends.into_iter().reduce(earliest).unwrap_or_else(|| "NULL".to_owned());
        let erased = erased.join(" OR ");
        Self {
            joins: joins.join(" "),
            differs: differs(resource, "child", &end, &erased),
            end,
            erased,
            is_unknown: format!(
                "NOT EXISTS (SELECT 1 FROM rollbook_cascades AS entry
                             WHERE entry.table_name = '{}' AND entry.id = child.id AND entry.what = 'row')",
                resource.table
            ),
        }
    }
}

/// Returns the condition of a row that does not show the state it should. A row that was deleted by itself
/// shows its own deletion, not that of its parents.
fn differs(resource: &'static Resource, row: &str, end: &str, erased: &str) -> String {
    let any = has_content(resource, row);
    format!(
        "({row}.version_deleted_at IS NULL
              AND ({row}.version_parents_deleted_at IS NOT {end} OR {row}.deleted_at IS NOT {end})
          OR ({erased}) AND {any})"
    )
}

impl Dependents {
    /// Returns the statements of each link of a resource.
    pub(super) fn all(resource: &'static Resource) -> Vec<Self> {
        let Parts { joins, differs, is_unknown, .. } = Parts::new(resource);
        let table = resource.table;
        let one = |link: &'static Link| {
            let of =
                format!("SELECT child.id FROM {table} AS child {joins} WHERE child.{} = ?1", link.column);
            Self {
                link,
                wrong: format!("{of} AND {differs} AND {is_unknown} LIMIT ?2"),
                still_wrong: format!("{of} AND {differs} LIMIT ?2"),
                more: format!("SELECT 1 FROM {table} WHERE {} = ?1 LIMIT 1 OFFSET ?2", link.column),
                ids: format!(
                    "SELECT id FROM {table} WHERE {} = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
                    link.column
                ),
            }
        };
        resource.links.iter().map(one).collect()
    }
}

impl Own {
    /// Returns the statements about single rows; `None` if the resource has no parents.
    pub(super) fn new(resource: &'static Resource) -> Option<Self> {
        if resource.links.is_empty() {
            return None;
        }
        let Parts { joins, end, erased, differs: child_differs, is_unknown } = Parts::new(resource);
        let table = resource.table;
        let nothing = content_columns(resource)
            .map(|name| format!("{name} = CASE WHEN found.erased THEN NULL ELSE {table}.{name} END"));
        let any = has_content(resource, table);
        let lost = format!("NOT found.erased AND length({table}.version_hash) = 16 AND NOT ({any})");
        let unknown = [("version_updated_at", MIN), ("version_event_at", MIN), ("version_hash", "x''")];
        let unknown = unknown
            .map(|(name, none)| format!("{name} = CASE WHEN {lost} THEN {none} ELSE {table}.{name} END"));
        let nothing = nothing.chain(unknown).collect::<Vec<_>>();
        let select =
            format!("SELECT 1 FROM {table} AS child {joins} WHERE child.id = ?1 AND {child_differs}");
        Some(Self {
            is_wrong: format!("{select} AND {is_unknown}"),
            is_still_wrong: select,
            repair: format!(
                "UPDATE {table} SET version_parents_deleted_at = found.ended_at, synced_at = ?2,
                     deleted_at = CASE WHEN {table}.version_deleted_at IS NULL THEN found.ended_at
                                       ELSE {table}.deleted_at END,
                     {nothing}
                 FROM (SELECT child.id, {end} AS ended_at, {erased} AS erased
                       FROM {table} AS child {joins} WHERE child.id = ?1) AS found
                 WHERE {table}.id = found.id AND {differs}",
                nothing = nothing.join(", "),
                differs = differs(resource, table, "found.ended_at", "found.erased"),
            ),
        })
    }
}
