//! Application of a batch of changes.

use std::collections::{BTreeSet, HashMap};

use rollbook_core::catalog::{RESOURCES, Resource};
use rollbook_core::change::{Applied, Change, Effect, SubjectChange};
use rollbook_core::merge::{self, MergeResult, SubjectState, SubjectUpdate};
use rollbook_core::store::{RetentionChoices, reading_context};
use rusqlite::{Connection, OptionalExtension as _};

use super::cascade::Pass;
use super::changes::{begin_lines, end_lines};
use super::tables::{Tables, read_stored};
use super::write::{self, Write, Writer};
use crate::fault::NotKept;

/// Merges the changes into their tables and writes the ledger.
///
/// The last statements check that deleted and erased rows show it, and so do child rows: whatever runs after the write of a
/// row may undo it, such as a trigger of another table or of the ledger.
pub(super) fn apply(
    tables: &Tables<'_>,
    changes: &[Change],
    retention: RetentionChoices,
) -> rusqlite::Result<Vec<Applied>> {
    let mut outcomes = vec![Applied::Ignored; changes.len()];
    let mut merged = Vec::new();
    let has_feed = begin_lines(tables.connection, reading_context(changes).as_deref())?;
    for resource in RESOURCES {
        let (positions, assertions): (Vec<usize>, Vec<(&SubjectChange, &str)>) = changes
            .iter()
            .enumerate()
            .filter_map(|(position, change)| match &change.effect {
                Effect::Merge(subject_change) if subject_change.resource == resource => {
                    Some((position, (&**subject_change, change.origin.synced_by())))
                }
                _ => None,
            })
            .unzip();
        if !assertions.is_empty() {
            let part = tables.merge(resource, &assertions, retention)?;
            for (position, outcome) in positions.into_iter().zip(&part.result.outcomes) {
                outcomes[position] = *outcome;
            }
            merged.push(part);
        }
    }
    merged.iter().try_for_each(|part| tables.relate(part, Pass::Repair))?;
    let has_triggers = retention.ledger && write_ledger(tables, changes, &outcomes)?;
    if has_triggers || tables.cascading.has_repaired() {
        merged.iter().try_for_each(|part| tables.relate(part, Pass::Check))?;
    }
    merged.iter().try_for_each(|part| part.must_show(tables))?;
    if has_feed {
        end_lines(tables.connection)?;
    }
    Ok(outcomes)
}

/// The changes of one table, merged and written.
struct Merged<'a> {
    resource: &'static Resource,
    changes: Vec<&'a SubjectChange>,
    /// States before the batch.
    stored: HashMap<&'a str, SubjectState>,
    result: MergeResult,
}

impl Merged<'_> {
    /// The write of a subject, if it advanced.
    fn written(&self, id: &str) -> Option<&SubjectUpdate> {
        let winners = &self.result.winners;
        // The subjects are in the order of their ids.
        let found = winners.binary_search_by(|winner| self.changes[winner.last].id.as_str().cmp(id));
        found.ok().map(|place| &winners[place])
    }

    /// Refuses rows that were written as deleted and do not show it.
    fn must_show(&self, tables: &Tables<'_>) -> rusqlite::Result<()> {
        for SubjectUpdate { last, state, .. } in &self.result.winners {
            write::must_show(tables, self.resource, &self.changes[*last].id, state)?;
        }
        Ok(())
    }
}

impl Tables<'_> {
    fn merge<'a>(
        &self,
        resource: &'static Resource,
        assertions: &[(&'a SubjectChange, &str)],
        retention: RetentionChoices,
    ) -> rusqlite::Result<Merged<'a>> {
        let mut stored = HashMap::with_capacity(assertions.len());
        let mut known = self.connection.prepare_cached(&self.statements.of(resource).stored)?;
        for (subject_change, _) in assertions {
            if !stored.contains_key(subject_change.id.as_str())
                && let Some(found) = known.query_row((&subject_change.id,), read_stored).optional()?
            {
                stored.insert(subject_change.id.as_str(), found);
            }
        }
        let changes: Vec<&SubjectChange> =
            assertions.iter().map(|(subject_change, _)| *subject_change).collect();
        let result = merge::fold(&changes, retention.deleted_rows, |id| stored.get(id).copied());
        let mut writer = Writer::new(self, resource)?;
        for winner in &result.winners {
            let SubjectUpdate { last, content, state, .. } = *winner;
            let (subject_change, synced_by) = assertions[last];
            let row = content.and_then(|position| changes[position].row.as_ref());
            let before = stored.get(subject_change.id.as_str()).copied();
            let parents = winner.parents(&changes);
            writer.write(&Write { id: &subject_change.id, row, parents, before, state, synced_by })?;
        }
        Ok(Merged { resource, changes, stored, result })
    }

    /// Checks that child rows show the state of their parents: the rows of the batch, and child rows of
    /// deleted parents. The outcome of a change does not matter: a row may have been left wrong before.
    fn relate(&self, part: &Merged<'_>, pass: Pass) -> rusqlite::Result<()> {
        let Merged { resource, changes, stored, .. } = part;
        if !resource.links.is_empty() {
            // A row that was written with its whole content already shows the state of its parents.
            let is_right = |id: &str| {
                pass == Pass::Repair
                    && part
                        .written(id)
                        .is_some_and(|winner| winner.content.is_some() && !winner.state.links.any_before())
            };
            let ids = changes.iter().map(|change| change.id.as_str()).filter(|id| !is_right(id));
            return ids
                .collect::<BTreeSet<_>>()
                .into_iter()
                .try_for_each(|id| self.settle(resource, id, pass));
        }
        let dead = changes.iter().filter(|change| change.version.is_deleted).map(|change| change.id.as_str());
        for id in dead.collect::<BTreeSet<_>>() {
            let is_deleted = |state: &&SubjectState| state.deleted_at.is_some();
            if let Some(winner) = part.written(id) {
                self.pass_on(resource, id, winner.state.is_erased_by_operator(), pass)?;
            } else if let Some(state) = stored.get(id).filter(is_deleted) {
                self.pass_on_again(resource, id, state.is_erased_by_operator(), pass)?;
            }
        }
        Ok(())
    }
}

/// Maximum ledger entries of a bucket, plus the last batch: enough that a week has few buckets, and few
/// enough that the index pages of a bucket fit into a batch's commit.
const BUCKET_ENTRIES: i64 = 1000;

/// Writes a ledger entry for each change. The first outcome of a delivery stays: a repetition adds nothing. Returns
/// whether a team has put triggers on the ledger.
fn write_ledger(tables: &Tables<'_>, changes: &[Change], outcomes: &[Applied]) -> rusqlite::Result<bool> {
    let now = tables.now.to_string();
    let bucket = open_bucket(tables.connection)?;
    let mut statement = tables.connection.prepare_cached(
        "INSERT INTO deliveries
             (svix_id, event_type, subject_id, outcome, event_at, received_at, applied_at, attempts, bucket)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (svix_id) DO NOTHING",
    )?;
    let mut find = tables.connection.prepare_cached("SELECT 1 FROM deliveries WHERE svix_id = ?1")?;
    let mut new = Vec::new();
    for (change, outcome) in changes.iter().zip(outcomes) {
        let origin = &change.origin;
        let written = statement.execute((
            origin.entry_id().as_str(),
            origin.event_type(),
            change.subject_id(),
            outcome.as_str(),
            origin.event_at().to_string(),
            origin.received_at().to_string(),
            &now,
            origin.attempt(),
            bucket,
        ))?;
        if written == 0 && !find.exists((origin.entry_id().as_str(),))? {
            return Err(NotKept::LedgerSkipped.into());
        }
        if written > 0 {
            new.push((origin.entry_id().as_str(), change.subject_id(), outcome.as_str()));
        }
    }
    if !has_triggers(tables.connection)? {
        return Ok(false);
    }
    let mut find = tables
        .connection
        .prepare_cached("SELECT subject_id IS ?2 AND outcome IS ?3 FROM deliveries WHERE svix_id = ?1")?;
    for entry in new {
        match find.query_row(entry, |row| row.get(0)).optional()? {
            Some(true) => {}
            Some(false) => return Err(NotKept::LedgerChanged.into()),
            None => return Err(NotKept::LedgerSkipped.into()),
        }
    }
    Ok(true)
}

/// Returns whether a team has put triggers on the ledger.
fn has_triggers(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'deliveries' COLLATE NOCASE";
    connection.prepare_cached(sql)?.exists(())
}

/// Returns the bucket of the next entries: the last one, or a new one if that is full.
fn open_bucket(connection: &Connection) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached(
        "SELECT last, (SELECT count(*) FROM deliveries WHERE bucket = last)
         FROM (SELECT max(1, coalesce(max(bucket), 0)) AS last FROM deliveries)",
    )?;
    let (last, entries): (i64, i64) = statement.query_row((), |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(if entries < BUCKET_ENTRIES { last } else { last + 1 })
}
