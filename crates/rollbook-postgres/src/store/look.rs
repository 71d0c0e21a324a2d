//! The look after the commit of a batch: one SELECT finds what of it may be wrong, and that is mended.
//!
//! Why there is one at all: see [`super::inherit`]. It may suspect a row that is right, such as one that shows the
//! earlier end of another parent; it must not miss one that is wrong.

use std::collections::BTreeMap;

use rollbook_core::catalog::{Link, RESOURCES};
use rollbook_core::change::Assertion;
use rollbook_core::merge::{self, Content, Stored};
use rollbook_core::time::Timestamp;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments as _, Row as _};

use super::apply::Known;
use super::inherit::{BATCH_MAX, Doubtful, Ids, mend_rows};
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
    ended: BTreeMap<usize, BTreeMap<String, Stored>>,
    /// Rows that do not show what they should by what is known already.
    suspects: Ids,
    /// Parents that an operator has had erased: what outlives others goes with these.
    forgotten: Doubtful,
}

/// What was known of a parent when rows were written by it.
#[derive(Default)]
struct Relied {
    known: Stored,
    children: Ids,
}

impl Doubts {
    /// Adds the parents by which a row is going to be written, as they are known now. What is read of them later, since
    /// others wrote the row meanwhile, does not count: rows may have been written by this.
    pub(super) fn rely(&mut self, assertion: &Assertion, known: &Known) {
        let Assertion { resource, id, row, .. } = assertion;
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
    pub(super) fn add(&mut self, assertion: &Assertion, known: &Known) {
        let Assertion { resource, id, version, row } = assertion;
        let number = number_of(resource);
        let seen = known[number].get(id);
        if resource.links.is_empty() {
            if let Some(stored) = seen.map(|seen| seen.stored).filter(|_| version.dead) {
                if RESOURCES.iter().any(|child| child.links.iter().any(|link| ends_with(link, number))) {
                    self.ended.entry(number).or_default().insert(id.clone(), stored);
                }
                if stored.is_forgotten() {
                    self.forgotten.with_survivors = true;
                    self.forgotten.parents.entry(resource.table).or_default().insert(id.clone());
                }
            }
            return;
        }
        if seen.is_some_and(|seen| seen.stored.links.any_before()) {
            // Its content does not name all its parents: only the row does.
            self.suspects.entry(number).or_default().insert(id.clone());
        }
        let Some(row) = row else { return };
        let stored = |of, id: &str| known[number_of(of)].get(id).map(|seen| seen.stored);
        let should = merge::inherited(resource, row, stored).deleted_at;
        if seen.and_then(|seen| seen.inherited) != should.map(|at| Time(Timestamp::from_millis(at))) {
            self.suspects.entry(number).or_default().insert(id.clone());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.relied.is_empty()
            && self.ended.is_empty()
            && self.suspects.is_empty()
            && self.forgotten.is_empty()
    }

    /// The ended parents as ones whose rows are all to be looked at.
    fn all_ended(&self) -> Doubtful {
        let mut doubtful = Doubtful::default();
        for (number, parents) in &self.ended {
            doubtful.parents.insert(RESOURCES[*number].table, parents.keys().cloned().collect());
        }
        doubtful
    }
}

/// Whether rows end with a parent of the table with this number by a link.
fn ends_with(link: &Link, number: usize) -> bool {
    link.cascades && number_of(link.parent) == number
}

/// Looks, and mends what it suspects. Gives what is to be looked at once more, where there is too much for once or
/// where what outlives its parents is meant.
pub(super) struct Look<'a> {
    pub(super) statements: &'a Statements,
    pub(super) doubts: &'a Doubts,
    pub(super) now: Timestamp,
}

impl Work for Look<'_> {
    type Output = Doubtful;

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Doubtful> {
        let (sql, arguments) = self.query().map_err(sqlx::Error::Encode)?;
        let rows = if sql.is_empty() { Vec::new() } else { session.fetch(&sql.into(), arguments).await? };
        let mut suspects = self.doubts.suspects.clone();
        let mut ended: BTreeMap<(usize, &str), (i64, bool)> = BTreeMap::new();
        let mut found: BTreeMap<i32, usize> = BTreeMap::new();
        for row in &rows {
            let number = usize::try_from(row.try_get::<i32, _>(0)?).unwrap_or_default();
            let (id, ended_at): (&str, Option<i64>) = (row.try_get(1)?, row.try_get(2)?);
            if let Some(ended_at) = ended_at {
                ended.insert((number, id), (ended_at, row.try_get(3)?));
            } else {
                suspects.entry(number).or_default().insert(id.to_owned());
                *found.entry(row.try_get(4)?).or_default() += 1;
            }
        }
        for (number, parents) in &self.doubts.relied {
            for (id, Relied { known, children }) in parents {
                let then = known.deleted_at.map(|at| (at, known.content == Content::Erased));
                if ended.get(&(*number, id.as_str())).copied() != then {
                    for (number, ids) in children {
                        suspects.entry(*number).or_default().extend(ids.iter().cloned());
                    }
                }
            }
        }
        mend_rows(self.statements, session, &suspects, self.now).await?;
        let mut left = self.doubts.forgotten.clone();
        if found.values().any(|found| *found >= BATCH_MAX) {
            left.parents.extend(self.doubts.all_ended().parents);
        }
        Ok(left)
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
            arguments.add(parents.keys().map(String::as_str).collect::<Vec<&str>>())?;
            let ends = parents.values().map(|stored| stored.deleted_at);
            arguments.add(
                ends.map(|at| at.map(|at| Time(Timestamp::from_millis(at)))).collect::<Vec<Option<Time>>>(),
            )?;
            let erased = parents.values().map(|stored| stored.content == Content::Erased);
            arguments.add(erased.collect::<Vec<bool>>())?;
            let last = arguments.len();
            let given =
                format!("unnest(${}::text[], ${}::timestamptz[], ${last}::bool[])", last - 2, last - 1);
            for dependents in self.statements.tables.iter().filter_map(|table| table.dependents.as_ref()) {
                let of =
                    dependents.links.iter().filter(|link| link.cascades && number_of(link.parent) == *number);
                for link in of {
                    parts.push(dependents.suspects(link, &given, parts.len()));
                }
            }
        }
        Ok((parts.join(" UNION ALL "), arguments))
    }
}
