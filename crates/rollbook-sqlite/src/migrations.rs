//! The two schemas and their steps, each applied once and in order. `PRAGMA user_version` counts the
//! applied ones. A step that has been released never changes: tests pin their checksums.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::connection;
use crate::fault::Fault;

/// Which of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// `queue.db`.
    Queue,
    /// `store.db`.
    Store,
}

/// A step: its name and its SQL.
type Step = (&'static str, &'static str);

const QUEUE: &[Step] = &[("0001_queue", include_str!("../../../migrations/sqlite/queue/0001_queue.sql"))];
const STORE: &[Step] = &[("0001_mirror", include_str!("../../../migrations/sqlite/store/0001_mirror.sql"))];

impl Schema {
    const fn steps(self) -> &'static [Step] {
        match self {
            Self::Queue => QUEUE,
            Self::Store => STORE,
        }
    }
}

/// The names of the steps that the file at `path` lacks. A file that is not there lacks all, and is
/// not made.
///
/// # Errors
/// In words for a person: the file can't be read, or a newer Rollbook made it.
pub fn pending_migrations(path: &Path, schema: Schema) -> Result<Vec<&'static str>, String> {
    let applied = if path.exists() {
        let connection = connection::open(path).map_err(|fault| fault.to_string())?;
        applied(&connection, schema).map_err(|fault| fault.to_string())?
    } else {
        0
    };
    Ok(schema.steps()[applied..].iter().map(|(name, _)| *name).collect())
}

/// Applies what is pending, making the file where there is none. Returns the names.
///
/// # Errors
/// In words for a person: the file can't be written, or a newer Rollbook made it.
pub fn apply_migrations(path: &Path, schema: Schema) -> Result<Vec<&'static str>, String> {
    let mut connection = connection::open(path).map_err(|fault| fault.to_string())?;
    apply(&mut connection, schema).map_err(|fault| format!("{}: {fault}", path.display()))
}

fn apply(connection: &mut Connection, schema: Schema) -> Result<Vec<&'static str>, Fault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let steps = schema.steps();
    let pending = &steps[applied(&transaction, schema)?..];
    for (_, sql) in pending {
        transaction.execute_batch(sql)?;
    }
    transaction.pragma_update(None, "user_version", steps.len())?;
    transaction.commit()?;
    Ok(pending.iter().map(|(name, _)| *name).collect())
}

/// Refuses a file that lacks steps: to be asked before it is used.
pub(crate) fn check(connection: &Connection, schema: Schema) -> Result<(), Fault> {
    match schema.steps().get(applied(connection, schema)?) {
        None => Ok(()),
        Some((name, _)) => {
            Err(Fault::Deployment(format!("migration {name} is pending; run: rollbook migrate")))
        }
    }
}

fn applied(connection: &Connection, schema: Schema) -> Result<usize, Fault> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    usize::try_from(version).ok().filter(|count| *count <= schema.steps().len()).ok_or_else(|| {
        Fault::Deployment(format!(
            "the file is at migration {version} and this Rollbook knows {}; use the Rollbook that made it, or a newer one",
            schema.steps().len()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_pending_until_they_are_applied_and_then_not() {
        let folder = tempfile::tempdir().expect("a folder");
        for (schema, first) in [(Schema::Queue, "0001_queue"), (Schema::Store, "0001_mirror")] {
            let path = folder.path().join(format!("{schema:?}.db"));
            assert_eq!(pending_migrations(&path, schema), Ok(vec![first]));
            assert!(!path.exists(), "asking must not make the file");
            assert_eq!(apply_migrations(&path, schema), Ok(vec![first]));
            assert_eq!(apply_migrations(&path, schema), Ok(vec![]));
            assert_eq!(pending_migrations(&path, schema), Ok(vec![]));
        }
    }

    #[test]
    fn a_file_of_a_newer_rollbook_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("queue.db");
        connection::open(&path).expect("a file").pragma_update(None, "user_version", 99).expect("a version");
        let refusal = pending_migrations(&path, Schema::Queue).expect_err("a newer file");
        assert!(refusal.contains("migration 99"), "{refusal}");
    }
}
