//! Fake queue that records every batch and answers as the test sets it.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use rollbook_core::delivery::Delivery;
use rollbook_core::queue::{Enqueued, Producer, QueueError};
use tokio::sync::{Semaphore, watch};

/// Behaviour of the queue for calls.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mode {
    Take,
    Fail(QueueError),
    /// Accepts the deliveries, and returns one answer too few.
    Miscount,
    Panic,
}

pub(crate) struct FakeQueue {
    mode: Mutex<Mode>,
    batches: Mutex<Vec<Vec<Delivery>>>,
    calls: watch::Sender<usize>,
    /// One permit per call that may proceed.
    gate: Semaphore,
}

impl FakeQueue {
    /// Creates a queue that accepts everything at once.
    pub(crate) fn open() -> Self {
        Self::with_gate(Semaphore::MAX_PERMITS)
    }

    /// Creates a queue in which each call waits for [`FakeQueue::let_through`].
    pub(crate) fn gated() -> Self {
        Self::with_gate(0)
    }

    fn with_gate(permits: usize) -> Self {
        Self {
            mode: Mutex::new(Mode::Take),
            batches: Mutex::default(),
            calls: watch::Sender::new(0),
            gate: Semaphore::new(permits),
        }
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    /// Lets `calls` calls proceed, now or when they arrive.
    pub(crate) fn let_through(&self, calls: usize) {
        self.gate.add_permits(calls);
    }

    /// Waits until `times` calls have arrived in total, proceeding or not.
    pub(crate) async fn called(&self, times: usize) {
        self.calls.subscribe().wait_for(|calls| *calls >= times).await.unwrap();
    }

    /// Accepted deliveries, by batch.
    pub(crate) fn batches(&self) -> Vec<Vec<Delivery>> {
        self.batches.lock().unwrap().clone()
    }

    pub(crate) fn batch_sizes(&self) -> Vec<usize> {
        self.batches().iter().map(Vec::len).collect()
    }

    /// Ids of all accepted deliveries, in order.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.batches().iter().flatten().map(|delivery| delivery.id.to_string()).collect()
    }

    fn take(&self, deliveries: &[Delivery]) -> Vec<Enqueued> {
        let mut batches = self.batches.lock().unwrap();
        let mut known: HashSet<_> = batches.iter().flatten().map(|delivery| delivery.id.clone()).collect();
        let judge = |delivery: &Delivery| {
            if known.insert(delivery.id.clone()) { Enqueued::Queued } else { Enqueued::Duplicate }
        };
        let answers = deliveries.iter().map(judge).collect();
        batches.push(deliveries.to_vec());
        answers
    }
}

#[async_trait]
impl Producer for FakeQueue {
    async fn enqueue_many(&self, deliveries: &[Delivery]) -> Vec<Result<Enqueued, QueueError>> {
        self.calls.send_modify(|calls| *calls += 1);
        self.gate.acquire().await.unwrap().forget();
        let mode = self.mode.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match mode {
            Mode::Take => self.take(deliveries).into_iter().map(Ok).collect(),
            Mode::Fail(error) => vec![Err(error); deliveries.len()],
            Mode::Miscount => self.take(deliveries).into_iter().skip(1).map(Ok).collect(),
            Mode::Panic => panic!("a fault that the test asked for"),
        }
    }
}
