//! A store, an endpoint that a test scripts, and forwarders over them, on a simulated clock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use prometheus::Registry;
use prometheus::proto::Metric;
use rollbook_core::change::Change;
use rollbook_core::retry::RetryPolicy;
use rollbook_core::signature::SigningSecrets;
use rollbook_core::store::{Changes as _, Forward, ForwardState, Forwards as _, Position, Store as _};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_forwarder::{Endpoint, ForwardSettings, Forwarder, Ports, Push, Verdict};
use rollbook_testkit::events::{START, change_of, event, user};
use rollbook_testkit::memory::store::MemoryStore;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

pub(crate) const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
pub(crate) const NAME: &str = "crm";
pub(crate) const ROW_BYTES_MAX: usize = 1 << 20;

/// Clock of tokio's paused time.
pub(crate) struct PausedClock(Instant);

impl PausedClock {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(START).plus(self.0.elapsed())
    }
}

/// A request that the endpoint got.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) at: Duration,
    pub(crate) id: String,
    pub(crate) subject: String,
    pub(crate) change: Value,
    pub(crate) verdict: Verdict,
}

/// Answer of the endpoint, and the time that it takes.
pub(crate) type Answer = (Duration, Verdict);

type Script = Box<dyn Fn(&str, Duration) -> Answer + Send + Sync>;

/// An endpoint that answers as the script says: by subject and time.
pub(crate) struct Scripted {
    script: Script,
    began_at: Instant,
    got: Mutex<Vec<Got>>,
    /// Subjects of requests in progress.
    open: Mutex<HashMap<String, usize>>,
    most_open: Mutex<usize>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request in progress.
struct Open<'a>(&'a Scripted, String);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        locked(&self.0.open).remove(&self.1);
    }
}

#[async_trait]
impl Endpoint for Scripted {
    async fn send(&self, push: Push, limit: Duration) -> Verdict {
        let change: Value = serde_json::from_slice(&push.body).expect("JSON");
        let subject = change["subject_id"].as_str().expect("an id").to_owned();
        let before = locked(&self.open).insert(subject.clone(), 1);
        assert_eq!(before, None, "two requests for {subject} at once");
        let open = Open(self, subject.clone());
        {
            let now_open = locked(&self.open).len();
            let mut most = locked(&self.most_open);
            *most = (*most).max(now_open);
        }
        let (delay, verdict) = (self.script)(&subject, self.began_at.elapsed());
        if timeout(limit, sleep(delay)).await.is_err() {
            return Verdict::TimedOut;
        }
        drop(open);
        let at = self.began_at.elapsed();
        locked(&self.got).push(Got { at, id: push.id, subject, change, verdict: verdict.clone() });
        verdict
    }
}

impl Scripted {
    pub(crate) fn got(&self) -> Vec<Got> {
        locked(&self.got).clone()
    }

    /// Positions of accepted requests, in their order.
    pub(crate) fn accepted(&self) -> Vec<Position> {
        let accepted = |got: &Got| (got.verdict == Verdict::Accepted).then(|| position(&got.id));
        locked(&self.got).iter().filter_map(accepted).collect()
    }

    pub(crate) fn most_open(&self) -> usize {
        *locked(&self.most_open)
    }
}

pub(crate) fn position(id: &str) -> Position {
    id.strip_prefix("chg_").expect("an id").parse().expect("a position")
}

/// Positions by subject, in their order.
pub(crate) fn by_subject(got: &[Got]) -> HashMap<String, Vec<Position>> {
    let mut found: HashMap<String, Vec<Position>> = HashMap::new();
    for of in got.iter().filter(|got| got.verdict == Verdict::Accepted) {
        found.entry(of.subject.clone()).or_default().push(position(&of.id));
    }
    found
}

pub(crate) const fn refused(status: u16) -> Verdict {
    Verdict::Refused { status, pause: None }
}

pub(crate) fn settings() -> ForwardSettings {
    ForwardSettings {
        name: NAME.to_owned(),
        secrets: SigningSecrets::parse(SECRET).expect("a secret").into(),
        resources: Vec::new(),
        kinds: Vec::new(),
        expand: false,
        backfill: false,
        timeout: Duration::from_secs(10),
        concurrency: 8,
        slow_max: 64,
        retry: RetryPolicy {
            backoff: Duration::from_secs(2),
            backoff_max: Duration::from_secs(600),
            attempts_max: 6,
        },
        give_up_after: Duration::from_secs(3 * 86_400),
        blocked_max: 1_000,
    }
}

/// A store and an endpoint.
pub(crate) struct Stage {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) clock: Arc<PausedClock>,
    pub(crate) endpoint: Arc<Scripted>,
    writes: Mutex<i64>,
}

impl Stage {
    pub(crate) fn new(script: impl Fn(&str, Duration) -> Answer + Send + Sync + 'static) -> Self {
        let clock = Arc::new(PausedClock::new());
        let endpoint = Arc::new(Scripted {
            script: Box::new(script),
            began_at: Instant::now(),
            got: Mutex::default(),
            open: Mutex::default(),
            most_open: Mutex::default(),
        });
        let store = Arc::new(MemoryStore::new(clock.clone()));
        Self { store, clock, endpoint, writes: Mutex::default() }
    }

    /// An endpoint that accepts everything at once.
    pub(crate) fn accepting() -> Self {
        Self::new(|_, _| (Duration::ZERO, Verdict::Accepted))
    }

    /// Changes users, one line each.
    pub(crate) async fn write(&self, subjects: &[&str]) {
        let changes: Vec<Change> = subjects.iter().map(|subject| self.change(subject)).collect();
        for change in changes {
            self.store.apply_many(&[change]).await.expect("the store applies it");
        }
    }

    fn change(&self, subject: &str) -> Change {
        let mut writes = locked(&self.writes);
        *writes += 1;
        let at = START + *writes;
        let mut data = user(subject, at);
        data["username"] = Value::from(format!("name_{writes}"));
        change_of(&format!("msg_{writes}"), &event("user.updated", at, &data))
    }

    /// Time since the endpoint began.
    pub(crate) fn began(&self) -> Duration {
        self.endpoint.began_at.elapsed()
    }

    pub(crate) fn ports(&self) -> Ports {
        Ports {
            changes: self.store.clone(),
            forwards: self.store.clone(),
            rows: self.store.clone(),
            clock: self.clock.clone(),
        }
    }

    pub(crate) fn start(&self, settings: ForwardSettings) -> Running {
        Running::new(self.ports(), settings, self.endpoint.clone())
    }

    /// Starts, and waits until the forward has begun.
    pub(crate) async fn begin(&self, settings: ForwardSettings) -> Running {
        let running = self.start(settings);
        until("it has begun", || async { self.find().await.is_some() }).await;
        running
    }

    pub(crate) async fn find(&self) -> Option<Forward> {
        self.store.forwards().await.expect("forwards").into_iter().find(|forward| forward.name == NAME)
    }

    pub(crate) async fn forward(&self) -> Forward {
        self.find().await.expect("it ran")
    }

    pub(crate) async fn failed(&self) -> Vec<Position> {
        let failed = self.store.forward_changes(NAME, ForwardState::Failed, 0, 1_000).await;
        failed.expect("dead letters").iter().map(|change| change.line.position).collect()
    }

    /// Waits until every change of the feed is delivered or a dead letter.
    pub(crate) async fn until_settled(&self) {
        until("everything is settled", || async {
            let last = self.store.feed().await.expect("a feed").last;
            let forward = self.forward().await;
            forward.position == last && forward.waiting == 0
        })
        .await;
    }
}

/// A forwarder that runs.
pub(crate) struct Running {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    pub(crate) registry: Registry,
}

impl Running {
    pub(crate) fn new(ports: Ports, settings: ForwardSettings, endpoint: Arc<dyn Endpoint>) -> Self {
        let registry = Registry::new();
        let forwarder = Forwarder::new(ports, vec![(settings, endpoint)], ROW_BYTES_MAX, &registry)
            .expect("metrics register");
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        tasks.spawn(forwarder.run(stop.clone()));
        Self { tasks, stop, registry }
    }

    /// Asks it to stop, and waits for that.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        self.tasks.join_next().await.expect("a task").expect("it ends in order");
    }

    /// Kills it: nothing more is saved.
    pub(crate) async fn kill(mut self) {
        self.tasks.shutdown().await;
    }

    /// Value of a metric.
    pub(crate) fn metric(&self, name: &str, label: &str) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).expect("the metric");
        let has_label = |metric: &&Metric| metric.get_label().iter().any(|pair| pair.value() == label);
        let of = family.get_metric().iter().filter(has_label);
        let sum: f64 =
            of.map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value()).sum();
        format!("{:.0}", sum.floor()).parse().expect("a number from zero")
    }
}

/// Waits for a condition, for at most a week of the simulated clock.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(7 * 86_400);
    while !holds().await {
        assert!(Instant::now() < deadline, "not within a week: {what}");
        sleep(Duration::from_millis(500)).await;
    }
}
