//! History of one id: everything that store and queue know about it.

use rollbook_core::catalog::Resource;
use rollbook_core::change::Applied;
use rollbook_core::delivery::MessageId;
use rollbook_core::time::Timestamp;
use serde::Serialize;

use super::Ledger;
use super::cause::{Cause, Explained};
use super::held::HeldSubject;
use super::pending::Pending;
use super::queued::Queued;
use super::row::{Membership, Row, State};
use crate::lookup::Named;
use crate::serialize::or_error;

/// Everything that is known about one id.
#[derive(Debug, Serialize)]
pub struct History {
    /// Id of the question, or of the subject that the question named.
    pub id: String,
    /// Way in which the question named the subject, if not by its id; the caller sets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub named: Option<Named>,
    /// Whether store or queue knows the id.
    pub is_known: bool,
    /// Subject with this id; `None` if the id is that of a delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// Applied deliveries, in the order of application.
    pub deliveries: Vec<AppliedDelivery>,
    /// Whether older deliveries are omitted.
    #[serde(rename = "has_older_deliveries")]
    pub has_older: bool,
    /// Configuration of the ledger.
    pub ledger: Ledger,
    /// Whether the store was read, or why not. The JSON has it only in case of an error.
    #[serde(skip_serializing_if = "Result::is_ok", serialize_with = "or_error")]
    pub store: Result<(), String>,
    /// Messages and dead letters, or why the queue was not read.
    #[serde(serialize_with = "or_error")]
    pub queue: Result<Queued, String>,
    /// Pending work after a deletion, on this subject or its child rows.
    #[serde(rename = "left_to_do", skip_serializing_if = "has_no_pending_work")]
    pub pending: Pending,
    /// Changes of the subject that reconciliations hold until an operator decides; the caller reads them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldSubject>,
    /// Limits of this history, as sentences.
    pub notes: Vec<String>,
    /// Possible causes if the id is unknown, as sentences; empty if it is known or the store was not read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub can_mean: Vec<String>,
}

fn has_no_pending_work(pending: &Pending) -> bool {
    pending.total() == 0
}

/// Subject of a history.
#[derive(Debug, Serialize)]
pub struct Subject {
    /// Kind of the subject, if a row, an entry or the id shows it.
    #[serde(skip)]
    pub resource: Option<&'static Resource>,
    /// Table of that kind.
    pub table: Option<&'static str>,
    /// Row of the subject.
    pub row: Option<Row>,
    /// Memberships of a user or an organization.
    pub memberships: Option<Memberships>,
}

/// Memberships of a user or an organization.
#[derive(Debug, Serialize)]
pub struct Memberships {
    /// First memberships, those that are not deleted before the others.
    pub listed: Vec<Membership>,
    /// Number of memberships that are not deleted.
    pub living: u64,
    /// Number of all memberships.
    pub all: u64,
    /// Whether there are more memberships than were counted.
    pub has_more: bool,
}

/// An applied delivery and the reason of its outcome.
#[derive(Debug, Serialize)]
pub struct AppliedDelivery {
    /// Message id (`svix-id`).
    #[serde(rename = "svix_id")]
    pub id: MessageId,
    /// Event type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Run of the reconciliation that wrote the entry; `None` if a delivery did.
    pub run: Option<String>,
    /// Id of the subject, if known.
    pub subject_id: Option<String>,
    /// Outcome of the change.
    pub outcome: Applied,
    /// Time of the event at Clerk.
    pub event_at: Timestamp,
    /// Time at which the receiver had read the delivery.
    pub received_at: Timestamp,
    /// Time of application.
    pub applied_at: Timestamp,
    /// Milliseconds from the event to its receipt; negative if the clocks differ.
    pub received_after_ms: i64,
    /// Milliseconds from the receipt to the application.
    pub applied_after_ms: i64,
    /// Number of times the message had been leased when it was applied.
    pub attempts: u32,
    /// Reason of the outcome.
    pub reason: Reason,
    /// Whether the row is still as this delivery left it.
    pub left_the_row_as_it_is: bool,
}

/// Reason of an outcome.
#[derive(Debug, Serialize)]
pub struct Reason {
    /// Stable name.
    pub code: &'static str,
    /// Sentences.
    #[serde(rename = "text", serialize_with = "joined")]
    pub sentences: Vec<String>,
    /// Delivery that the outcome depends on.
    pub other_svix_id: Option<String>,
    /// Milliseconds from this event to the other one.
    pub other_made_later_by_ms: Option<i64>,
}

fn joined<S: serde::Serializer>(sentences: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&sentences.join(" "))
}

impl History {
    /// Id of the subject: the id of the question, or the subject of the delivery with that id.
    pub fn subject_id(&self) -> &str {
        let of_delivery = self.deliveries.first().and_then(|delivery| delivery.subject_id.as_deref());
        of_delivery.filter(|_| self.subject.is_none()).unwrap_or(&self.id)
    }
}

impl AppliedDelivery {
    pub(super) fn new(explained: Explained) -> Self {
        let millis = |from: Timestamp, to: Timestamp| to.as_millis().saturating_sub(from.as_millis());
        let (other, made_later_by) = match &explained.cause {
            Cause::Older { than: Some(other), .. } => (Some(&other.id), Some(other.made_later_by)),
            Cause::Removed { by: Some(id) } | Cause::Same { like: Some(id), .. } => (Some(id), None),
            _ => (None, None),
        };
        let run = match &explained.cause {
            Cause::Reconciled(reading) => Some(reading.run.clone()),
            _ => None,
        };
        let reason = Reason {
            code: explained.cause.code(),
            sentences: explained.sentences(),
            other_svix_id: other.map(ToString::to_string),
            other_made_later_by_ms: made_later_by,
        };
        let Explained { entry, is_last, .. } = explained;
        Self {
            received_after_ms: millis(entry.event_at, entry.received_at),
            applied_after_ms: millis(entry.received_at, entry.applied_at),
            id: entry.message_id,
            event_type: entry.event_type,
            run,
            subject_id: entry.subject_id,
            outcome: entry.outcome,
            event_at: entry.event_at,
            received_at: entry.received_at,
            applied_at: entry.applied_at,
            attempts: entry.attempts,
            reason,
            left_the_row_as_it_is: is_last,
        }
    }
}

impl Subject {
    /// Returns whether an operator erased the row.
    pub(super) fn is_erased(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.state == State::Erased)
    }
}
