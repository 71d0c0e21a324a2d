//! The recheck after the commit of a batch: one SELECT finds the rows that may be stale.
//!
//! [`super::parents`] explains why it is needed. A candidate row may turn out to be correct, such as one that shows
//! the earlier deletion of another parent. The recheck must not miss a stale row.

use std::collections::BTreeMap;

use rollbook_core::catalog::{Link, RESOURCES, Resource};
use rollbook_core::change::SubjectChange;
use rollbook_core::merge::{self, Content, SubjectState};
use rollbook_core::store::PendingWork;
use rollbook_core::store::cascades::Entry;
use rollbook_core::time::Timestamp;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments as _, Row as _};

use super::attempt::{abandon, classify};
use super::known::Known;
use super::parents::{BATCH_MAX, Ids};
use super::sql::Statements;
use crate::address::Address;
use crate::transaction::{Session, Work};
use crate::types::{Time, number};

/// Rows for the recheck of a batch: other workers may have written their parents or children at the same time. Tables
/// are given by number.
#[derive(Default)]
pub(super) struct Candidates {
    /// Parents that were read before their child rows were written.
    parents_read: BTreeMap<usize, BTreeMap<String, ParentRead>>,
    /// Deleted parents. Their child rows may be stale.
    deleted_parents: BTreeMap<usize, BTreeMap<String, SubjectState>>,
    /// Candidate rows: the states read so far already show that they may be stale.
    rows: Ids,
}

/// State of a parent when its child rows were written.
#[derive(Default)]
struct ParentRead {
    known: SubjectState,
    children: Ids,
}

impl Candidates {
    /// Adds the parents of a row that is about to be written, in their states as read now. A state that is read later,
    /// because another worker wrote the row first, does not replace them: rows may have been written from the first.
    pub(super) fn add_parents(&mut self, subject_change: &SubjectChange, known: &Known) {
        let SubjectChange { resource, id, row, .. } = subject_change;
        for (link, parent) in row.iter().flat_map(|row| merge::parents(resource, row)) {
            let number = link.parent.number;
            let parents = self.parents_read.entry(number).or_default();
            let read = parents.entry(parent.to_owned()).or_insert_with(|| ParentRead {
                known: known[number].get(parent).map(|seen| seen.stored).unwrap_or_default(),
                children: Ids::new(),
            });
            read.children.entry(resource.number).or_default().insert(id.clone());
        }
    }

    /// Adds a change's subject or its children if they may be stale, whatever the outcome of the change: a change without
    /// effect may be the second attempt of a worker that died before its recheck.
    pub(super) fn add(&mut self, subject_change: &SubjectChange, known: &Known) {
        let SubjectChange { resource, id, version, row } = subject_change;
        let number = resource.number;
        let seen = known[number].get(id);
        if resource.links.is_empty() {
            if let Some(stored) = seen.map(|seen| seen.stored).filter(|_| version.is_deleted)
                && RESOURCES.iter().any(|child| child.links.iter().any(|link| applies(link, number, &stored)))
            {
                self.deleted_parents.entry(number).or_default().insert(id.clone(), stored);
            }
            return;
        }
        if seen.is_some_and(|seen| seen.stored.links.any_before()) {
            // Only the stored row names all its parents; its content does not.
            self.rows.entry(number).or_default().insert(id.clone());
        }
        let Some(row) = row else { return };
        let stored = |of: &Resource, id: &str| known[of.number].get(id).map(|seen| seen.stored);
        let expected = merge::from_parents(resource, row, stored);
        let shows = seen.and_then(|seen| seen.from_parents);
        let is_deleted = seen.is_some_and(|seen| seen.stored.deleted_at.is_some());
        let differs = shows != expected.deleted_at.map(|at| Time(Timestamp::from_millis(at))) && !is_deleted;
        // Whether the row has content is unknown here: the worker that erased the parent may have died before the children.
        if differs || expected.erased {
            self.rows.entry(number).or_default().insert(id.clone());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parents_read.is_empty() && self.deleted_parents.is_empty() && self.rows.is_empty()
    }

    /// Pending work for what can't be repaired at once: the children of all deleted parents if `parents` is set, and
    /// these rows.
    pub(super) fn entries(&self, parents: bool, rows: &Ids) -> Vec<Entry> {
        let deleted = self.deleted_parents.iter().filter(|_| parents).flat_map(|(number, deleted)| {
            deleted.iter().map(|(id, stored)| Entry {
                survivors: stored.is_erased_by_operator(),
                ..Entry::new(RESOURCES[*number], id.clone(), PendingWork::Children)
            })
        });
        let rows = rows.iter().flat_map(|(number, ids)| {
            ids.iter().map(|id| Entry {
                parent: self.parent_of(*number, id),
                ..Entry::new(RESOURCES[*number], id.clone(), PendingWork::Row)
            })
        });
        deleted.chain(rows).collect()
    }

    /// One of the parents that were read before this row was written.
    fn parent_of(&self, number: usize, id: &str) -> Option<(&'static Resource, String)> {
        let has = |read: &ParentRead| read.children.get(&number).is_some_and(|ids| ids.contains(id));
        let all = self.parents_read.iter().flat_map(|(of, parents)| parents.iter().map(move |one| (of, one)));
        let mut found = all.filter(|(_, (_, read))| has(read));
        found.next().map(|(of, (parent, _))| (RESOURCES[*of], parent.clone()))
    }

    /// All candidate rows, and all rows of the batch that have parents.
    fn all_rows(&self) -> Ids {
        let mut rows = self.rows.clone();
        for read in self.parents_read.values().flat_map(BTreeMap::values) {
            for (number, ids) in &read.children {
                rows.entry(*number).or_default().extend(ids.iter().cloned());
            }
        }
        rows
    }
}

/// Whether a deleted parent, of the table with this number, affects its child rows by this link.
fn applies(link: &Link, number: usize, parent: &SubjectState) -> bool {
    link.parent.number == number && (link.cascades || parent.is_erased_by_operator())
}

/// Result of a recheck.
#[derive(Default)]
pub(super) struct Found {
    /// Candidate rows of the batch.
    pub(super) candidates: Ids,
    /// Stale child rows of deleted parents.
    pub(super) children: Ids,
    /// Whether there are more stale child rows than are repaired at once.
    pub(super) has_more: bool,
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        self.candidates.is_empty() && self.children.is_empty() && !self.has_more
    }
}

/// Finds candidate rows and stale child rows.
pub(super) struct Recheck<'a> {
    /// With an address, a search that can't succeed here is abandoned with its transaction; otherwise it is an error.
    pub(super) address: Option<&'a Address>,
    pub(super) statements: &'a Statements,
    pub(super) candidates: &'a Candidates,
}

impl Work for Recheck<'_> {
    type Output = Found;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Found> {
        let (sql, arguments) = self.query().map_err(sqlx::Error::Encode)?;
        let mut found = Found { candidates: self.candidates.rows.clone(), ..Found::default() };
        if sql.is_empty() {
            return Ok(found);
        }
        let rows = match session.fetch(&sql.into(), arguments).await {
            Ok(rows) => rows,
            // Reading the children of large parents takes too long, or a policy of their table fails: all of it is done in steps.
            Err(error) if self.address.and_then(|address| classify(address, &error)).is_some() => {
                abandon(session).await?;
                return Ok(Found { candidates: self.candidates.all_rows(), has_more: true, ..found });
            }
            Err(error) => return Err(error),
        };
        let mut deleted: BTreeMap<(usize, &str), (i64, bool)> = BTreeMap::new();
        let mut counts: BTreeMap<i32, usize> = BTreeMap::new();
        for row in &rows {
            let (id, deleted_at): (&str, Option<i64>) = (row.try_get(1)?, row.try_get(2)?);
            if let Some(deleted_at) = deleted_at {
                deleted.insert((number(row)?, id), (deleted_at, row.try_get(3)?));
            } else {
                found.children.entry(number(row)?).or_default().insert(id.to_owned());
                *counts.entry(row.try_get(4)?).or_default() += 1;
            }
        }
        for (number, parents) in &self.candidates.parents_read {
            for (id, ParentRead { known, children }) in parents {
                let then = known.deleted_at.map(|at| (at, known.content == Content::Erased));
                if deleted.get(&(*number, id.as_str())).copied() != then {
                    for (number, ids) in children {
                        found.candidates.entry(*number).or_default().extend(ids.iter().cloned());
                    }
                }
            }
        }
        found.has_more = counts.values().any(|count| *count >= BATCH_MAX);
        Ok(found)
    }
}

impl Recheck<'_> {
    /// One SELECT: the parents that were read and are deleted now, with when and whether their content is erased; and,
    /// with nulls in these columns and the number of the part, the stale child rows of deleted parents.
    fn query(&self) -> Result<(String, PgArguments), BoxDynError> {
        let (mut arguments, mut parts) = (PgArguments::default(), Vec::new());
        for (number, parents) in &self.candidates.parents_read {
            arguments.add(parents.keys().map(String::as_str).collect::<Vec<&str>>())?;
            let deleted = &self.statements.tables[*number].is_deleted;
            parts.push(format!("{deleted} AND id = ANY (${}::text[])", arguments.len()));
        }
        for (number, parents) in &self.candidates.deleted_parents {
            let all: Vec<(&String, &SubjectState)> = parents.iter().collect();
            let erased: Vec<(&String, &SubjectState)> =
                parents.iter().filter(|(_, stored)| stored.is_erased_by_operator()).collect();
            for (parents, cascades) in [(all, true), (erased, false)] {
                if parents.is_empty() {
                    continue;
                }
                let given = parent_arguments(&mut arguments, &parents)?;
                for dependents in self.statements.tables.iter().filter_map(|table| table.dependents.as_ref())
                {
                    let of = dependents.links.iter().filter(|link| link.parent.number == *number);
                    for link in of.filter(|link| link.cascades == cascades) {
                        parts.push(dependents.stale_children(link, &given, parts.len(), BATCH_MAX));
                    }
                }
            }
        }
        Ok((parts.join(" UNION ALL "), arguments))
    }
}

/// Adds parents as arguments, with when they were deleted and whether their content is erased. Returns the SQL that
/// reads them.
fn parent_arguments(
    arguments: &mut PgArguments,
    parents: &[(&String, &SubjectState)],
) -> Result<String, BoxDynError> {
    arguments.add(parents.iter().map(|(id, _)| id.as_str()).collect::<Vec<&str>>())?;
    let deleted = parents.iter().map(|(_, stored)| stored.deleted_at);
    arguments.add(
        deleted.map(|at| at.map(|at| Time(Timestamp::from_millis(at)))).collect::<Vec<Option<Time>>>(),
    )?;
    let erased = parents.iter().map(|(_, stored)| stored.content == Content::Erased);
    arguments.add(erased.collect::<Vec<bool>>())?;
    let last = arguments.len();
    Ok(format!("unnest(${}::text[], ${}::timestamptz[], ${last}::bool[])", last - 2, last - 1))
}
