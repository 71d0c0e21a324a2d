//! The triggers of the change feed, made from the catalog.
//!
//! The file has one writer at a time, so a trigger writes the line with its position at once, and the order of the positions is
//! that of the commits. The triggers use nothing but SQLite's own functions: the release before, and the sqlite3 program, can
//! write the tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rollbook_core::catalog::{RESOURCES, Resource};
use rusqlite::Connection;

/// Prefix of the names of the triggers.
const PREFIX: &str = "rollbook_changes";
/// Whether a row counts for readers: placeholder rows and rows that were reset do not yet.
const NEW_IS_ROW: &str = "(NEW.version_hash <> x'' OR NEW.version_deleted_at IS NOT NULL)";
const OLD_IS_ROW: &str = "(OLD.version_hash <> x'' OR OLD.version_deleted_at IS NOT NULL)";

/// Whether rows record their changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// Triggers write lines.
    On,
    /// There are no triggers.
    Off,
}

impl Feed {
    /// The feed that a setting means.
    pub const fn of(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }
}

/// Returns the statements that make the triggers what the feed wants.
pub(crate) fn difference(connection: &Connection, feed: Feed) -> rusqlite::Result<Vec<String>> {
    let mut query =
        connection.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name GLOB ?1")?;
    let found = query.query_map((format!("{PREFIX}_*"),), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let found = found.collect::<rusqlite::Result<BTreeMap<String, String>>>()?;
    let mut statements = Vec::new();
    for (name, sql) in RESOURCES.into_iter().flat_map(triggers) {
        match (found.get(&name), feed) {
            (Some(known), Feed::On) if *known == sql => {}
            (Some(_), Feed::On) => statements.extend([format!("DROP TRIGGER {name}"), sql]),
            (None, Feed::On) => statements.push(sql),
            (Some(_), Feed::Off) => statements.push(format!("DROP TRIGGER {name}")),
            (None, Feed::Off) => {}
        }
    }
    Ok(statements)
}

/// Whether all triggers are there.
pub(crate) fn is_on(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND name GLOB ?1";
    let count: usize =
        connection.prepare_cached(sql)?.query_row((format!("{PREFIX}_*"),), |row| row.get(0))?;
    Ok(count == RESOURCES.len() * 2)
}

/// The triggers of a table by name.
fn triggers(resource: &'static Resource) -> [(String, String); 2] {
    ["insert", "update"].map(|operation| {
        let name = format!("{PREFIX}_{}_{operation}", resource.table);
        let sql = trigger(resource, &name, operation == "update");
        (name, sql)
    })
}

fn trigger(resource: &'static Resource, name: &str, is_update: bool) -> String {
    let table = resource.table;
    let (operation, facts) = if is_update {
        ("UPDATE", facts_of_update(resource))
    } else {
        ("INSERT", FACTS_OF_INSERT.to_owned())
    };
    format!(
        "CREATE TRIGGER {name} AFTER {operation} ON {table} WHEN {NEW_IS_ROW} BEGIN
    INSERT INTO changes (resource, subject_id, kind, changed, origin, cause, event_at, at)
    SELECT '{table}', NEW.id, line.kind, line.changed,
           CASE WHEN line.origin <> 'reading' THEN line.origin WHEN line.reading LIKE 'backfill:%' THEN 'backfill' ELSE 'reconcile' END,
           CASE line.origin WHEN 'webhook' THEN NEW.synced_by
                            WHEN 'reading' THEN substr(line.reading, instr(line.reading, ':') + 1) END,
           line.event_at,
           max(strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), coalesce((SELECT at FROM changes ORDER BY position DESC LIMIT 1), ''))
    FROM (SELECT found.*, (SELECT reading FROM changes_state) AS reading,
                 CASE WHEN found.is_erased OR found.was AND found.was_deleted AND found.lost_content THEN 'erased'
                      WHEN NEW.deleted_at IS NOT NULL AND NOT (found.was AND found.was_deleted) THEN 'deleted'
                      WHEN NOT found.was THEN 'created'
                      WHEN found.changed <> '[]' THEN 'updated' END AS kind
          FROM (SELECT {facts},
                       '[' || substr({changed}, 2) || ']' AS changed) AS found) AS line
    WHERE line.kind IS NOT NULL;
END",
        changed = changed(resource, is_update),
    )
}

/// The columns that differ, as the elements of a JSON array, each after a comma. What a row that readers did not know had
/// before does not count.
fn changed(resource: &'static Resource, is_update: bool) -> String {
    let typed = resource.columns.iter().map(|column| column.name);
    let mut names = String::from("''");
    for name in typed.chain(["deleted_at", "data"]) {
        let differs = match (is_update, resource.is_link(name) || name == "deleted_at") {
            (false, _) => format!("NEW.{name} IS NOT NULL"),
            (true, false) => format!("NEW.{name} IS NOT OLD.{name}"),
            (true, true) => format!("NEW.{name} IS NOT CASE WHEN {OLD_IS_ROW} THEN OLD.{name} END"),
        };
        // Writing into a String cannot fail.
        _ = write!(names, " || CASE WHEN {differs} THEN ',\"{name}\"' ELSE '' END");
    }
    names
}

/// Time of a version's event.
const CONTENT_AT: &str = "strftime('%Y-%m-%dT%H:%M:%fZ', NEW.version_event_at / 1000.0, 'unixepoch')";

const FACTS_OF_INSERT: &str = "0 AS was, 0 AS was_deleted, 0 AS lost_content, NEW.synced_by = 'erase' AS is_erased,
                       CASE NEW.synced_by WHEN 'erase' THEN 'erase' WHEN 'reconcile' THEN 'reading' ELSE 'webhook' END AS origin,
                       CASE WHEN NEW.version_deleted_at IS NOT NULL THEN NEW.deleted_at
                            WHEN length(NEW.version_hash) = 16
                                THEN strftime('%Y-%m-%dT%H:%M:%fZ', NEW.version_event_at / 1000.0, 'unixepoch') END AS event_at";

/// Facts that follow from the comparison of both states of a row.
fn facts_of_update(resource: &'static Resource) -> String {
    let mut state = vec!["version_updated_at", "version_event_at", "version_hash", "version_deleted_at"];
    let mut inherited = "NEW.deleted_at IS NOT OLD.deleted_at".to_owned();
    if !resource.links.is_empty() {
        state.push("version_links");
        inherited += " OR NEW.version_parents_deleted_at IS NOT OLD.version_parents_deleted_at";
    }
    let applied: Vec<String> = state.iter().map(|name| format!("NEW.{name} IS NOT OLD.{name}")).collect();
    format!(
        "{OLD_IS_ROW} AS was, OLD.deleted_at IS NOT NULL AS was_deleted,
                       OLD.data IS NOT NULL AND NEW.data IS NULL AS lost_content,
                       NEW.synced_by = 'erase' AND OLD.synced_by <> 'erase' AS is_erased,
                       CASE WHEN NEW.synced_by = 'erase' THEN 'erase'
                            WHEN NEW.synced_by = OLD.synced_by AND NEW.version_hash = x'ff' AND OLD.version_hash <> x'ff'
                                 AND NEW.version_deleted_at IS OLD.version_deleted_at THEN 'erase'
                            WHEN NEW.synced_by = 'reconcile' AND ({applied}) THEN 'reading'
                            WHEN NEW.synced_by <> OLD.synced_by THEN 'webhook'
                            WHEN {inherited} OR OLD.data IS NOT NULL AND NEW.data IS NULL THEN 'cascade'
                            ELSE 'other' END AS origin,
                       CASE WHEN NEW.version_deleted_at IS NOT OLD.version_deleted_at THEN NEW.deleted_at
                            WHEN length(NEW.version_hash) = 16
                                 AND (NEW.version_event_at IS NOT OLD.version_event_at OR NEW.version_hash <> OLD.version_hash)
                                THEN {CONTENT_AT}
                            WHEN NEW.deleted_at IS NOT OLD.deleted_at THEN NEW.deleted_at END AS event_at",
        applied = applied.join(" OR "),
    )
}
