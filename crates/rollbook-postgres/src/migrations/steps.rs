//! Migrations of the schema, each a file, and the phases in which they are applied.
//!
//! Each phase is a transaction of its own, so that no lock that blocks readers is held while rows are rewritten or an index
//! is built (decision 0171).

use std::iter::Peekable;
use std::str::Chars;

/// A migration.
pub(crate) struct Step {
    /// File name, without its extension.
    pub(crate) name: &'static str,
    /// Statements, without the name of a schema.
    pub(crate) sql: &'static str,
    /// Whether a Rollbook that does not know the migration works correctly on a schema that has it.
    pub(crate) expands: bool,
}

macro_rules! step {
    ($name:literal, expands: $expands:literal) => {
        Step {
            name: $name,
            sql: include_str!(concat!("../../../../migrations/postgres/", $name, ".sql")),
            expands: $expands,
        }
    };
}

/// All migrations, in order. Tests pin the checksums of released ones.
pub(crate) const STEPS: &[Step] = &[
    step!("0001_mirror", expands: false),
    step!("0002_whole_of_clerk", expands: false),
    step!("0003_ends", expands: false),
    step!("0004_storage", expands: true),
    step!("0005_cascades", expands: true),
    step!("0006_ledger_order", expands: true),
    step!("0007_links", expands: true),
    step!("0010_reconcile", expands: true),
    step!("0012_changes", expands: true),
    step!("0013_forwards", expands: true),
    step!("0015_permissions", expands: true),
    step!("0016_generations", expands: true),
];

/// Work of one phase.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Takes a lock that blocks readers, for a short time only.
    Brief(String),
    /// Reads or writes many rows or builds an index. Readers continue.
    Long(String),
    /// Converts the rows of a table and then changes its columns. Writers are blocked from the first row on, readers only
    /// during the change of the columns.
    Convert { table: String, rows: String, columns: String },
    /// Builds an index while readers and writers continue. Runs outside of transactions, and may run again.
    Concurrent(Vec<String>),
}

/// Splits a migration into phases.
pub(super) fn phases(sql: &str) -> Vec<Phase> {
    let mut phases: Vec<Phase> = Vec::new();
    let mut statements = statements(sql).into_iter().peekable();
    while let Some(statement) = statements.next() {
        let head = head(&statement);
        let next_table = statements.peek().and_then(|next| table_after(next, "ALTER TABLE "));
        let phase = match table_after(&statement, "UPDATE ") {
            Some(table) if next_table.as_deref() == Some(&table) => {
                Phase::Convert { table, rows: statement, columns: statements.next().unwrap_or_default() }
            }
            Some(_) => Phase::Long(statement),
            None if head.contains("INDEX CONCURRENTLY ") => {
                if let Some(Phase::Concurrent(all)) = phases.last_mut() {
                    all.push(statement);
                    continue;
                }
                Phase::Concurrent(vec![statement])
            }
            None if head.starts_with("CREATE INDEX ") => Phase::Long(statement),
            // The setting lives as long as its transaction.
            None if head.starts_with("SELECT set_config(") => {
                let rest: Vec<String> = statements.by_ref().collect();
                Phase::Brief(format!("{statement};{}", rest.join(";")))
            }
            None if head.starts_with("ALTER INDEX ") => {
                // An index takes the place, and the name, of the one that was dropped before it.
                if let Some(Phase::Brief(before)) = phases.last_mut() {
                    *before = format!("{before};{statement}");
                    continue;
                }
                Phase::Brief(statement)
            }
            None => Phase::Brief(statement),
        };
        phases.push(phase);
    }
    phases
}

/// Returns a migration for a schema without users: all in one transaction.
pub(super) fn at_once(sql: &str) -> String {
    sql.replace(" CONCURRENTLY", "")
}

/// Returns the statements that drop columns: objects that depend on a column refuse them.
pub(super) fn drops_of_columns(sql: &str) -> Vec<String> {
    statements(sql).into_iter().filter(|statement| head(statement).contains(" DROP COLUMN ")).collect()
}

/// Returns the first line of a statement that is not a comment.
fn head(statement: &str) -> &str {
    statement
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with("--"))
        .unwrap_or_default()
}

fn table_after(statement: &str, verb: &str) -> Option<String> {
    let name = head(statement).strip_prefix(verb)?.split_whitespace().next()?;
    Some(name.to_owned())
}

/// Splits a script into statements.
fn statements(sql: &str) -> Vec<String> {
    let (mut all, mut statement) = (Vec::new(), String::new());
    let mut rest = sql.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            ';' => all.push(std::mem::take(&mut statement)),
            '-' if rest.peek() == Some(&'-') => {
                statement.push(next);
                copy_until(&mut rest, &mut statement, "\n");
            }
            '\'' | '"' => {
                statement.push(next);
                copy_until(&mut rest, &mut statement, &next.to_string());
            }
            '$' if rest.peek() == Some(&'$') => {
                statement.push(next);
                statement.extend(rest.next());
                copy_until(&mut rest, &mut statement, "$$");
            }
            next => statement.push(next),
        }
    }
    all.push(statement);
    all.retain(|statement| !head(statement).is_empty());
    all.iter().map(|statement| statement.trim().to_owned()).collect()
}

/// Copies up to and including `end`.
fn copy_until(rest: &mut Peekable<Chars<'_>>, statement: &mut String, end: &str) {
    let from = statement.len();
    for next in rest.by_ref() {
        statement.push(next);
        if statement[from..].ends_with(end) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_parted_at_semicolons_outside_of_comments_texts_and_bodies() {
        let script = "-- a; b\nSELECT ';', \"x;\";\n\nDO $$ BEGIN PERFORM 1; END $$;\n-- the end;\n";
        assert_eq!(statements(script), ["-- a; b\nSELECT ';', \"x;\"", "DO $$ BEGIN PERFORM 1; END $$"]);
    }

    #[test]
    fn every_statement_of_every_step_is_in_one_phase_in_its_order() {
        for step in STEPS {
            let text = |phase: Phase| match phase {
                Phase::Brief(sql) | Phase::Long(sql) => sql,
                Phase::Convert { rows, columns, .. } => format!("{rows};{columns}"),
                Phase::Concurrent(all) => all.join(";"),
            };
            let from_phases: Vec<String> = phases(step.sql).into_iter().map(text).collect();
            let from_phases = from_phases.join(";") + ";";
            let squeezed = |sql: &str| sql.split_whitespace().collect::<String>().replace("$$;", "$$");
            let whole = statements(step.sql).join(";") + ";";
            assert_eq!(squeezed(&from_phases), squeezed(&whole), "{}", step.name);
        }
    }

    #[test]
    fn no_phase_that_stops_readers_rewrites_rows_or_builds_an_index() {
        for step in &STEPS[1..] {
            for phase in phases(step.sql) {
                if let Phase::Brief(sql) = &phase {
                    let is_definition = sql.contains("FUNCTION") || sql.contains("CREATE VIEW");
                    assert!(is_definition || !sql.contains("UPDATE "), "{}: {sql}", step.name);
                    assert!(!sql.contains("CREATE INDEX"), "{}: {sql}", step.name);
                }
            }
        }
        let kept_out = phases(STEPS[2].sql).into_iter().filter_map(|phase| match phase {
            Phase::Convert { table, rows, columns } => Some((table, rows, columns)),
            _ => None,
        });
        let kept_out: Vec<_> = kept_out.collect();
        assert_eq!(kept_out.len(), 12);
        for (table, rows, columns) in kept_out {
            assert!(rows.starts_with(&format!("UPDATE {table}\n")), "{rows}");
            assert_eq!(columns, format!("ALTER TABLE {table} DROP COLUMN version_dead"));
        }
    }

    #[test]
    fn what_sets_the_search_path_shares_the_transaction_of_the_functions() {
        let last = phases(STEPS[2].sql).pop();
        let Some(Phase::Brief(sql)) = last else { panic!("{last:?}") };
        for part in ["set_config", "FUNCTION ensure_user", "FUNCTION ensure_organization", "REVOKE ALL"] {
            assert!(sql.contains(part), "{part}");
        }
    }
}
