//! What Prometheus reads: what the faces counted, and what is computed at the scrape.
//!
//! The numbers of the queue belong to the service, not to this process, so they are asked for when
//! someone looks. Where the queue does not answer in time its gauges keep their last value, which
//! would lie, were `rollbook_up{part="queue"}` not 0 in the same scrape.

use std::sync::Arc;

use prometheus::{Gauge, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use rollbook_core::queue::{QueueAdmin, QueueStats};
use rollbook_core::time::{Clock, Timestamp};

use crate::CHECK_TIMEOUT;
use crate::health::Health;

/// The part that the gauges of the queue speak for.
const QUEUE: &str = "queue";

pub(crate) struct Metrics {
    registry: Registry,
    queue: Option<(Arc<dyn QueueAdmin>, QueueGauges)>,
    pub(crate) ready: Health,
    pub(crate) watched: Health,
    up: IntGaugeVec,
    clock: Arc<dyn Clock>,
}

impl Metrics {
    pub(crate) fn new(
        registry: Registry,
        queue: Option<Arc<dyn QueueAdmin>>,
        ready: Health,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, prometheus::Error> {
        let help = "Whether a part answered its check at this scrape (1) or not (0).";
        let up = IntGaugeVec::new(Opts::new("rollbook_up", help), &["part"])?;
        registry.register(Box::new(up.clone()))?;
        let build = IntGaugeVec::new(Opts::new("rollbook_build_info", "Always 1."), &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(build))?;
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .or_else(already_registered_is_fine)?;
        let queue = match queue {
            Some(queue) => Some((queue, QueueGauges::new(&registry)?)),
            None => None,
        };
        Ok(Self { registry, queue, ready, watched: Health::new(Vec::new()), up, clock })
    }

    /// Asks every part, then renders all metrics as Prometheus text.
    pub(crate) async fn render(&self) -> Result<String, prometheus::Error> {
        let (checked, watched, queue_answered) =
            tokio::join!(self.ready.check(), self.watched.check(), self.update_queue());
        for (part, condition) in checked.iter().chain(&watched) {
            self.up.with_label_values(&[*part]).set(i64::from(condition.is_ready()));
        }
        match queue_answered {
            Some(false) => self.up.with_label_values(&[QUEUE]).set(0),
            Some(true) if !checked.iter().any(|(part, _)| *part == QUEUE) => {
                self.up.with_label_values(&[QUEUE]).set(1);
            }
            _ => {}
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// Whether the queue gave its numbers; `None` where there is no queue.
    async fn update_queue(&self) -> Option<bool> {
        let (queue, gauges) = self.queue.as_ref()?;
        let (stats, durability) = tokio::join!(
            tokio::time::timeout(CHECK_TIMEOUT, queue.stats()),
            tokio::time::timeout(CHECK_TIMEOUT, queue.durability()),
        );
        let (stats, durability) = (stats.ok().and_then(Result::ok), durability.ok().and_then(Result::ok));
        if let Some(stats) = &stats {
            gauges.set(stats, self.clock.now());
        }
        if let Some(durability) = &durability {
            let degraded = gauges.durability_degraded.with_label_values(&[QUEUE]);
            degraded.set(i64::from(durability.is_degraded()));
        }
        Some(stats.is_some() && durability.is_some())
    }
}

/// The process collector is the same for all, so a registry that has it is none the worse.
#[cfg(target_os = "linux")]
fn already_registered_is_fine(error: prometheus::Error) -> Result<(), prometheus::Error> {
    if matches!(error, prometheus::Error::AlreadyReg) { Ok(()) } else { Err(error) }
}

struct QueueGauges {
    depth: IntGauge,
    leased: IntGauge,
    delayed: IntGauge,
    oldest_age_seconds: Gauge,
    dead_letters: IntGauge,
    /// Not shown before the queue has been asked: until then nobody knows.
    durability_degraded: IntGaugeVec,
}

impl QueueGauges {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let oldest_age_seconds = Gauge::new(
            "rollbook_queue_oldest_age_seconds",
            "How long ago the oldest message that is neither done nor dead was received; 0 when there is none.",
        )?;
        registry.register(Box::new(oldest_age_seconds.clone()))?;
        let durability_degraded = IntGaugeVec::new(
            Opts::new(
                "rollbook_durability_degraded",
                "Whether what the part acknowledges could still be lost (1) or is on stable storage (0).",
            ),
            &["part"],
        )?;
        registry.register(Box::new(durability_degraded.clone()))?;
        Ok(Self {
            durability_degraded,
            depth: gauge("rollbook_queue_depth", "Messages that are neither done nor dead.")?,
            leased: gauge("rollbook_queue_leased", "Messages in the hands of a worker.")?,
            delayed: gauge("rollbook_queue_delayed", "Messages that wait for their backoff to pass.")?,
            oldest_age_seconds,
            dead_letters: gauge(
                "rollbook_dead_letters",
                "Messages that were parked and wait for a person to redrive or discard them.",
            )?,
        })
    }

    fn set(&self, stats: &QueueStats, now: Timestamp) {
        let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.depth.set(whole(stats.depth()));
        self.leased.set(whole(stats.leased));
        self.delayed.set(whole(stats.delayed));
        self.dead_letters.set(whole(stats.dead));
        self.oldest_age_seconds
            .set(stats.oldest_received_at.map_or(0.0, |oldest| now.since(oldest).as_secs_f64()));
    }
}
