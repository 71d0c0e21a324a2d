//! Health of the queue for deliveries, judged by the outcomes of real deliveries.
//!
//! A queue that answers reads may still refuse every delivery: a full disk allows reads only. So the
//! receiver's calls are observed, and the queue's component in `/readyz` and `rollbook_up` reports their
//! outcome. A process that is not ready gets no deliveries that could prove recovery. So after a failure a
//! check makes a write without meaning, if the engine has one. Otherwise a failure counts for
//! [`FAILURE_HOLDS_FOR`]: then the process is ready again, and reports the last failure until a delivery is
//! stored. `rollbook_up` steers no traffic and stays 0 for [`UNPROVEN_FOR`]: a queue that refuses the few
//! deliveries of a quiet instance is an outage too.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::delivery::Delivery;
use rollbook_core::queue::{Enqueued, Producer, QueueError};
use rollbook_ops::{Condition, Probe};
use tokio::time::Instant;

/// Maximum time of a trial write: less than a check of the ops port may take.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Time for which a refused batch counts as evidence that the next one would be refused too.
const FAILURE_HOLDS_FOR: Duration = Duration::from_secs(30);
/// Time for which a refused batch keeps `rollbook_up` at 0. Svix retries a refused delivery after 5 s and
/// then after 5 minutes, plus or minus a fifth. This time is longer, so that a queue that still refuses is
/// down without a gap.
const UNPROVEN_FOR: Duration = Duration::from_secs(10 * 60);
/// Duration of a call after which the queue counts as not answering. Its deliveries have got 503 before.
const SILENT_FOR: Duration = Duration::from_secs(10);

/// Producer that records the outcomes of calls.
pub(crate) struct ReceiverCalls {
    inner: Arc<dyn Producer>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Calls in progress and their start.
    calls: BTreeMap<u64, Instant>,
    last_call: u64,
    /// Failure of the last call that returned, if it was not a complete success.
    failure: Option<Failure>,
}

struct Failure {
    at: Instant,
    error: QueueError,
    /// Whether some deliveries of the batch were stored.
    is_partial: bool,
}

impl ReceiverCalls {
    /// Wraps this producer.
    pub(crate) fn new(inner: Arc<dyn Producer>) -> Self {
        Self { inner, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Producer for ReceiverCalls {
    async fn enqueue_many(&self, deliveries: &[Delivery]) -> Vec<Result<Enqueued, QueueError>> {
        let call = self.state().begin();
        let answers = self.inner.enqueue_many(deliveries).await;
        self.state().end(call, &answers);
        answers
    }
}

impl State {
    fn begin(&mut self) -> u64 {
        self.last_call += 1;
        self.calls.insert(self.last_call, Instant::now());
        self.last_call
    }

    fn end(&mut self, call: u64, answers: &[Result<Enqueued, QueueError>]) {
        self.calls.remove(&call);
        if answers.is_empty() {
            return;
        }
        let error = answers.iter().find_map(|answer| answer.as_ref().err().cloned());
        let is_partial = answers.iter().any(Result::is_ok);
        self.failure = error.map(|error| Failure { at: Instant::now(), error, is_partial });
    }
}

#[async_trait]
impl Probe for ReceiverCalls {
    fn calls(&self) -> u64 {
        self.state().last_call
    }

    async fn check(&self) -> Condition {
        let condition = self.state().condition();
        if condition.is_up() {
            return condition;
        }
        match tokio::time::timeout(PROBE_TIMEOUT, self.inner.probe()).await {
            Ok(Ok(false)) => condition,
            // The last failure lasts, and its error says more than that this trial has no answer in time.
            Err(_) => {
                let mut state = self.state();
                if let Some(failure) = &mut state.failure {
                    failure.at = Instant::now();
                }
                state.condition()
            }
            Ok(Ok(true)) => {
                self.state().failure = None;
                Condition::Healthy
            }
            Ok(Err(error)) => {
                let mut state = self.state();
                state.failure = Some(Failure { at: Instant::now(), error, is_partial: false });
                state.condition()
            }
        }
    }
}

impl State {
    /// Condition according to the calls.
    fn condition(&self) -> Condition {
        if let Some(silent) =
            self.calls.values().map(Instant::elapsed).max().filter(|silent| *silent >= SILENT_FOR)
        {
            return Condition::Failing(format!(
                "deliveries are answered 503: the queue has not answered for {} s",
                silent.as_secs()
            ));
        }
        let Some(Failure { at, error, is_partial }) = &self.failure else { return Condition::Healthy };
        let (ago, is_full) = (at.elapsed(), matches!(error, QueueError::Full { .. }));
        let what = if *is_partial { "some deliveries" } else { "deliveries" };
        if ago < FAILURE_HOLDS_FOR {
            let why = format!("{what} are answered 503: {error}");
            // A full queue works; the workers do not keep up.
            return if *is_partial || is_full { Condition::Impaired(why) } else { Condition::Failing(why) };
        }
        let why = format!("the last {what}, {} s ago, were answered 503: {error}", ago.as_secs());
        if *is_partial || is_full || ago >= UNPROVEN_FOR {
            Condition::Impaired(why)
        } else {
            Condition::Unproven(why)
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rollbook_core::delivery::MessageId;
    use rollbook_core::time::Timestamp;

    use super::*;

    /// Returns the outcomes that the test has set.
    #[derive(Default)]
    struct Answers {
        enqueue: Mutex<Vec<Result<Enqueued, QueueError>>>,
        takes: Duration,
        probe: Mutex<Option<Result<bool, QueueError>>>,
    }

    impl Answers {
        fn of(answers: &[Result<Enqueued, QueueError>]) -> Self {
            Self { enqueue: Mutex::new(answers.to_vec()), ..Self::default() }
        }
    }

    #[async_trait]
    impl Producer for Answers {
        async fn enqueue_many(&self, _: &[Delivery]) -> Vec<Result<Enqueued, QueueError>> {
            tokio::time::sleep(self.takes).await;
            self.enqueue.lock().expect("no panic").clone()
        }

        async fn probe(&self) -> Result<bool, QueueError> {
            self.probe.lock().expect("no panic").clone().unwrap_or(Ok(false))
        }
    }

    fn full_disk() -> QueueError {
        QueueError::Unavailable("database or disk is full".to_owned())
    }

    async fn after(answers: &[Result<Enqueued, QueueError>]) -> ReceiverCalls {
        let receiver_calls = ReceiverCalls::new(Arc::new(Answers::of(answers)));
        receiver_calls.enqueue_many(&deliveries()).await;
        receiver_calls
    }

    fn deliveries() -> Vec<Delivery> {
        let received_at = Timestamp::from_millis(0);
        vec![Delivery { id: MessageId::new("a"), received_at, traceparent: None, body: Bytes::new() }]
    }

    #[tokio::test(start_paused = true)]
    async fn before_any_delivery_and_after_a_stored_one_all_is_well() {
        assert_eq!(ReceiverCalls::new(Arc::new(Answers::default())).check().await, Condition::Healthy);
        assert_eq!(after(&[Ok(Enqueued::Queued)]).await.check().await, Condition::Healthy);
        assert_eq!(after(&[Ok(Enqueued::Duplicate)]).await.check().await, Condition::Healthy);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_batch_fails_with_its_error_until_the_next_is_stored() {
        let producer = Arc::new(Answers::of(&[Err(full_disk())]));
        let receiver_calls = ReceiverCalls::new(producer.clone());
        receiver_calls.enqueue_many(&deliveries()).await;
        let Condition::Failing(why) = receiver_calls.check().await else { panic!("it fails") };
        assert!(why.contains("database or disk is full"), "{why}");
        *producer.enqueue.lock().expect("no panic") = vec![Ok(Enqueued::Queued)];
        receiver_calls.enqueue_many(&deliveries()).await;
        assert_eq!(receiver_calls.check().await, Condition::Healthy);
    }

    #[tokio::test(start_paused = true)]
    async fn without_deliveries_the_process_is_ready_again_and_down_until_svix_has_tried_again() {
        let receiver_calls = after(&[Err(full_disk())]).await;
        let (tick, mut conditions) = (Duration::from_millis(1), Vec::new());
        for until in [FAILURE_HOLDS_FOR, UNPROVEN_FOR.saturating_sub(FAILURE_HOLDS_FOR)] {
            tokio::time::advance(until.saturating_sub(tick)).await;
            conditions.push(receiver_calls.check().await);
            tokio::time::advance(tick).await;
        }
        conditions.push(receiver_calls.check().await);
        let states: Vec<_> = conditions.iter().map(|one| (one.is_ready(), one.is_up())).collect();
        assert_eq!(states, [(false, false), (true, false), (true, true)], "{conditions:?}");
        let Condition::Impaired(why) = &conditions[2] else {
            panic!("the error is reported: {conditions:?}")
        };
        assert!(why.contains("600 s ago") && why.contains("disk is full"), "{why}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_ends_an_outage_that_nobody_asked_about_for_a_while() {
        let producer = Arc::new(Answers::of(&[Err(full_disk())]));
        let receiver_calls = ReceiverCalls::new(producer.clone());
        receiver_calls.enqueue_many(&deliveries()).await;
        *producer.probe.lock().expect("no panic") = Some(Ok(true));
        tokio::time::advance(FAILURE_HOLDS_FOR).await;
        assert_eq!(receiver_calls.check().await, Condition::Healthy);
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_with_a_probe_is_well_as_soon_as_it_takes_one_and_failing_as_long_as_it_does_not() {
        let producer = Arc::new(Answers::of(&[Err(full_disk())]));
        let receiver_calls = ReceiverCalls::new(producer.clone());
        receiver_calls.enqueue_many(&deliveries()).await;
        let no_replicas = QueueError::Unavailable("not enough good replicas".to_owned());
        *producer.probe.lock().expect("no panic") = Some(Err(no_replicas));
        for _ in 0..4 {
            let Condition::Failing(why) = receiver_calls.check().await else { panic!("it fails") };
            assert!(why.contains("not enough good replicas"), "{why}");
            tokio::time::advance(FAILURE_HOLDS_FOR.saturating_sub(Duration::from_millis(1))).await;
        }
        *producer.probe.lock().expect("no panic") = Some(Ok(true));
        assert_eq!(receiver_calls.check().await, Condition::Healthy);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_of_the_queue_that_refuses_and_a_full_queue_leave_the_process_ready() {
        for answers in
            [vec![Ok(Enqueued::Queued), Err(full_disk())], vec![Err(QueueError::Full { depth: 7, limit: 7 })]]
        {
            let condition = after(&answers).await.check().await;
            assert!(matches!(condition, Condition::Impaired(_)), "{answers:?}: {condition:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_does_not_return_fails_while_it_lasts() {
        let answers = Answers { takes: SILENT_FOR * 2, ..Answers::of(&[Ok(Enqueued::Queued)]) };
        let receiver_calls = ReceiverCalls::new(Arc::new(answers));
        let deliveries = deliveries();
        let look = async {
            tokio::time::sleep(SILENT_FOR.saturating_sub(Duration::from_millis(1))).await;
            assert_eq!(receiver_calls.check().await, Condition::Healthy);
            tokio::time::sleep(Duration::from_millis(1)).await;
            let Condition::Failing(why) = receiver_calls.check().await else { panic!("it is silent") };
            assert!(why.contains("has not answered for 10 s"), "{why}");
        };
        tokio::join!(receiver_calls.enqueue_many(&deliveries), look);
        assert_eq!(receiver_calls.check().await, Condition::Healthy);
    }
}
