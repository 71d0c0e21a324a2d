//! Health of a worker's store, for health checks: the error that closed the gate, until a batch is applied,
//! and the messages that were refused since one was.
//!
//! A store that answers a ping may still refuse every write (read-only, no right, a full disk). So the only
//! evidence is what became of the last batch. The gate writes it here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rollbook_core::store::StoreError;
use tokio::time::Instant;

/// The state of a worker's store, shared with whoever checks its health.
#[derive(Clone, Debug, Default)]
pub struct StoreHealth(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    outage: Option<StoreOutage>,
    refusals: Option<StoreRefusals>,
    blocked: Vec<(&'static str, String)>,
}

/// Messages that the store refused one by one, while it applied none.
#[derive(Clone, Debug)]
pub struct StoreRefusals {
    /// Refusals since the last message that was applied: a message that is tried again counts again.
    pub count: u64,
    /// The last reason. It names no values.
    pub reason: String,
    refused_at: Instant,
}

impl StoreRefusals {
    /// Returns the time since the last refusal.
    pub fn refused_ago(&self) -> Duration {
        self.refused_at.elapsed()
    }
}

/// A store that applies nothing.
#[derive(Clone, Debug)]
pub struct StoreOutage {
    /// The last error of a batch, or of a ping since.
    pub error: StoreError,
    began_at: Instant,
    failed_at: Instant,
}

impl StoreOutage {
    /// Returns the time for which nothing has been applied.
    pub fn lasts_for(&self) -> Duration {
        self.began_at.elapsed()
    }

    /// Returns the time since the last error. The worker tries again within seconds while a message waits.
    pub fn failed_ago(&self) -> Duration {
        self.failed_at.elapsed()
    }
}

impl StoreHealth {
    /// Returns the current outage. `None` if the last batch was applied, and before the first.
    pub fn outage(&self) -> Option<StoreOutage> {
        self.state().outage.clone()
    }

    /// Returns the refusals since a message was applied. `None` if the last one was.
    pub fn refusals(&self) -> Option<StoreRefusals> {
        self.state().refusals.clone()
    }

    /// Returns the tables that refuse every row while others are written, and the reasons.
    pub fn blocked(&self) -> Vec<(&'static str, String)> {
        self.state().blocked.clone()
    }

    /// Records the tables that refuse every row.
    pub(crate) fn set_blocked(&self, blocked: Vec<(&'static str, String)>) {
        self.state().blocked = blocked;
    }

    /// Records that the store refused a batch or did not answer, and no message is to blame.
    pub(crate) fn failed(&self, error: &StoreError) {
        let now = Instant::now();
        let mut state = self.state();
        let began_at = state.outage.as_ref().map_or(now, |outage| outage.began_at);
        state.outage = Some(StoreOutage { error: error.clone(), began_at, failed_at: now });
    }

    /// Records that the store has decided on messages: it works.
    pub(crate) fn decided(&self) {
        self.state().outage = None;
    }

    /// Records that messages were applied.
    pub(crate) fn applied(&self) {
        self.state().refusals = None;
    }

    /// Records that this many messages were refused, and none was applied.
    pub(crate) fn refused(&self, count: u64, reason: &str) {
        let mut state = self.state();
        let before = state.refusals.as_ref().map_or(0, |refusals| refusals.count);
        let (count, reason) = (before.saturating_add(count), reason.to_owned());
        state.refusals = Some(StoreRefusals { count, reason, refused_at: Instant::now() });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Gate;
    use crate::gate_metric::GateMetric;
    use crate::settings::Settings;

    /// A lane that waits for its lease while the gate closes may apply what no lane has to apply again.
    #[test]
    fn a_batch_that_is_applied_while_the_gate_is_closed_ends_the_outage() {
        let metric = GateMetric::new(&prometheus::Registry::new()).expect("a free name");
        let gate = Gate::new(Settings::default(), metric);
        gate.close(&StoreError::Unavailable("read-only".to_owned()));
        assert!(!gate.is_open() && gate.health.outage().is_some());
        gate.applied();
        assert!(gate.health.outage().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_shows_its_last_error_and_begins_with_its_first_and_ends_with_an_applied_batch() {
        let health = StoreHealth::default();
        assert!(health.outage().is_none());
        health.failed(&StoreError::Unavailable("read-only".to_owned()));
        tokio::time::advance(Duration::from_secs(7)).await;
        health.failed(&StoreError::Deployment("no right".to_owned()));
        tokio::time::advance(Duration::from_secs(2)).await;
        let outage = health.outage().expect("it lasts");
        assert_eq!(outage.error, StoreError::Deployment("no right".to_owned()));
        assert_eq!((outage.lasts_for().as_secs(), outage.failed_ago().as_secs()), (9, 2));
        health.decided();
        assert!(health.outage().is_none());
    }

    #[test]
    fn refusals_are_counted_until_a_message_is_applied() {
        let health = StoreHealth::default();
        health.refused(2, "a trigger");
        health.decided();
        health.refused(1, "another trigger");
        let refusals = health.refusals().expect("nothing was applied");
        assert_eq!((refusals.count, refusals.reason.as_str()), (3, "another trigger"));
        health.applied();
        assert!(health.refusals().is_none());
    }
}
