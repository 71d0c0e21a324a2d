//! Check that the key belongs to the instance that the rows come from. With a key of another instance, everybody
//! looks deleted.
//!
//! The store remembers the instances that events named and that a reconciliation read, for good. Only
//! `CLERK_INSTANCE_ID`, an operator's word, overrules them.

use std::collections::BTreeSet;
use std::time::Duration;

use rollbook_core::catalog::{ORGANIZATIONS, USERS};
use rollbook_core::source::{Presence, Window};
use rollbook_core::store::Freshness;
use tracing::warn;

use crate::begin::RUNS;
use crate::context::Context;
use crate::error::ReconcileError;
use crate::progress::Progress;

/// Number of users, and of organizations, that are read at Clerk where nothing else names the rows' instance.
const SAMPLE: usize = 20;

impl Context {
    /// Checks the instance of the key, and remembers it unless the run is dry.
    pub(crate) async fn check_instance(&self) -> Result<(), ReconcileError> {
        let instance = self.patiently("Clerk", || self.ports.source.instance()).await?;
        self.clerk_says(instance.clock);
        let found = instance.id;
        let refuse = |expected: &str, known_by| {
            Err(ReconcileError::WrongInstance {
                found: found.clone(),
                expected: expected.to_owned(),
                known_by,
            })
        };
        if let Some(expected) = &self.settings.instance_id {
            if *expected != found {
                return refuse(expected, "CLERK_INSTANCE_ID is");
            }
        } else {
            let known = self.known_instances().await?;
            match known.iter().collect::<Vec<_>>()[..] {
                [] => self.check_sample().await?,
                [expected] if *expected == found => {}
                [expected] => return refuse(expected, "the rows of the store come from"),
                _ => return Err(ReconcileError::ManyInstances(known.into_iter().collect())),
            }
            if !self.run.is_dry && !known.contains(&found) {
                self.patiently("the store", || self.ports.store.remember_instance(&found)).await?;
            }
        }
        self.progress().instance = found;
        Ok(())
    }

    /// Returns the instances that the rows come from, as far as the store knows.
    async fn known_instances(&self) -> Result<BTreeSet<String>, ReconcileError> {
        let records = self.patiently("the store", || self.ports.records.freshness()).await?;
        let known: BTreeSet<String> =
            records.iter().filter_map(Freshness::instance).map(str::to_owned).collect();
        if !known.is_empty() {
            return Ok(known);
        }
        // Earlier builds recorded the instance with their runs only.
        let runs = self.patiently("the store", || self.ports.records.runs(RUNS)).await?;
        let named = runs.iter().filter_map(|run| Progress::parse(&run.progress)).map(|of| of.instance);
        Ok(named.filter(|instance| !instance.is_empty()).take(1).collect())
    }

    /// Reads some users and organizations of the store at Clerk, where nothing names the rows' instance. One that
    /// exists is a proof. Where none of them exists, however few they are, the key is not trusted.
    async fn check_sample(&self) -> Result<(), ReconcileError> {
        let tomorrow = self.ports.clock.now().plus(Duration::from_secs(86_400));
        let mut sampled = 0;
        for resource in [&USERS, &ORGANIZATIONS] {
            let living = || self.ports.records.living(resource, Window::ALL, tomorrow, None, SAMPLE);
            let lookups: Vec<_> =
                self.patiently("the store", living).await?.into_iter().map(|row| row.lookup).collect();
            if lookups.is_empty() {
                continue;
            }
            sampled += lookups.len();
            let fetched = self.fetch(resource, &lookups).await?.unwrap_or_default();
            if fetched.iter().any(|one| matches!(one.presence, Presence::Exists(_))) {
                return Ok(());
            }
        }
        if sampled == 0 {
            return Ok(());
        }
        warn!(sampled, "reconciliation: no sampled object exists in the key's instance");
        Err(ReconcileError::ForeignRows(sampled))
    }
}
