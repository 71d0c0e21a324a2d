//! An operator's erasure: first the tombstones, which prevent any restoration, then the child rows and the ledger, in steps.
//!
//! Each subject's tombstone is committed together with an entry about the pending work, so that workers finish the erasure of
//! a command that was killed. The command keeps the entries to itself while it runs. It succeeds only if no content and no
//! ledger entry is left.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use rollbook_core::catalog::{LINKS_MAX, RESOURCES, Resource};
use rollbook_core::store::cascades::{Entry, TAKEN_FOR};
use rollbook_core::store::{ErasedCounts, ErasureProgress, PendingWork, StoreError};
use rollbook_core::table_layout::ERASED_BY;
use rollbook_core::time::Timestamp;
use rusqlite::Connection;
use serde_json::json;

use super::SqliteStore;
use super::pending;
use super::sql::Statements;
use super::steps::{Ended, Turn};
use super::tables::Tables;
use super::write::{Write, Writer, must_show};
use crate::fault::NotKept;

/// Maximum rows named in the error of an incomplete erasure.
const NAMED_MAX: usize = 5;

type Subject = (&'static Resource, String);
/// Id of a subject that is not erased, and the reason.
type Refused = (String, String);

impl SqliteStore {
    /// Erases subjects.
    pub(super) async fn erase_subjects(
        &self,
        subjects: &[Subject],
        at: Timestamp,
        progress: &ErasureProgress<'_>,
    ) -> Result<ErasedCounts, StoreError> {
        let (entries, mut refused) = self.bury(subjects, at).await?;
        let mut turn = Turn::to_the_end(Instant::now(), progress);
        turn.done.rows = entries.len() as u64;
        turn.report();
        let mut done = Vec::new();
        for entry in &entries {
            match self.children(entry, &mut turn).await? {
                Ended::Done(entry) => done.push(entry),
                Ended::Gone => {}
                // Not without a time limit.
                Ended::Unfinished => self.release(entry).await?,
            }
        }
        // One walk over the ledger for all subjects, also for those with refused rows: nothing needs their ledger entries.
        self.forget(&entries, &mut turn).await?;
        for entry in &done {
            self.conclude(entry, &turn).await?;
        }
        let known: BTreeSet<&str> = refused.iter().map(|(id, _)| id.as_str()).collect();
        let buried: Vec<Subject> =
            subjects.iter().filter(|(_, id)| !known.contains(id.as_str())).cloned().collect();
        let (own, left) = self.with_content(&buried).await?;
        // A trigger of another table may have restored content since.
        turn.done.rows = turn.done.rows.saturating_sub(own.len() as u64);
        turn.report();
        refused.extend(own.into_iter().map(|id| (id, NotKept::Undone.to_string())));
        let mut faults: Vec<String> = not_erased(&refused).into_iter().collect();
        if !left.is_empty() {
            let named: Vec<&str> = left.iter().map(|(_, id)| id.as_str()).take(NAMED_MAX).collect();
            let why = turn.why.as_deref().unwrap_or("a trigger of the table keeps it");
            faults.push(format!(
                "{} rows of theirs keep their content ({}); all others are erased, and workers retry these by \
                 themselves: {why}",
                left.len(),
                named.join(", ")
            ));
        }
        faults.extend(turn.kept.text());
        if !faults.is_empty() {
            return Err(StoreError::Event(faults.join("; ")));
        }
        Ok(ErasedCounts { rows: self.belonging(subjects).await?, ledger: turn.ledger })
    }

    /// Writes the tombstones of the subjects, in steps. Returns the entries about the pending work, and the ids of subjects that
    /// could not be written, with the reasons.
    async fn bury(
        &self,
        subjects: &[Subject],
        at: Timestamp,
    ) -> Result<(Vec<Entry>, Vec<Refused>), StoreError> {
        let (mut entries, mut refused) = (Vec::new(), Vec::new());
        let mut open = vec![subjects];
        while let Some(some) = open.pop() {
            let (some, rest) = some.split_at(some.len().min(self.pace.size()));
            if some.is_empty() {
                continue;
            }
            open.push(rest);
            let (these, now) = (some.to_vec(), self.clock.now());
            let work = move |tables: &Tables<'_>| {
                these
                    .iter()
                    .map(|(resource, id)| bury(tables, resource, id, at, now))
                    .collect::<Result<Vec<_>, _>>()
            };
            match self.paced(&self.pace, some.len(), work).await? {
                Ok(noted) => entries.extend(noted),
                Err(_) if some.len() > 1 => {
                    let (first, later) = some.split_at(some.len() / 2);
                    open.extend([later, first]);
                }
                Err(why) => refused.push((some[0].1.clone(), why)),
            }
        }
        Ok((entries, refused))
    }

    /// Returns the ids of subjects that still have content, and their child rows that have, with the tables.
    async fn with_content(
        &self,
        subjects: &[Subject],
    ) -> Result<(BTreeSet<String>, BTreeSet<(&'static str, String)>), StoreError> {
        let (statements, subjects) = (Arc::clone(&self.statements), subjects.to_vec());
        let read = move |connection: &Connection| {
            let (mut own, mut left) = (BTreeSet::new(), BTreeSet::new());
            for (resource, id) in &subjects {
                if connection.prepare_cached(&statements.of(resource).has_content)?.exists((id,))? {
                    own.insert(id.clone());
                }
                for (child, dependents) in statements.dependents(resource, true) {
                    let mut wrong = connection.prepare_cached(&dependents.still_wrong)?;
                    for id in wrong.query_map((id, i64::MAX), |row| row.get(0))? {
                        left.insert((child.table, id?));
                    }
                }
            }
            Ok((own, left))
        };
        Ok(self.scans().await?.read(read).await?)
    }

    /// Returns the number of the subjects and their child rows.
    async fn belonging(&self, subjects: &[Subject]) -> Result<u64, StoreError> {
        let (statements, subjects) = (Arc::clone(&self.statements), subjects.to_vec());
        let read = move |connection: &Connection| belonging(connection, &statements, &subjects);
        Ok(self.scans().await?.read(read).await?)
    }
}

/// Returns the error about subjects without a tombstone. Workers cannot continue these.
fn not_erased(refused: &[Refused]) -> Option<String> {
    let (_, why) = refused.last()?;
    let named: Vec<&str> = refused.iter().map(|(id, _)| id.as_str()).take(NAMED_MAX).collect();
    let more = refused.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let is = if refused.len() == 1 { "is" } else { "are" };
    Some(format!(
        "{}{more} {is} not erased: {why}; rows of theirs may keep their content, and workers do not try this again by \
         themselves. Fix: the trigger or constraint, then the same command again",
        named.join(", ")
    ))
}

/// Writes the tombstone of a subject, and records the pending work.
fn bury(
    tables: &Tables<'_>,
    resource: &'static Resource,
    id: &str,
    at: Timestamp,
    now: Timestamp,
) -> rusqlite::Result<Entry> {
    let before = tables.stored(resource, id)?;
    let state = before.unwrap_or_default().erased_by_operator(at);
    let write = Write { id, row: None, parents: [None; LINKS_MAX], before, state, synced_by: ERASED_BY };
    Writer::new(tables, resource)?.write(&write)?;
    must_show(tables, resource, id, &state)?;
    for (child, dependents) in tables.statements.dependents(resource, true) {
        // An operator who runs the command again has fixed the cause of the refusals.
        let sql = format!(
            "DELETE FROM rollbook_cascades WHERE what = 'row' AND table_name = ?1
             AND EXISTS (SELECT 1 FROM {} AS child WHERE child.id = rollbook_cascades.id AND child.{} = ?2)",
            child.table, dependents.link.column
        );
        tables.connection.prepare_cached(&sql)?.execute((child.table, id))?;
    }
    let entry =
        Entry { survivors: true, forget: true, ..Entry::new(resource, id.to_owned(), PendingWork::Children) };
    pending::note(tables.connection, &entry, now, now.plus(TAKEN_FOR))
}

fn belonging(
    connection: &Connection,
    statements: &Statements,
    subjects: &[Subject],
) -> rusqlite::Result<u64> {
    let all: Vec<_> = subjects.iter().map(|(resource, id)| json!([resource.table, id])).collect();
    let mut parts =
        vec!["SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?1)".to_owned()];
    for parent in RESOURCES {
        for (resource, dependents) in statements.dependents(parent, true) {
            parts.push(format!(
                "SELECT '{table}', id FROM {table} WHERE {column} IN
                     (SELECT json_extract(value, '$[1]') FROM json_each(?1)
                      WHERE json_extract(value, '$[0]') = '{of}')",
                table = resource.table,
                column = dependents.link.column,
                of = parent.table,
            ));
        }
    }
    let sql = format!("SELECT count(*) FROM ({})", parts.join(" UNION "));
    let all = serde_json::Value::from(all).to_string();
    connection.prepare(&sql)?.query_row((all,), |row| row.get(0))
}
