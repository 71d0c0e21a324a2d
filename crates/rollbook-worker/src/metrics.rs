//! Metrics of the worker.

use std::collections::BTreeMap;

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};
use rollbook_core::catalog::{NEVER_STORED, RESOURCES, event_types};
use rollbook_core::change::{Applied, Change};
use rollbook_core::queue::{BATCH_SIZE_BUCKETS, Lease, Settlement};
use rollbook_core::retry::Reason;
use rollbook_core::store::{RetentionStep, SlowCause};
use rollbook_core::time::Timestamp;

use crate::apply::Call;
use crate::batch::Mismatched;
use crate::cascade_metrics::CascadeMetrics;
use crate::changes_metrics::ChangesMetrics;
use crate::gate_metric::GateMetric;
use crate::turns::TurnMetrics;

/// Seconds: from one commit on a fast disk to a store that hardly answers.
const APPLY_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Seconds: from 10 ms over Svix's last attempt (27 h 35 min) to a replay of last month.
const LAG_BUCKETS: [f64; 17] = [
    0.01,
    0.05,
    0.1,
    0.5,
    1.0,
    5.0,
    15.0,
    60.0,
    300.0,
    1800.0,
    3600.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    604_800.0,
    2_592_000.0,
];

/// Label for a missing reason, resource or type.
const NONE: &str = "none";

/// Label of every event type that Clerk does not document: a sender of events could invent
/// any number of names.
const OTHER: &str = "other";

/// Final outcome of an event.
const APPLIED: &str = "applied";
const DEAD_LETTER: &str = "dead_letter";
const DROPPED: &str = "dropped";

pub(crate) struct Metrics {
    leased: Histogram,
    applied_at_once: Histogram,
    apply_seconds: Histogram,
    apply_slow: IntCounterVec,
    /// The most messages that the next batch may have.
    pub(crate) batch_limit: BatchLimit,
    event_lag_seconds: Histogram,
    settlements: IntCounterVec,
    applied: IntCounterVec,
    events: IntCounterVec,
    pub(crate) leases_lost: IntCounter,
    pub(crate) sanitized: IntCounter,
    field_mismatches: IntCounterVec,
    tidied: IntCounterVec,
    pub(crate) cascades: CascadeMetrics,
    pub(crate) turns: TurnMetrics,
    pub(crate) changes: ChangesMetrics,
    pub(crate) gate: GateMetric,
    pub(crate) progress: Gauge,
}

impl Metrics {
    /// Registers all of them, at zero for every value of a label that there can be.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            leased: batch_size(registry, "lease")?,
            applied_at_once: batch_size(registry, "apply")?,
            apply_seconds: histogram(
                registry,
                HistogramOpts::new("rollbook_apply_seconds", "Time of one call to the store.")
                    .buckets(APPLY_BUCKETS.to_vec()),
            )?,
            apply_slow: slow(registry)?,
            batch_limit: BatchLimit::new(registry)?,
            event_lag_seconds: histogram(
                registry,
                HistogramOpts::new(
                    "rollbook_event_lag_seconds",
                    "Time from Clerk's event to the committed row, of each event that changed a row.",
                )
                .buckets(LAG_BUCKETS.to_vec()),
            )?,
            settlements: counters(
                registry,
                "rollbook_settlements_total",
                "Leases ended, by how and why.",
                &["settlement", "reason"],
            )?,
            applied: counters(
                registry,
                "rollbook_applied_total",
                "Changes applied, by table and by what they did.",
                &["resource", "outcome"],
            )?,
            events: counters(
                registry,
                "rollbook_events_total",
                "Events that came to an end, by type and by what became of them.",
                &["type", "outcome"],
            )?,
            leases_lost: counter(
                registry,
                "rollbook_leases_lost_total",
                "Settlements that came too late: another worker has the message.",
            )?,
            sanitized: counter(
                registry,
                "rollbook_sanitized_total",
                "Characters, keys and numbers replaced because not every store can hold them.",
            )?,
            field_mismatches: counters(
                registry,
                "rollbook_field_mismatches_total",
                "Fields with a value that did not fit the column, which is null then, by table.",
                &["resource"],
            )?,
            tidied: counters(
                registry,
                "rollbook_tidied_total",
                "Data removed by retention: ledger entries, and the content of deleted rows.",
                &["what"],
            )?,
            cascades: CascadeMetrics::new(registry)?,
            turns: TurnMetrics::new(registry)?,
            changes: ChangesMetrics::new(registry)?,
            gate: GateMetric::new(registry)?,
            progress: Gauge::new(
                "rollbook_worker_progress_timestamp_seconds",
                "The last moment at which every lane was seen alive.",
            )?,
        };
        registry.register(Box::new(metrics.progress.clone()))?;
        metrics.start_at_zero();
        Ok(metrics)
    }

    fn start_at_zero(&self) {
        for cause in SlowCause::ALL {
            self.apply_slow.with_label_values(&[cause.as_str()]);
        }
        for settlement in ["ack", "release", "postpone"] {
            self.settlements.with_label_values(&[settlement, NONE]);
        }
        for reason in Reason::ALL {
            self.settlements.with_label_values(&["dead_letter", reason.as_str()]);
            if !reason.is_permanent() {
                self.settlements.with_label_values(&["retry", reason.as_str()]);
            }
        }
        for event_type in event_types().chain([OTHER]) {
            self.events.with_label_values(&[event_type, APPLIED]);
            // One of them never becomes a dead letter: its body carries a one-time password.
            let failed = if NEVER_STORED.contains(&event_type) { DROPPED } else { DEAD_LETTER };
            self.events.with_label_values(&[event_type, failed]);
        }
        self.events.with_label_values(&[NONE, DEAD_LETTER]);
        self.tidied(&RetentionStep::default());
        for resource in RESOURCES {
            self.field_mismatches.with_label_values(&[resource.table]);
        }
        for resource in RESOURCES.into_iter().map(|resource| resource.table).chain([NONE]) {
            for outcome in Applied::ALL {
                self.applied.with_label_values(&[resource, outcome.as_str()]);
            }
        }
    }

    /// A batch was leased. An idle look at the queue is none.
    pub(crate) fn leased(&self, leases: &[Lease]) {
        if !leases.is_empty() {
            self.leased.observe(count(leases.len()));
        }
    }

    /// The store was called once.
    pub(crate) fn called(&self, call: &Call) {
        self.applied_at_once.observe(count(call.changes));
        self.apply_seconds.observe(call.took.as_secs_f64());
        if let Some(cause) = call.slow {
            self.apply_slow.with_label_values(&[cause.as_str()]).inc();
        }
    }

    /// A change was applied. The lag is that of rows that advanced: a replay of last month's event says
    /// nothing about how far the rows are behind.
    pub(crate) fn applied(&self, change: &Change, applied: Applied, now: Timestamp) {
        self.applied.with_label_values(&[change.resource_name(), applied.as_str()]).inc();
        self.ended(Some(change.origin.event_type()), APPLIED);
        if matches!(applied, Applied::Inserted | Applied::Updated | Applied::Deleted) {
            self.event_lag_seconds.observe(now.since(change.origin.event_at()).as_secs_f64());
        }
    }

    /// Records an event of this type that could not be applied and must not become a dead letter.
    pub(crate) fn dropped(&self, event_type: Option<&str>) {
        self.ended(event_type, DROPPED);
    }

    fn ended(&self, event_type: Option<&str>, outcome: &str) {
        let known = |name: &str| event_types().find(|known| *known == name).unwrap_or(OTHER);
        self.events.with_label_values(&[event_type.map_or(NONE, known), outcome]).inc();
    }

    /// Fields did not fit their columns: how many in which tables.
    pub(crate) fn mismatched(&self, found: &BTreeMap<&'static str, Mismatched>) {
        for (table, of_table) in found {
            self.field_mismatches.with_label_values(&[*table]).inc_by(of_table.fields as u64);
        }
    }

    /// Retention has removed something.
    pub(crate) fn tidied(&self, tidied: &RetentionStep) {
        self.tidied.with_label_values(&["ledger_lines"]).inc_by(tidied.ledger);
        self.tidied.with_label_values(&["deleted_rows"]).inc_by(tidied.rows);
        self.tidied.with_label_values(&["changes"]).inc_by(tidied.changes);
    }

    /// A lease ended.
    pub(crate) fn settled(&self, settlement: &Settlement) {
        let reason = match settlement {
            Settlement::Ack | Settlement::Release | Settlement::Postpone { .. } => NONE,
            Settlement::Retry { failure, .. } | Settlement::DeadLetter { failure } => failure.reason.as_str(),
        };
        self.settlements.with_label_values(&[settlement.label(), reason]).inc();
        if let Settlement::DeadLetter { failure } = settlement {
            self.ended(failure.event_type.as_deref(), DEAD_LETTER);
        }
    }
}

/// The size of batches that the store is fast enough for.
pub(crate) struct BatchLimit(Gauge);

impl BatchLimit {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let help = "The most messages in the next batch: below lease_batch_max while the store is too slow for more.";
        let gauge = Gauge::new("rollbook_apply_batch_limit", help)?;
        registry.register(Box::new(gauge.clone()))?;
        Ok(Self(gauge))
    }

    pub(crate) fn set(&self, messages: usize) {
        self.0.set(count(messages));
    }
}

fn slow(registry: &Registry) -> Result<IntCounterVec, prometheus::Error> {
    let help = "Calls to the store that were cut short by a time limit, by limit.";
    counters(registry, "rollbook_apply_slow_total", help, &["cause"])
}

fn batch_size(registry: &Registry, stage: &str) -> Result<Histogram, prometheus::Error> {
    let options = HistogramOpts::new("rollbook_batch_size", "Messages handled in one batch.")
        .buckets(BATCH_SIZE_BUCKETS.to_vec());
    histogram(registry, options.const_label("stage", stage))
}

fn histogram(registry: &Registry, options: HistogramOpts) -> Result<Histogram, prometheus::Error> {
    let histogram = Histogram::with_opts(options)?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn count(messages: usize) -> f64 {
    u32::try_from(messages).map_or(f64::MAX, f64::from)
}
