//! Rows in requests: those that can't be read, and the memory for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use prometheus::Registry;
use rollbook_core::catalog::Resource;
use rollbook_core::store::{ForwardState, Forwards as _, RowView, Rows, StoreError};
use rollbook_forwarder::{Endpoint, ForwardSettings, Forwarder, Ports, Push, Verdict};
use rollbook_testkit::memory::store::MemoryStore;
use tokio_util::sync::CancellationToken;

use crate::stage::{NAME, Running, Stage, settings, until};

/// Rows of a store; a row with this id can't be read.
struct BadRow(Arc<MemoryStore>, &'static str);

#[async_trait]
impl Rows for BadRow {
    async fn get(&self, resource: &'static Resource, id: &str) -> Result<Option<RowView>, StoreError> {
        if id == self.1 {
            return Err(StoreError::Unavailable("the row is damaged".to_owned()));
        }
        self.0.get(resource, id).await
    }

    async fn rows(
        &self,
        resource: &'static Resource,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RowView>, StoreError> {
        self.0.rows(resource, after, limit).await
    }

    async fn rows_where(
        &self,
        resource: &'static Resource,
        column: &'static str,
        value: &str,
        limit: usize,
    ) -> Result<Vec<RowView>, StoreError> {
        self.0.rows_where(resource, column, value, limit).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_that_can_not_be_read_makes_a_dead_letter_and_others_go_on() {
    let stage = Stage::accepting();
    let ports = Ports { rows: Arc::new(BadRow(stage.store.clone(), "user_1")), ..stage.ports() };
    let running = Running::new(ports, ForwardSettings { expand: true, ..settings() }, stage.endpoint.clone());
    until("it has begun", || async { stage.find().await.is_some() }).await;
    stage.write(&["user_1", "user_2"]).await;
    until("it is a dead letter", || async {
        stage.write(&["user_3"]).await;
        stage.failed().await == [1]
    })
    .await;
    let letters = stage.store.forward_changes(NAME, ForwardState::Failed, 0, 9).await.expect("dead letters");
    assert_eq!(letters[0].last_error.as_deref(), Some("the store could not read the row for expand"));
    assert!(running.metric("rollbook_forward_deliveries_total", "unreadable") >= 6);
    assert!(stage.endpoint.accepted().contains(&2));
    running.stop().await;
}

/// An endpoint that counts the bytes of the requests in progress.
#[derive(Default)]
struct Weighing {
    now: AtomicUsize,
    most: AtomicUsize,
    received: AtomicUsize,
}

#[async_trait]
impl Endpoint for Weighing {
    async fn send(&self, push: Push, _: Duration) -> Verdict {
        let now = self.now.fetch_add(push.body.len(), Ordering::Relaxed) + push.body.len();
        self.most.fetch_max(now, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.now.fetch_sub(push.body.len(), Ordering::Relaxed);
        self.received.fetch_add(1, Ordering::Relaxed);
        Verdict::Accepted
    }
}

#[tokio::test(start_paused = true)]
async fn rows_in_requests_of_all_forwards_stay_within_one_limit() {
    let stage = Stage::accepting();
    let weighing = Arc::new(Weighing::default());
    let forward = |number: u32| {
        let name = format!("forward_{number}");
        let settings = ForwardSettings { name, expand: true, concurrency: 64, ..settings() };
        (settings, weighing.clone() as Arc<dyn Endpoint>)
    };
    let forwards = vec![forward(1), forward(2), forward(3)];
    // A row of the test has some 1,500 bytes in a request.
    let forwarder = Forwarder::new(stage.ports(), forwards, 10_000, &Registry::new()).expect("metrics");
    let (mut running, stop) = (tokio::task::JoinSet::new(), CancellationToken::new());
    running.spawn(forwarder.run(stop.clone()));
    until("they have begun", || async { stage.store.forwards().await.expect("forwards").len() == 3 }).await;
    let names: Vec<String> = (0..100).map(|number| format!("user_{number}")).collect();
    stage.write(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    until("all is delivered", || async { weighing.received.load(Ordering::Relaxed) >= 300 }).await;
    stop.cancel();
    running.join_next().await.expect("a task").expect("it ends in order");
    let most = weighing.most.load(Ordering::Relaxed);
    assert!((5_000..=10_000).contains(&most), "{most}");
    assert_eq!(weighing.received.load(Ordering::Relaxed), 300, "waiting for room does not fail");
}
