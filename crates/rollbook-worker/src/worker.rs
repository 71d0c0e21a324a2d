//! The worker, its lanes, and the handling of a lane that ends.

use std::collections::HashMap;
use std::sync::Arc;

use prometheus::Registry;
use rollbook_core::queue::Consumer;
use rollbook_core::store::Store;
use rollbook_core::time::Clock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::apply::Instances;
use crate::backoff::SharedOutage;
use crate::cascades;
use crate::changes;
use crate::dead_letter_log;
use crate::error::WorkerError;
use crate::evidence::Evidence;
use crate::gate::Gate;
use crate::isolation::Isolation;
use crate::lane::Lane;
use crate::metrics::Metrics;
use crate::mismatch_log::MismatchLog;
use crate::pace::Pace;
use crate::progress::{Progress, Pulse};
use crate::settings::Settings;
use crate::shared::Shared;
use crate::store_health::StoreHealth;
use crate::upkeep;

/// Applies messages of a queue to a store.
pub struct Worker {
    shared: Arc<Shared>,
    progress: Progress,
}

impl Worker {
    /// Creates a worker and registers its metrics. It starts with [`Self::run`].
    ///
    /// # Errors
    /// The registry has these metrics already.
    pub fn new(
        settings: Settings,
        queue: Arc<dyn Consumer>,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::new(registry)?;
        let progress = Progress::new(settings.lanes.max(1), Arc::clone(&clock), metrics.progress.clone());
        let gate = Gate::new(settings.clone(), metrics.gate.clone());
        let pace = Pace::new(settings.batch_max);
        metrics.batch_limit.set(pace.size());
        let (isolation, evidence) = (Isolation::new(), Evidence::default());
        let instances = Instances::default();
        let queue_outage = SharedOutage::default();
        let large = tokio::sync::Mutex::default();
        let shared = Shared {
            settings,
            queue,
            store,
            clock,
            metrics,
            gate,
            pace,
            evidence,
            instances,
            queue_outage,
            isolation,
            dead_letter_log: Arc::default(),
            mismatches: MismatchLog::default(),
            large,
        };
        Ok(Self { shared: Arc::new(shared), progress })
    }

    /// Returns the progress of the lanes, for health checks.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Returns the health of the store as the worker sees it.
    pub fn store_health(&self) -> StoreHealth {
        self.shared.gate.health.clone()
    }

    /// Works until `stop`. Then each lane finishes its batch, releases messages that it has not begun, and
    /// leases nothing more. Dropping the future instead is like a crash: the leases expire.
    ///
    /// # Errors
    /// A lane ended without a request to stop. The others are stopped first; they get the time of one lease.
    pub async fn run(self, stop: CancellationToken) -> Result<(), WorkerError> {
        let halt = stop.child_token();
        let lanes = async {
            let ended = self.run_lanes(&halt).await;
            halt.cancel();
            ended
        };
        let upkeep = upkeep::run(Arc::clone(&self.shared), halt.clone());
        let cascades = cascades::run(Arc::clone(&self.shared), halt.clone());
        let changes = changes::run(Arc::clone(&self.shared), halt.clone());
        let dead_letters = dead_letter_log::run(Arc::clone(&self.shared.dead_letter_log), halt.clone());
        let (ended, (), (), (), ()) = tokio::join!(lanes, upkeep, cascades, changes, dead_letters);
        self.shared.dead_letter_log.report(true);
        changes::finish(&self.shared).await;
        ended
    }

    async fn run_lanes(&self, halt: &CancellationToken) -> Result<(), WorkerError> {
        let mut lanes = JoinSet::new();
        let mut numbers = HashMap::new();
        for number in 0..self.shared.settings.lanes.max(1) {
            let pulse = Pulse::new(number, self.progress.clone(), halt.clone());
            let task = lanes.spawn(Lane::new(Arc::clone(&self.shared), pulse).run());
            numbers.insert(task.id(), number);
        }
        // Every task of the set is a lane.
        let lane_of = |id| numbers[&id];
        while let Some(ended) = lanes.join_next_with_id().await {
            let failure = match ended {
                Ok((_, Ok(()))) if halt.is_cancelled() => continue,
                Ok((id, Ok(()))) => WorkerError::Ended { lane: lane_of(id) },
                Ok((_, Err(error))) => error,
                Err(panic) => WorkerError::Panicked { lane: lane_of(panic.id()) },
            };
            halt.cancel();
            // After the time of one lease, other workers have their messages.
            let rest = async { while lanes.join_next().await.is_some() {} };
            _ = tokio::time::timeout(self.shared.settings.lease_for, rest).await;
            return Err(failure);
        }
        Ok(())
    }
}
