//! Reconciliation of the demo: reads what the webhooks missed from the simulated Clerk API.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rollbook_core::store::{FullStore, RunState};
use rollbook_reconciler::{Approved, Progress, RunRequest};
use rollbook_simulator::api::{ApiSettings, ClerkApi};
use rollbook_simulator::history::History;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::SystemClock;
use crate::config::Config;
use crate::wire;

/// One event in this many happened before the endpoint existed.
pub(super) const BEFORE_SHARE: usize = 8;
/// Number of later events that never arrive, of a thousand.
pub(super) const LOST_PER_MILLE: usize = 10;

/// Result of the reconciliation.
pub(crate) struct Repair {
    /// Differences by resource.
    pub(crate) progress: Progress,
    /// Number of requests to the simulated API.
    pub(crate) requests: u64,
    /// Duration.
    pub(crate) took: Duration,
    /// Deletions that the brake held, and that the demo approved.
    pub(crate) approved: Option<Approved>,
}

/// Returns the events that are never delivered.
pub(super) fn losses(history: &History, seed: u64) -> BTreeSet<usize> {
    history.losses(seed, history.events.len() / BEFORE_SHARE, LOST_PER_MILLE)
}

/// Serves the history's state by a Clerk API of this machine, and points the configuration to it. The
/// schedule is off: the demo reconciles when all deliveries are applied.
pub(super) async fn start_clerk(history: &History, config: &mut Config) -> anyhow::Result<ClerkApi> {
    let state = Arc::new(Mutex::new(history.state()));
    // A production instance: its rate limit is ten times that of a development instance.
    let settings = ApiSettings {
        key: format!("sk_live_{:032x}", fastrand::u128(..)),
        environment: "production".to_owned(),
        ..ApiSettings::new(Arc::new(SystemClock))
    };
    let key = settings.key.clone();
    let clerk = ClerkApi::start(state, settings).await.context("the simulated Clerk API can't start")?;
    wire::use_clerk(config, &clerk.url(), &key)?;
    (config.settings.reconcile_every, config.settings.reconcile_check_every) = (None, None);
    Ok(clerk)
}

/// Reconciles the store with the simulated API.
///
/// # Errors
/// The run did not reach its end.
pub(super) async fn reconcile(
    config: &Config,
    store: Arc<dyn FullStore>,
    clerk: &ClerkApi,
) -> anyhow::Result<Repair> {
    let began_at = Instant::now();
    let source = wire::clerk_api(config, Arc::new(|_| {}))?;
    let reconciler = wire::reconciler(config, source, store, Arc::new(SystemClock));
    // The rows are some seconds old, and the simulated Clerk has no copy that is behind.
    let reconciler = reconciler.with_absence_margin(Duration::ZERO);
    let stop = CancellationToken::new();
    let report = reconciler.run(&RunRequest::default(), &stop, watch::Sender::default()).await?;
    let approved = match report.state {
        RunState::Held => Some(reconciler.approve(&report.run, &stop).await?),
        _ => None,
    };
    Ok(Repair {
        progress: report.progress,
        requests: clerk.controls().requests().values().sum(),
        took: began_at.elapsed(),
        approved,
    })
}
