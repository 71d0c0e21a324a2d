//! Test server: a receiver on this machine for the duration of a test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prometheus::{Registry, TextEncoder};
use rollbook_core::signature::SigningSecrets;
use rollbook_core::time::{Clock, Timestamp};
use rollbook_receiver::{Receiver, ReceiverError, Settings};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::client::{Answer, Client, NOW, Post, SECRET, within};
use crate::queue::FakeQueue;

/// Fixed clock that counts its calls: one for each body that was read. After that call a delivery proceeds to
/// its queue permit without a pause, so on one thread this counts the deliveries that have one.
#[derive(Default)]
struct CountingClock(AtomicUsize);

impl Clock for CountingClock {
    fn now(&self) -> Timestamp {
        self.0.fetch_add(1, Ordering::SeqCst);
        NOW
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) queue: Arc<FakeQueue>,
    pub(crate) stop: CancellationToken,
    clock: Arc<CountingClock>,
    registry: Registry,
    served: JoinSet<Result<(), ReceiverError>>,
}

impl Server {
    pub(crate) async fn start(settings: Settings) -> Self {
        Self::start_with(settings, FakeQueue::open(), SECRET).await
    }

    pub(crate) async fn start_gated(settings: Settings) -> Self {
        Self::start_with(settings, FakeQueue::gated(), SECRET).await
    }

    pub(crate) async fn start_with(settings: Settings, queue: FakeQueue, secrets: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Registry::new();
        let queue = Arc::new(queue);
        let secrets = SigningSecrets::parse(secrets).unwrap();
        let clock = Arc::new(CountingClock::default());
        let receiver = Receiver::new(settings, secrets, queue.clone(), clock.clone(), &registry).unwrap();
        let stop = CancellationToken::new();
        let mut served = JoinSet::new();
        served.spawn(receiver.serve(listener, stop.clone()));
        Self { address, queue, stop, clock, registry, served }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Posts on a new connection.
    pub(crate) async fn post(&self, post: &Post) -> Answer {
        self.client().await.ask(post.bytes()).await
    }

    /// Posts a valid delivery on a new connection.
    pub(crate) async fn deliver(&self, id: &str) -> Answer {
        self.post(&Post::new(id, format!("body of {id}"))).await
    }

    /// Posts a valid delivery on a new connection without waiting for the response.
    pub(crate) async fn begin(&self, id: &str) -> Client {
        let mut client = self.client().await;
        client.send(Post::new(id, format!("body of {id}")).bytes()).await;
        client
    }

    /// Waits until `bodies` bodies have been read in total.
    pub(crate) async fn read(&self, bodies: usize) {
        eventually(|| self.clock.0.load(Ordering::SeqCst) >= bodies).await;
    }

    /// Waits for the result of `serve`.
    pub(crate) async fn ended(&mut self) -> Result<(), ReceiverError> {
        within(self.served.join_next()).await.unwrap().unwrap()
    }

    pub(crate) async fn stopped(&mut self) -> Result<(), ReceiverError> {
        self.stop.cancel();
        self.ended().await
    }

    pub(crate) fn metrics(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap()
    }

    /// Value of one series, named as in the text format.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
    }

    pub(crate) fn count(&self, outcome: &str) -> f64 {
        self.metric(&format!("rollbook_deliveries_total{{outcome=\"{outcome}\"}}"))
    }

    /// Number of requests refused for this reason.
    pub(crate) fn refusals(&self, reason: &str) -> f64 {
        self.metric(&format!("rollbook_refusals_total{{reason=\"{reason}\"}}"))
    }

    /// Waits until `times` deliveries have this outcome.
    pub(crate) async fn counted(&self, outcome: &str, times: f64) {
        eventually(|| self.count(outcome) >= times).await;
        assert!((self.count(outcome) - times).abs() < 0.5, "{outcome}: {}", self.count(outcome));
    }
}

/// Polls a condition until it holds, up to the deadline.
pub(crate) async fn eventually(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "the condition never held");
        sleep(Duration::from_millis(2)).await;
    }
}
