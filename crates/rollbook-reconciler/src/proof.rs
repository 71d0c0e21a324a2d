//! Proof of absence: which living rows Clerk no longer has.
//!
//! A page that lacks a row makes the row a suspect, nothing more. A suspect counts as absent only if a point
//! read says so.

use std::collections::HashSet;

use rollbook_core::catalog::Resource;
use rollbook_core::drift::Drift;
use rollbook_core::source::{LOOKUPS_MAX, Lookup, Presence, Window};
use rollbook_core::store::{Held, Living};

use crate::context::Context;
use crate::error::ReconcileError;
use crate::readings::Readings;

/// Rows per step.
const STEP: usize = 500;

/// Maximum number of suspects of a resource that a point read finds alive. More mean that the lists leave out
/// living objects.
const ALIVE_MAX: u64 = 1_000;

impl Context {
    /// Examines the living rows that were created in the window. `present` are the ids that Clerk's pages
    /// show in it.
    pub(crate) async fn prove(
        &self,
        resource: &'static Resource,
        window: Window,
        present: &HashSet<&str>,
    ) -> Result<(), ReconcileError> {
        if window.from >= window.to {
            return Ok(());
        }
        let (mut after, mut suspects): (Option<Living>, Vec<Lookup>) = (None, Vec::new());
        loop {
            let rows = self
                .patiently("the store", || {
                    let since = self.run.started_at;
                    self.ports.records.living(resource, window, since, after.as_ref(), STEP)
                })
                .await?;
            let is_last = rows.len() < STEP;
            after = rows.last().cloned();
            suspects.extend(
                rows.into_iter().map(|row| row.lookup).filter(|row| !present.contains(row.id.as_str())),
            );
            while suspects.len() >= LOOKUPS_MAX {
                let rest = suspects.split_off(LOOKUPS_MAX);
                self.examine(resource, &suspects).await?;
                suspects = rest;
            }
            if is_last {
                return self.examine(resource, &suspects).await;
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
                    let since = self.run.started_at;
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
        let Some(fetched) = self.fetch(resource, suspects).await? else {
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
        if !absent.is_empty() && !self.run.is_dry {
            self.patiently("the store", || self.ports.records.hold(&self.run.id, &absent)).await?;
        }
        let table = resource.table;
        let alive = self.update(table, |of| {
            of.count(Drift::NotDeleted, absent.len() as u64);
            of.unproven += unproven;
            of.alive += alive;
            of.alive
        });
        if alive.is_some_and(|alive| alive > ALIVE_MAX) {
            return Err(ReconcileError::Contradiction { table, detail: "it leaves out living objects" });
        }
        Ok(())
    }
}
