//! An operator's erasure: first the tombstones, which prevent any restoration, then the child rows, in steps.
//!
//! Each subject's tombstone is committed together with an entry about the pending work, so that workers finish the erasure of
//! a command that was killed. The command keeps the entries to itself while it runs.

use std::time::Instant;

use rollbook_core::catalog::{LINKS_MAX, Resource};
use rollbook_core::merge::FromParents;
use rollbook_core::store::cascades::{Entry, TAKEN_FOR};
use rollbook_core::store::{ErasedCounts, ErasureProgress, PendingWork, StoreError};
use rollbook_core::table_layout::ERASED_BY;
use rollbook_core::time::Timestamp;
use sqlx::Row as _;

use super::PostgresStore;
use super::apply;
use super::attempt::Failed;
use super::cascade::{SEARCH_MAX, Turn};
use super::known::{self, Asked, Seen};
use super::parents::{Belonging, Ids, Parents, Rows};
use super::pending;
use super::sql::Statements;
use super::write::{Write, arguments, is_undone};
use crate::fault::NotKept;
use crate::transaction::{Session, Work};
use crate::types::count;

/// Maximum writes of a subject that other workers write at the same time; see [`apply`].
const WRITES_MAX: usize = 3;

type Subject = (&'static Resource, String);

impl PostgresStore {
    /// Erases subjects. They are in the order in which tables are written.
    pub(super) async fn erase_subjects(
        &self,
        subjects: &[Subject],
        at: Timestamp,
        progress: &ErasureProgress<'_>,
    ) -> Result<ErasedCounts, StoreError> {
        let (entries, refused) = self.bury(subjects, at).await?;
        let mut turn = Turn::to_the_end(Instant::now(), progress);
        turn.done.rows = entries.len() as u64;
        turn.report();
        for entry in &entries {
            self.work_off(entry, &mut turn).await?;
        }
        let mut faults = Vec::new();
        match refused {
            Some(why @ Failed::TimedOut(_)) => return Err(why.into()),
            Some(Failed::Refused(why)) => faults.push(why),
            None => {}
        }
        let mut parents = Parents { with_survivors: true, ..Parents::default() };
        for (resource, id) in subjects {
            parents.ids.entry(resource.table).or_default().insert(id.clone());
        }
        let statements = &self.statements;
        let undone = self.steps().long(SEARCH_MAX, &FindUndone { statements, subjects }).await?;
        if let Some(id) = undone.first() {
            turn.done.rows = turn.done.rows.saturating_sub(undone.len() as u64);
            faults.push(format!(
                "{} of them still have content or are not marked as deleted, such as {id}: {}; fix the trigger, then run the \
                 command again",
                undone.len(),
                NotKept::Undone
            ));
        }
        // Also rows that a worker has recorded before this command.
        let (count, example) = self
            .steps()
            .long(SEARCH_MAX, &Count { statements, parents: &parents, which: Rows::Stale })
            .await?;
        if let Some(id) = example {
            let why = turn.why.as_ref().map_or("rollbook doctor shows why", Failed::text);
            faults.push(format!(
                "{count} rows of theirs keep their content, such as {id}; all others are erased, and workers retry these by \
                 themselves: {why}"
            ));
        }
        turn.report();
        faults.extend(turn.kept.text());
        if !faults.is_empty() {
            return Err(StoreError::Event(faults.join("; ")));
        }
        let rows =
            self.steps().long(SEARCH_MAX, &Belonging { statements, parents: &parents, subjects }).await?;
        Ok(ErasedCounts { rows, ledger: turn.ledger })
    }

    /// Writes the tombstones of the subjects, in steps. Returns the entries about the pending work, and the reason if a subject
    /// could not be written.
    async fn bury(
        &self,
        subjects: &[Subject],
        at: Timestamp,
    ) -> Result<(Vec<Entry>, Option<Failed>), StoreError> {
        let (mut entries, mut refused) = (Vec::new(), None);
        let mut open = vec![subjects];
        while let Some(some) = open.pop() {
            let (some, rest) = some.split_at(some.len().min(self.pace.size()));
            if some.is_empty() {
                continue;
            }
            open.push(rest);
            let bury = Bury { statements: &self.statements, subjects: some, at };
            match self.steps().paced(&self.pace, some.len(), &bury).await? {
                Ok(noted) => entries.extend(noted),
                Err(_) if some.len() > 1 => {
                    let (first, later) = some.split_at(some.len() / 2);
                    open.extend([later, first]);
                }
                Err(why) => refused = Some(why),
            }
        }
        Ok((entries, refused))
    }
}

/// Counts the child rows of parents of which this holds. The output is their number and one of their ids.
struct Count<'a> {
    statements: &'a Statements,
    parents: &'a Parents,
    which: Rows,
}

impl Work for Count<'_> {
    type Output = (u64, Option<String>);

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Self::Output> {
        let (sql, arguments) = self.parents.query(self.statements, self.which, false)?;
        if sql.is_empty() {
            return Ok((0, None));
        }
        let sql = format!("SELECT count(DISTINCT (number, id)), min(id) FROM ({sql}) AS found (number, id)");
        let rows = session.fetch(&sql.into(), arguments).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        Ok((count(row, 0)?, row.try_get(1)?))
    }
}

/// Finds subjects that were erased and do not show it: a trigger may restore the content.
struct FindUndone<'a> {
    statements: &'a Statements,
    subjects: &'a [Subject],
}

impl Work for FindUndone<'_> {
    type Output = Vec<String>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<String>> {
        let mut rows = Ids::new();
        for (resource, id) in self.subjects {
            rows.entry(resource.number).or_default().insert(id.clone());
        }
        apply::undone(self.statements, session, &rows).await
    }
}

/// Writes the tombstones of subjects, and records the pending work.
struct Bury<'a> {
    statements: &'a Statements,
    subjects: &'a [Subject],
    at: Timestamp,
}

impl Work for Bury<'_> {
    type Output = Vec<Entry>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Vec<Entry>> {
        for (resource, id) in self.subjects {
            self.one(session, resource, id).await?;
        }
        let entry = |(resource, id): &Subject| Entry {
            survivors: true,
            forget: true,
            ..Entry::new(resource, id.clone(), PendingWork::Children)
        };
        let noted: Vec<Entry> = self.subjects.iter().map(entry).collect();
        // An operator who runs the command again has fixed the cause of the refusals.
        pending::forget_rows(&self.statements.pending, session, &noted).await?;
        pending::note(&self.statements.pending, session, &noted, TAKEN_FOR).await
    }
}

impl Bury<'_> {
    async fn one(
        &self,
        session: &mut Session<'_>,
        resource: &'static Resource,
        id: &str,
    ) -> sqlx::Result<()> {
        let number = resource.number;
        for _ in 0..WRITES_MAX {
            let mut asked = Asked::default();
            asked.subjects[number].insert(id);
            let known = known::read(self.statements, session, &asked).await?;
            let Seen { stored, revision, .. } = known[number].get(id).copied().unwrap_or_default();
            let (state, from_parents) = (stored.erased_by_operator(self.at), FromParents::default());
            let write = Write {
                id,
                row: None,
                parents: [None; LINKS_MAX],
                state,
                revision: revision + 1,
                from_parents,
                synced_by: ERASED_BY,
            };
            let arguments = arguments(resource, &[write], self.at).map_err(sqlx::Error::Encode)?;
            if let Some(row) = session.fetch(&self.statements.of(resource).upsert, arguments).await?.first() {
                return if is_undone(row, revision + 1)? { Err(NotKept::Undone.into()) } else { Ok(()) };
            }
        }
        Err(NotKept::Skipped.into())
    }
}
