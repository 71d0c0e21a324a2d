//! Application of a batch.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rollbook_core::catalog::{RESOURCES, Resource};
use rollbook_core::change::{Applied, Change, Effect, SubjectChange};
use rollbook_core::merge::{self, Content, FromParents, SubjectUpdate};
use rollbook_core::store::{RetentionChoices, reading_context};
use rollbook_core::time::Timestamp;
use sqlx::Row as _;

use super::attempt::run_deferred;
use super::known::{self, Asked, Known, ask};
use super::parents::Ids;
use super::recheck::Candidates;
use super::sql::Statements;
use super::write::{Write, arguments, is_undone};
use crate::address::Address;
use crate::fault::{self, Fault, NotKept};
use crate::transaction::{Session, Work};
use crate::types::Time;
use crate::values::Values;

/// Maximum writes of rows that other workers write at the same time. A worker that lost once holds their locks, so the
/// second write succeeds unless a trigger prevents it.
const WRITES_MAX: usize = 3;

/// For the triggers of the change feed, until the end of the transaction: (origin and run of the batch's readings).
const SET_READING: &str = "SELECT pg_catalog.set_config('rollbook.reading', $1, true)";

/// Merges the changes into their tables and writes the ledger.
pub(super) struct Apply<'a> {
    pub(super) statements: &'a Statements,
    pub(super) changes: &'a [Change],
    pub(super) retention: RetentionChoices,
    pub(super) now: Timestamp,
}

/// The changes of one table.
struct Part<'a> {
    resource: &'static Resource,
    /// Positions in the batch.
    positions: Vec<usize>,
    assertions: Vec<&'a SubjectChange>,
    /// `svix-id` of each change.
    origins: Vec<&'a str>,
}

/// Rows that a batch wrote as deleted or erased.
#[derive(Default)]
struct Ended {
    rows: Ids,
    /// Whether a table that the batch wrote to has triggers of a team.
    has_triggers: bool,
}

/// Result of a batch, and the candidate rows for the recheck after its commit.
pub(super) struct Done {
    pub(super) outcomes: Vec<Applied>,
    pub(super) candidates: Candidates,
}

impl Work for Apply<'_> {
    type Output = Done;

    fn judge(&self, address: &Address, error: &sqlx::Error) -> Fault {
        fault::judge_rows(address, error)
    }

    async fn run(&self, session: &mut Session<'_>) -> sqlx::Result<Done> {
        if let Some(reading) = reading_context(self.changes) {
            let reading = Values::default().with(reading);
            session.fetch(&SET_READING.into(), reading.into_arguments()?).await?;
        }
        let mut candidates = Candidates::default();
        let parts = RESOURCES.map(|resource| self.part(resource));
        let mut outcomes = vec![Applied::Ignored; self.changes.len()];
        let mut ended = Ended::default();
        if parts.iter().any(|part| !part.assertions.is_empty()) {
            let mut asked = Asked::default();
            for subject_change in parts.iter().flat_map(|part| &part.assertions) {
                ask(&mut asked, subject_change);
            }
            let mut known = known::read(self.statements, session, &asked).await?;
            for (number, part) in parts.iter().enumerate() {
                part.assertions
                    .iter()
                    .for_each(|subject_change| candidates.add_parents(subject_change, &known));
                let applied = self.merge(session, number, part, &mut known, &mut ended).await?;
                for (position, outcome) in part.positions.iter().zip(applied) {
                    outcomes[*position] = outcome;
                }
            }
            for subject_change in parts.iter().flat_map(|part| &part.assertions) {
                candidates.add(subject_change, &known);
            }
        }
        if self.retention.ledger {
            ended.has_triggers |= self.record(session, &outcomes).await?;
        }
        // Last, so that no trigger runs after it: one of the ledger may undo a deletion, too.
        ended.must_show(self.statements, session).await?;
        Ok(Done { outcomes, candidates })
    }
}

impl<'a> Apply<'a> {
    fn part(&self, resource: &'static Resource) -> Part<'a> {
        let mut part = Part { resource, positions: Vec::new(), assertions: Vec::new(), origins: Vec::new() };
        for (position, change) in self.changes.iter().enumerate() {
            if let Effect::Merge(subject_change) = &change.effect
                && subject_change.resource == resource
            {
                part.positions.push(position);
                part.assertions.push(subject_change);
                part.origins.push(change.origin.synced_by());
            }
        }
        part
    }

    /// Merges the changes of one table, and adds rows that are written as deleted or erased to `ended`. The states of parents
    /// in `known` are final: their tables come first.
    async fn merge(
        &self,
        session: &mut Session<'_>,
        number: usize,
        part: &Part<'_>,
        known: &mut Known,
        ended: &mut Ended,
    ) -> sqlx::Result<Vec<Applied>> {
        let mut written: HashSet<String> = HashSet::new();
        for _ in 0..WRITES_MAX {
            let stored = |id: &str| known[number].get(id).map(|seen| seen.stored);
            let folded = merge::fold(&part.assertions, self.retention.deleted_rows, stored);
            let id_of = |winner: &SubjectUpdate| part.assertions[winner.last].id.as_str();
            let open = folded.winners.iter().filter(|winner| !written.contains(id_of(winner)));
            let writes: Vec<Write<'_>> = open.map(|winner| part.write(winner, number, known)).collect();
            if !writes.is_empty() {
                let arguments = arguments(part.resource, &writes, self.now).map_err(sqlx::Error::Encode)?;
                for row in session.fetch(&self.statements.tables[number].upsert, arguments).await? {
                    let id: &str = row.try_get(0)?;
                    // Writes are in the order of their ids.
                    let position = writes.binary_search_by(|write| write.id.cmp(id));
                    if let Ok(position) = position
                        && is_undone(&row, writes[position].revision)?
                    {
                        return Err(NotKept::Undone.into());
                    }
                    ended.has_triggers |= row.try_get::<bool, _>(3)?;
                    written.insert(id.to_owned());
                }
            }
            let mut asked = Asked::default();
            for subject_change in folded.winners.iter().map(|winner| part.assertions[winner.last]) {
                if !written.contains(&subject_change.id) {
                    let all = part.assertions.iter().filter(|other| other.id == subject_change.id);
                    all.for_each(|other| ask(&mut asked, other));
                }
            }
            if asked.subjects.iter().all(BTreeSet::is_empty) {
                for winner in &folded.winners {
                    let write = part.write(winner, number, known);
                    if write.is_deleted() {
                        ended.rows.entry(number).or_default().insert(write.id.to_owned());
                    }
                    let seen = known[number].entry(id_of(winner).to_owned()).or_default();
                    seen.stored = winner.state;
                    seen.revision += 1;
                    // A write without content keeps the stored content.
                    if write.row.is_some() || winner.state.content == Content::Erased {
                        seen.from_parents =
                            write.from_parents.deleted_at.map(|at| Time(Timestamp::from_millis(at)));
                    }
                }
                return Ok(folded.outcomes);
            }
            // Another worker has written these rows since they were read. Its writes are committed now.
            for (known, again) in known.iter_mut().zip(known::read(self.statements, session, &asked).await?) {
                known.extend(again);
            }
        }
        Err(NotKept::Skipped.into())
    }

    /// Records outcomes in the ledger. The first outcome of a delivery is kept: a redelivery adds nothing. Returns whether
    /// triggers of a team may have run.
    async fn record(&self, session: &mut Session<'_>, outcomes: &[Applied]) -> sqlx::Result<bool> {
        let mut entries: BTreeMap<&str, (&Change, Applied)> = BTreeMap::new();
        for (change, outcome) in self.changes.iter().zip(outcomes) {
            entries.entry(change.origin.entry_id().as_str()).or_insert((change, *outcome));
        }
        let changes = || entries.values().map(|(change, _)| *change);
        let attempts = |change: &Change| i32::try_from(change.origin.attempt()).unwrap_or(i32::MAX);
        let values = Values::default()
            .with_all(entries.keys().copied())
            .with_all(changes().map(|change| change.origin.event_type()))
            .with_all(changes().map(Change::subject_id))
            .with_all(entries.values().map(|(_, outcome)| outcome.as_str()))
            .with_all(changes().map(|change| Time(change.origin.event_at())))
            .with_all(changes().map(|change| Time(change.origin.received_at())))
            .with_all(changes().map(attempts))
            .with(Time(self.now));
        let mut written = 0;
        let mut has_triggers = false;
        for row in session.fetch(&self.statements.record, values.into_arguments()?).await? {
            let (id, subject, outcome): (&str, Option<&str>, &str) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let is_ours = entries.get(id).is_some_and(|(change, applied)| {
                (subject, outcome) == (change.subject_id(), applied.as_str())
            });
            if !is_ours {
                return Err(NotKept::LedgerChanged.into());
            }
            written += 1;
            has_triggers = row.try_get(3)?;
        }
        if written == entries.len() && !has_triggers {
            return Ok(false);
        }
        // Entries of deliveries that were applied before are there already. A trigger may have skipped or removed the others.
        if has_triggers {
            run_deferred(session).await?;
        }
        let ids = Values::default().with_all(entries.keys().copied());
        let there = session.fetch(&self.statements.kept, ids.into_arguments()?).await?;
        let there: i64 = there.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)?;
        let is_complete = usize::try_from(there).is_ok_and(|there| there >= entries.len());
        if is_complete { Ok(has_triggers) } else { Err(NotKept::LedgerSkipped.into()) }
    }
}

impl<'a> Part<'a> {
    fn write(&self, winner: &SubjectUpdate, number: usize, known: &Known) -> Write<'a> {
        let subject_change: &'a SubjectChange = self.assertions[winner.last];
        let row = winner.content.and_then(|position| self.assertions[position].row.as_ref());
        let parent = |of: &Resource, id: &str| known[of.number].get(id).map(|seen| seen.stored);
        Write {
            id: &subject_change.id,
            row,
            parents: winner.parents(&self.assertions),
            state: winner.state,
            revision: known[number].get(&subject_change.id).map_or(0, |seen| seen.revision) + 1,
            from_parents: row
                .map_or_else(FromParents::default, |row| merge::from_parents(self.resource, row, parent)),
            synced_by: self.origins[winner.last],
        }
    }
}

impl Ended {
    /// Refuses rows that do not show their deletion or erasure: a trigger that runs after the write may undo it, which the
    /// write itself does not see. One SELECT for all tables, and none if no row was deleted or erased, or no trigger ran.
    async fn must_show(&self, statements: &Statements, session: &mut Session<'_>) -> sqlx::Result<()> {
        if self.has_triggers && !undone(statements, session, &self.rows).await?.is_empty() {
            return Err(NotKept::Undone.into());
        }
        Ok(())
    }
}

/// Finds rows that were written as deleted or erased and do not show it.
pub(super) async fn undone(
    statements: &Statements,
    session: &mut Session<'_>,
    rows: &Ids,
) -> sqlx::Result<Vec<String>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    // A constraint trigger that is deferred to the commit may undo it, too.
    run_deferred(session).await?;
    let with = |values: Values, ids: &BTreeSet<String>| values.with_all(ids.iter().map(String::as_str));
    let values = rows.values().fold(Values::default(), with);
    let undone = session.fetch(&statements.undone(rows.keys().copied()), values.into_arguments()?).await?;
    undone.iter().map(|row| row.try_get(0)).collect()
}
