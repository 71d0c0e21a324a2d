//! The triggers of the change feed: their functions, made from the catalog, and the difference to those that a schema has.
//!
//! A trigger sees every way in which a row is written; code would forget one. It is a statement trigger with transition
//! tables: one INSERT for each statement, however many rows that writes. The function runs with its owner's rights and a
//! pinned search path, so that whoever writes a row records the change and needs no right on `changes_pending` (decision 0280).

use std::collections::BTreeSet;
use std::fmt::Write as _;

use rollbook_core::catalog::{RESOURCES, Resource};
use sqlx::Row as _;

use crate::transaction::Session;

/// First and last timestamp that can be shown, in milliseconds.
const SHOWN: (i64, i64) = (-62_135_596_800_000, 253_402_207_200_000);

/// Prefix of the names of triggers and functions. The triggers' names end with the operation, the functions' names have
/// the table before it.
pub(crate) const PREFIX: &str = "rollbook_changes";

/// Statement after which a trigger runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Insert,
    Update,
}

/// A trigger and its function.
struct Trigger {
    resource: &'static Resource,
    operation: Operation,
}

impl Operation {
    const fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
        }
    }
}

/// Statements that make the triggers what the setting says, by table: each table's are one transaction.
pub(super) type Changes = Vec<(&'static str, String)>;

/// All triggers of the feed.
fn all() -> impl Iterator<Item = Trigger> {
    let of =
        |resource| [Operation::Insert, Operation::Update].map(|operation| Trigger { resource, operation });
    RESOURCES.into_iter().flat_map(of)
}

/// SELECT of the triggers of the feed that a schema has: the table and the trigger's name.
pub(crate) fn triggers_of(schema: &str) -> String {
    format!(
        "SELECT tables.relname::text, triggers.tgname::text FROM pg_catalog.pg_trigger AS triggers
         JOIN pg_catalog.pg_class AS tables ON tables.oid = triggers.tgrelid
         JOIN pg_catalog.pg_proc AS functions ON functions.oid = triggers.tgfoid
         JOIN pg_catalog.pg_namespace AS spaces ON spaces.oid = functions.pronamespace
         WHERE spaces.nspname = '{schema}' AND tables.relnamespace = spaces.oid AND triggers.tgenabled <> 'D'
               AND functions.proname = '{PREFIX}_' || tables.relname || substr(triggers.tgname, length('{PREFIX}') + 1)"
    )
}

/// Number of triggers of a schema with the feed.
pub(crate) const COUNT: usize = RESOURCES.len() * 2;

/// Finds what is to be changed so that the schema records changes, or does not.
pub(super) async fn difference(session: &mut Session<'_>, schema: &str, on: bool) -> sqlx::Result<Changes> {
    let mut triggers = BTreeSet::new();
    for row in session.ask(&triggers_of(schema)).await? {
        triggers.insert((row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?));
    }
    let mut functions = Vec::new();
    let sources = format!(
        "SELECT proname::text, prosrc FROM pg_catalog.pg_proc
         WHERE pronamespace = '\"{schema}\"'::regnamespace AND starts_with(proname, '{PREFIX}_')"
    );
    for row in session.ask(&sources).await? {
        functions.push((row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?));
    }
    let mut changes = Changes::new();
    for resource in RESOURCES {
        let mut sql = String::new();
        for trigger in all().filter(|trigger| trigger.resource == resource) {
            let has_trigger = triggers.contains(&(resource.table.to_owned(), trigger.name()));
            let source = functions.iter().find(|(name, _)| *name == trigger.function());
            if on {
                if source.is_none_or(|(_, source)| *source != trigger.body(schema)) {
                    sql += &trigger.make_function(schema);
                }
                if !has_trigger {
                    sql += &trigger.make(schema);
                }
            } else {
                if has_trigger {
                    sql += &trigger.drop(schema);
                }
                if source.is_some() {
                    sql += &trigger.drop_function(schema);
                }
            }
        }
        if !sql.is_empty() {
            changes.push((resource.table, sql));
        }
    }
    Ok(changes)
}

/// Returns the statements that make all triggers in a new schema.
pub(super) fn make_all(schema: &str) -> String {
    all().map(|trigger| trigger.make_function(schema) + &trigger.make(schema)).collect()
}

impl Trigger {
    fn name(&self) -> String {
        format!("{PREFIX}_{}", self.operation.name())
    }

    fn function(&self) -> String {
        format!("{PREFIX}_{}_{}", self.resource.table, self.operation.name())
    }

    fn make(&self, schema: &str) -> String {
        let (table, name, function) = (self.resource.table, self.name(), self.function());
        let (operation, tables) = match self.operation {
            Operation::Insert => ("INSERT", "NEW TABLE AS new_rows"),
            Operation::Update => ("UPDATE", "OLD TABLE AS old_rows NEW TABLE AS new_rows"),
        };
        format!(
            r#"CREATE TRIGGER {name} AFTER {operation} ON "{schema}".{table} REFERENCING {tables}
               FOR EACH STATEMENT EXECUTE FUNCTION "{schema}".{function}();"#
        )
    }

    fn drop(&self, schema: &str) -> String {
        format!(r#"DROP TRIGGER {} ON "{schema}".{};"#, self.name(), self.resource.table)
    }

    fn drop_function(&self, schema: &str) -> String {
        format!(r#"DROP FUNCTION "{schema}".{}();"#, self.function())
    }

    /// The planner's settings are those of the team's session or the worker's, which has no hash joins: rows are joined by
    /// their id in one pass, however many a statement writes.
    fn make_function(&self, schema: &str) -> String {
        let (function, body) = (self.function(), self.body(schema));
        format!(
            r#"CREATE OR REPLACE FUNCTION "{schema}".{function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
                   SET search_path = pg_catalog, pg_temp SET enable_hashjoin = on SET enable_nestloop = off
               AS $${body}$$;
               REVOKE ALL ON FUNCTION "{schema}".{function}() FROM PUBLIC;"#
        )
    }

    /// An INSERT with ON CONFLICT fires both triggers, often one of them without rows: the short look at the table costs less than
    /// the beginning of the statement (decision 0207). `was` says whether readers knew the row: a placeholder row, or a row that
    /// was reset, does not count yet.
    fn body(&self, schema: &str) -> String {
        let Self { resource, operation } = self;
        let (table, is_update) = (resource.table, *operation == Operation::Update);
        let [was, from] = if is_update {
            [
                "before.version_hash <> '' OR before.version_deleted_at IS NOT NULL",
                "new_rows AS after JOIN old_rows AS before ON before.id = after.id",
            ]
        } else {
            ["false", "new_rows AS after"]
        };
        format!(
            r#"
DECLARE
    reading text := current_setting('rollbook.reading', true);
BEGIN
    IF NOT EXISTS (SELECT FROM new_rows) THEN
        RETURN NULL;
    END IF;
    INSERT INTO "{schema}".changes_pending (resource, subject_id, kind, changed, origin, cause, event_at)
    SELECT '{table}', line.id, line.kind, line.changed,
           CASE WHEN line.origin <> 'reading' THEN line.origin WHEN reading LIKE 'backfill:%' THEN 'backfill' ELSE 'reconcile' END,
           CASE line.origin WHEN 'webhook' THEN line.synced_by WHEN 'reading' THEN nullif(substr(reading, strpos(reading, ':') + 1), '') END,
           line.event_at
    FROM (
        SELECT found.*,
               CASE WHEN found.is_erased OR found.was AND found.was_deleted AND found.lost_content THEN 'erased'
                    WHEN found.is_deleted AND NOT (found.was AND found.was_deleted) THEN 'deleted'
                    WHEN NOT found.was THEN 'created'
                    WHEN cardinality(found.changed) > 0 THEN 'updated' END AS kind
        FROM (
            SELECT after.id, after.synced_by, {was} AS was, after.deleted_at IS NOT NULL AS is_deleted,
                   array_remove(ARRAY[{changed}]::text[], NULL) AS changed,
{facts}
            FROM {from}
            WHERE after.version_hash <> '' OR after.version_deleted_at IS NOT NULL
            OFFSET 0
        ) AS found
        OFFSET 0
    ) AS line
    WHERE line.kind IS NOT NULL
    ORDER BY line.id COLLATE "C";
    RETURN NULL;
END
"#,
            changed = self.changed(was),
            facts = self.facts(),
        )
    }

    /// Names of the columns that differ. What a row that readers did not know had before does not count.
    fn changed(&self, was: &str) -> String {
        let mut names = String::new();
        let is_update = self.operation == Operation::Update;
        let typed = self.resource.columns.iter().map(|column| column.name);
        for name in typed.chain(["deleted_at"]) {
            // Writing into a String cannot fail.
            _ = match (is_update, self.resource.is_link(name) || name == "deleted_at") {
                (false, _) => write!(names, "CASE WHEN after.{name} IS NOT NULL THEN '{name}' END, "),
                (true, false) => {
                    write!(names, "CASE WHEN after.{name} IS DISTINCT FROM before.{name} THEN '{name}' END, ")
                }
                (true, true) => write!(
                    names,
                    "CASE WHEN after.{name} IS DISTINCT FROM CASE WHEN {was} THEN before.{name} END THEN '{name}' END, "
                ),
            };
        }
        // The hash stands for the content, so that none is unpacked; a statement that is not Rollbook's leaves it as it is.
        names
            + if is_update {
                "CASE WHEN (after.data IS NULL) <> (before.data IS NULL) THEN 'data'
                  WHEN after.data IS NULL THEN NULL
                  WHEN after.version_revision <> before.version_revision
                      THEN CASE WHEN after.version_hash <> before.version_hash THEN 'data' END
                  WHEN after.data <> before.data THEN 'data' END"
            } else {
                "CASE WHEN after.data IS NOT NULL THEN 'data' END"
            }
    }

    /// Facts that follow from the state of the row, and from the comparison with the state before.
    fn facts(&self) -> String {
        let (deletion, content) = (time("after.version_deleted_at"), time("after.version_event_at"));
        if self.operation == Operation::Insert {
            return format!(
                "                   false AS was_deleted, false AS lost_content, after.synced_by = 'erase' AS is_erased,
                   CASE after.synced_by WHEN 'erase' THEN 'erase' WHEN 'reconcile' THEN 'reading' ELSE 'webhook' END AS origin,
                   CASE WHEN after.version_deleted_at IS NOT NULL THEN {deletion}
                        WHEN octet_length(after.version_hash) = 16 THEN {content} END AS event_at"
            );
        }
        let mut state = vec!["version_updated_at", "version_event_at", "version_hash", "version_deleted_at"];
        state.extend((!self.resource.links.is_empty()).then_some("version_links"));
        let row = |of: &str| state.iter().map(|name| format!("{of}.{name}")).collect::<Vec<_>>().join(", ");
        format!(
            r"                   before.deleted_at IS NOT NULL AS was_deleted,
                   before.data IS NOT NULL AND after.data IS NULL AS lost_content,
                   after.synced_by = 'erase' AND before.synced_by <> 'erase' AS is_erased,
                   CASE WHEN after.synced_by = 'erase' THEN 'erase'
                        WHEN after.synced_by = before.synced_by AND after.version_hash = '\xff' AND before.version_hash <> '\xff'
                             AND after.version_deleted_at IS NOT DISTINCT FROM before.version_deleted_at THEN 'erase'
                        WHEN after.synced_by = 'reconcile' AND ROW({after}) IS DISTINCT FROM ROW({before}) THEN 'reading'
                        WHEN after.synced_by <> before.synced_by THEN 'webhook'
                        WHEN after.version_revision <> before.version_revision THEN 'cascade'
                        ELSE 'other' END AS origin,
                   CASE WHEN after.version_deleted_at IS DISTINCT FROM before.version_deleted_at THEN {deletion}
                        WHEN octet_length(after.version_hash) = 16
                             AND (after.version_event_at, after.version_hash) <> (before.version_event_at, before.version_hash)
                             THEN {content}
                        WHEN after.deleted_at IS DISTINCT FROM before.deleted_at THEN after.deleted_at END AS event_at",
            after = row("after"),
            before = row("before"),
        )
    }
}

/// A timestamp of milliseconds. One that cannot be shown becomes the nearest that can, so that no row is refused.
fn time(millis: &str) -> String {
    let (first, last) = SHOWN;
    format!("'epoch'::timestamptz + least(greatest({millis}, {first}), {last}) * interval '1 millisecond'")
}
