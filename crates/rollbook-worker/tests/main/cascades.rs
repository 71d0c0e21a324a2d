//! Pending cascades are processed by a background task, not by the lanes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rollbook_core::change::{Applied, Change};
use rollbook_core::store::{CascadeStep, RetentionLimits, RetentionStep, Store, StoreError};
use rollbook_testkit::memory::store::MemoryStore;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::support::{Bench, run_until};

type Turn = Result<CascadeStep, StoreError>;

/// A store that answers turns as a test says, and nothing is left when it has no more to say.
struct Scripted {
    inner: Arc<MemoryStore>,
    turns: Mutex<VecDeque<Turn>>,
    asked: Mutex<Vec<Instant>>,
    left: Notify,
    /// Duration of a turn.
    takes: Duration,
}

impl Scripted {
    fn new(bench: &Bench, takes: Duration, turns: impl IntoIterator<Item = Turn>) -> Arc<Self> {
        let turns = Mutex::new(turns.into_iter().collect());
        let (asked, left) = (Mutex::default(), Notify::new());
        Arc::new(Self { inner: bench.store.clone(), turns, asked, left, takes })
    }

    fn asked(&self) -> Vec<Instant> {
        self.asked.lock().expect("no panic").clone()
    }
}

/// The store behind an `Arc`, as a worker owns it.
struct Shared(Arc<Scripted>);

#[async_trait]
impl Store for Shared {
    async fn apply_many(&self, changes: &[Change]) -> Result<Vec<Applied>, StoreError> {
        self.0.inner.apply_many(changes).await
    }

    async fn cascade(&self) -> Result<CascadeStep, StoreError> {
        self.0.asked.lock().expect("no panic").push(Instant::now());
        tokio::time::sleep(self.0.takes).await;
        self.0.turns.lock().expect("no panic").pop_front().unwrap_or(Ok(CascadeStep::default()))
    }

    async fn cascade_pending(&self) {
        self.0.left.notified().await;
    }

    async fn retain(&self, due: &RetentionLimits) -> Result<RetentionStep, StoreError> {
        self.0.inner.retain(due).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.0.inner.ping().await
    }
}

fn turn(rows: u64, parents_left: u64, rows_left: u64, due_in: Option<u64>) -> CascadeStep {
    let due_in = due_in.map(Duration::from_secs);
    CascadeStep { rows, refused: 0, parents_left, rows_left, due_in }
}

#[tokio::test(start_paused = true)]
async fn turns_follow_each_other_while_something_is_due_and_the_metrics_show_it() {
    let bench = Bench::new();
    let turns = [turn(1_000, 1, 0, Some(0)), turn(500, 0, 1, Some(7)), turn(1, 0, 0, None)].map(Ok);
    let store = Scripted::new(&bench, Duration::ZERO, turns);
    let began_at = Instant::now();
    let worker = bench.worker_with_store(Shared(Arc::clone(&store)));
    let drive = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(store.asked().len(), 2, "the rest is not due yet");
        assert_eq!(bench.metric("rollbook_cascades_pending{what=\"rows\"}").as_deref(), Some("1"));
        tokio::time::sleep(Duration::from_secs(57)).await;
        assert_eq!(bench.metric("rollbook_cascades_pending{what=\"rows\"}").as_deref(), Some("0"));
        assert_eq!(
            bench.metric("rollbook_cascade_rows_total{outcome=\"repaired\"}").as_deref(),
            Some("1501")
        );
    };
    run_until(worker, drive).await.expect("a clean end");
    let asked: Vec<u64> = store.asked().iter().map(|at| at.duration_since(began_at).as_secs()).collect();
    assert_eq!(asked, [0, 0, 7, 17, 27, 37, 47, 57], "then every ten seconds");
}

/// A worker was killed in a cascade. Its hold keeps the others from it for a while; their gauge shows it all
/// the same.
#[tokio::test(start_paused = true)]
async fn pending_work_of_another_worker_is_in_the_gauge_within_ten_seconds() {
    let bench = Bench::new();
    let turns = [turn(0, 0, 0, None), turn(0, 1, 0, Some(25))].map(Ok);
    let store = Scripted::new(&bench, Duration::ZERO, turns);
    let worker = bench.worker_with_store(Shared(Arc::clone(&store)));
    let drive = async {
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert_eq!(bench.metric("rollbook_cascades_pending{what=\"parents\"}").as_deref(), Some("1"));
    };
    run_until(worker, drive).await.expect("a clean end");
}

#[tokio::test(start_paused = true)]
async fn pending_work_of_a_lane_is_taken_at_once_and_no_delivery_waits_for_it() {
    let bench = Bench::new();
    let store = Scripted::new(&bench, Duration::from_secs(300), [Ok(turn(1, 0, 0, None))]);
    let worker = bench.worker_with_store(Shared(Arc::clone(&store)));
    let drive = async {
        tokio::time::sleep(Duration::from_secs(305)).await;
        assert_eq!(store.asked().len(), 1);
        let left_at = Instant::now();
        store.left.notify_one();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(store.asked()[1], left_at);
        // It takes five minutes. Deliveries go on.
        bench.enqueue_users(0..50).await;
        bench.drained().await;
        assert!(left_at.elapsed() < Duration::from_secs(60), "{:?}", left_at.elapsed());
        assert_eq!(bench.user_ids().len(), 50);
    };
    run_until(worker, drive).await.expect("a clean end");
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_fails_is_retried_and_stops_no_lane() {
    let bench = Bench::new();
    let failed = || Err(StoreError::Deployment("no right".into()));
    let store = Scripted::new(&bench, Duration::ZERO, [failed(), failed(), Ok(turn(3, 0, 0, None))]);
    let worker = bench.worker_with_store(Shared(Arc::clone(&store)));
    let drive = async {
        bench.enqueue_users(0..5).await;
        bench.drained().await;
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert_eq!(store.asked().len(), 3);
        assert_eq!(bench.metric("rollbook_cascade_rows_total{outcome=\"repaired\"}").as_deref(), Some("3"));
        for (outcome, count) in [("done", "1"), ("failed", "2")] {
            let turns = format!("rollbook_background_turns_total{{outcome=\"{outcome}\",task=\"cascades\"}}");
            assert_eq!(bench.metric(&turns).as_deref(), Some(count), "{outcome}");
        }
    };
    run_until(worker, drive).await.expect("a clean end");
}
