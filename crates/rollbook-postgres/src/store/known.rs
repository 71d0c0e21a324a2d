//! Stored states of subjects and parents, as a transaction reads them before it writes.

use std::collections::{BTreeSet, HashMap};

use rollbook_core::catalog::RESOURCES;
use rollbook_core::change::SubjectChange;
use rollbook_core::merge::{self, Content, Links, SubjectState};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments as _, Row as _};

use super::sql::{Statements, Which};
use crate::transaction::Session;
use crate::types::{Time, number};

/// Stored state of a row, and how often it has been written.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) stored: SubjectState,
    pub(super) revision: i64,
    /// Deletion time that the row shows from its parents.
    pub(super) from_parents: Option<Time>,
}

/// Stored rows for each of [`RESOURCES`], by id.
pub(super) type Known = [HashMap<String, Seen>; RESOURCES.len()];

/// Ids to read, for each of [`RESOURCES`].
#[derive(Default)]
pub(super) struct Asked<'a> {
    pub(super) subjects: [BTreeSet<&'a str>; RESOURCES.len()],
    /// Parents: only deleted ones are read.
    parents: [BTreeSet<&'a str>; RESOURCES.len()],
}

/// Adds a change's subject and its parents to the ids to read.
pub(super) fn ask<'a>(asked: &mut Asked<'a>, subject_change: &'a SubjectChange) {
    asked.subjects[subject_change.resource.number].insert(&subject_change.id);
    for (link, id) in subject_change.row.iter().flat_map(|row| merge::parents(subject_change.resource, row)) {
        asked.parents[link.parent.number].insert(id);
    }
}

/// Reads the states of subjects and of deleted parents. There must be at least one subject.
pub(super) async fn read(
    statements: &Statements,
    session: &mut Session<'_>,
    asked: &Asked<'_>,
) -> sqlx::Result<Known> {
    let (mut arguments, mut parts) = (PgArguments::default(), Vec::new());
    for (number, (subjects, parents)) in asked.subjects.iter().zip(&asked.parents).enumerate() {
        let parents: Vec<&str> = parents.difference(subjects).copied().collect();
        for (ids, which) in [(subjects.iter().copied().collect(), Which::All), (parents, Which::Deleted)] {
            if !ids.is_empty() {
                arguments.add(ids).map_err(sqlx::Error::Encode)?;
                parts.push((number, which));
            }
        }
    }
    let mut known = Known::default();
    for row in session.fetch(&statements.stored(&parts), arguments).await? {
        known[number(&row)?].insert(row.try_get(1)?, seen(&row)?);
    }
    Ok(known)
}

fn seen(row: &PgRow) -> sqlx::Result<Seen> {
    let unknown = || sqlx::Error::Decode("version_hash has another length".into());
    let hash: &[u8] = row.try_get(4)?;
    let content = Content::from_columns(row.try_get(2)?, row.try_get(3)?, hash).ok_or_else(unknown)?;
    let unknown_links = || sqlx::Error::Decode("version_links is not as Rollbook writes it".into());
    let links = Links::from_column(row.try_get(9)?, [row.try_get(10)?, row.try_get(11)?])
        .ok_or_else(unknown_links)?;
    let stored = SubjectState { content, deleted_at: row.try_get(5)?, floor: row.try_get(6)?, links };
    Ok(Seen { stored, revision: row.try_get(7)?, from_parents: row.try_get(8)? })
}
