//! One lane: leases, processes and settles batches until a request to stop.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::change::{Applied, Change};
use rollbook_core::queue::{Lease, QueueError, Settled, Settlement};
use rollbook_core::retry::Failure;
use rollbook_core::store::StoreError;
use tracing::{debug, info, warn};

use crate::apply::{BatchOutcome, ChangeOutcome, apply};
use crate::backoff::QueueOutage;
use crate::batch::{self, Decided, Reading, trace_id};
use crate::deferred::Deferred;
use crate::error::WorkerError;
use crate::gate::Trial;
use crate::isolation::LeaseGuard;
use crate::progress::Pulse;
use crate::requests::Requests;
use crate::shared::Shared;

/// Size above which a body is large, in bytes.
const LARGE_BODY: usize = 128 * 1024;

pub(crate) struct Lane {
    shared: Arc<Shared>,
    pulse: Pulse,
    requests: Requests,
    /// Settlements that a part of the queue did not answer: they are sent with the next ones.
    deferred: Deferred,
}

impl Lane {
    pub(crate) fn new(shared: Arc<Shared>, pulse: Pulse) -> Self {
        let requests = Requests::new(pulse.lane, &shared.settings);
        let deferred = Deferred::new(shared.settings.lease_for);
        Self { shared, pulse, requests, deferred }
    }

    /// Works until a request to stop. Nothing is leased after it, and the lane holds no lease at the end
    /// unless the queue is unreachable.
    ///
    /// # Errors
    /// Only if the storage of the queue or the store is broken: no outage ends a lane.
    pub(crate) async fn run(self) -> Result<(), WorkerError> {
        let Shared { gate, store, isolation, .. } = &*self.shared;
        while !self.pulse.stopped() {
            self.pulse.beat();
            let trial = gate.pass(&**store, &self.pulse).await.map_err(|error| self.store_broke(error))?;
            if let Some(guard) = self.pulse.wait_for_another(isolation.enter()).await {
                self.work(guard, trial).await?;
            }
        }
        Ok(())
    }

    /// Leases and processes until the lane holds no lease: the queue is empty, or the lane must wait for
    /// something for which it may not hold leases.
    async fn work(&self, guard: LeaseGuard<'_>, trial: Option<Trial<'_>>) -> Result<(), WorkerError> {
        let attempts_max = self.shared.settings.retry.attempts_max;
        if !self.deferred.is_empty() {
            self.settle(Decided::default()).await?;
        }
        let mut cap = trial.as_ref().map_or(usize::MAX, |trial| trial.messages_max);
        let mut leases = self.lease(cap).await?;
        while !leases.is_empty() {
            if self.pulse.stopped() {
                return self.settle(batch::release(leases)).await;
            }
            if let Some(suspect) = batch::take_suspect(&mut leases, attempts_max) {
                return self.isolate(guard, suspect, leases).await;
            }
            let is_full = self.requests.is_full(&leases, cap.min(self.shared.pace.size()));
            let decided = self.process(leases).await?;
            if !is_full {
                self.pulse.wait_for(tokio::time::sleep(self.shared.settings.lease_linger)).await;
            }
            leases = if self.may_lease() {
                // The gate is open, so the trial is over.
                cap = usize::MAX;
                // Both write to the queue: together they share one commit.
                tokio::try_join!(self.settle(decided), self.lease(cap))?.1
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

    /// Processes a suspect alone. Its neighbours are released before: if the suspect kills the process, their
    /// leases do not count as unsettled. They are leased again at once, so a batch of suspects is released
    /// about half of `batch_max` times. That is the cost of a rare case.
    async fn isolate(
        &self,
        guard: LeaseGuard<'_>,
        suspect: Lease,
        neighbours: Vec<Lease>,
    ) -> Result<(), WorkerError> {
        let Some(claim) = self.shared.isolation.claim() else {
            return self.settle(batch::release(neighbours.into_iter().chain([suspect]))).await;
        };
        self.settle(batch::release(neighbours)).await?;
        drop(guard);
        let alone = self.pulse.wait_for_another(claim.alone()).await;
        if alone.is_none() || self.pulse.stopped() {
            return self.settle(batch::release([suspect])).await;
        }
        info!(
            lane = self.pulse.lane, svix_id = %suspect.id, attempt = suspect.attempt, unsettled = suspect.unsettled,
            trace_id = trace_id(&suspect),
            "earlier workers crashed or stalled on this message; processing it in isolation"
        );
        if !self.count_attempt(&suspect).await? {
            return Ok(());
        }
        let decided = self.process(vec![suspect]).await?;
        self.settle(decided).await
    }

    /// Counts the attempt of a suspect before it is processed, because the suspect may kill this process.
    /// Returns `false` if another worker has the message, or after a request to stop.
    async fn count_attempt(&self, suspect: &Lease) -> Result<bool, WorkerError> {
        let mut outage = QueueOutage::new("count_attempt", &self.shared.queue_outage, &self.shared.settings);
        while !self.pulse.stopped() {
            self.pulse.beat();
            match self.shared.queue.count_attempt(suspect).await {
                Ok(settled) => {
                    outage.over(self.pulse.lane);
                    return Ok(settled == Settled::Done);
                }
                Err(error) => self.bear(&mut outage, error).await?,
            }
        }
        Ok(false)
    }

    /// Leases a batch of at most `cap` messages. The batch is empty if nothing is due, or after a request to
    /// stop. A request that failed is repeated with its id: the queue may have leased the messages and lost the answer.
    async fn lease(&self, cap: usize) -> Result<Vec<Lease>, WorkerError> {
        let Shared { pace, queue_outage, settings, .. } = &*self.shared;
        let mut outage = QueueOutage::new("lease", queue_outage, settings);
        while !self.pulse.stopped() {
            self.pulse.beat();
            match self.shared.queue.lease(self.requests.current(cap.min(pace.size()))).await {
                Ok(leases) => {
                    outage.over(self.pulse.lane);
                    self.requests.answered();
                    self.shared.metrics.leased(&leases);
                    return Ok(leases);
                }
                Err(error) => {
                    self.requests.failed();
                    self.bear(&mut outage, error).await?;
                }
            }
        }
        Ok(Vec::new())
    }

    /// Settles leases, and those that could not be settled before. While the queue answers for none of them,
    /// the call is repeated; after a request to stop, the leases expire. If the queue answers for a part of
    /// them, the lane goes on, and the others are settled with the next batch.
    async fn settle(&self, decided: Decided) -> Result<(), WorkerError> {
        let mut left = self.deferred.take(decided);
        let mut outage = QueueOutage::new("settle", &self.shared.queue_outage, &self.shared.settings);
        while !left.settlements.is_empty() {
            self.pulse.beat();
            let answers = self.shared.queue.settle_many(&left.settlements).await;
            let asked = left.settlements.len();
            let Some(error) = self.account(&mut left, answers) else {
                self.deferred.clear(self.pulse.lane);
                break;
            };
            if left.settlements.len() < asked && !matches!(error, QueueError::Broken(_)) {
                self.deferred.put(left, &error, self.pulse.lane);
                return Ok(());
            }
            self.bear(&mut outage, error).await?;
            if self.pulse.stopped() {
                let messages = left.settlements.len();
                warn!(
                    lane = self.pulse.lane,
                    messages,
                    "stopping while the queue is unreachable: these messages are leased again later"
                );
                return Ok(());
            }
        }
        outage.over(self.pulse.lane);
        Ok(())
    }

    /// Waits after one error of the queue.
    async fn bear(&self, outage: &mut QueueOutage<'_>, error: QueueError) -> Result<(), WorkerError> {
        let lane = self.pulse.lane;
        if matches!(error, QueueError::Broken(_)) {
            return Err(WorkerError::Queue { lane, error });
        }
        let wait = outage.failed(lane, &error);
        self.pulse.wait_for(tokio::time::sleep(wait)).await;
        Ok(())
    }

    /// Counts and logs the settled leases and keeps the others. Returns the reason for the others.
    fn account(
        &self,
        decided: &mut Decided,
        answers: Vec<Result<Settled, QueueError>>,
    ) -> Option<QueueError> {
        let (mut lost, mut ended_before, mut failed) = (0, 0, None);
        let repeated = std::mem::take(&mut decided.repeated);
        let settlements = std::mem::take(&mut decided.settlements);
        // A missing answer is not a settlement.
        let missing =
            || Err(QueueError::Unavailable("the queue has no answer for each settlement".to_owned()));
        let answers = answers.into_iter().chain(std::iter::repeat_with(missing));
        for (index, (ended, answer)) in settlements.into_iter().zip(answers).enumerate() {
            match answer {
                Ok(Settled::Done) => self.note_settled(&ended, decided.subjects.get(&ended.0.id)),
                Ok(Settled::LeaseLost) if index < repeated => ended_before += 1,
                Ok(Settled::LeaseLost) => lost += 1,
                Err(error) => {
                    failed = Some(error);
                    decided.settlements.push(ended);
                }
            }
        }
        decided.repeated = decided.settlements.len();
        let lane = self.pulse.lane;
        if lost > 0 {
            self.shared.metrics.leases_lost.inc_by(lost);
            warn!(lane, lost, "leases were lost: they expired, and another worker has the messages");
        }
        if ended_before > 0 {
            info!(
                lane,
                messages = ended_before,
                "the answer to a settlement was lost, and it was sent again: the leases had ended, by the first request or because they expired"
            );
        }
        failed
    }

    fn note_settled(&self, (lease, settlement): &(Lease, Settlement), subject: Option<&String>) {
        let lane = self.pulse.lane;
        self.shared.metrics.settled(settlement);
        match settlement {
            Settlement::Ack | Settlement::Release | Settlement::Postpone { .. } => {}
            Settlement::Retry { after, failure } => info!(
                lane, svix_id = %lease.id, event_type = failure.event_type, subject, attempt = lease.attempt,
                trace_id = trace_id(lease), reason = %failure.reason, detail = failure.detail, after_seconds = after.as_secs_f64(),
                "refused: it is tried again"
            ),
            Settlement::DeadLetter { failure } => self.log_dead_letter(lease, failure, subject),
        }
    }

    /// Logs a dead letter: at the level warn if a line about its reason is due, otherwise at debug.
    fn log_dead_letter(&self, lease: &Lease, failure: &Failure, subject: Option<&String>) {
        macro_rules! line {
            ($level:ident) => {
                $level!(
                    lane = self.pulse.lane, svix_id = %lease.id, event_type = failure.event_type, subject,
                    attempt = lease.attempt, trace_id = trace_id(lease), reason = %failure.reason, detail = failure.detail,
                    "became a dead letter"
                )
            };
        }
        if self.shared.dead_letter_log.is_due(failure.reason) { line!(warn) } else { line!(debug) }
    }

    /// Parses and applies a batch, and decides how each lease ends.
    async fn process(&self, leases: Vec<Lease>) -> Result<Decided, WorkerError> {
        let Shared { settings, metrics, gate, pace, evidence, .. } = &*self.shared;
        let retry = &settings.retry;
        // A parsed body may take 80 times its size: one lane at a time parses large ones.
        let is_large = leases.iter().any(|lease| lease.body.len() > LARGE_BODY);
        let turn = if is_large { Some(self.shared.large.lock().await) } else { None };
        let mut reading = batch::read(leases, retry.attempts_max, settings.instance_id.as_deref());
        drop(turn);
        reading.sort_by_table();
        metrics.sanitized.inc_by(reading.sanitized as u64);
        metrics.mismatched(&reading.mismatched);
        self.shared.mismatches.report(&reading);

        // Messages that cannot be settled before the leases expire are released without counting an attempt.
        let time = settings.lease_for / 4 * 3;
        let outcome = self.apply(&reading, time).await;
        metrics.batch_limit.set(pace.size());
        let is_proof = outcome.is_proof();
        gate.health.set_blocked(evidence.blocked());
        match outcome.refused_alone() {
            Ok(()) => gate.health.applied(),
            Err((0, _)) => {}
            Err((count, why)) => gate.health.refused(count, why),
        }
        let now = self.shared.clock.now();
        let mut decided = Decided::default();
        decided.settlements.reserve(reading.leases.len() + reading.failed.len());
        for ((lease, change), outcome) in
            reading.leases.into_iter().zip(&reading.changes).zip(outcome.outcomes)
        {
            let applied = if let ChangeOutcome::Applied(applied) = outcome { Some(applied) } else { None };
            let settlement = batch::decide(&lease, change, outcome, retry);
            match applied {
                Some(applied) => {
                    metrics.applied(change, applied, now);
                    self.log_applied(&lease, change, applied);
                }
                None if settlement == Settlement::Ack => metrics.dropped(Some(change.origin.event_type())),
                None if !matches!(settlement, Settlement::Release | Settlement::Postpone { .. }) => {
                    let subject = change.subject_id().map(str::to_owned);
                    decided.subjects.extend(subject.map(|subject| (lease.id.clone(), subject)));
                }
                None => {}
            }
            decided.push(lease, settlement);
        }
        for (lease, failure) in reading.failed {
            let event_type = failure.event_type.clone();
            let settlement = batch::fail(&lease, failure, retry);
            if settlement == Settlement::Ack {
                metrics.dropped(event_type.as_deref());
            }
            decided.push(lease, settlement);
        }
        match outcome.failure {
            // Nothing was applied, or one message hit a time limit: this says nothing about the store.
            None if !is_proof => {}
            None => gate.applied(),
            Some(error @ StoreError::Broken(_)) => {
                // One try only: this process must exit, whether the queue answers or not.
                let answers = self.shared.queue.settle_many(&decided.settlements).await;
                _ = self.account(&mut decided, answers);
                return Err(self.store_broke(error));
            }
            Some(error) => gate.close(&error),
        }
        Ok(decided)
    }

    /// Applies the changes of a batch, after the Clerk instances that they come from are recorded.
    async fn apply(&self, reading: &Reading, time: Duration) -> BatchOutcome {
        let Shared { store, instances, metrics, pace, evidence, .. } = &*self.shared;
        if let Err(error) = instances.remember(&**store, &reading.instances).await {
            return BatchOutcome::not_attempted(reading.changes.len(), error);
        }
        apply(&**store, &reading.changes, pace, evidence, time, |call| {
            self.pulse.beat();
            metrics.called(&call);
        })
        .await
    }

    fn log_applied(&self, lease: &Lease, change: &Change, applied: Applied) {
        debug!(
            lane = self.pulse.lane, svix_id = %lease.id, event_type = change.origin.event_type(),
            subject = change.subject_id(), attempt = lease.attempt, trace_id = trace_id(lease), outcome = applied.as_str(),
            "applied"
        );
    }

    fn store_broke(&self, error: StoreError) -> WorkerError {
        WorkerError::Store { lane: self.pulse.lane, error }
    }
}
