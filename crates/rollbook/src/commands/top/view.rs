//! The view of `top`, computed from the samples of the last seconds. Serialized, it is the JSON.

use std::collections::{BTreeMap, VecDeque};

use rollbook_core::time::Timestamp;
use serde::Serialize;

use super::forwards::{self, FailingForward};
use super::last_error::LastError;
use super::scrape::{Asked, Metrics, Sample, Scrape, label};

/// All processes at one time.
#[derive(Debug, Serialize)]
pub(super) struct View {
    /// Time of the last answers.
    pub(super) at: String,
    /// Time over which rates are computed.
    pub(super) over_seconds: f64,
    /// Processes, in the order of the arguments.
    pub(super) processes: Vec<ProcessView>,
    /// Deliveries; null without a receiver.
    pub(super) deliveries: Option<Deliveries>,
    /// Applied changes; null without a worker.
    pub(super) applied: Option<Applied>,
    /// The queue; null if no process shows it, or if it does not answer the processes.
    pub(super) queue: Option<Queue>,
    /// Dead letters of the queue; null as `queue` is.
    pub(super) dead_letters: Option<f64>,
    /// Age of the oldest change of the feed without a position.
    pub(super) changes_pending_seconds: Option<f64>,
    /// Forwards that do not deliver everything.
    pub(super) forwards_failing: Vec<FailingForward>,
    /// The last error that a process or a part of it had while this command ran.
    pub(super) last_error: Option<LastError>,
}

/// A process.
#[derive(Debug, Default, Serialize)]
pub(super) struct ProcessView {
    /// Address of its ops port.
    pub(super) address: String,
    /// Whether it answers.
    pub(super) answers: bool,
    /// Version; null if it does not answer.
    pub(super) version: Option<String>,
    /// Status in `/readyz`; null if it does not answer.
    pub(super) status: Option<String>,
    /// State of each part.
    pub(super) parts: BTreeMap<String, String>,
    /// Time since which a part is not `ok`, as far as the process knows.
    pub(super) since: BTreeMap<String, String>,
}

/// Deliveries per second.
#[derive(Debug, Serialize)]
pub(super) struct Deliveries {
    /// Answered 200.
    pub(super) accepted_per_second: f64,
    /// Answered 503.
    pub(super) unavailable_per_second: f64,
    /// Refused for another reason.
    pub(super) refused_per_second: f64,
    /// Upper bound of 99 % of the times to the answer; null if there was none.
    pub(super) ack_p99_seconds: Option<f64>,
}

/// Applied changes per second.
#[derive(Debug, Serialize)]
pub(super) struct Applied {
    /// Changes of rows and ledger.
    pub(super) per_second: f64,
    /// Leases that ended in a retry.
    pub(super) retries_per_second: f64,
    /// Messages moved to the dead letters.
    pub(super) dead_letters_per_second: f64,
    /// Upper bound of 99 % of the times from Clerk's event to the row; null if no row changed.
    pub(super) lag_p99_seconds: Option<f64>,
}

/// The queue.
#[derive(Debug, Serialize)]
pub(super) struct Queue {
    /// Messages that are not settled.
    pub(super) depth: f64,
    /// Maximum of them.
    pub(super) depth_limit: Option<f64>,
    /// Leased messages.
    pub(super) leased: f64,
    /// Messages that wait for a retry.
    pub(super) delayed: f64,
    /// Age of the oldest.
    pub(super) oldest_age_seconds: f64,
    /// Change of the depth per second.
    pub(super) change_per_second: f64,
    /// Time until the queue is empty at this rate; null if it does not shrink.
    pub(super) seconds_to_empty: Option<f64>,
    /// Used share of the memory of Redis, or of the disk of the embedded queue as `df` counts it, if known.
    pub(super) space_used_ratio: Option<f64>,
    /// Free bytes of the same memory or disk.
    pub(super) space_free_bytes: Option<f64>,
    /// Kind of that space: `memory` or `disk`.
    pub(super) space: Option<&'static str>,
}

impl View {
    /// Computes the view of the last sample. `last_error` is that of the view before.
    pub(super) fn of(samples: &VecDeque<Sample>, now: Timestamp, last_error: Option<LastError>) -> Self {
        let rates = Rates::of(samples);
        let latest: &[Asked] = samples.back().map_or(&[], |sample| sample.answers.as_slice());
        let scrapes: Vec<&Scrape> = latest.iter().filter_map(|asked| asked.answer.as_ref().ok()).collect();
        let max = |name: &str| maximum(&scrapes, name);
        let current = current(&scrapes);
        let metrics: Vec<&Metrics> = scrapes.iter().map(|scrape| &scrape.metrics).collect();
        let has = |name: &str| scrapes.iter().any(|scrape| scrape.metrics.sum(name, |_| true).is_some());
        let at = now.to_string();
        Self {
            over_seconds: rates.seconds,
            processes: latest.iter().map(ProcessView::of).collect(),
            deliveries: has("rollbook_deliveries_total").then(|| rates.deliveries()),
            applied: has("rollbook_applied_total").then(|| rates.applied()),
            queue: maximum(&current, "rollbook_queue_depth")
                .map(|depth| Queue::of(depth, &current, samples, rates.seconds)),
            dead_letters: maximum(&current, "rollbook_dead_letters"),
            forwards_failing: forwards::failing(&metrics, |name| rates.failed_requests(name)),
            changes_pending_seconds: max("rollbook_changes_pending_seconds"),
            last_error: LastError::of(latest, &at, last_error.as_ref()).or(last_error),
            at,
        }
    }
}

/// Returns the answers of processes that the queue answers. The others show its last known state.
fn current<'a>(scrapes: &[&'a Scrape]) -> Vec<&'a Scrape> {
    let is_queue = |labels: &str| label(labels, "part") == Some("queue");
    let answers = |scrape: &&&Scrape| scrape.metrics.sum("rollbook_up", is_queue) != Some(0.0);
    scrapes.iter().filter(answers).copied().collect()
}

/// Returns the greatest value of a metric: every process shows the same queue.
fn maximum(scrapes: &[&Scrape], name: &str) -> Option<f64> {
    scrapes.iter().filter_map(|scrape| scrape.metrics.value(name)).reduce(f64::max)
}

impl ProcessView {
    fn of(asked: &Asked) -> Self {
        let address = asked.address.to_string();
        let Ok(scrape) = &asked.answer else {
            return Self { address, ..Self::default() };
        };
        let mut builds = scrape.metrics.series("rollbook_build_info");
        let version = builds.next().and_then(|(labels, _)| label(labels, "version")).map(str::to_owned);
        let (status, parts, since) =
            (Some(scrape.status.clone()), scrape.parts.clone(), scrape.since.clone());
        Self { address, answers: true, version, status, parts, since }
    }
}

impl Queue {
    fn of(depth: f64, scrapes: &[&Scrape], samples: &VecDeque<Sample>, seconds: f64) -> Self {
        let max = |name: &str| maximum(scrapes, name);
        let first = samples.iter().find_map(|sample| {
            let scrapes: Vec<&Scrape> =
                sample.answers.iter().filter_map(|asked| asked.answer.as_ref().ok()).collect();
            maximum(&current(&scrapes), "rollbook_queue_depth")
        });
        let change = if seconds > 0.0 { (depth - first.unwrap_or(depth)) / seconds } else { 0.0 };
        let memory = max("rollbook_queue_memory_used_bytes").zip(max("rollbook_queue_memory_limit_bytes"));
        let disk = max("rollbook_queue_disk_available_bytes").zip(max("rollbook_queue_disk_size_bytes"));
        let memory = memory.map(|(used, size)| ("memory", used, size));
        let disk = disk.map(|(available, size)| ("disk", size - available, size));
        let space = memory.or(disk).filter(|(_, _, size)| *size > 0.0);
        Self {
            depth,
            depth_limit: max("rollbook_queue_depth_limit"),
            leased: max("rollbook_queue_leased").unwrap_or_default(),
            delayed: max("rollbook_queue_delayed").unwrap_or_default(),
            oldest_age_seconds: max("rollbook_queue_oldest_age_seconds").unwrap_or_default(),
            change_per_second: rounded(change),
            seconds_to_empty: seconds_to_empty(depth, change),
            space_used_ratio: space.map(|(_, used, size)| rounded(used / size)),
            space_free_bytes: space.map(|(_, used, size)| (size - used).max(0.0)),
            space: space.map(|(kind, ..)| kind),
        }
    }
}

/// Returns the time until the queue is empty; `None` if it does not shrink.
fn seconds_to_empty(depth: f64, change: f64) -> Option<f64> {
    if depth <= 0.0 {
        return Some(0.0);
    }
    (change < 0.0).then(|| rounded(depth / -change))
}

/// Increases of counters over the samples.
struct Rates<'a> {
    samples: &'a VecDeque<Sample>,
    seconds: f64,
}

impl<'a> Rates<'a> {
    fn of(samples: &'a VecDeque<Sample>) -> Self {
        let seconds = match (samples.front(), samples.back()) {
            (Some(first), Some(last)) => last.at.duration_since(first.at).as_secs_f64(),
            _ => 0.0,
        };
        Self { samples, seconds: rounded(seconds) }
    }

    fn deliveries(&self) -> Deliveries {
        let of = |outcomes: &'static [&'static str]| {
            self.rate("rollbook_deliveries_total", move |labels| {
                label(labels, "outcome").is_some_and(|outcome| outcomes.contains(&outcome))
            })
        };
        let accepted_per_second = of(&["queued", "duplicate"]);
        let unavailable_per_second = of(&["queue_full", "queue_no_room", "queue_unavailable", "overloaded"]);
        let all = self.rate("rollbook_deliveries_total", |_| true);
        Deliveries {
            accepted_per_second,
            unavailable_per_second,
            refused_per_second: rounded((all - accepted_per_second - unavailable_per_second).max(0.0)),
            ack_p99_seconds: self.p99("rollbook_ack_seconds_bucket"),
        }
    }

    fn applied(&self) -> Applied {
        let settled = |settlement: &'static str| {
            self.rate("rollbook_settlements_total", move |labels| {
                label(labels, "settlement") == Some(settlement)
            })
        };
        Applied {
            per_second: self.rate("rollbook_applied_total", |_| true),
            retries_per_second: settled("retry"),
            dead_letters_per_second: settled("dead_letter"),
            lag_p99_seconds: self.p99("rollbook_event_lag_seconds_bucket"),
        }
    }

    /// Returns the number of requests of a forward that were not answered 2xx.
    fn failed_requests(&self, forward: &str) -> f64 {
        let failed = |labels: &str| {
            label(labels, "forward") == Some(forward) && label(labels, "outcome") != Some("delivered")
        };
        self.increase(|metrics| metrics.sum("rollbook_forward_deliveries_total", failed))
    }

    fn rate(&self, name: &str, matches: impl Fn(&str) -> bool) -> f64 {
        let increase = self.increase(|metrics| metrics.sum(name, &matches));
        if self.seconds > 0.0 { rounded(increase / self.seconds) } else { 0.0 }
    }

    /// Returns the increase of a value over all samples and processes. A counter that fell has started again.
    fn increase(&self, value: impl Fn(&Metrics) -> Option<f64>) -> f64 {
        let mut increase = 0.0;
        for (before, after) in self.samples.iter().zip(self.samples.iter().skip(1)) {
            for (before, after) in before.answers.iter().zip(&after.answers) {
                let (Ok(before), Ok(after)) = (&before.answer, &after.answer) else { continue };
                let (Some(before), Some(after)) = (value(&before.metrics), value(&after.metrics)) else {
                    continue;
                };
                increase += if after >= before { after - before } else { after };
            }
        }
        increase
    }

    /// Returns the bound of the bucket below which 99 % of the new values are.
    fn p99(&self, name: &str) -> Option<f64> {
        let last = self.samples.back()?;
        let mut bounds: Vec<f64> = Vec::new();
        for scrape in last.answers.iter().filter_map(|asked| asked.answer.as_ref().ok()) {
            let of_scrape = scrape.metrics.series(name);
            bounds.extend(of_scrape.filter_map(|(labels, _)| label(labels, "le")?.parse::<f64>().ok()));
        }
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        let below = |bound: f64| {
            self.increase(|metrics| {
                let is_bound =
                    |labels: &str| label(labels, "le").and_then(|le| le.parse().ok()) == Some(bound);
                metrics.sum(name, is_bound)
            })
        };
        let all = bounds.last().map(|last| below(*last)).filter(|all| *all > 0.0)?;
        bounds.into_iter().find(|bound| below(*bound) >= all * 0.99).filter(|bound| bound.is_finite())
    }
}

/// Rounds to three digits after the point.
fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests;
