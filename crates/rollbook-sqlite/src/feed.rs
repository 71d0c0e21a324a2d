//! The triggers of the change feed, made from the catalog.
//!
//! The file has one writer at a time, so a trigger writes the line with its position at once, and the order of the positions is
//! that of the commits. The triggers use nothing but SQLite's own functions: the release before, and the sqlite3 program, can
//! write the tables.

use std::collections::BTreeMap;

use rollbook_core::catalog::{RESOURCES, Resource};
use rusqlite::Connection;

/// Prefix of the names of the triggers.
pub(crate) const PREFIX: &str = "rollbook_changes";
/// Whether a row counts for readers: placeholder rows and rows that were reset do not yet.
const NEW_IS_ROW: &str = "(NEW.version_hash <> x'' OR NEW.version_deleted_at IS NOT NULL)";
const OLD_IS_ROW: &str = "(OLD.version_hash <> x'' OR OLD.version_deleted_at IS NOT NULL)";

/// Time of a line that is written now. Times never decrease.
pub(crate) const NOW: &str = "max(strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), coalesce((SELECT at FROM changes ORDER BY position DESC LIMIT 1), ''))";

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

/// A trigger's `WHEN` decides whether there is a line, so that its INSERT has no subquery in its FROM: SQLite would compute the
/// list of columns twice, and keep the line in a table of its own first.
fn trigger(resource: &'static Resource, name: &str, is_update: bool) -> String {
    let table = resource.table;
    let (operation, Facts { is_line, kind, origin, event_at }) =
        if is_update { ("UPDATE", facts_of_update(resource)) } else { ("INSERT", facts_of_insert()) };
    format!(
        "CREATE TRIGGER {name} AFTER {operation} ON {table} WHEN {is_line} BEGIN
    INSERT INTO changes (resource, subject_id, kind, changed, origin, cause, event_at, at)
    VALUES ('{table}', NEW.id,
            {kind},
            '[' || substr({changed}, 2) || ']',
            {named_origin},
            CASE {origin} WHEN 'webhook' THEN NEW.synced_by
                WHEN 'reading' THEN (SELECT substr(reading, instr(reading, ':') + 1) FROM changes_state) END,
            {event_at},
            coalesce((SELECT line_at FROM changes_state), {NOW}));
END",
        named_origin = origin.replace("THEN 'reading'", &format!("THEN {READING}")),
        changed = changed(resource, is_update),
    )
}

/// The origin of a change by a reading of Clerk's API.
const READING: &str =
    "CASE WHEN (SELECT reading FROM changes_state) LIKE 'backfill:%' THEN 'backfill' ELSE 'reconcile' END";

/// Expressions of a trigger.
struct Facts {
    /// Whether the write is a change for readers.
    is_line: String,
    kind: String,
    /// Origin; `reading` for a reading of Clerk's API.
    origin: String,
    event_at: String,
}

/// Number of columns that are compared together first: a write changes few, and each `||` copies the text.
const COMPARED_TOGETHER: usize = 4;

/// The columns that differ, as the elements of a JSON array, each after a comma. What a row that readers did not know had
/// before does not count.
fn changed(resource: &'static Resource, is_update: bool) -> String {
    let typed = resource.columns.iter().map(|column| column.name);
    let all: Vec<&str> = typed.chain(["deleted_at", "data"]).collect();
    let name = |name: &&str| {
        let differs = if is_update { differs(resource, name) } else { format!("NEW.{name} IS NOT NULL") };
        format!("CASE WHEN {differs} THEN ',\"{name}\"' ELSE '' END")
    };
    let names = |of: &[&str]| of.iter().map(name).collect::<Vec<_>>().join(" || ");
    if !is_update {
        return names(&all);
    }
    let together = |of: &[&str]| {
        let any = of.iter().map(|name| differs(resource, name)).collect::<Vec<_>>().join(" OR ");
        format!("CASE WHEN {any} THEN {} ELSE '' END", names(of))
    };
    all.chunks(COMPARED_TOGETHER).map(together).collect::<Vec<_>>().join(" || ")
}

/// Whether an update changes a column for readers.
fn differs(resource: &'static Resource, name: &str) -> String {
    if resource.is_link(name) || name == "deleted_at" {
        format!("NEW.{name} IS NOT CASE WHEN {OLD_IS_ROW} THEN OLD.{name} END")
    } else {
        format!("NEW.{name} IS NOT OLD.{name}")
    }
}

/// Time of a version's event.
const CONTENT_AT: &str = "strftime('%Y-%m-%dT%H:%M:%fZ', NEW.version_event_at / 1000.0, 'unixepoch')";

fn facts_of_insert() -> Facts {
    Facts {
        is_line: NEW_IS_ROW.to_owned(),
        kind: "CASE WHEN NEW.synced_by = 'erase' THEN 'erased' WHEN NEW.deleted_at IS NOT NULL THEN 'deleted' ELSE 'created' END"
            .to_owned(),
        origin: "CASE NEW.synced_by WHEN 'erase' THEN 'erase' WHEN 'reconcile' THEN 'reading' ELSE 'webhook' END"
            .to_owned(),
        event_at: format!(
            "CASE WHEN NEW.version_deleted_at IS NOT NULL THEN NEW.deleted_at
                 WHEN length(NEW.version_hash) = 16 THEN {CONTENT_AT} END"
        ),
    }
}

/// Facts that follow from the comparison of both states of a row.
fn facts_of_update(resource: &'static Resource) -> Facts {
    let mut state = vec!["version_updated_at", "version_event_at", "version_hash", "version_deleted_at"];
    let mut inherited = "NEW.deleted_at IS NOT OLD.deleted_at".to_owned();
    if !resource.links.is_empty() {
        state.push("version_links");
        inherited += " OR NEW.version_parents_deleted_at IS NOT OLD.version_parents_deleted_at";
    }
    let any_differs =
        |names: &[&str]| names.iter().map(|name| differs(resource, name)).collect::<Vec<_>>().join(" OR ");
    let applied =
        state.iter().map(|name| format!("NEW.{name} IS NOT OLD.{name}")).collect::<Vec<_>>().join(" OR ");
    // The content first: it differs most often, and the comparison ends there.
    let mut compared = vec!["data", "deleted_at"];
    compared.extend(resource.columns.iter().map(|column| column.name));
    let is_erased = format!(
        "NEW.synced_by = 'erase' AND OLD.synced_by <> 'erase'
             OR {OLD_IS_ROW} AND OLD.deleted_at IS NOT NULL AND OLD.data IS NOT NULL AND NEW.data IS NULL"
    );
    Facts {
        is_line: format!(
            "{NEW_IS_ROW} AND (NOT {OLD_IS_ROW} OR {any} OR {is_erased})",
            any = any_differs(&compared),
        ),
        kind: format!(
            "CASE WHEN {is_erased} THEN 'erased'
                 WHEN NEW.deleted_at IS NOT NULL AND NOT ({OLD_IS_ROW} AND OLD.deleted_at IS NOT NULL) THEN 'deleted'
                 WHEN NOT {OLD_IS_ROW} THEN 'created'
                 ELSE 'updated' END"
        ),
        origin: format!(
            "CASE WHEN NEW.synced_by = 'erase' THEN 'erase'
                 WHEN NEW.synced_by = OLD.synced_by AND NEW.version_hash = x'ff' AND OLD.version_hash <> x'ff'
                      AND NEW.version_deleted_at IS OLD.version_deleted_at THEN 'erase'
                 WHEN NEW.synced_by = 'reconcile' AND ({applied}) THEN 'reading'
                 WHEN NEW.synced_by <> OLD.synced_by THEN 'webhook'
                 WHEN {inherited} OR OLD.data IS NOT NULL AND NEW.data IS NULL THEN 'cascade'
                 ELSE 'other' END"
        ),
        event_at: format!(
            "CASE WHEN NEW.version_deleted_at IS NOT OLD.version_deleted_at THEN NEW.deleted_at
                 WHEN length(NEW.version_hash) = 16
                      AND (NEW.version_event_at IS NOT OLD.version_event_at OR NEW.version_hash <> OLD.version_hash)
                      THEN {CONTENT_AT}
                 WHEN NEW.deleted_at IS NOT OLD.deleted_at THEN NEW.deleted_at END"
        ),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::types::ValueRef;

    use super::*;
    use crate::migrations::{Schema, apply_migrations};

    #[test]
    fn a_trigger_computes_its_line_once_and_keeps_it_in_no_other_table() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        apply_migrations(&path, Schema::Store).expect("tables");
        let connection = crate::connection::open(&path).expect("a file");
        for resource in RESOURCES {
            let table = resource.table;
            for sql in [
                format!("UPDATE {table} SET data = '{{}}', synced_by = 'msg_1' WHERE id = 'a'"),
                format!("INSERT INTO {table} DEFAULT VALUES"),
            ] {
                // Also lists the programs of the triggers. P4 is the text of an instruction.
                let mut program = connection.prepare(&format!("EXPLAIN {sql}")).expect("a statement");
                let step = |row: &rusqlite::Row<'_>| {
                    let text = match row.get_ref("p4")? {
                        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                        _ => String::new(),
                    };
                    Ok((row.get::<_, String>("opcode")?, text))
                };
                let steps =
                    program.query_map((), step).expect("a program").collect::<rusqlite::Result<Vec<_>>>();
                let steps = steps.expect("its steps");
                let named = steps.iter().filter(|(_, text)| text == ",\"data\"").count();
                assert_eq!(named, 1, "{sql}: the list of columns is computed once");
                let kept = steps.iter().filter(|(opcode, _)| opcode == "OpenEphemeral").count();
                assert_eq!(kept, 0, "{sql}: the line is kept nowhere before it is written");
            }
        }
    }
}
