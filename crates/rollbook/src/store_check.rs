//! Health of the store: whether it answers, and whether the worker's last batch was applied.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::protection::Protection;
use rollbook_core::store::FullStore;
use rollbook_ops::{Condition, Probe};
use rollbook_worker::{StoreHealth, StoreOutage, StoreRefusals};

/// Time for which an error counts as evidence that the next batch would fail too. While a message waits, the worker retries
/// within seconds. Another worker may have applied the message meanwhile; then none waits, and nothing can prove here
/// that the store works.
const FAILURE_HOLDS_FOR: Duration = Duration::from_secs(180);

/// Checks the store of a process.
pub(crate) struct StoreCheck {
    /// Store to ping.
    pub(crate) store: Arc<dyn FullStore>,
    /// Store's health as the worker sees it; `None` in a process without a worker.
    pub(crate) worker: Option<StoreHealth>,
}

#[async_trait]
impl Probe for StoreCheck {
    async fn check(&self) -> Condition {
        let applying =
            self.worker.as_ref().and_then(StoreHealth::outage).map_or(Condition::Healthy, condition);
        if !applying.is_ready() {
            return applying;
        }
        if let Err(error) = self.store.ping().await {
            return Condition::Failing(error.to_string());
        }
        let blocked = self.worker.as_ref().map(StoreHealth::blocked).unwrap_or_default();
        if let (Some((table, reason)), Condition::Healthy) = (blocked.first(), &applying) {
            return Condition::Degraded(format!(
                "table {table} refuses every row while others are written; its messages wait, no attempt is counted: {reason}"
            ));
        }
        let refusals = self.worker.as_ref().and_then(StoreHealth::refusals);
        match refusals.filter(|refusals| refusals.refused_ago() < FAILURE_HOLDS_FOR) {
            Some(StoreRefusals { count, reason, .. }) if matches!(applying, Condition::Healthy) => {
                Condition::Impaired(format!(
                    "the store refused the last {count} messages and applied none since: {reason}"
                ))
            }
            _ => applying,
        }
    }

    fn protection(&self) -> Option<Protection> {
        self.store.protection()
    }
}

fn condition(outage: StoreOutage) -> Condition {
    let (lasts_for, failed_ago) = (outage.lasts_for().as_secs(), outage.failed_ago());
    let error = outage.error;
    if failed_ago < FAILURE_HOLDS_FOR {
        Condition::Failing(format!("nothing has been applied for {lasts_for} s: {error}"))
    } else {
        Condition::Impaired(format!("the last batch failed {} s ago: {error}", failed_ago.as_secs()))
    }
}
