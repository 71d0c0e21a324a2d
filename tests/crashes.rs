//! kill -9 under load, and a control that shows that a loss would be detected.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prometheus::Registry;
use rollbook_core::delivery::Delivery;
use rollbook_core::queue::{Enqueued, Producer, QueueError};
use rollbook_core::signature::SigningSecrets;
use rollbook_core::time::Clock;
use rollbook_receiver::{Receiver, Settings};
use rollbook_simulator::history::{History, HistorySettings};
use rollbook_simulator::sender::{DeliverSettings, Endpoint, Report, deliver};
use rollbook_sqlite::{QueueSettings, Schema, SqliteQueue, SqliteStore, apply_migrations};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::{Home, SECRET, until};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::audit::{self, CLEAN};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_rollbook");
const KILLS: usize = 20;
/// History and time of the kill; in the message of every failed assertion.
pub(crate) const SEED: u64 = 20_261_124;

pub(crate) fn history(changes: usize) -> History {
    let settings = HistorySettings {
        seed: SEED,
        users: changes / 6,
        organizations: changes / 60,
        changes,
        ..HistorySettings::default()
    };
    History::generate(&settings)
}

/// Sends a shuffled history in which every fourth delivery comes twice, as Svix would.
pub(crate) async fn send(address: std::net::SocketAddr, history: &History, per_second: u32) -> Report {
    send_part(address, history, &history.schedule(SEED, 250), per_second).await
}

/// Sends these events of a history.
pub(crate) async fn send_part(
    address: std::net::SocketAddr,
    history: &History,
    order: &[usize],
    per_second: u32,
) -> Report {
    let endpoint = Endpoint {
        address,
        path: "/webhooks/clerk".into(),
        secret: SigningSecrets::parse(SECRET).expect("a secret").first().clone(),
    };
    let settings = DeliverSettings {
        connections: 16,
        backoff: Duration::from_millis(20),
        backoff_max: Duration::from_millis(200),
        rate_per_second: NonZeroU32::new(per_second),
        ..DeliverSettings::default()
    };
    deliver(&endpoint, &history.events, order, Arc::new(WallClock), &settings, Arc::new(|_| {})).await
}

pub(crate) fn acknowledged<'a>(history: &'a History, report: &Report) -> BTreeSet<&'a str> {
    report.acknowledged.iter().map(|event| history.events[*event].id.as_str()).collect()
}

pub(crate) fn sent(history: &History) -> BTreeSet<&str> {
    history.events.iter().map(|event| event.id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_under_load_lose_nothing_and_leave_the_rows_equal_to_the_truth() {
    let history = history(4_000);
    // A short lease: messages of a killed process are due again only after it.
    let home = Home::new(BINARY).with("ROLLBOOK_LEASE_FOR", "5s").with("ROLLBOOK_LOG", "warn");
    let mut rollbook = home.start_ready(&["serve"]).await;
    let load = send(home.listen, &history, 600);
    let killer = async {
        let mut random = fastrand::Rng::with_seed(SEED);
        let mut acknowledged_before_each = Vec::new();
        for _ in 0..KILLS {
            // At a random time on purpose, in the middle of any operation.
            tokio::time::sleep(Duration::from_millis(random.u64(50..400))).await;
            acknowledged_before_each.push(home.metric_with("rollbook_deliveries_total", "queued").await);
            rollbook.kill();
            rollbook = home.start_ready(&["serve"]).await;
        }
        acknowledged_before_each
    };
    let (report, killed_at) = tokio::join!(load, killer);
    let under_load = killed_at.iter().filter(|count| count.is_some_and(|count| count > 0.0)).count();
    assert!(under_load >= KILLS / 2, "a run that kills an idle process shows nothing: {killed_at:?}");
    assert_eq!(report.unanswered.len() + report.refused.len(), 0, "{:?}", report.last_error);

    until("the queue is empty", || async { audit::waiting(&home.data()) == 0 }).await;
    rollbook.signal("TERM");
    assert!(rollbook.exit().await.success(), "{}", home.log());
    let found = audit::audit(&home.data(), &acknowledged(&history, &report), &sent(&history));
    assert_eq!(found, CLEAN, "seed {SEED}");
    let rows = audit::compare(&home.data(), &history).await;
    assert!(rows.is_equal(), "seed {SEED}: {rows:?}");
    assert!(report.attempts > report.acknowledged.len() as u64, "no kill was ever felt by the sender");
}

/// A queue that acknowledges every hundredth delivery without storing it, like a receiver that answers before
/// its queue is durable.
struct Forgetful(Arc<SqliteQueue>);

#[async_trait]
impl Producer for Forgetful {
    async fn enqueue_many(&self, deliveries: &[Delivery]) -> Vec<Result<Enqueued, QueueError>> {
        let kept: Vec<Delivery> =
            deliveries.iter().filter(|delivery| !forgotten(delivery.id.as_str())).cloned().collect();
        let failed = self.0.enqueue_many(&kept).await.into_iter().find(Result::is_err);
        vec![failed.unwrap_or(Ok(Enqueued::Queued)); deliveries.len()]
    }
}

fn forgotten(id: &str) -> bool {
    id.bytes().map(u32::from).sum::<u32>() % 100 == 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_detects_every_acknowledged_delivery_that_is_lost() {
    let history = history(1_500);
    let folder = tempfile::tempdir().expect("a folder");
    let clock: Arc<dyn Clock> = Arc::new(WallClock);
    let (queue_path, store_path) = (folder.path().join("queue.db"), folder.path().join("store.db"));
    apply_migrations(&queue_path, Schema::Queue).expect("a queue");
    apply_migrations(&store_path, Schema::Store).expect("a store");
    let queue = SqliteQueue::open(
        &queue_path,
        QueueSettings { depth_max: 1_000_000, due_ahead_max: Duration::from_secs(600) },
        Arc::clone(&clock),
    );
    let queue = Arc::new(queue.expect("a queue"));
    let store = Arc::new(SqliteStore::open(&store_path, Arc::clone(&clock)).expect("a store"));

    let registry = Registry::new();
    let secrets = SigningSecrets::parse(SECRET).expect("a secret");
    let producer = Arc::new(Forgetful(Arc::clone(&queue)));
    let receiver = Receiver::new(Settings::default(), secrets, producer, Arc::clone(&clock), &registry);
    let worker =
        rollbook_worker::Worker::new(rollbook_worker::Settings::default(), queue, store, clock, &registry);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let stop = CancellationToken::new();
    let (receiver, worker) = (receiver.expect("its metrics"), worker.expect("its metrics"));
    let serving = async { tokio::join!(receiver.serve(listener, stop.clone()), worker.run(stop.clone())) };
    let sending = async {
        let report = send(address, &history, 10_000).await;
        until("the queue is empty", || async { audit::waiting(folder.path()) == 0 }).await;
        stop.cancel();
        report
    };
    let (report, ended) = tokio::join!(sending, serving);
    ended.0.expect("the receiver ends cleanly");
    ended.1.expect("the worker ends cleanly");

    let found = audit::audit(folder.path(), &acknowledged(&history, &report), &sent(&history));
    let forgotten = sent(&history).into_iter().filter(|id| forgotten(id)).count();
    assert!(forgotten > 0, "the control forgot nothing");
    assert_eq!(found.lost, forgotten);
    assert!(!audit::compare(folder.path(), &history).await.is_equal());
}
