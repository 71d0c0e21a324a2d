//! Comparison of objects of Clerk with their rows, and repair of what differs.

use std::collections::{HashMap, HashSet};

use rollbook_core::catalog::Resource;
use rollbook_core::change::{Change, Effect, Origin, SubjectChange, Version};
use rollbook_core::compare::{Verdict, is_same_content, judge};
use rollbook_core::drift::Drift;
use rollbook_core::event::is_of;
use rollbook_core::json::Document;
use rollbook_core::source::{Fetched, LOOKUPS_MAX, Lookup, Presence, SourceError};
use rollbook_core::store::{Held, HeldCount, HeldKey, HeldState};
use rollbook_core::time::Timestamp;
use tokio::time::Instant;
use tracing::warn;

use crate::context::{Context, Written};
use crate::error::ReconcileError;
use crate::readings::{Readings, reading_time};

/// Maximum number of rows of a resource that a run holds because they refuse their change. All are counted.
const REFUSED_HELD_MAX: u64 = 1_000;
/// Maximum number of rows of which the contents are read and compared at once.
const CONTENTS_MAX: usize = 50;

impl Context {
    /// Compares objects with their rows, and writes those that differ.
    pub(crate) async fn compare(
        &self,
        resource: &'static Resource,
        Readings { subjects, unreadable, clock, .. }: Readings,
    ) -> Result<(), ReconcileError> {
        self.clerk_says(clock);
        let (read_at, total) = (reading_time(clock), subjects.len() as u64 + unreadable);
        if unreadable > 0 {
            warn!(
                table = resource.table,
                unreadable,
                "reconciliation: Clerk's answer has objects without an id, of another type, or marked as deleted"
            );
        }
        let drifted = self.drifted(resource, &subjects).await?;
        let (mut revived, mut changes, mut counts) = (Vec::new(), Vec::new(), HashMap::<Drift, u64>::new());
        // What equals its row is freed before the rest is written.
        for (subject, kind) in subjects.into_iter().zip(drifted) {
            match kind {
                None => {}
                Some(Drift::WronglyDeleted) => revived.push(lookup(resource, &subject)),
                Some(kind) => {
                    *counts.entry(kind).or_default() += 1;
                    changes.push(self.change(subject, kind, read_at));
                }
            }
        }
        let written = if self.run.is_dry { Written::default() } else { self.apply(&changes).await? };
        let ignored = self.count_ignored(resource, &written.ignored, &changes).await?;
        let held = self.hold_living(resource, &revived).await?;
        self.hold_refused(resource, &changes, &written.refused).await?;
        self.update(resource.table, |of| {
            of.read += total;
            of.unreadable += unreadable;
            of.written += written.advanced;
            of.refused += written.refused.len() as u64 + ignored;
            of.held += held;
            counts.insert(Drift::WronglyDeleted, held);
            for (kind, number) in counts {
                of.count(kind, number);
            }
        });
        Ok(())
    }

    /// Counts the changes that the merge ignored although their rows still differ.
    async fn count_ignored(
        &self,
        resource: &'static Resource,
        ignored: &[String],
        changes: &[Change],
    ) -> Result<u64, ReconcileError> {
        if ignored.is_empty() {
            return Ok(0);
        }
        let ids: Vec<&str> = ignored.iter().map(String::as_str).collect();
        let heads = self.patiently("the store", || self.ports.records.heads(resource, &ids)).await?;
        let differs = |change: &&Change| {
            let Effect::Merge(subject) = &change.effect else { return false };
            let state = heads.iter().find(|head| head.id == subject.id).map(|head| &head.state);
            ids.contains(&subject.id.as_str()) && judge(subject, state) != Verdict::Same
        };
        Ok(changes.iter().filter(differs).count() as u64)
    }

    /// Returns for each subject the kind of its difference from its row, if it differs.
    async fn drifted(
        &self,
        resource: &'static Resource,
        subjects: &[SubjectChange],
    ) -> Result<Vec<Option<Drift>>, ReconcileError> {
        let records = &self.ports.records;
        let ids: Vec<&str> = subjects.iter().map(|subject| subject.id.as_str()).collect();
        let heads = self.patiently("the store", || records.heads(resource, &ids)).await?;
        let states: HashMap<&str, _> = heads.iter().map(|head| (head.id.as_str(), &head.state)).collect();
        let (mut drifted, mut open) = (vec![None; subjects.len()], HashMap::new());
        for (at, subject) in subjects.iter().enumerate() {
            match judge(subject, states.get(subject.id.as_str()).copied()) {
                Verdict::Same => {}
                Verdict::Drifted(kind) => drifted[at] = Some(kind),
                Verdict::CompareContent => {
                    open.insert(subject.id.as_str(), at);
                }
            }
        }
        // Rows that lost their content since are not among the contents: an erasure came between.
        let open_ids: Vec<&str> = open.keys().copied().collect();
        for ids in open_ids.chunks(CONTENTS_MAX) {
            let begun = Instant::now();
            for (id, data) in self.patiently("the store", || records.contents(resource, ids)).await? {
                let Some(at) = open.remove(id.as_str()) else { continue };
                if !is_same(resource, &subjects[at], &data) {
                    drifted[at] = Some(Drift::Undated);
                }
            }
            tokio::task::yield_now().await;
            self.rest(begun).await;
        }
        Ok(drifted)
    }

    /// Whether the content of the subject equals that of its row.
    pub(crate) async fn has_same_content(
        &self,
        resource: &'static Resource,
        subject: &SubjectChange,
    ) -> Result<bool, ReconcileError> {
        let ids = [subject.id.as_str()];
        let stored = self.patiently("the store", || self.ports.records.contents(resource, &ids)).await?;
        Ok(stored.first().is_none_or(|(_, data)| is_same(resource, subject, data)))
    }

    /// Returns the change that a reading of a subject makes.
    pub(crate) fn change(&self, subject: SubjectChange, kind: Drift, read_at: Timestamp) -> Change {
        let origin = Origin::reconcile(&self.run.id, &subject, kind, read_at).in_backfill(self.is_backfill());
        Change { origin, effect: Effect::Merge(Box::new(subject)) }
    }

    /// Returns the change that deletes a subject, which was proved absent at `read_at`.
    pub(crate) fn deletion(&self, resource: &'static Resource, id: &str, read_at: Timestamp) -> Change {
        let version =
            Version { is_deleted: true, updated_at: 0, event_at: read_at.as_millis(), hash: [0; 16] };
        let subject = SubjectChange { resource, id: id.to_owned(), version, row: None };
        self.change(subject, Drift::NotDeleted, read_at)
    }

    /// Holds rows that refuse their change, so that an operator sees which. The next run that writes them settles them.
    async fn hold_refused(
        &self,
        resource: &'static Resource,
        changes: &[Change],
        refused: &[String],
    ) -> Result<(), ReconcileError> {
        let before = self.update(resource.table, |of| of.refused).unwrap_or_default();
        let room = usize::try_from(REFUSED_HELD_MAX.saturating_sub(before)).unwrap_or_default();
        if refused.is_empty() || room == 0 {
            return Ok(());
        }
        let kind = |change: &Change| match &change.origin {
            Origin::Reconcile { cause, .. } => *cause,
            Origin::Delivery { .. } => Drift::Stale,
        };
        let is_refused =
            |change: &&Change| change.subject_id().is_some_and(|id| refused.iter().any(|of| of == id));
        let held: Vec<Held> = changes
            .iter()
            .filter(is_refused)
            .filter_map(|change| Some(self.held(resource, change.subject_id()?, kind(change))))
            .take(room)
            .collect();
        self.hold(resource, held).await
    }

    /// Records objects that wait for an operator. A check between walks leaves out those that wait already: each check would
    /// count them again, and only the next run counts them anew.
    async fn hold(&self, resource: &Resource, mut held: Vec<Held>) -> Result<(), ReconcileError> {
        if held.is_empty() || self.run.is_dry {
            return Ok(());
        }
        if self.is_check() {
            let known = self.waiting(resource).await?;
            held.retain(|of| !known.contains(&of.key.id));
        }
        self.patiently("the store", || self.ports.records.hold(&self.run.id, &held)).await
    }

    /// Returns the ids of a table that wait for an operator, of all runs.
    async fn waiting(&self, resource: &Resource) -> Result<HashSet<String>, ReconcileError> {
        let records = &self.ports.records;
        let counts = self.patiently("the store", || records.count_held(None)).await?;
        let waits = |of: &&HeldCount| of.table == resource.table && of.state == HeldState::Waiting;
        let runs: HashSet<&str> = counts.iter().filter(waits).map(|of| of.run.as_str()).collect();
        let mut ids = HashSet::new();
        for run in runs {
            let mut after = Some(HeldKey { table: resource.table.to_owned(), id: String::new() });
            while let Some(from) = after.take() {
                let step = || records.held(run, HeldState::Waiting, Some(&from), LOOKUPS_MAX);
                let held = self.patiently("the store", step).await?;
                after = held.last().map(|last| last.key.clone()).filter(|key| key.table == resource.table);
                let of_table = held.into_iter().filter(|of| of.key.table == resource.table);
                ids.extend(of_table.map(|of| of.key.id));
            }
        }
        Ok(ids)
    }

    /// Holds deleted rows of subjects that a point read finds alive. Returns their number.
    async fn hold_living(
        &self,
        resource: &'static Resource,
        lookups: &[Lookup],
    ) -> Result<u64, ReconcileError> {
        let mut count = 0;
        for lookups in lookups.chunks(LOOKUPS_MAX) {
            let fetched = self.fetch(resource, lookups).await?;
            // The list itself is the only proof where Clerk has no point read, or proves nothing by it.
            let is_alive =
                |at: usize| fetched.as_ref().is_none_or(|all| all[at].presence != Presence::Absent);
            let alive = lookups.iter().enumerate().filter(|(at, _)| is_alive(*at));
            let held: Vec<Held> =
                alive.map(|(_, of)| self.held(resource, &of.id, Drift::WronglyDeleted)).collect();
            count += held.len() as u64;
            self.hold(resource, held).await?;
        }
        Ok(count)
    }

    /// Reads objects by their ids. `None` if Clerk has no such read for the resource. An object of another type, or one
    /// that is marked as deleted, proves nothing. Ids of which the answer is too large are read in halves.
    pub(crate) async fn fetch(
        &self,
        resource: &'static Resource,
        lookups: &[Lookup],
    ) -> Result<Option<Vec<Fetched>>, ReconcileError> {
        let (mut all, mut open) = (Vec::with_capacity(lookups.len()), vec![lookups]);
        while let Some(part) = open.pop() {
            match self.patiently("Clerk", || self.ports.source.fetch(resource, part)).await {
                Ok(fetched) if fetched.len() == part.len() => all.extend(fetched),
                Ok(_) => {
                    let detail = "a point read answered for another number of ids";
                    return Err(ReconcileError::Contradiction { table: resource.table, detail });
                }
                Err(ReconcileError::Source(SourceError::Unsupported(_))) => return Ok(None),
                Err(ReconcileError::Source(SourceError::TooLarge(_))) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    open.extend([second, first]);
                }
                Err(error) => return Err(error),
            }
        }
        for one in &mut all {
            if matches!(&one.presence, Presence::Exists(object) if !is_of(resource, object.value())) {
                one.presence = Presence::Unknown("the object is of another type, or marked as deleted");
            }
        }
        Ok(Some(all))
    }

    pub(crate) fn held(&self, resource: &Resource, id: &str, kind: Drift) -> Held {
        let state = if kind == Drift::NotDeleted { HeldState::Collected } else { HeldState::Waiting };
        let key = HeldKey { table: resource.table.to_owned(), id: id.to_owned() };
        Held { key, kind, state, noted_at: self.ports.clock.now() }
    }
}

/// Whether the content of the subject equals this `data` of its row.
fn is_same(resource: &Resource, subject: &SubjectChange, stored: &str) -> bool {
    let Some(row) = &subject.row else { return false };
    match [row.data.as_str(), stored].map(|text| Document::read(text.as_bytes())) {
        [Ok(seen), Ok(stored)] => is_same_content(resource, seen.value(), stored.value()),
        _ => false,
    }
}

/// Returns the request for a fresh reading of a subject.
fn lookup(resource: &Resource, subject: &SubjectChange) -> Lookup {
    let parents = subject.parents();
    let parent = |column: &str| {
        let number = resource.links.iter().position(|link| link.column == column)?;
        parents[number].map(str::to_owned)
    };
    Lookup { id: subject.id.clone(), organization_id: parent("organization_id"), user_id: parent("user_id") }
}
