//! Processing of a batch of leases, as plain functions over data.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rollbook_core::catalog::NEVER_STORED;
use rollbook_core::change::{Change, Effect};
use rollbook_core::delivery::MessageId;
use rollbook_core::event::{self, Parsed};
use rollbook_core::queue::{Lease, Settlement};
use rollbook_core::retry::{Decision, Failure, Reason, RetryPolicy};
use rollbook_core::trace::TraceId;
use tracing::field::{DisplayValue, display};
use tracing::warn;

use crate::apply::ChangeOutcome;

/// Number of consecutive workers without a settlement after which a message is a suspect. Two, not one: a
/// single crash (a deploy, a power cut) says nothing about the hundred messages of a batch.
pub(crate) const SUSPECT_AFTER: u32 = 2;

/// Leases with their settlements.
#[derive(Debug, Default)]
pub(crate) struct Decided {
    /// Settlements to send to the queue.
    pub(crate) settlements: Vec<(Lease, Settlement)>,
    /// Number of settlements, from the first on, that were sent before and may have taken effect.
    pub(crate) repeated: usize,
    /// Subject of each refused event by message id, for the log.
    pub(crate) subjects: BTreeMap<MessageId, String>,
}

impl Reading {
    /// Sorts the messages by table. The order of a batch has no meaning to the store.
    pub(crate) fn sort_by_table(&mut self) {
        let leases = std::mem::take(&mut self.leases);
        let mut both: Vec<(Lease, Change)> =
            leases.into_iter().zip(std::mem::take(&mut self.changes)).collect();
        both.sort_by_key(|(_, change)| change.resource_name());
        (self.leases, self.changes) = both.into_iter().unzip();
    }
}

impl Decided {
    /// Adds a settlement. Its lease loses the body: bodies are most of a worker's memory.
    pub(crate) fn push(&mut self, lease: Lease, settlement: Settlement) {
        self.settlements.push((Lease { body: Bytes::new(), ..lease }, settlement));
    }

    /// Appends `later`, none of which was sent before.
    pub(crate) fn and(mut self, later: Self) -> Self {
        self.settlements.extend(later.settlements);
        self.subjects.extend(later.subjects);
        self
    }
}

/// Parsed batch.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Messages that can be applied.
    pub(crate) leases: Vec<Lease>,
    /// Changes: one for each of `leases`, in the same order.
    pub(crate) changes: Vec<Change>,
    /// Clerk instances that the changes of rows come from.
    pub(crate) instances: BTreeSet<String>,
    /// Settlements of the other messages.
    pub(crate) failed: Vec<(Lease, Failure)>,
    /// Number of characters, keys and numbers replaced because not every engine can store them.
    pub(crate) sanitized: usize,
    /// Fields with a value that did not fit their column, by table.
    pub(crate) mismatched: BTreeMap<&'static str, Mismatched>,
}

/// Fields of one table that did not fit their columns.
#[derive(Debug)]
pub(crate) struct Mismatched {
    /// Number of fields.
    pub(crate) fields: usize,
    /// Message that has some of them.
    pub(crate) example: MessageId,
}

/// Removes a suspect from the batch, if there is one. Of several, it takes the one with the fewest unsettled
/// leases, so that innocent messages do not wait until the killer is a dead letter.
pub(crate) fn take_suspect(leases: &mut Vec<Lease>, attempts_max: u32) -> Option<Lease> {
    let is_suspect = |lease: &Lease| lease.unsettled >= SUSPECT_AFTER && !is_crash_loop(lease, attempts_max);
    let suspects = leases.iter().enumerate().filter(|(_, lease)| is_suspect(lease));
    let (index, _) = suspects.min_by_key(|(_, lease)| lease.unsettled)?;
    Some(leases.remove(index))
}

/// Returns whether the message has used all attempts and its last worker did not settle it. If that worker
/// did (a retry before the limit was lowered), the message gets another attempt.
fn is_crash_loop(lease: &Lease, attempts_max: u32) -> bool {
    lease.unsettled > 0 && lease.attempt > attempts_max
}

/// Parses every message, except one in a crash loop: parsing may be the cause of the crash.
pub(crate) fn read(leases: Vec<Lease>, attempts_max: u32, instance_id: Option<&str>) -> Reading {
    let mut reading = Reading {
        leases: Vec::with_capacity(leases.len()),
        changes: Vec::with_capacity(leases.len()),
        ..Reading::default()
    };
    for lease in leases {
        let parsed = if let Some(detail) = lease.unreadable.clone() {
            Err(Failure { reason: Reason::CorruptEntry, detail, event_type: None })
        } else if is_crash_loop(&lease, attempts_max) {
            Err(crash_loop(&lease))
        } else {
            event::parse(&lease.body, instance_id)
        };
        match parsed {
            Ok(mut parsed) => {
                let Parsed { sanitized, mismatched, .. } = parsed;
                if matches!(parsed.effect, Effect::Merge(_)) {
                    reading.instances.extend(parsed.instance_id.take());
                }
                let change = parsed.into_change(&lease);
                reading.sanitized += sanitized;
                if mismatched > 0 {
                    let none = || Mismatched { fields: 0, example: lease.id.clone() };
                    reading.mismatched.entry(change.resource_name()).or_insert_with(none).fields +=
                        mismatched;
                }
                // The change has all of the body: a second copy would double the memory.
                reading.leases.push(Lease { body: Bytes::new(), ..lease });
                reading.changes.push(change);
            }
            Err(failure) => reading.failed.push((lease, failure)),
        }
    }
    reading
}

/// Reads only the type and skips the rest. Without the type, a one-time password would become a dead letter.
fn crash_loop(lease: &Lease) -> Failure {
    let detail = format!(
        "{} attempts before this one; the last {} leases in a row ended without a settlement: their workers died or \
         stalled",
        lease.attempt.saturating_sub(1),
        lease.unsettled,
    );
    Failure { reason: Reason::CrashLoop, detail, event_type: event::type_of(&lease.body) }
}

/// Returns the id of the delivery's trace, for the log.
pub(crate) fn trace_id(lease: &Lease) -> Option<DisplayValue<TraceId>> {
    lease.traceparent.map(|traceparent| display(traceparent.trace_id()))
}

/// Returns the settlement of an applied, refused or not attempted change.
pub(crate) fn decide(
    lease: &Lease,
    change: &Change,
    outcome: ChangeOutcome,
    retry: &RetryPolicy,
) -> Settlement {
    match outcome {
        ChangeOutcome::Applied(_) => Settlement::Ack,
        ChangeOutcome::NotAttempted => Settlement::Release,
        ChangeOutcome::Postponed(after, _) => Settlement::Postpone { after },
        ChangeOutcome::Refused(detail) => failed(lease, change, Reason::StoreRefused, detail, retry),
        ChangeOutcome::TimedOut(detail) => failed(lease, change, Reason::StoreTimeout, detail, retry),
    }
}

fn failed(lease: &Lease, change: &Change, reason: Reason, detail: String, retry: &RetryPolicy) -> Settlement {
    fail(lease, Failure { reason, detail, event_type: Some(change.origin.event_type().to_owned()) }, retry)
}

/// Returns the settlement of a failed message.
pub(crate) fn fail(lease: &Lease, failure: Failure, retry: &RetryPolicy) -> Settlement {
    if failure.event_type.as_deref().is_some_and(|event_type| NEVER_STORED.contains(&event_type)) {
        // A dead letter would keep the one-time password in its body.
        warn!(
            svix_id = %lease.id, event_type = failure.event_type, attempt = lease.attempt, trace_id = trace_id(lease),
            reason = %failure.reason, detail = failure.detail,
            "dropped: the event can't be applied, and an event with a one-time password never becomes a dead letter"
        );
        return Settlement::Ack;
    }
    match retry.decide(lease.attempt, failure.reason, fastrand::f64()) {
        Decision::Retry(after) => Settlement::Retry { after, failure },
        Decision::DeadLetter => Settlement::DeadLetter { failure },
    }
}

/// Releases every lease without counting an attempt.
pub(crate) fn release(leases: impl IntoIterator<Item = Lease>) -> Decided {
    let mut decided = Decided::default();
    for lease in leases {
        decided.push(lease, Settlement::Release);
    }
    decided
}
