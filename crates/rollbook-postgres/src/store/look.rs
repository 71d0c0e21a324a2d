//! The recheck after the commit of a batch: one SELECT finds what of it may be wrong.
//!
//! Why there is one at all: see [`super::inherit`]. It may suspect a row that is right, such as one that shows the
//! earlier deletion of another parent; it must not miss one that is wrong.

use std::collections::BTreeMap;

use rollbook_core::catalog::{Link, RESOURCES, Resource};
use rollbook_core::change::SubjectChange;
use rollbook_core::merge::{self, Content, SubjectState};
use rollbook_core::store::PendingWork;
use rollbook_core::time::Timestamp;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments as _, Row as _};

use super::apply::Known;
use super::attempt::{abandon, is_timeout};
use super::inherit::{BATCH_MAX, Ids, number};
use super::lines::Line;
use super::sql::{Statements, number_of};
use crate::transaction::{Session, Work};
use crate::types::Time;

/// What a batch leaves to look at: what it has written, or found written, whose parents or children others may have
/// written meanwhile. Tables are named by their numbers.
#[derive(Default)]
pub(super) struct Doubts {
    /// The parents by which rows were written.
    relied: BTreeMap<usize, BTreeMap<String, Relied>>,
    /// Parents that have ended, and how.
    ended: BTreeMap<usize, BTreeMap<String, SubjectState>>,
    /// Rows that may not show what they should by what is known already.
    suspects: Ids,
}

/// What was known of a parent when rows were written by it.
#[derive(Default)]
struct Relied {
    known: SubjectState,
    children: Ids,
}

impl Doubts {
    /// Adds the parents by which a row is going to be written, as they are known now. What is read of them later, since
    /// others wrote the row meanwhile, does not count: rows may have been written by this.
    pub(super) fn rely(&mut self, subject_change: &SubjectChange, known: &Known) {
        let SubjectChange { resource, id, row, .. } = subject_change;
        for (link, parent) in row.iter().flat_map(|row| merge::parents(resource, row)) {
            let number = number_of(link.parent);
            let parents = self.relied.entry(number).or_default();
            let relied = parents.entry(parent.to_owned()).or_insert_with(|| Relied {
                known: known[number].get(parent).map(|seen| seen.stored).unwrap_or_default(),
                children: Ids::new(),
            });
            relied.children.entry(number_of(resource)).or_default().insert(id.clone());
        }
    }

    /// Adds what may be wrong about a change's subject or its children, whatever became of the change: one
    /// that changed nothing may be the second try of one whose worker died before it looked.
    pub(super) fn add(&mut self, subject_change: &SubjectChange, known: &Known) {
        let SubjectChange { resource, id, version, row } = subject_change;
        let number = number_of(resource);
        let seen = known[number].get(id);
        if resource.links.is_empty() {
            if let Some(stored) = seen.map(|seen| seen.stored).filter(|_| version.is_deleted)
                && RESOURCES
                    .iter()
                    .any(|child| child.links.iter().any(|link| is_meant(link, number, &stored)))
            {
                self.ended.entry(number).or_default().insert(id.clone(), stored);
            }
            return;
        }
        if seen.is_some_and(|seen| seen.stored.links.any_before()) {
            // Its content does not name all its parents: only the row does.
            self.suspects.entry(number).or_default().insert(id.clone());
        }
        let Some(row) = row else { return };
        let stored = |of, id: &str| known[number_of(of)].get(id).map(|seen| seen.stored);
        let should = merge::from_parents(resource, row, stored);
        let shows = seen.and_then(|seen| seen.from_parents);
        let is_deleted = seen.is_some_and(|seen| seen.stored.deleted_at.is_some());
        let differs = shows != should.deleted_at.map(|at| Time(Timestamp::from_millis(at))) && !is_deleted;
        // Whether there is content is not known here: who emptied the parent may have died before its children.
        if differs || should.erased {
            self.suspects.entry(number).or_default().insert(id.clone());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.relied.is_empty() && self.ended.is_empty() && self.suspects.is_empty()
    }

    /// What is left to do where it can't be done at once: all children of the deleted parents where `parents` says so,
    /// and these rows.
    pub(super) fn lines(&self, parents: bool, rows: &Ids) -> Vec<Line> {
        let ended = self.ended.iter().filter(|_| parents).flat_map(|(number, ended)| {
            ended.iter().map(|(id, stored)| Line {
                survivors: stored.is_erased_by_operator(),
                ..Line::new(RESOURCES[*number], id.clone(), PendingWork::Children)
            })
        });
        let rows = rows.iter().flat_map(|(number, ids)| {
            ids.iter().map(|id| Line {
                parent: self.parent_of(*number, id),
                ..Line::new(RESOURCES[*number], id.clone(), PendingWork::Row)
            })
        });
        ended.chain(rows).collect()
    }

    /// A parent by which a row was written.
    fn parent_of(&self, number: usize, id: &str) -> Option<(&'static Resource, String)> {
        let has = |relied: &Relied| relied.children.get(&number).is_some_and(|ids| ids.contains(id));
        let all = self.relied.iter().flat_map(|(of, parents)| parents.iter().map(move |one| (of, one)));
        let mut found = all.filter(|(_, (_, relied))| has(relied));
        found.next().map(|(of, (parent, _))| (RESOURCES[*of], parent.clone()))
    }

    /// All rows of the batch that were written by parents, or are suspected.
    fn written(&self) -> Ids {
        let mut written = self.suspects.clone();
        for relied in self.relied.values().flat_map(BTreeMap::values) {
            for (number, ids) in &relied.children {
                written.entry(*number).or_default().extend(ids.iter().cloned());
            }
        }
        written
    }
}

/// Whether rows have something from a deleted parent of the table with this number by a link.
fn is_meant(link: &Link, number: usize, parent: &SubjectState) -> bool {
    number_of(link.parent) == number && (link.cascades || parent.is_erased_by_operator())
}

/// What a recheck has found.
#[derive(Default)]
pub(super) struct Found {
    /// Rows of the batch that may be wrong.
    pub(super) written: Ids,
    /// Rows of deleted parents that are wrong.
    pub(super) children: Ids,
    /// Whether there are more of those than are repaired at once.
    pub(super) has_more: bool,
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        self.written.is_empty() && self.children.is_empty() && !self.has_more
    }
}

/// Looks for what may be wrong.
pub(super) struct Look<'a> {
    pub(super) statements: &'a Statements,
    pub(super) doubts: &'a Doubts,
}

impl Work for Look<'_> {
    type Output = Found;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Found> {
        let (sql, arguments) = self.query().map_err(sqlx::Error::Encode)?;
        let mut found = Found { written: self.doubts.suspects.clone(), ..Found::default() };
        if sql.is_empty() {
            return Ok(found);
        }
        let rows = match session.fetch(&sql.into(), arguments).await {
            Ok(rows) => rows,
            // Passing over the children of large parents takes too long: all of it goes in steps.
            Err(error) if is_timeout(&error) => {
                abandon(session).await?;
                return Ok(Found { written: self.doubts.written(), has_more: true, ..found });
            }
            Err(error) => return Err(error),
        };
        let mut ended: BTreeMap<(usize, &str), (i64, bool)> = BTreeMap::new();
        let mut counts: BTreeMap<i32, usize> = BTreeMap::new();
        for row in &rows {
            let (id, ended_at): (&str, Option<i64>) = (row.try_get(1)?, row.try_get(2)?);
            if let Some(ended_at) = ended_at {
                ended.insert((number(row)?, id), (ended_at, row.try_get(3)?));
            } else {
                found.children.entry(number(row)?).or_default().insert(id.to_owned());
                *counts.entry(row.try_get(4)?).or_default() += 1;
            }
        }
        for (number, parents) in &self.doubts.relied {
            for (id, Relied { known, children }) in parents {
                let then = known.deleted_at.map(|at| (at, known.content == Content::Erased));
                if ended.get(&(*number, id.as_str())).copied() != then {
                    for (number, ids) in children {
                        found.written.entry(*number).or_default().extend(ids.iter().cloned());
                    }
                }
            }
        }
        found.has_more = counts.values().any(|count| *count >= BATCH_MAX);
        Ok(found)
    }
}

impl Look<'_> {
    /// One SELECT: the parents that were relied on and have ended, with when and whether their content is erased;
    /// and, with nulls there and the number of the part, the rows that do not show an end of a parent.
    fn query(&self) -> Result<(String, PgArguments), BoxDynError> {
        let (mut arguments, mut parts) = (PgArguments::default(), Vec::new());
        for (number, parents) in &self.doubts.relied {
            arguments.add(parents.keys().map(String::as_str).collect::<Vec<&str>>())?;
            let ended = &self.statements.tables[*number].ended;
            parts.push(format!("{ended} AND id = ANY (${}::text[])", arguments.len()));
        }
        for (number, parents) in &self.doubts.ended {
            let all: Vec<(&String, &SubjectState)> = parents.iter().collect();
            let forgotten: Vec<(&String, &SubjectState)> =
                parents.iter().filter(|(_, stored)| stored.is_erased_by_operator()).collect();
            for (parents, cascades) in [(all, true), (forgotten, false)] {
                if parents.is_empty() {
                    continue;
                }
                let given = given(&mut arguments, &parents)?;
                for dependents in self.statements.tables.iter().filter_map(|table| table.dependents.as_ref())
                {
                    let of = dependents.links.iter().filter(|link| number_of(link.parent) == *number);
                    for link in of.filter(|link| link.cascades == cascades) {
                        parts.push(dependents.suspects(link, &given, parts.len()));
                    }
                }
            }
        }
        Ok((parts.join(" UNION ALL "), arguments))
    }
}

/// Parents with when they were deleted and whether their content is erased, as arguments.
fn given(arguments: &mut PgArguments, parents: &[(&String, &SubjectState)]) -> Result<String, BoxDynError> {
    arguments.add(parents.iter().map(|(id, _)| id.as_str()).collect::<Vec<&str>>())?;
    let ends = parents.iter().map(|(_, stored)| stored.deleted_at);
    arguments
        .add(ends.map(|at| at.map(|at| Time(Timestamp::from_millis(at)))).collect::<Vec<Option<Time>>>())?;
    let erased = parents.iter().map(|(_, stored)| stored.content == Content::Erased);
    arguments.add(erased.collect::<Vec<bool>>())?;
    let last = arguments.len();
    Ok(format!("unnest(${}::text[], ${}::timestamptz[], ${last}::bool[])", last - 2, last - 1))
}
