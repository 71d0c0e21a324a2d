//! Proof of absence: which living rows Clerk no longer has.
//!
//! A page that lacks a row makes the row a suspect, nothing more. A suspect counts as absent only if `Source::fetch` finds
//! proof: a read of the object alone that answers 404, or for memberships and domains two answers that agree.

use std::collections::HashSet;

use rollbook_core::catalog::Resource;
use rollbook_core::drift::Drift;
use rollbook_core::source::{LOOKUPS_MAX, Lookup, Presence, Window};
use rollbook_core::store::{Held, Living};
use rollbook_core::time::Timestamp;
use tracing::warn;

use crate::context::Context;
use crate::error::ReconcileError;
use crate::progress::ResourceProgress;
use crate::readings::Readings;

/// Rows per step.
const STEP: usize = 500;

/// Number of suspects of a resource that a point read may find alive, in any case. More mean that the list leaves out
/// living objects, as Clerk documents of some invitations. The rest of the suspects is then not read in this run.
const ALIVE_MIN: u64 = 1_000;

/// Share of a list's objects that a point read may find alive, as a divisor: one in ten.
const ALIVE_SHARE: u64 = 10;

impl Context {
    /// Examines the living rows that were created in the window. `present` are the ids that Clerk's pages
    /// show in it.
    pub(crate) async fn prove(
        &self,
        resource: &'static Resource,
        window: Window,
        present: &HashSet<&str>,
    ) -> Result<(), ReconcileError> {
        let begun = window.from.as_millis();
        // A run that was killed within this window goes on behind the rows that it has examined.
        let examined = self.update(resource.table, |of| of.examined.get(&begun).copied()).flatten();
        let window = Window { from: examined.map_or(window.from, Timestamp::from_millis), ..window };
        let was_empty = self.update(resource.table, |of| of.was_empty).unwrap_or_default();
        if window.from >= window.to || was_empty {
            return Ok(());
        }
        let (mut after, mut suspects): (Option<Living>, Vec<Living>) = (None, Vec::new());
        loop {
            let rows = self
                .patiently("the store", || {
                    let since = self.run.started_at.minus(self.settings.absence_margin);
                    self.ports.records.living(resource, window, since, after.as_ref(), STEP)
                })
                .await?;
            let is_last = rows.len() < STEP;
            after = rows.last().cloned();
            suspects.extend(rows.into_iter().filter(|row| !present.contains(row.lookup.id.as_str())));
            while suspects.len() >= LOOKUPS_MAX || (is_last && !suspects.is_empty()) {
                let rest = suspects.split_off(suspects.len().min(LOOKUPS_MAX));
                let last = suspects.last().map(|row| row.created_at.as_millis());
                let lookups: Vec<Lookup> = suspects.into_iter().map(|row| row.lookup).collect();
                self.examine(resource, &lookups).await?;
                self.update(resource.table, |of| last.and_then(|at| of.examined.insert(begun, at)));
                self.save_sometimes().await?;
                suspects = rest;
            }
            if is_last {
                self.update(resource.table, |of| of.examined.remove(&begun));
                return Ok(());
            }
        }
    }

    /// Examines the living rows without a `created_at`, which no window contains.
    pub(crate) async fn prove_undated(&self, resource: &'static Resource) -> Result<(), ReconcileError> {
        let mut after: Option<String> = None;
        loop {
            self.check_stop()?;
            let rows = self
                .patiently("the store", || {
                    let since = self.run.started_at.minus(self.settings.absence_margin);
                    self.ports.records.undated(resource, since, after.as_deref(), LOOKUPS_MAX)
                })
                .await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = Some(last.id.clone());
            self.examine(resource, &rows).await?;
        }
    }

    /// Reads suspects at Clerk. Those that are absent are collected for deletion; those that are alive are
    /// compared.
    async fn examine(&self, resource: &'static Resource, suspects: &[Lookup]) -> Result<(), ReconcileError> {
        if suspects.is_empty() {
            return Ok(());
        }
        let is_read = |of: &mut ResourceProgress| of.alive <= ALIVE_MIN.max(of.total / ALIVE_SHARE);
        let fetched = match self.update(resource.table, is_read) {
            Some(true) => self.fetch(resource, suspects).await?,
            _ => None,
        };
        let Some(fetched) = fetched else {
            self.update(resource.table, |of| of.unproven += suspects.len() as u64);
            return Ok(());
        };
        let mut absent: Vec<Held> = Vec::new();
        let (mut alive, mut unproven) = (0, 0);
        for (suspect, fetched) in suspects.iter().zip(fetched) {
            match fetched.presence {
                Presence::Absent => absent.push(self.held(resource, &suspect.id, Drift::NotDeleted)),
                Presence::Unknown(_) => unproven += 1,
                Presence::Exists(object) => {
                    alive += 1;
                    self.compare(resource, Readings::of(resource, object, fetched.clock)).await?;
                }
            }
        }
        if self.run.is_dry {
            let ids: Vec<&str> = absent.iter().map(|held| held.key.id.as_str()).collect();
            self.foresee_cascades(resource, &ids).await?;
        } else if !absent.is_empty() {
            self.patiently("the store", || self.ports.records.hold(&self.run.id, &absent)).await?;
        }
        let (is_empty, has_many) = self
            .update(resource.table, |of| {
                of.count(Drift::NotDeleted, absent.len() as u64);
                of.unproven += unproven;
                of.alive += alive;
                (of.alive > 0 && of.total == 0, alive > 0 && !is_read(of))
            })
            .unwrap_or_default();
        if is_empty {
            let detail = "it is empty, and some of its objects exist";
            return Err(ReconcileError::Contradiction { table: resource.table, detail });
        }
        if has_many {
            warn!(
                table = resource.table,
                "reconciliation: Clerk's list leaves out many living objects; the other rows that it lacks are not \
                 examined in this run"
            );
        }
        Ok(())
    }
}
