//! An operator's reset of a row, so that a fresh reading of Clerk's API can revive it.
//!
//! The reset locks the row and raises its revision: a worker that has read the row before reads it again. Pending work about
//! its children, and about its parents, is recorded in the same transaction, so that a command that was killed is finished by
//! workers. A repair that has read the row as deleted may still be under way. It holds the locks of the child rows that it is
//! about to write, so every child row is locked and compared anew, not only those that show the deletion already.

use std::time::Instant;

use rollbook_core::catalog::{Resource, children_of};
use rollbook_core::merge::SubjectState;
use rollbook_core::store::cascades::{Entry, FOUND_MAX, TAKEN_FOR};
use rollbook_core::store::{PendingWork, Reset, StoreError};
use rollbook_core::table_layout::{RESET_BY, content_columns, links_column};
use rollbook_core::time::Timestamp;

use super::PostgresStore;
use super::attempt::run_deferred;
use super::cascade::{SEARCH_MAX, Turn};
use super::columns::listed;
use super::known::{self, Asked};
use super::parents::{Find, Parents, Rows};
use super::pending;
use super::sql::Statements;
use crate::fault::NotKept;
use crate::transaction::{Session, Work};
use crate::types::{Sql, Time};
use crate::values::Values;

impl PostgresStore {
    /// Resets a row, and repairs its child rows as far as the time of a turn allows. Workers repair the others.
    pub(super) async fn reset_row(
        &self,
        resource: &'static Resource,
        id: &str,
        expected: &SubjectState,
    ) -> Result<Reset, StoreError> {
        let (sql, statements) = (statement(&self.schema, resource), &self.statements);
        let resetting = Resetting { statements, sql: &sql, resource, id, expected, now: self.clock.now() };
        let Some((floor, noted)) = self.steps().attempt(1, &resetting).await?? else {
            return Ok(Reset::Changed);
        };
        let mut turn = Turn::new(Instant::now());
        let (own, of_children): (Vec<Entry>, Vec<Entry>) =
            noted.into_iter().partition(|entry| entry.what == PendingWork::Row);
        self.retry(&own, &mut turn).await?;
        for entry in &of_children {
            self.revive_children(entry, &mut turn).await?;
            self.work_off(entry, &mut turn).await?;
        }
        if turn.is_over(Instant::now()) {
            self.left.notify_one();
        }
        Ok(Reset::Done(floor))
    }

    /// Compares each child row with its parents, under its lock.
    async fn revive_children(&self, entry: &Entry, turn: &mut Turn<'_>) -> Result<(), StoreError> {
        let (statements, parents) = (&self.statements, &Parents::of(entry, false));
        let find = Find { statements, parents, which: Rows::All, limit: FOUND_MAX };
        for (number, ids) in self.steps().long(SEARCH_MAX, &find).await? {
            let mut open: Vec<Vec<String>> = vec![ids.into_iter().collect()];
            while let Some(ids) = open.pop() {
                if turn.is_over(Instant::now()) {
                    return Ok(());
                }
                self.hold(entry, turn).await?;
                self.step(entry, number, ids, &mut open, turn).await?;
            }
        }
        Ok(())
    }
}

/// Writes a reset row: (id, now, floor), and for tables with links (`version_links`).
fn statement(schema: &str, resource: &'static Resource) -> Sql {
    let from_parents = if resource.links.is_empty() { "NULL" } else { "version_parents_deleted_at" };
    let links = links_column(resource).map(|name| format!("{name} = $4"));
    let nothing = content_columns(resource).map(|name| format!("{name} = NULL")).chain(links);
    let sql = format!(
        r#"UPDATE "{schema}".{table}
           SET {nothing}, deleted_at = {from_parents}, synced_at = $2, synced_by = '{RESET_BY}', version_updated_at = {min},
               version_event_at = {min}, version_hash = '', version_deleted_at = NULL, version_floor = $3,
               version_revision = version_revision + 1
           WHERE id = $1
           RETURNING true"#,
        table = resource.table,
        nothing = listed(nothing),
        min = i64::MIN,
    );
    sql.into()
}

/// Resets one row. The output is its floor, and the pending work that was recorded; `None` if the row has another state than
/// expected. A repetition finds the row as the attempt before has left it.
struct Resetting<'a> {
    statements: &'a Statements,
    sql: &'a Sql,
    resource: &'static Resource,
    id: &'a str,
    expected: &'a SubjectState,
    now: Timestamp,
}

impl Work for Resetting<'_> {
    type Output = Option<(Timestamp, Vec<Entry>)>;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Self::Output> {
        let locked = Values::default().with(vec![self.id]);
        session.fetch(&self.statements.of(self.resource).lock, locked.into_arguments()?).await?;
        let state = self.expected.reset();
        let stored = self.stored(session).await?;
        let Some(stored) = stored.filter(|stored| stored == self.expected || *stored == state) else {
            return Ok(None);
        };
        let floor = Timestamp::from_millis(state.floor);
        if state.is_erased_by_operator() {
            return Ok(Some((floor, Vec::new())));
        }
        if state != stored {
            let mut values = Values::default().with(self.id).with(Time(self.now)).with(state.floor);
            if !self.resource.links.is_empty() {
                values = values.with(state.links.to_column());
            }
            if session.fetch(self.sql, values.into_arguments()?).await?.is_empty() {
                return Err(NotKept::Skipped.into());
            }
            run_deferred(session).await?;
            if self.stored(session).await? != Some(state) {
                return Err(NotKept::Undone.into());
            }
        }
        let noted = pending::note(&self.statements.pending, session, &self.entries(), TAKEN_FOR).await?;
        Ok(Some((floor, noted)))
    }
}

impl Resetting<'_> {
    async fn stored(&self, session: &mut Session<'_>) -> sqlx::Result<Option<SubjectState>> {
        let (number, mut asked) = (self.resource.number, Asked::default());
        asked.subjects[number].insert(self.id);
        let known = known::read(self.statements, session, &asked).await?;
        Ok(known[number].get(self.id).map(|seen| seen.stored))
    }

    /// Pending work: the child rows of the row, and the row as a child of its parents.
    fn entries(&self) -> Vec<Entry> {
        let is_parent = children_of(self.resource).next().is_some();
        let entry = |what| Entry::new(self.resource, self.id.to_owned(), what);
        let own = (!self.resource.links.is_empty()).then(|| entry(PendingWork::Row));
        own.into_iter().chain(is_parent.then(|| entry(PendingWork::Children))).collect()
    }
}
