//! One lane: lease, process, settle, again, until it is time to stop.

use std::sync::Arc;

use rollbook_core::change::{Applied, Change};
use rollbook_core::queue::{Consumer, Lease, LeaseRequest, QueueError, Settled, Settlement};
use rollbook_core::store::{Store, StoreError};
use rollbook_core::time::Clock;
use tracing::{debug, info, warn};

use crate::apply::{Fate, apply};
use crate::backoff::{QueueAway, QueueOutage};
use crate::batch::{self, Decided, trace_id};
use crate::gate::Gate;
use crate::isolation::{Hands, Isolation};
use crate::metrics::Metrics;
use crate::progress::Pulse;
use crate::settings::Settings;
use crate::worker::WorkerError;

/// What all lanes of a worker share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) queue: Arc<dyn Consumer>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    pub(crate) gate: Gate,
    pub(crate) queue_away: QueueAway,
    pub(crate) isolation: Isolation,
}

pub(crate) struct Lane {
    shared: Arc<Shared>,
    pulse: Pulse,
}

impl Lane {
    pub(crate) fn new(shared: Arc<Shared>, pulse: Pulse) -> Self {
        Self { shared, pulse }
    }

    /// Works until it is time to stop. Nothing is leased after that was seen, and the hands are empty
    /// at the end unless the queue is away.
    ///
    /// # Errors
    /// Only where the storage of the queue or the store is broken: no outage ends a lane.
    pub(crate) async fn run(self) -> Result<(), WorkerError> {
        let Shared { gate, store, isolation, .. } = &*self.shared;
        while !self.pulse.stopped() {
            self.pulse.beat();
            gate.pass(&**store, &self.pulse).await.map_err(|error| self.store_broke(error))?;
            if let Some(hands) = self.pulse.wait_for_another(isolation.enter()).await {
                self.work(hands).await?;
            }
        }
        Ok(())
    }

    /// Leases and works until its hands are empty: when the queue is, or when something must be waited
    /// for that may not be waited for with leases in hand.
    async fn work(&self, hands: Hands<'_>) -> Result<(), WorkerError> {
        let attempts_max = self.shared.settings.retry.attempts_max;
        let mut leases = self.lease().await?;
        while !leases.is_empty() {
            if self.pulse.stopped() {
                return self.settle(batch::release(leases)).await;
            }
            if let Some(suspect) = batch::take_suspect(&mut leases, attempts_max) {
                return self.isolate(hands, suspect, leases).await;
            }
            let is_full = leases.len() >= self.shared.settings.batch_max;
            let decided = self.process(leases).await?;
            if !is_full {
                self.pulse.wait_for(tokio::time::sleep(self.shared.settings.lease_linger)).await;
            }
            leases = if self.may_lease() {
                // Two writes to one queue: together they share its commit.
                tokio::try_join!(self.settle(decided), self.lease())?.1
            } else {
                self.settle(decided).await?;
                Vec::new()
            };
        }
        Ok(())
    }

    fn may_lease(&self) -> bool {
        !self.pulse.stopped() && self.shared.gate.is_open() && !self.shared.isolation.is_claimed()
    }

    /// Processes a suspect alone. Its neighbours go back *before*: if the process dies of it, theirs
    /// are not among the leases that nobody settled. They come again at once, so a batch of suspects is
    /// handed back about half of `batch_max` times: the price of a rare case.
    async fn isolate(
        &self,
        hands: Hands<'_>,
        suspect: Lease,
        neighbours: Vec<Lease>,
    ) -> Result<(), WorkerError> {
        let Some(claim) = self.shared.isolation.claim() else {
            return self.settle(batch::release(neighbours.into_iter().chain([suspect]))).await;
        };
        self.settle(batch::release(neighbours)).await?;
        drop(hands);
        let alone = self.pulse.wait_for_another(claim.alone()).await;
        if alone.is_none() || self.pulse.stopped() {
            return self.settle(batch::release([suspect])).await;
        }
        info!(
            lane = self.pulse.lane, svix_id = %suspect.id, attempt = suspect.attempt, unsettled = suspect.unsettled,
            trace_id = trace_id(&suspect),
            "its last workers did not settle this message: it is handled alone"
        );
        let decided = self.process(vec![suspect]).await?;
        self.settle(decided).await
    }

    /// Takes a batch: empty where nothing is due, or where it is time to stop.
    async fn lease(&self) -> Result<Vec<Lease>, WorkerError> {
        let settings = &self.shared.settings;
        let mut outage = QueueOutage::new("lease", &self.shared.queue_away, settings);
        while !self.pulse.stopped() {
            self.pulse.beat();
            let request = LeaseRequest {
                max: settings.batch_max.max(1),
                lease_for: settings.lease_for,
                wait: settings.lease_wait,
            };
            match self.shared.queue.lease(request).await {
                Ok(leases) => {
                    outage.over(self.pulse.lane);
                    self.shared.metrics.leased(&leases);
                    return Ok(leases);
                }
                Err(error) => self.bear(&mut outage, error).await?,
            }
        }
        Ok(Vec::new())
    }

    /// Ends leases. While the queue is away it asks again; the leases run out by themselves where it
    /// is time to stop meanwhile. A call whose answer was lost may have settled them: the next one then
    /// finds them lost, which changes nothing.
    async fn settle(&self, decided: Decided) -> Result<(), WorkerError> {
        if decided.settlements.is_empty() {
            return Ok(());
        }
        let mut outage = QueueOutage::new("settle", &self.shared.queue_away, &self.shared.settings);
        loop {
            self.pulse.beat();
            match self.shared.queue.settle_many(decided.settlements.clone()).await {
                Ok(settled) => {
                    outage.over(self.pulse.lane);
                    self.account(&decided, &settled);
                    return Ok(());
                }
                Err(error) => self.bear(&mut outage, error).await?,
            }
            if self.pulse.stopped() {
                let messages = decided.settlements.len();
                warn!(
                    lane = self.pulse.lane,
                    messages, "stopping while the queue is away: these messages come again"
                );
                return Ok(());
            }
        }
    }

    /// Waits out one error of the queue.
    async fn bear(&self, outage: &mut QueueOutage<'_>, error: QueueError) -> Result<(), WorkerError> {
        let lane = self.pulse.lane;
        if matches!(error, QueueError::Broken(_)) {
            return Err(WorkerError::Queue { lane, error });
        }
        let wait = outage.failed(lane, &error);
        self.pulse.wait_for(tokio::time::sleep(wait)).await;
        Ok(())
    }

    /// Counts and logs what was settled.
    fn account(&self, decided: &Decided, settled: &[Settled]) {
        let lane = self.pulse.lane;
        let mut lost = 0;
        for ((lease, settlement), settled) in decided.settlements.iter().zip(settled) {
            if *settled == Settled::LeaseLost {
                lost += 1;
                continue;
            }
            self.shared.metrics.settled(settlement);
            let subject = decided.subjects.get(&lease.id);
            match settlement {
                Settlement::Ack | Settlement::Release => {}
                Settlement::Retry { after, failure } => info!(
                    lane, svix_id = %lease.id, event_type = failure.event_type, subject, attempt = lease.attempt,
                    trace_id = trace_id(lease), reason = %failure.reason, detail = failure.detail, after_seconds = after.as_secs_f64(),
                    "refused: it is tried again"
                ),
                Settlement::DeadLetter { failure } => warn!(
                    lane, svix_id = %lease.id, event_type = failure.event_type, subject, attempt = lease.attempt,
                    trace_id = trace_id(lease), reason = %failure.reason, detail = failure.detail,
                    "parked as a dead letter"
                ),
            }
        }
        if lost > 0 {
            self.shared.metrics.leases_lost.inc_by(lost);
            warn!(lane, lost, "leases were lost: they ran out, and another worker has the messages");
        }
    }

    /// Reads and applies a batch, and decides how each lease ends.
    async fn process(&self, leases: Vec<Lease>) -> Result<Decided, WorkerError> {
        let Shared { settings, metrics, gate, .. } = &*self.shared;
        let retry = &settings.retry;
        let reading = batch::read(leases, retry.attempts_max, settings.instance_id.as_deref());
        metrics.sanitized.inc_by(reading.sanitized as u64);
        metrics.mismatched(&reading.mismatched);

        let outcome = apply(&*self.shared.store, &reading.changes, |changes, took| {
            self.pulse.beat();
            metrics.called(changes, took);
        })
        .await;
        let now = self.shared.clock.now();
        let mut decided = Decided::default();
        decided.settlements.reserve(reading.leases.len() + reading.failed.len());
        for ((lease, change), fate) in reading.leases.into_iter().zip(&reading.changes).zip(outcome.fates) {
            let applied = if let Fate::Applied(applied) = fate { Some(applied) } else { None };
            let settlement = batch::decide(&lease, change, fate, retry);
            match applied {
                Some(applied) => {
                    metrics.applied(change, applied, now);
                    self.tell_applied(&lease, change, applied);
                }
                None if settlement == Settlement::Ack => metrics.dropped(Some(&change.origin.event_type)),
                None if settlement != Settlement::Release => {
                    let subject = change.subject_id().map(str::to_owned);
                    decided.subjects.extend(subject.map(|subject| (lease.id.clone(), subject)));
                }
                None => {}
            }
            decided.settlements.push((lease, settlement));
        }
        for (lease, failure) in reading.failed {
            let event_type = failure.event_type.clone();
            let settlement = batch::fail(&lease, failure, retry);
            if settlement == Settlement::Ack {
                metrics.dropped(event_type.as_deref());
            }
            decided.settlements.push((lease, settlement));
        }
        match outcome.failure {
            None if reading.changes.is_empty() => {}
            None => gate.applied(),
            Some(error @ StoreError::Broken(_)) => {
                // One try: this process must end, whether the queue answers or not.
                if let Ok(settled) = self.shared.queue.settle_many(decided.settlements.clone()).await {
                    self.account(&decided, &settled);
                }
                return Err(self.store_broke(error));
            }
            Some(error) => gate.close(&error),
        }
        Ok(decided)
    }

    fn tell_applied(&self, lease: &Lease, change: &Change, applied: Applied) {
        debug!(
            lane = self.pulse.lane, svix_id = %lease.id, event_type = change.origin.event_type,
            subject = change.subject_id(), attempt = lease.attempt, trace_id = trace_id(lease), outcome = applied.as_str(),
            "applied"
        );
    }

    fn store_broke(&self, error: StoreError) -> WorkerError {
        WorkerError::Store { lane: self.pulse.lane, error }
    }
}
