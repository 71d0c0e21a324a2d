//! Cascades within the transaction that changes a parent or a child row.
//!
//! SQLite has one writer at a time: a transaction that writes a child row sees its parents, and one that deletes a parent sees
//! its child rows. So a transaction records every row that it leaves wrong. It repairs at most [`BATCH_MAX`] rows. Parents with
//! more are recorded in `rollbook_cascades` and worked off in steps ([`super::steps`]). If a child row refuses its change, the
//! transaction is rolled back and repeated without repairs: all of them are recorded, and the parent's delivery is applied.
//!
//! The rows of a delivery are checked whatever its outcome: an earlier build or a trigger may have left a row wrong.

use rollbook_core::catalog::{LINKS_MAX, Resource};
use rollbook_core::store::PendingWork;
use rollbook_core::store::cascades::Entry;
use rusqlite::Error::StatementChangedRows;

use super::pending;
use super::tables::Tables;
use crate::fault::NotKept;

/// Maximum rows that one transaction repairs in addition to its own.
pub(super) const BATCH_MAX: usize = 1000;
/// Maximum rows of a link that a transaction searches for a wrong one, if none is expected.
const SCANNED_MAX: usize = 10_000;

/// Pass over rows that may not show the state of their parents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// Wrong rows are repaired.
    Repair,
    /// After the last write of the transaction: a trigger may have undone the change of one row when another one was written. A
    /// wrong row is an error; without room it is recorded.
    Check,
}

impl Tables<'_> {
    /// Repairs the child rows of a parent, or records them as pending; with `survivors` also those that outlive it.
    pub(super) fn pass_on(
        &self,
        parent: &'static Resource,
        id: &str,
        survivors: bool,
        pass: Pass,
    ) -> rusqlite::Result<()> {
        let room = self.cascading.room();
        let found = self.wrong(parent, id, survivors, room)?;
        if found.is_empty() {
            return Ok(());
        }
        if found.len() > room {
            return self
                .note(&Entry { survivors, ..Entry::new(parent, id.to_owned(), PendingWork::Children) });
        }
        self.cascading.in_child(|| {
            if pass == Pass::Check {
                return Err(NotKept::Undone.into());
            }
            self.cascading.take(found.len());
            for (resource, child) in &found {
                self.repair(resource, child)?;
            }
            Ok(())
        })
    }

    /// Repairs the child rows of a parent, and checks them.
    pub(super) fn pass_on_and_check(&self, parent: &'static Resource, id: &str) -> rusqlite::Result<()> {
        [Pass::Repair, Pass::Check].into_iter().try_for_each(|pass| self.pass_on(parent, id, false, pass))
    }

    /// Checks the child rows of a parent that was deleted before. Child rows of a large parent are checked later.
    pub(super) fn pass_on_again(
        &self,
        parent: &'static Resource,
        id: &str,
        survivors: bool,
        pass: Pass,
    ) -> rusqlite::Result<()> {
        for (_, dependents) in self.statements.dependents(parent, survivors) {
            let mut more = self.connection.prepare_cached(&dependents.more)?;
            if more.exists((id, pending::as_limit(SCANNED_MAX)))? {
                let entry = Entry::new(parent, id.to_owned(), PendingWork::Children);
                return self.note(&Entry { survivors, ..entry });
            }
        }
        self.pass_on(parent, id, survivors, pass)
    }

    /// Repairs a row, also for parents that its content does not name, or records it.
    pub(super) fn settle(&self, resource: &'static Resource, id: &str, pass: Pass) -> rusqlite::Result<()> {
        let Some(own) = &self.statements.of(resource).own else { return Ok(()) };
        let room = self.cascading.room();
        if !self.exists(if room > 0 { &own.is_still_wrong } else { &own.is_wrong }, id)? {
            return Ok(());
        }
        if room == 0 {
            let parent = self.deleted_parent(resource, id)?;
            return self.note(&Entry { parent, ..Entry::new(resource, id.to_owned(), PendingWork::Row) });
        }
        self.cascading.in_child(|| {
            if pass == Pass::Check {
                return Err(NotKept::Undone.into());
            }
            self.cascading.take(1);
            self.repair_alone(resource, id).map(drop)
        })
    }

    /// Repairs rows, and checks all of them after the last one: a trigger may undo a change, also in another row. Returns how
    /// many have changed.
    pub(super) fn repair_all(&self, resource: &'static Resource, ids: &[String]) -> rusqlite::Result<u64> {
        let mut changed = 0;
        for id in ids {
            changed += u64::from(self.repair(resource, id)?);
        }
        if let Some(own) = &self.statements.of(resource).own {
            for id in ids {
                if self.exists(&own.is_still_wrong, id)? {
                    return Err(NotKept::Undone.into());
                }
            }
        }
        Ok(changed)
    }

    /// Repairs one row and checks it. Returns whether it has changed.
    pub(super) fn repair_alone(&self, resource: &'static Resource, id: &str) -> rusqlite::Result<bool> {
        let changed = self.repair(resource, id)?;
        match &self.statements.of(resource).own {
            Some(own) if changed && self.exists(&own.is_still_wrong, id)? => Err(NotKept::Undone.into()),
            _ => Ok(changed),
        }
    }

    /// Repairs one row: it then shows its parents' state. Returns whether it has changed; fails if a trigger skips the change.
    pub(super) fn repair(&self, resource: &'static Resource, id: &str) -> rusqlite::Result<bool> {
        let Some(own) = &self.statements.of(resource).own else { return Ok(false) };
        let mut repair = self.connection.prepare_cached(&own.repair)?;
        if repair.execute((id, self.now.to_string()))? > 0 {
            return Ok(true);
        }
        if self.exists(&own.is_still_wrong, id)? { Err(StatementChangedRows(0)) } else { Ok(false) }
    }

    /// Returns the child rows that do not show the state of a parent: as many as there is room for, and one more. Without room,
    /// rows with an entry of their own are left out.
    fn wrong(
        &self,
        parent: &'static Resource,
        id: &str,
        survivors: bool,
        room: usize,
    ) -> rusqlite::Result<Vec<(&'static Resource, String)>> {
        let mut found = Vec::new();
        for (resource, dependents) in self.statements.dependents(parent, survivors) {
            let sql = if room > 0 { &dependents.still_wrong } else { &dependents.wrong };
            let mut statement = self.connection.prepare_cached(sql)?;
            let limit = pending::as_limit(room + 1 - found.len());
            for child in statement.query_map((id, limit), |row| row.get(0))? {
                found.push((resource, child?));
            }
            if found.len() > room {
                break;
            }
        }
        Ok(found)
    }

    /// Returns a deleted parent of a row, if the row must show its deletion.
    fn deleted_parent(
        &self,
        resource: &'static Resource,
        id: &str,
    ) -> rusqlite::Result<Option<(&'static Resource, String)>> {
        let mut statement = self.connection.prepare_cached(&self.statements.of(resource).parents)?;
        let read = |row: &rusqlite::Row<'_>| Ok([row.get(0)?, row.get(1)?]);
        let parents: [Option<String>; LINKS_MAX] = statement.query_row((id,), read)?;
        for (link, parent) in resource.links.iter().zip(parents) {
            let Some(parent) = parent else { continue };
            let known = self.stored(link.parent, &parent)?;
            if known.is_some_and(|known| {
                known.deleted_at.is_some() && (link.cascades || known.is_erased_by_operator())
            }) {
                return Ok(Some((link.parent, parent)));
            }
        }
        Ok(None)
    }

    /// Records pending work, due at once.
    pub(super) fn note(&self, entry: &Entry) -> rusqlite::Result<()> {
        self.cascading.has_noted();
        pending::note(self.connection, entry, self.now, self.now).map(drop)
    }

    fn exists(&self, sql: &str, id: &str) -> rusqlite::Result<bool> {
        self.connection.prepare_cached(sql)?.exists((id,))
    }
}
