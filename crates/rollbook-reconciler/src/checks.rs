//! Cheap checks between two walks: numbers of objects, and the users that changed last.

use rollbook_core::catalog::{Resource, USERS};
use rollbook_core::source::{PAGE_MAX, RECONCILED, SourceError, Window};
use rollbook_core::store::{Freshness, StoreError};
use rollbook_core::time::Timestamp;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::ReconcileError;
use crate::progress::{Progress, ResourceProgress};
use crate::reconciler::Reconciler;
use crate::settings::CLOCK_TOLERANCE;

/// Overlap of two checks of recent users: a change that Clerk shows late is still seen.
const OVERLAP: Duration = Duration::from_secs(600);
/// Maximum number of pages of recent users of one check. What is older is found by the next walk.
const PAGES_MAX: u32 = 20;

/// Returns the name under which the records of walks hold the last check of a table that found equal numbers.
pub(crate) fn record_of(table: &str) -> String {
    format!("check:{table}")
}

impl Reconciler {
    /// Whether every table had its first walk.
    pub(crate) async fn is_backfilled(&self) -> Result<bool, StoreError> {
        let known = self.ports.records.freshness().await?;
        Ok(RECONCILED.iter().all(|resource| known.iter().any(|of| of.table == resource.table)))
    }

    /// Records the tables that have as many living rows as Clerk has objects. One that differs keeps its last record:
    /// webhooks under way make it differ for a while.
    pub(crate) async fn record_equal(
        &self,
        differences: &[(&'static str, i64)],
    ) -> Result<(), ReconcileError> {
        let last_walk_at = self.ports.clock.now();
        for (table, _) in differences.iter().filter(|(_, difference)| *difference == 0) {
            let record = Freshness { table: record_of(table), complete_since: None, last_walk_at, drift: 0 };
            self.ports.records.save_freshness(&record).await?;
        }
        Ok(())
    }

    /// Counts the objects of every resource, at Clerk and in the store. A difference is a hint: webhooks are
    /// under way at any time.
    ///
    /// # Errors
    /// Clerk or the store gave no answer.
    pub async fn count_differences(
        &self,
        stop: &CancellationToken,
    ) -> Result<Vec<(&'static str, i64)>, ReconcileError> {
        let context = self.context(self.new_run(true), Progress::default(), stop, watch::Sender::default());
        context.check_instance().await?;
        let mut differences = Vec::new();
        for resource in RECONCILED {
            let counted = context.patiently("Clerk", || self.ports.source.count(resource, Window::ALL)).await;
            let at_clerk = match counted {
                // As in a walk: there is nothing to compare the rows with.
                Err(ReconcileError::Source(SourceError::NotEnabled(_))) if resource != &USERS => {
                    differences.push((resource.table, 0));
                    continue;
                }
                counted => counted?,
            };
            let ours = context.patiently("the store", || self.ports.records.count_living(resource)).await?;
            let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            differences.push((resource.table, signed(at_clerk).saturating_sub(signed(ours))));
        }
        Ok(differences)
    }

    /// Compares the users that changed at or after `since`, by Clerk's `updated_at`, and repairs their rows.
    /// Returns the number of repaired rows, and the time for the next call.
    ///
    /// # Errors
    /// Clerk or the store gave no answer.
    pub async fn check_recent_users(
        &self,
        since: Timestamp,
        stop: &CancellationToken,
    ) -> Result<(u64, Timestamp), ReconcileError> {
        let resource: &'static Resource = &USERS;
        let progress =
            Progress { instance: String::new(), resources: vec![ResourceProgress::new(resource.table)] };
        let run = self.new_run(false);
        let context = self.context(run, progress, stop, watch::Sender::default());
        context.set_check();
        context.check_instance().await?;
        let (floor, mut newest, mut offset) = (since.minus(OVERLAP), since, 0);
        let mut limit = PAGE_MAX;
        for _ in 0..PAGES_MAX {
            let source = &context.ports.source;
            let page = context.patiently("Clerk", || source.recently_updated_users(offset, limit)).await;
            let page = match page {
                Err(ReconcileError::Source(SourceError::TooLarge(_))) if limit > 1 => {
                    limit /= 2;
                    continue;
                }
                page => page?,
            };
            offset += page.objects.len() as u64;
            let page = context.decode(resource, page).await?;
            let times: Vec<Timestamp> =
                page.subjects.iter().filter_map(|subject| subject.row.as_ref()?.updated_at).collect();
            // An `updated_at` in the future is a wrong one. The next check would end at once.
            let possible = times.iter().copied().filter(|at| *at <= page.clock.plus(CLOCK_TOLERANCE));
            newest = possible.fold(newest, Timestamp::max);
            let is_last = page.is_empty() || times.iter().any(|at| *at < floor);
            context.compare(resource, page).await?;
            if is_last {
                break;
            }
        }
        let repaired = context.progress().sum(|of| of.written);
        Ok((repaired, newest))
    }
}
