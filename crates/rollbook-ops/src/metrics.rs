//! Metrics for Prometheus: those that other crates count, and those computed at the scrape.
//!
//! The queue's figures belong to the service, not to this process, so they are queried at each scrape. If the
//! queue does not answer in time, its gauges keep their last value; `rollbook_up{part="queue"}` is 0 in the
//! same scrape and marks them as outdated. The figures of an empty queue hold for a while: see `IdleCheck`.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{
    Gauge, IntGauge, IntGaugeVec, Registry, TextEncoder, register_gauge_with_registry,
    register_int_gauge_vec_with_registry, register_int_gauge_with_registry,
};
use rollbook_core::queue::{Durability, QueueStats, StorageSpace};
use rollbook_core::time::{Clock, Timestamp};
use rollbook_core::weakness;
use tokio::time::Instant;

use crate::health::{Checked, Health, Since};
use crate::process::Process;
use crate::{CHECK_TIMEOUT, Condition, Probe, WatchedQueue};

/// Component that the queue gauges describe.
const QUEUE: &str = "queue";

pub(crate) struct Metrics {
    registry: Registry,
    queue: Option<(WatchedQueue, QueueGauges)>,
    idle_check: Mutex<Option<IdleCheck>>,
    since: Mutex<Since>,
    /// Probes of the queue by its use in this process.
    pub(crate) queue_used: Vec<Arc<dyn Probe>>,
    ready: Health,
    pub(crate) watched: Health,
    up: IntGaugeVec,
    /// No series before the first connection: the value is unknown until then.
    clear_text: IntGaugeVec,
    process: Option<Process>,
    clock: Arc<dyn Clock>,
}

/// Successful check of an empty queue.
struct IdleCheck {
    at: Instant,
    /// Calls of this process to the queue until then.
    calls: u64,
    condition: Condition,
}

impl Metrics {
    pub(crate) fn new(
        registry: Registry,
        queue: Option<WatchedQueue>,
        ready: Health,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, prometheus::Error> {
        let help = "1 if the component answers and works, otherwise 0.";
        let up = register_int_gauge_vec_with_registry!("rollbook_up", help, &["part"], registry)?;
        let help = "1 if passwords and data go to the component in clear text over a network; 0 with TLS, or within this \
                    machine.";
        let name = "rollbook_connection_clear_text";
        let clear_text = register_int_gauge_vec_with_registry!(name, help, &["part"], registry)?;
        let (name, help) = ("rollbook_build_info", "Always 1.");
        let build = register_int_gauge_vec_with_registry!(name, help, &["version"], registry)?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let process = Process::new(&registry)?;
        let queue = match queue {
            Some(queue) => {
                let gauges = QueueGauges::new(&registry)?;
                gauges.depth_limit.set(whole(queue.depth_max));
                Some((queue, gauges))
            }
            None => None,
        };
        Ok(Self {
            registry,
            queue,
            idle_check: Mutex::default(),
            since: Mutex::default(),
            queue_used: Vec::new(),
            ready,
            watched: Health::new(Vec::new()),
            up,
            clear_text,
            process,
            clock,
        })
    }

    /// Checks every component, then renders all metrics as Prometheus text.
    pub(crate) async fn render(&self) -> Result<String, prometheus::Error> {
        let (ready, watched) = self.check().await;
        for (part, condition) in ready.iter().chain(&watched) {
            self.up.with_label_values(&[*part]).set(i64::from(condition.is_up()));
        }
        let queue = self.queue.as_ref().and_then(|(queue, _)| Some((QUEUE, queue.admin.protection()?)));
        for (part, protection) in
            queue.into_iter().chain(self.ready.protections()).chain(self.watched.protections())
        {
            self.clear_text.with_label_values(&[part]).set(i64::from(!protection.is_private()));
        }
        if let Some(process) = &self.process {
            process.update();
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Checks every component once: first those on which readiness depends, then those that are only watched.
    pub(crate) async fn check(&self) -> (Vec<Checked>, Vec<Checked>) {
        let (queue, mut ready, watched) =
            tokio::join!(self.check_queue(), self.ready.check(), self.watched.check());
        if let Some(condition) = queue {
            ready.insert(0, (QUEUE, condition));
        }
        self.note(ready.iter().chain(&watched));
        (ready, watched)
    }

    /// Returns since when parts are not healthy.
    pub(crate) fn since(&self) -> Since {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note<'a>(&self, checked: impl Iterator<Item = &'a Checked>) {
        let now = self.clock.now();
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, condition) in checked {
            if *condition == Condition::Healthy {
                since.remove(name);
            } else {
                since.entry(name).or_insert(now);
            }
        }
    }

    /// Checks the queue and updates its gauges; `None` without a queue.
    async fn check_queue(&self) -> Option<Condition> {
        let (queue, gauges) = self.queue.as_ref()?;
        let calls = self.queue_used.iter().map(|used| used.calls()).sum();
        let asked = async {
            match self.still_idle(queue, calls) {
                Some(condition) => condition,
                None => self.ask_queue(queue, gauges, calls).await,
            }
        };
        // At the same time, and with the same limit: one of them may try a write.
        let used = async {
            let mut worst = Condition::Healthy;
            for used in &self.queue_used {
                let checked = tokio::time::timeout(CHECK_TIMEOUT, used.check()).await;
                worst = worst.worse(checked.unwrap_or_else(|_| Condition::no_answer()));
            }
            worst
        };
        let (asked, used) = tokio::join!(asked, used);
        Some(asked.worse(used))
    }

    /// Returns the condition of the last check if the queue was empty then and this process has not used it since.
    fn still_idle(&self, queue: &WatchedQueue, calls: u64) -> Option<Condition> {
        let last = self.idle_check.lock().unwrap_or_else(PoisonError::into_inner);
        let last =
            last.as_ref().filter(|last| last.at.elapsed() < queue.idle_check && last.calls == calls)?;
        Some(last.condition.clone())
    }

    async fn ask_queue(&self, queue: &WatchedQueue, gauges: &QueueGauges, calls: u64) -> Condition {
        let at = Instant::now();
        let asked =
            async { tokio::try_join!(queue.admin.stats(), queue.admin.durability(), queue.admin.space()) };
        let (condition, is_idle) = match tokio::time::timeout(CHECK_TIMEOUT, asked).await {
            Ok(Ok((stats, durability, room))) => {
                gauges.set(&stats, &durability, self.clock.now());
                gauges.room.set(&room);
                let unreachable: Vec<String> =
                    durability.unreachable.iter().map(|part| format!("unreachable: {part}")).collect();
                let degraded = (!durability.weaknesses.is_empty())
                    .then(|| Condition::Degraded(weakness::joined(&durability.weaknesses, "; ")));
                let impaired = (!unreachable.is_empty()).then(|| Condition::Impaired(unreachable.join("; ")));
                let is_idle = stats.depth() == 0 && impaired.is_none();
                let condition =
                    impaired.unwrap_or(Condition::Healthy).worse(degraded.unwrap_or(Condition::Healthy));
                (condition, is_idle)
            }
            Ok(Err(error)) => (Condition::Failing(error.to_string()), false),
            Err(_) => (Condition::no_answer(), false),
        };
        let check = is_idle.then(|| IdleCheck { at, calls, condition: condition.clone() });
        *self.idle_check.lock().unwrap_or_else(PoisonError::into_inner) = check;
        condition
    }
}

struct QueueGauges {
    depth: IntGauge,
    depth_limit: IntGauge,
    leased: IntGauge,
    delayed: IntGauge,
    oldest_age_seconds: Gauge,
    dead_letters: IntGauge,
    parts_unreachable: IntGauge,
    /// No series of these two before the first check of the queue: the value is unknown until then.
    durability_degraded: IntGaugeVec,
    durability_trusted: IntGaugeVec,
    room: RoomGauges,
}

impl QueueGauges {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| register_int_gauge_with_registry!(name, help, registry);
        let of_parts =
            |name: &str, help: &str| register_int_gauge_vec_with_registry!(name, help, &["part"], registry);
        Ok(Self {
            durability_degraded: of_parts(
                "rollbook_durability_degraded",
                "1 if acknowledged data could still be lost, 0 if it is on stable storage, as far as the server proves it or the \
                 operator vouches for it.",
            )?,
            durability_trusted: of_parts(
                "rollbook_durability_trusted",
                "1 if the operator vouches for what the server does not prove about stable storage, otherwise 0.",
            )?,
            room: RoomGauges::new(registry)?,
            depth: gauge("rollbook_queue_depth", "Messages that are not settled: ready, leased or delayed.")?,
            depth_limit: gauge(
                "rollbook_queue_depth_limit",
                "Maximum of rollbook_queue_depth; further deliveries are answered 503.",
            )?,
            leased: gauge("rollbook_queue_leased", "Messages that a worker has leased.")?,
            delayed: gauge("rollbook_queue_delayed", "Messages that wait for their backoff to end.")?,
            oldest_age_seconds: register_gauge_with_registry!(
                "rollbook_queue_oldest_age_seconds",
                "Age of the oldest message that is not settled; 0 if there is none.",
                registry
            )?,
            parts_unreachable: gauge(
                "rollbook_queue_parts_unreachable",
                "Nodes of the queue's Redis cluster that do not answer: their deliveries are answered 503, and no other \
                 figure of the queue includes their messages.",
            )?,
            dead_letters: gauge(
                "rollbook_dead_letters",
                "Dead letters: messages that wait for an operator to redrive or discard them.",
            )?,
        })
    }

    fn set(&self, stats: &QueueStats, durability: &Durability, now: Timestamp) {
        self.depth.set(whole(stats.depth()));
        self.leased.set(whole(stats.leased));
        self.delayed.set(whole(stats.delayed));
        self.dead_letters.set(whole(stats.dead));
        self.parts_unreachable.set(i64::try_from(durability.unreachable.len()).unwrap_or(i64::MAX));
        self.oldest_age_seconds
            .set(stats.oldest_received_at.map_or(0.0, |oldest| now.since(oldest).as_secs_f64()));
        self.durability_degraded.with_label_values(&[QUEUE]).set(i64::from(durability.is_degraded()));
        self.durability_trusted.with_label_values(&[QUEUE]).set(i64::from(!durability.vouched.is_empty()));
    }
}

/// Memory and disk space of the queue. A gauge is shown only if its value is known: a queue on Redis has no
/// local disk, a queue in a file has no memory limit.
struct RoomGauges {
    memory_used: IntGaugeVec,
    memory_limit: IntGaugeVec,
    disk_available: IntGaugeVec,
    disk_size: IntGaugeVec,
}

impl RoomGauges {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| register_int_gauge_vec_with_registry!(name, help, &[], registry);
        Ok(Self {
            memory_used: gauge(
                "rollbook_queue_memory_used_bytes",
                "Memory in use on the queue's Redis server; with several servers, on the one nearest to its limit.",
            )?,
            memory_limit: gauge(
                "rollbook_queue_memory_limit_bytes",
                "The maxmemory of that server; absent if it has none.",
            )?,
            disk_available: gauge(
                "rollbook_queue_disk_available_bytes",
                "Bytes available on the file system of the embedded queue.",
            )?,
            disk_size: gauge(
                "rollbook_queue_disk_size_bytes",
                "Used and available bytes of the file system of the embedded queue, as df counts: without those that only root may use.",
            )?,
        })
    }

    fn set(&self, room: &StorageSpace) {
        for (gauge, value) in [
            (&self.memory_used, room.memory_used),
            (&self.memory_limit, room.memory_limit),
            (&self.disk_available, room.disk_available),
            (&self.disk_size, room.disk_size),
        ] {
            match value {
                Some(value) => gauge.with_label_values::<&str>(&[]).set(whole(value)),
                None => gauge.reset(),
            }
        }
    }
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
