//! Test server: an ops port with fake components, a fake queue and a fixed clock.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use prometheus::Registry;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{
    BulkStep, DeadLetter, DeadLetterPage, Discard, Durability, MessagesCursor, MessagesPage, QueueAdmin,
    QueueError, QueueStats, QueuedMessage, StorageSpace,
};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_core::weakness::Weakness;
use rollbook_ops::{Component, Condition, Ops, Probe, WatchedQueue};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);
pub(crate) const DEPTH_MAX: u64 = 70;
/// Deadline for everything that a test waits for; only a hang takes this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        NOW
    }
}

#[derive(Clone)]
pub(crate) enum FakeProbe {
    Healthy,
    Degraded(&'static str),
    Impaired(&'static str),
    Unproven(&'static str),
    Failing(&'static str),
    NoAnswer,
}

#[async_trait]
impl Probe for FakeProbe {
    async fn check(&self) -> Condition {
        match self {
            Self::Healthy => Condition::Healthy,
            Self::Degraded(why) => Condition::Degraded((*why).to_owned()),
            Self::Impaired(why) => Condition::Impaired((*why).to_owned()),
            Self::Unproven(why) => Condition::Unproven((*why).to_owned()),
            Self::Failing(why) => Condition::Failing((*why).to_owned()),
            Self::NoAnswer => std::future::pending().await,
        }
    }
}

/// Healthy probe of a process that has made this many calls to the queue.
struct CountedCalls(Arc<AtomicUsize>);

#[async_trait]
impl Probe for CountedCalls {
    async fn check(&self) -> Condition {
        Condition::Healthy
    }

    fn calls(&self) -> u64 {
        u64::try_from(self.0.load(Ordering::Relaxed)).expect("small")
    }
}

/// Fake queue with figures set by the test; with `None` it never answers. It is durable while nothing is
/// delayed.
pub(crate) struct FakeQueue {
    pub(crate) answer: Mutex<Option<Result<QueueStats, QueueError>>>,
    pub(crate) asked: AtomicUsize,
}

/// Returns whether the queue reports an unreachable node, which the test marks by [`PART_MISSING`].
pub(crate) fn weak_part(answer: &Mutex<Option<Result<QueueStats, QueueError>>>) -> bool {
    let answer = answer.lock().expect("no test panics with it");
    matches!(&*answer, Some(Ok(stats)) if *stats == PART_MISSING)
}

pub(crate) const PART_MISSING: QueueStats =
    QueueStats { ready: 0, leased: 0, delayed: 0, dead: 99, oldest_received_at: None };

impl FakeQueue {
    pub(crate) async fn answer(&self) -> Result<QueueStats, QueueError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = self.answer.lock().expect("no test panics with it").clone();
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    pub(crate) fn set_answer(&self, answer: Result<QueueStats, QueueError>) {
        *self.answer.lock().expect("no test panics with it") = Some(answer);
    }
}

#[async_trait]
impl QueueAdmin for FakeQueue {
    async fn stats(&self) -> Result<QueueStats, QueueError> {
        self.answer().await
    }

    async fn dead_letters(&self, _: &DeadLetterPage) -> Result<Vec<DeadLetter>, QueueError> {
        panic!("a probe asks for no dead letters")
    }

    async fn newest_dead_letters(&self, _: &DeadLetterPage) -> Result<Vec<DeadLetter>, QueueError> {
        panic!("a probe asks for no dead letters")
    }

    async fn discards(&self, _: &MessageId) -> Result<Vec<Discard>, QueueError> {
        panic!("a probe asks for no dead letters")
    }

    async fn redrive(&self, _: &DeadLetterPage) -> Result<BulkStep, QueueError> {
        panic!("a probe writes nothing")
    }

    async fn discard(&self, _: &DeadLetterPage) -> Result<BulkStep, QueueError> {
        panic!("a probe writes nothing")
    }

    async fn messages(&self, _: Option<&MessagesCursor>, _: usize) -> Result<MessagesPage, QueueError> {
        panic!("a probe asks for no messages")
    }

    async fn message(&self, _: &MessageId) -> Result<Option<QueuedMessage>, QueueError> {
        panic!("a probe asks for no message")
    }

    async fn remove_many(&self, _: &[MessageId]) -> Result<usize, QueueError> {
        panic!("a probe writes nothing")
    }

    async fn space(&self) -> Result<StorageSpace, QueueError> {
        // The room is known whenever there are dead letters.
        let answer = self.answer.lock().expect("no test panics with it").clone();
        let used = answer.and_then(Result::ok).map(|stats| stats.dead).filter(|dead| *dead > 0);
        Ok(StorageSpace {
            memory_used: used,
            memory_limit: used.map(|used| used * 2),
            ..StorageSpace::default()
        })
    }

    async fn durability(&self) -> Result<Durability, QueueError> {
        let weak = self.answer().await?.delayed > 0;
        Ok(Durability {
            weaknesses: weak
                .then(|| Weakness::new("appendonly is no", "CONFIG SET appendonly yes"))
                .into_iter()
                .collect(),
            vouched: Vec::new(),
            unreachable: (weak_part(&self.answer).then(|| "shard 3: Redis: connection refused".to_owned()))
                .into_iter()
                .collect(),
        })
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(
        queue: Option<Arc<FakeQueue>>,
        live: Vec<Component>,
        ready: Vec<Component>,
    ) -> Self {
        Self::with_registry(Registry::new(), queue, live, ready).await
    }

    pub(crate) async fn with_registry(
        registry: Registry,
        queue: Option<Arc<FakeQueue>>,
        live: Vec<Component>,
        ready: Vec<Component>,
    ) -> Self {
        let queue =
            queue.map(|admin| WatchedQueue { admin, depth_max: DEPTH_MAX, idle_check: Duration::ZERO });
        let ops = Ops::new(registry, queue, live, ready, Arc::new(FixedClock)).expect("all names are free");
        Self::serving(ops).await
    }

    /// Starts a server with a queue that answers, in a process that saw `used` when it used the queue.
    pub(crate) async fn with_used_queue(used: FakeProbe) -> Self {
        let queue = WatchedQueue {
            admin: queue(Some(Ok(QueueStats::default()))),
            depth_max: DEPTH_MAX,
            idle_check: Duration::ZERO,
        };
        let (registry, clock) = (Registry::new(), Arc::new(FixedClock));
        let ops = Ops::new(registry, Some(queue), Vec::new(), Vec::new(), clock).expect("all names are free");
        Self::serving(ops.with_queue_probe(Arc::new(used))).await
    }

    /// Starts a server in a process that has made `calls` to the queue; the figures of an empty queue hold for
    /// `idle_check`.
    pub(crate) async fn with_calls(
        admin: Arc<FakeQueue>,
        calls: Arc<AtomicUsize>,
        idle_check: Duration,
    ) -> Self {
        let queue = WatchedQueue { admin, depth_max: DEPTH_MAX, idle_check };
        let (registry, clock) = (Registry::new(), Arc::new(FixedClock));
        let ops = Ops::new(registry, Some(queue), Vec::new(), Vec::new(), clock).expect("all names are free");
        Self::serving(ops.with_queue_probe(Arc::new(CountedCalls(calls)))).await
    }

    #[expect(clippy::disallowed_methods, reason = "every test awaits the server it starts")]
    pub(crate) async fn serving(ops: Ops) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let stop = CancellationToken::new();
        let serving = tokio::spawn(ops.serve(listener, stop.clone()));
        Self { address, stop, serving }
    }

    /// Sends a GET request and returns the complete response, head and body.
    pub(crate) async fn get(&self, path: &str) -> String {
        let asked = async {
            let mut stream = TcpStream::connect(self.address).await?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: ops\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        tokio::time::timeout(DEADLINE, asked).await.expect("it answers").expect("it answers whole")
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.serving).await.expect("it stops").expect("it does not panic");
    }
}

pub(crate) fn part(name: &'static str, probe: FakeProbe) -> Component {
    Component { name, probe: Arc::new(probe) }
}

pub(crate) fn queue(answer: Option<Result<QueueStats, QueueError>>) -> Arc<FakeQueue> {
    Arc::new(FakeQueue { answer: Mutex::new(answer), asked: AtomicUsize::new(0) })
}

pub(crate) fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").expect("an answer has a head").1
}

#[track_caller]
pub(crate) fn assert_line(answer: &str, line: &str) {
    assert!(answer.lines().any(|found| found == line), "no line {line:?} in\n{answer}");
}
