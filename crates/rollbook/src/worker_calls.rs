//! Health of the queue for workers, judged by their calls.
//!
//! A queue that answers reads may refuse every write: a missing right, no memory, a replica, too few replicas. Leases and
//! settlements are writes, so a worker's calls are observed, and the queue's component in `/readyz` and `rollbook_up`
//! reports their outcome. A worker leases repeatedly, so the outcome of the last lease is recent. The outcome of the last
//! settlement stays until the worker has another message to settle.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rollbook_core::queue::{Consumer, Lease, LeaseRequest, QueueError, Settled, Settlement};
use rollbook_ops::{Condition, Probe};

/// Consumer that records the outcomes of calls.
pub(crate) struct WorkerCalls {
    inner: Arc<dyn Consumer>,
    state: Mutex<State>,
}

/// Error of the last call of each kind. `None` if it succeeded.
#[derive(Default)]
struct State {
    lease: Option<QueueError>,
    settle: Option<QueueError>,
    /// Whether the last settlement succeeded for some of its leases.
    settled_some: bool,
    /// Number of calls that show something: leases that returned messages or failed, and settlements.
    calls: u64,
}

impl WorkerCalls {
    /// Wraps this consumer.
    pub(crate) fn new(inner: Arc<dyn Consumer>) -> Self {
        Self { inner, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Consumer for WorkerCalls {
    async fn lease(&self, request: LeaseRequest) -> Result<Vec<Lease>, QueueError> {
        let answer = self.inner.lease(request).await;
        let mut state = self.state();
        state.lease = answer.as_ref().err().cloned();
        if !matches!(&answer, Ok(leases) if leases.is_empty()) {
            state.calls += 1;
        }
        drop(state);
        answer
    }

    async fn count_attempt(&self, lease: &Lease) -> Result<Settled, QueueError> {
        let answer = self.inner.count_attempt(lease).await;
        self.state().note_settled(std::slice::from_ref(&answer));
        answer
    }

    async fn settle_many(&self, settlements: &[(Lease, Settlement)]) -> Vec<Result<Settled, QueueError>> {
        let answers = self.inner.settle_many(settlements).await;
        self.state().note_settled(&answers);
        answers
    }
}

impl State {
    fn note_settled(&mut self, answers: &[Result<Settled, QueueError>]) {
        if answers.is_empty() {
            return;
        }
        self.calls += 1;
        self.settle = answers.iter().find_map(|answer| answer.as_ref().err().cloned());
        self.settled_some = answers.iter().any(Result::is_ok);
    }

    fn condition(&self) -> Condition {
        match (&self.lease, &self.settle) {
            (Some(error), _) => Condition::Failing(format!("workers get no messages: {error}")),
            (None, Some(error)) if self.settled_some => {
                Condition::Impaired(format!("some messages can't be acknowledged: {error}"))
            }
            (None, Some(error)) => Condition::Failing(format!("messages can't be acknowledged: {error}")),
            (None, None) => Condition::Healthy,
        }
    }
}

#[async_trait]
impl Probe for WorkerCalls {
    fn calls(&self) -> u64 {
        self.state().calls
    }

    async fn check(&self) -> Condition {
        self.state().condition()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rollbook_core::queue::LeaseRequestId;

    use super::*;

    /// Returns the outcome that the test has set.
    #[derive(Default)]
    struct Answers {
        lease: Mutex<Option<QueueError>>,
        settle: Mutex<Vec<Result<Settled, QueueError>>>,
    }

    #[async_trait]
    impl Consumer for Answers {
        async fn lease(&self, _: LeaseRequest) -> Result<Vec<Lease>, QueueError> {
            self.lease.lock().expect("no panic").clone().map_or(Ok(Vec::new()), Err)
        }

        async fn count_attempt(&self, _: &Lease) -> Result<Settled, QueueError> {
            Ok(Settled::Done)
        }

        async fn settle_many(&self, _: &[(Lease, Settlement)]) -> Vec<Result<Settled, QueueError>> {
            self.settle.lock().expect("no panic").clone()
        }
    }

    fn request() -> LeaseRequest {
        let id = LeaseRequestId::default();
        LeaseRequest { id, max: 1, bytes_max: 1, lease_for: Duration::from_secs(1), wait: Duration::ZERO }
    }

    fn no_right() -> QueueError {
        QueueError::Deployment("NOPERM: the user may not do this".to_owned())
    }

    #[tokio::test]
    async fn a_worker_that_gets_no_messages_names_the_error_until_it_gets_an_answer() {
        let answers = Arc::new(Answers::default());
        let calls = WorkerCalls::new(answers.clone());
        assert_eq!(calls.check().await, Condition::Healthy, "nothing was asked yet");
        *answers.lease.lock().expect("no panic") = Some(no_right());
        calls.lease(request()).await.expect_err("it is refused");
        let Condition::Failing(why) = calls.check().await else { panic!("it fails") };
        assert!(why.contains("NOPERM"), "{why}");
        *answers.lease.lock().expect("no panic") = None;
        calls.lease(request()).await.expect("it is answered");
        assert_eq!(calls.check().await, Condition::Healthy);
    }

    #[tokio::test]
    async fn settlements_that_are_refused_fail_and_those_refused_in_part_degrade() {
        let answers = Arc::new(Answers::default());
        let calls = WorkerCalls::new(answers.clone());
        for (settled, is_ready) in [
            (vec![Err(no_right()), Err(no_right())], false),
            (vec![Ok(Settled::Done), Err(no_right())], true),
        ] {
            *answers.settle.lock().expect("no panic") = settled;
            calls.settle_many(&[]).await;
            let condition = calls.check().await;
            assert!(condition != Condition::Healthy && condition.is_ready() == is_ready, "{condition:?}");
        }
        *answers.settle.lock().expect("no panic") = vec![Ok(Settled::LeaseLost)];
        calls.settle_many(&[]).await;
        assert_eq!(calls.check().await, Condition::Healthy, "a lost lease is an answer");
    }
}
