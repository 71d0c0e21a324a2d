//! Fresh readings of single subjects, on an operator's word.

use std::collections::HashSet;

use rollbook_core::catalog::{ORGANIZATIONS, Resource, USERS};
use rollbook_core::change::{Applied, SubjectChange};
use rollbook_core::compare::{Verdict, judge};
use rollbook_core::drift::Drift;
use rollbook_core::event::observed;
use rollbook_core::merge::{Content, SubjectState};
use rollbook_core::named;
use rollbook_core::source::{Fetched, LOOKUPS_MAX, Lookup, Presence, RECONCILED, SourceError};
use rollbook_core::store::{HeldCount, HeldKey, HeldState, Reset};
use rollbook_core::time::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::brake::RefreshBrake;
use crate::context::Context;
use crate::deletions::{lookup_of, synced_at};
use crate::error::ReconcileError;
use crate::progress::Progress;
use crate::readings::reading_time;
use crate::reconciler::Reconciler;
use crate::settings::{CLOCK_TOLERANCE, INSTANCE_CHECKED_FOR};

/// Result of reading one subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resynced {
    /// Clerk's id.
    pub id: String,
    /// Table, if the id names one.
    pub table: Option<&'static str>,
    /// Outcome of the resync.
    pub outcome: ResyncOutcome,
}

named! {
    /// Outcome of a resync of one subject.
    pub enum ResyncOutcome {
        /// The row was missing, and is inserted.
        Inserted = "inserted",
        /// The row was behind, and shows Clerk's object now.
        Updated = "updated",
        /// The row shows Clerk's object already.
        Unchanged = "unchanged",
        /// Clerk does not have the object, and the row is marked as deleted.
        Deleted = "deleted",
        /// Clerk does not have the object. The row is deleted already, or there is none.
        Absent = "absent",
        /// The row was deleted, and lives again.
        Revived = "revived",
        /// The row differs from Clerk's answer, and has a later version: a webhook overtook the answer, or the version has
        /// a wrong time. Only `--force` writes what Clerk shows.
        RowIsLater = "row_is_later",
        /// Clerk has the object, and the row is deleted. Only `--force` revives it.
        WronglyDeleted = "wrongly_deleted",
        /// An operator erased the row. It stays erased.
        Erased = "erased",
        /// The row refuses the change: a trigger or a constraint of the team.
        Refused = "refused",
        /// Clerk's answers do not prove whether the object exists.
        Unproven = "unproven",
        /// Clerk's API has no read of one object of this table. Only its list shows the object.
        NotReadable = "not_readable",
        /// The id is not of a user or an organization, and no row has it.
        UnknownKind = "unknown_kind",
    }
}

impl ResyncOutcome {
    /// Whether the row shows what Clerk shows, so far as it may.
    pub const fn is_success(self) -> bool {
        !matches!(
            self,
            Self::WronglyDeleted
                | Self::RowIsLater
                | Self::Refused
                | Self::Unproven
                | Self::NotReadable
                | Self::UnknownKind
        )
    }
}

impl Reconciler {
    /// Reads users, organizations and what has a row at Clerk, and brings the rows up to date. With `force`, a
    /// row that was deleted wrongly lives again. What runs hold of these objects no longer waits.
    ///
    /// # Errors
    /// Clerk or the store gave no answer, or the key belongs to another instance.
    pub async fn resync(
        &self,
        ids: &[String],
        force: bool,
        stop: &CancellationToken,
    ) -> Result<Vec<Resynced>, ReconcileError> {
        let context = self.context(self.new_run(false), Progress::default(), stop, watch::Sender::default());
        context.check_instance().await?;
        let mut results = Vec::new();
        for ids in ids.chunks(LOOKUPS_MAX) {
            let mut unknown: Vec<&String> = ids.iter().collect();
            for resource in RECONCILED {
                let (ids, others) = context.split(resource, unknown).await?;
                unknown = others;
                results.extend(context.resync(resource, &ids, force, None).await?);
            }
            results.extend(unknown.into_iter().map(|id| Resynced {
                id: id.clone(),
                table: None,
                outcome: ResyncOutcome::UnknownKind,
            }));
        }
        Ok(results)
    }
}

impl Reconciler {
    /// Reads one user or organization for an application, as [`Self::resync`] does without `force`. The instance of the key
    /// is checked unless that was done within [`INSTANCE_CHECKED_FOR`]. A day of such readings deletes no more rows than one
    /// run may: the rest is unproven.
    ///
    /// # Errors
    /// Clerk or the store gave no answer, or the key belongs to another instance.
    pub async fn refresh(&self, id: &str, stop: &CancellationToken) -> Result<Resynced, ReconcileError> {
        let resource: &'static Resource = match id {
            _ if id.starts_with("user_") => &USERS,
            _ if id.starts_with("org_") => &ORGANIZATIONS,
            _ => {
                let outcome = ResyncOutcome::UnknownKind;
                return Ok(Resynced { id: id.to_owned(), table: None, outcome });
            }
        };
        let context = self.context(self.new_run(false), Progress::default(), stop, watch::Sender::default());
        {
            let mut checked_at = self.instance_checked_at.lock().await;
            if checked_at.is_none_or(|at| at.elapsed() >= INSTANCE_CHECKED_FOR) {
                context.check_instance().await?;
                *checked_at = Some(Instant::now());
            }
        }
        let results = context.resync(resource, &[&id.to_owned()], false, Some(&self.refresh_brake)).await?;
        let missing = || SourceError::Unreadable("a point read has no result".to_owned());
        Ok(results.into_iter().next().ok_or_else(missing)?)
    }
}

impl Context {
    /// Splits ids into those of a resource, and others. The prefix names users and organizations, a row the rest.
    async fn split<'a>(
        &self,
        resource: &'static Resource,
        ids: Vec<&'a String>,
    ) -> Result<(Vec<&'a String>, Vec<&'a String>), ReconcileError> {
        if resource == &USERS || resource == &ORGANIZATIONS {
            let prefix = if resource == &USERS { "user_" } else { "org_" };
            return Ok(ids.into_iter().partition(|id| id.starts_with(prefix)));
        }
        let texts: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
        let heads = self.patiently("the store", || self.ports.records.heads(resource, &texts)).await?;
        Ok(ids.into_iter().partition(|id| heads.iter().any(|head| head.id == **id)))
    }

    async fn resync(
        &self,
        resource: &'static Resource,
        ids: &[&String],
        force: bool,
        brake: Option<&RefreshBrake>,
    ) -> Result<Vec<Resynced>, ReconcileError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let texts: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
        // Before the reading: a change that arrives later is newer than what is decided here.
        let heads = self.patiently("the store", || self.ports.records.heads(resource, &texts)).await?;
        let limit = self.ports.clock.now().minus(self.settings.absence_margin);
        let (mut lookups, mut recent) = (Vec::new(), HashSet::new());
        for id in ids {
            let row = self.patiently("the store", || self.ports.rows.get(resource, id)).await?;
            if row
                .as_ref()
                .is_some_and(|row| !row.is_deleted() && synced_at(row).is_none_or(|at| at >= limit))
            {
                recent.insert(id.as_str());
            }
            let unknown = || Lookup { id: (*id).to_owned(), organization_id: None, user_id: None };
            lookups.push(row.as_ref().map_or_else(unknown, lookup_of));
        }
        let resynced =
            |id: &str, outcome| Resynced { id: id.to_owned(), table: Some(resource.table), outcome };
        let Some(fetched) = self.fetch(resource, &lookups).await? else {
            return Ok(texts.into_iter().map(|id| resynced(id, ResyncOutcome::NotReadable)).collect());
        };
        let mut results = Vec::new();
        for (id, mut fetched) in texts.into_iter().zip(fetched) {
            let state = heads.iter().find(|head| head.id == id).map(|head| head.state);
            if fetched.presence == Presence::Absent && recent.contains(id) {
                // Clerk's answer may be older than a row that was written lately.
                fetched.presence = Presence::Unknown("the row was written lately");
            } else if let Some(brake) = brake
                && fetched.presence == Presence::Absent
                && state.is_some_and(|state| state.deleted_at.is_none())
                && !self.lets_through(resource, id, brake).await?
            {
                fetched.presence = Presence::Unknown("too many rows would be deleted");
            }
            let outcome = self.resync_one(resource, id, fetched, state, force).await?;
            results.push(resynced(id, outcome));
        }
        self.settle_resynced(resource, &results).await?;
        Ok(results)
    }

    /// Settles what runs hold of these subjects.
    async fn settle_resynced(&self, resource: &Resource, results: &[Resynced]) -> Result<(), ReconcileError> {
        let key = |of: &Resynced| HeldKey { table: resource.table.to_owned(), id: of.id.clone() };
        let keys: Vec<HeldKey> = results.iter().filter(|of| of.outcome.is_success()).map(key).collect();
        let records = &self.ports.records;
        let counts = self.patiently("the store", || records.count_held(None)).await?;
        let waits = |of: &&HeldCount| of.table == resource.table && of.state == HeldState::Waiting;
        for of in counts.iter().filter(waits).filter(|_| !keys.is_empty()) {
            self.patiently("the store", || records.settle_held(&of.run, &keys, HeldState::Done)).await?;
        }
        Ok(())
    }

    async fn resync_one(
        &self,
        resource: &'static Resource,
        id: &str,
        Fetched { presence, clock }: Fetched,
        state: Option<SubjectState>,
        force: bool,
    ) -> Result<ResyncOutcome, ReconcileError> {
        let read_at = reading_time(clock);
        if state.is_some_and(|state| state.is_erased_by_operator()) {
            return Ok(ResyncOutcome::Erased);
        }
        let object = match presence {
            Presence::Exists(object) => object,
            Presence::Unknown(_) => return Ok(ResyncOutcome::Unproven),
            Presence::Absent if state.is_none_or(|state| state.deleted_at.is_some()) => {
                return Ok(ResyncOutcome::Absent);
            }
            Presence::Absent => {
                let applied = self.apply_one(self.deletion(resource, id, read_at)).await?;
                return Ok(applied.map_or(ResyncOutcome::Refused, |_| ResyncOutcome::Deleted));
            }
        };
        let missing = "an object of a point read has no id";
        let (subject, _) =
            observed(resource, object, read_at).ok_or_else(|| SourceError::Unreadable(missing.to_owned()))?;
        if let Some(state) = state
            && let Some(deleted_at) = state.deleted_at
        {
            if !force {
                return Ok(ResyncOutcome::WronglyDeleted);
            }
            // A deletion as late as the answer may be newer than it. A time that no webhook can have is a wrong clock's.
            let latest = clock.plus(CLOCK_TOLERANCE).as_millis();
            if (read_at.as_millis()..=latest).contains(&deleted_at) {
                return Ok(ResyncOutcome::RowIsLater);
            }
            return self.revive(resource, subject, &state).await;
        }
        let is_known = match (judge(&subject, state.as_ref()), state.map(|state| state.content)) {
            (Verdict::Drifted(_), _) | (_, None | Some(Content::Unknown)) => false,
            // Content that was erased with its row stays erased.
            (_, Some(Content::Erased)) => true,
            _ => self.has_same_content(resource, &subject).await?,
        };
        if is_known {
            return Ok(ResyncOutcome::Unchanged);
        }
        self.overwrite(subject, state, force, read_at).await
    }

    /// Writes a reading that differs from its row. With `force`, its event time is raised above that of a row with a
    /// later one.
    async fn overwrite(
        &self,
        mut subject: SubjectChange,
        state: Option<SubjectState>,
        force: bool,
        mut read_at: Timestamp,
    ) -> Result<ResyncOutcome, ReconcileError> {
        let known = match state.map(|state| state.content) {
            Some(Content::At(known)) if force && known.updated_at <= subject.version.updated_at => {
                known.event_at
            }
            _ => i64::MIN,
        };
        if known >= read_at.as_millis() {
            read_at = Timestamp::from_millis(known.saturating_add(1));
            subject.version.event_at = read_at.as_millis();
        }
        let applied = self.apply_one(self.change(subject, Drift::Resync, read_at)).await?;
        Ok(match applied {
            None => ResyncOutcome::Refused,
            Some(Applied::Inserted) => ResyncOutcome::Inserted,
            Some(Applied::Updated | Applied::Deleted) => ResyncOutcome::Updated,
            Some(Applied::Unchanged) => ResyncOutcome::Unchanged,
            Some(Applied::Stale | Applied::Ignored) => ResyncOutcome::RowIsLater,
        })
    }

    /// Resets a deleted row that still has the state that was read before Clerk's answer, and applies the answer above its
    /// erasure floor. A deletion that arrives in between wins.
    async fn revive(
        &self,
        resource: &'static Resource,
        mut subject: SubjectChange,
        state: &SubjectState,
    ) -> Result<ResyncOutcome, ReconcileError> {
        let id = subject.id.clone();
        let reset = self.patiently("the store", || self.ports.records.reset(resource, &id, state)).await?;
        let Reset::Done(floor) = reset else { return Ok(ResyncOutcome::RowIsLater) };
        let above = floor.as_millis().saturating_add(1);
        subject.version.event_at = subject.version.event_at.max(above);
        let read_at = Timestamp::from_millis(subject.version.event_at);
        let Some(_) = self.apply_one(self.change(subject, Drift::WronglyDeleted, read_at)).await? else {
            return Ok(ResyncOutcome::Refused);
        };
        // A deletion may have come before the answer was written.
        let ids = [id.as_str()];
        let after = self.patiently("the store", || self.ports.records.heads(resource, &ids)).await?;
        let lives = after.iter().any(|head| head.state.deleted_at.is_none());
        Ok(if lives { ResyncOutcome::Revived } else { ResyncOutcome::RowIsLater })
    }

    /// Applies one change. `None` if the row refuses it.
    async fn apply_one(
        &self,
        change: rollbook_core::change::Change,
    ) -> Result<Option<Applied>, ReconcileError> {
        let written = self.apply(std::slice::from_ref(&change)).await?;
        if !written.refused.is_empty() {
            return Ok(None);
        }
        Ok(Some(written.last.unwrap_or(Applied::Unchanged)))
    }
}
