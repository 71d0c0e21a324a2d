//! Positions of the change feed, given while deliveries are applied.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::change::{Applied, Change};
use rollbook_core::store::{RetentionLimits, RetentionStep, SequenceStep, Store, StoreError};
use rollbook_testkit::memory::store::MemoryStore;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::support::{Bench, run_until};

type Step = Result<SequenceStep, StoreError>;

/// Answers each step as the test says, then that nothing is left. Each batch leaves lines.
struct Scripted {
    inner: Arc<MemoryStore>,
    steps: Mutex<VecDeque<Step>>,
    asked: Mutex<Vec<Instant>>,
    noted: Notify,
}

struct Shared(Arc<Scripted>);

impl Scripted {
    fn new(bench: &Bench, steps: impl IntoIterator<Item = Step>) -> Arc<Self> {
        let steps = Mutex::new(steps.into_iter().collect());
        Arc::new(Self { inner: bench.store.clone(), steps, asked: Mutex::default(), noted: Notify::new() })
    }

    /// Times of the steps, since the first.
    fn asked(&self) -> Vec<Duration> {
        let asked = self.asked.lock().expect("no panic");
        asked.iter().map(|at| *at - asked[0]).collect()
    }
}

#[async_trait]
impl Store for Shared {
    async fn apply_many(&self, changes: &[Change]) -> Result<Vec<Applied>, StoreError> {
        let applied = self.0.inner.apply_many(changes).await;
        self.0.noted.notify_one();
        applied
    }

    async fn sequence(&self) -> Step {
        self.0.asked.lock().expect("no panic").push(Instant::now());
        let step = self.0.steps.lock().expect("no panic").pop_front();
        step.unwrap_or(Ok(SequenceStep { last: Some(7), ..SequenceStep::default() }))
    }

    async fn sequence_pending(&self) {
        self.0.noted.notified().await;
    }

    async fn retain(&self, due: &RetentionLimits) -> Result<RetentionStep, StoreError> {
        self.0.inner.retain(due).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.0.inner.ping().await
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn positions_are_given_after_each_batch_every_ten_seconds_and_at_the_stop() {
    let bench = Bench::new();
    let store = Scripted::new(&bench, []);
    let event = async {
        tokio::time::sleep(5 * SECOND).await;
        bench.enqueue_users(0..1).await;
        bench.drained().await;
        tokio::time::sleep(21 * SECOND).await;
    };
    run_until(bench.worker_with_store(Shared(store.clone())), event).await.expect("it stops in order");
    // The first step is some milliseconds after the start, and the stop waits for the lane.
    let asked: Vec<u64> =
        store.asked().iter().map(|at| (*at + Duration::from_millis(100)).as_secs()).collect();
    assert_eq!(asked[..4], [0, 5, 15, 25], "at the start, after the batch, twice by time");
    assert!(asked.len() == 5 && asked[4] >= 26, "at the stop: {asked:?}");
    assert_eq!(bench.metric("rollbook_changes_position").as_deref(), Some("7"));
    assert_eq!(bench.metric("rollbook_changes_pending_seconds").as_deref(), Some("0"));
}

#[tokio::test(start_paused = true)]
async fn while_another_worker_is_at_work_this_one_comes_back_within_fifty_milliseconds() {
    let bench = Bench::new();
    let busy = SequenceStep { waited_for: 3 * SECOND, has_more: true, ..SequenceStep::default() };
    let store = Scripted::new(&bench, std::iter::repeat_n(Ok(busy), 12));
    let event = tokio::time::sleep(Duration::from_millis(200));
    let worker = bench.worker_with_store(Shared(store.clone()));
    run_until(worker, async {
        event.await;
        assert_eq!(bench.metric("rollbook_changes_pending_seconds").as_deref(), Some("3"));
        tokio::time::sleep(SECOND).await;
    })
    .await
    .expect("it stops in order");
    let asked = store.asked();
    let pauses: Vec<Duration> = asked[..13].windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    assert!(pauses.iter().all(|pause| *pause <= Duration::from_millis(60)), "{pauses:?}");
    assert!(pauses[0] <= Duration::from_millis(6) && pauses.is_sorted(), "{pauses:?}");
    assert_eq!(bench.metric("rollbook_changes_pending_seconds").as_deref(), Some("0"));
}

/// Returns the time between the step after the first batch and that after the second, which is applied a millisecond later.
async fn time_between_steps(moved: u64) -> Duration {
    let bench = Bench::new();
    let step = SequenceStep { moved, last: Some(7), ..SequenceStep::default() };
    // The first is at the start.
    let store = Scripted::new(&bench, [Ok(SequenceStep::default()), Ok(step)]);
    let event = async {
        tokio::time::sleep(SECOND).await;
        store.noted.notify_one();
        tokio::time::sleep(Duration::from_millis(1)).await;
        store.noted.notify_one();
        tokio::time::sleep(SECOND).await;
    };
    run_until(bench.worker_with_store(Shared(store.clone())), event).await.expect("it stops in order");
    let asked = store.asked();
    asked[2].saturating_sub(asked[1])
}

#[tokio::test(start_paused = true)]
async fn after_a_step_of_fifty_lines_the_next_one_waits_twenty_five_milliseconds_and_after_fewer_not() {
    let (few, many) = (time_between_steps(49).await, time_between_steps(50).await);
    assert!(few <= Duration::from_millis(3), "{few:?}");
    assert!((Duration::from_millis(25)..=Duration::from_millis(28)).contains(&many), "{many:?}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_stops_while_it_waits_after_many_lines_takes_a_last_step() {
    let bench = Bench::new();
    let many = SequenceStep { moved: 1_000, last: Some(7), ..SequenceStep::default() };
    let store = Scripted::new(&bench, [Ok(many)]);
    let event = async {
        while store.asked.lock().expect("no panic").is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        store.noted.notify_one();
    };
    run_until(bench.worker_with_store(Shared(store.clone())), event).await.expect("it stops in order");
    assert_eq!(store.asked().len(), 2, "a last step at the stop");
}

#[tokio::test(start_paused = true)]
async fn positions_that_cannot_be_given_hold_up_no_delivery_and_are_tried_again() {
    let bench = Bench::new();
    let refusal = || Err(StoreError::Event("a trigger of changes refuses".to_owned()));
    let store = Scripted::new(&bench, std::iter::repeat_with(refusal).take(4));
    bench.enqueue_users(0..3).await;
    let event = async {
        bench.drained().await;
        tokio::time::sleep(9 * SECOND).await;
        let pending =
            bench.metric("rollbook_changes_pending_seconds").and_then(|text| text.parse::<f64>().ok());
        assert!(pending.is_some_and(|seconds| seconds >= 4.9), "{pending:?}");
        tokio::time::sleep(30 * SECOND).await;
    };
    run_until(bench.worker_with_store(Shared(store)), event).await.expect("it stops in order");
    assert_eq!(bench.user_ids().len(), 3);
    assert_eq!(bench.metric("rollbook_changes_pending_seconds").as_deref(), Some("0"));
}
