//! Collects the history of one id from store and queue.

use rollbook_core::catalog::{
    ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, RESOURCES, Resource, USERS, find_event,
};
use rollbook_core::change::Applied;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::QueueAdmin;
use rollbook_core::store::{LedgerEntry, RowView, Store, StoreError};
use rollbook_core::time::{Clock, Timestamp};
use serde::Serialize;

use super::cause::{self, Cause, Explained};
use super::pending::{self, Pending};
use super::queued::{self, Queued};
use super::row::{Membership, Row, State};
use super::{Ledger, Question, notes};
use crate::resource_of_id;
use crate::serialize::{or_error, text};

/// Ledger entries that are read in addition to the limit. A listed entry may have lost against one of them.
const ENTRIES_EXTRA: usize = 500;
/// Maximum number of memberships that are counted. They are read as whole rows.
const MEMBERSHIPS_MAX: usize = 10_000;
/// Maximum number of listed parents and rows with pending work.
const PENDING_MAX: usize = 20;
/// Prefix of the id of a delivery.
const DELIVERY: &str = "msg_";

/// Everything that is known about one id.
#[derive(Debug, Serialize)]
pub struct History {
    /// Id of the question.
    pub id: String,
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
    /// Limits of this history, as sentences.
    pub notes: Vec<String>,
    /// Possible causes if the id is unknown, as sentences; empty if it is known or not everything was read.
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
    #[serde(rename = "svix_id", serialize_with = "text")]
    pub id: MessageId,
    /// Event type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Id of the subject, if known.
    pub subject_id: Option<String>,
    /// Outcome of the change.
    #[serde(serialize_with = "text")]
    pub outcome: Applied,
    /// Time of the event at Clerk.
    #[serde(serialize_with = "text")]
    pub event_at: Timestamp,
    /// Time at which the receiver had read the delivery.
    #[serde(serialize_with = "text")]
    pub received_at: Timestamp,
    /// Time of application.
    #[serde(serialize_with = "text")]
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

/// Facts of the store about one subject.
#[derive(Default)]
struct Stored {
    resource: Option<&'static Resource>,
    row: Option<Row>,
    memberships: Option<Memberships>,
    deliveries: Vec<Explained>,
    pending: Pending,
}

/// Collects what store and queue know about an id. A part that cannot be read is an error within the result, so that
/// the other part is shown.
pub async fn explain(
    store: &dyn Store,
    queue: Result<&dyn QueueAdmin, String>,
    clock: &dyn Clock,
    question: &Question<'_>,
) -> History {
    if question.id.starts_with(DELIVERY) {
        return of_delivery(store, &queue, question).await;
    }
    let (stored, read) = match Stored::read(store, question).await {
        Ok(stored) => (stored, Ok(())),
        Err(why) => {
            (Stored { resource: resource_of_id(question.id), ..Stored::default() }, Err(why.to_string()))
        }
    };
    if stored.resource.is_none() {
        let of_delivery = of_delivery(store, &queue, question).await;
        if of_delivery.is_known {
            return of_delivery;
        }
    }
    let queue = match queue {
        Ok(queue) => {
            let queued = queued::about(queue, clock, stored.resource, question).await;
            queued.map_err(|error| error.to_string())
        }
        Err(why) => Err(why),
    };
    let Stored { resource, row, memberships, mut deliveries, pending } = stored;
    let has_older = deliveries.len() > question.limit;
    deliveries.drain(..deliveries.len().saturating_sub(question.limit));
    let subject =
        Some(Subject { resource, table: resource.map(|resource| resource.table), row, memberships });
    History::new(question, subject, read, queue, pending).with(deliveries, has_older)
}

impl Stored {
    async fn read(store: &dyn Store, question: &Question<'_>) -> Result<Self, StoreError> {
        let id = question.id;
        let found = find(store, id).await?;
        let entries = store.deliveries(id, question.limit + ENTRIES_EXTRA).await?;
        let resource = found.as_ref().map(|(resource, _)| *resource).or_else(|| guess(id, &entries));
        let row = match &found {
            Some((resource, view)) => {
                Some(Row::read(store, resource, view, cause::had_earlier_life(&entries)).await?)
            }
            None => None,
        };
        let memberships = match resource {
            Some(resource) => memberships(store, resource, question).await?,
            None => None,
        };
        let pending = pending::read(store, id, PENDING_MAX).await?;
        let deliveries = cause::explain_all(entries, row.as_ref());
        Ok(Self { resource, row, memberships, deliveries, pending })
    }
}

impl History {
    fn new(
        question: &Question<'_>,
        subject: Option<Subject>,
        store: Result<(), String>,
        queue: Result<Queued, String>,
        pending: Pending,
    ) -> Self {
        Self {
            id: question.id.to_owned(),
            is_known: false,
            subject,
            deliveries: Vec::new(),
            has_older: false,
            ledger: question.ledger,
            store,
            queue,
            pending,
            notes: Vec::new(),
            can_mean: Vec::new(),
        }
    }

    /// Adds the deliveries, and what follows from all facts.
    fn with(mut self, deliveries: Vec<Explained>, has_older: bool) -> Self {
        self.deliveries = deliveries.into_iter().map(AppliedDelivery::new).collect();
        self.has_older = has_older;
        let has_row = self.subject.as_ref().is_some_and(|subject| subject.row.is_some());
        let is_queued = self.queue.as_ref().is_ok_and(Queued::has_something);
        self.is_known = has_row || !self.deliveries.is_empty() || is_queued;
        self.notes = notes::notes(&self);
        if !self.is_known && self.store.is_ok() {
            self.can_mean = notes::meanings(&self);
        }
        self
    }

    /// Id of the subject: the id of the question, or the subject of the delivery with that id.
    pub fn subject_id(&self) -> &str {
        let of_delivery = self.deliveries.first().and_then(|delivery| delivery.subject_id.as_deref());
        of_delivery.filter(|_| self.subject.is_none()).unwrap_or(&self.id)
    }
}

impl AppliedDelivery {
    fn new(explained: Explained) -> Self {
        let millis = |from: Timestamp, to: Timestamp| to.as_millis().saturating_sub(from.as_millis());
        let (other, made_later_by) = match &explained.cause {
            Cause::Older { than: Some(other), .. } => (Some(&other.id), Some(other.made_later_by)),
            Cause::Removed { by: Some(id) } | Cause::Same { like: Some(id), .. } => (Some(id), None),
            _ => (None, None),
        };
        let reason = Reason {
            code: explained.cause.code(),
            sentences: explained.sentences(),
            other_svix_id: other.map(ToString::to_string),
            other_made_later_by_ms: made_later_by,
        };
        let Explained { line, is_last, .. } = explained;
        Self {
            received_after_ms: millis(line.event_at, line.received_at),
            applied_after_ms: millis(line.received_at, line.applied_at),
            id: line.message_id,
            event_type: line.event_type,
            subject_id: line.subject_id,
            outcome: line.outcome,
            event_at: line.event_at,
            received_at: line.received_at,
            applied_at: line.applied_at,
            attempts: line.attempts,
            reason,
            left_the_row_as_it_is: is_last,
        }
    }
}

async fn of_delivery(
    store: &dyn Store,
    queue: &Result<&dyn QueueAdmin, String>,
    question: &Question<'_>,
) -> History {
    let id = MessageId::new(question.id);
    let (delivery, pending, read) = match stored_delivery(store, &id).await {
        Ok((delivery, pending)) => (delivery, pending, Ok(())),
        Err(why) => (None, Pending::default(), Err(why.to_string())),
    };
    let queue = match queue {
        Ok(queue) => queued::by_id(*queue, &id).await.map_err(|error| error.to_string()),
        Err(why) => Err(why.clone()),
    };
    History::new(question, None, read, queue, pending).with(delivery.into_iter().collect(), false)
}

/// Reads the ledger entry of a delivery, and the pending work on its subject.
async fn stored_delivery(
    store: &dyn Store,
    id: &MessageId,
) -> Result<(Option<Explained>, Pending), StoreError> {
    let Some(entry) = store.delivery(id).await? else { return Ok((None, Pending::default())) };
    let pending = match &entry.subject_id {
        Some(subject_id) => pending::read(store, subject_id, PENDING_MAX).await?,
        None => Pending::default(),
    };
    Ok((Some(among_others(store, entry).await?), pending))
}

/// Explains an entry by the other entries about the same subject.
async fn among_others(store: &dyn Store, entry: LedgerEntry) -> Result<Explained, StoreError> {
    let Some(subject_id) = &entry.subject_id else { return Ok(cause::alone(entry)) };
    let mut entries = store.deliveries(subject_id, ENTRIES_EXTRA).await?;
    if entries.iter().all(|other| other.message_id != entry.message_id) {
        entries.push(entry.clone());
    }
    let row = match find_event(&entry.event_type) {
        Some((resource, _)) => match store.get(resource, subject_id).await? {
            Some(view) => Some(Row::read(store, resource, &view, cause::had_earlier_life(&entries)).await?),
            None => None,
        },
        None => None,
    };
    let explained = cause::explain_all(entries, row.as_ref()).into_iter();
    let this = explained.into_iter().find(|explained| explained.line.message_id == entry.message_id);
    Ok(this.unwrap_or_else(|| cause::alone(entry)))
}

/// Returns the row with this id, from any table.
async fn find(store: &dyn Store, id: &str) -> Result<Option<(&'static Resource, RowView)>, StoreError> {
    for resource in RESOURCES {
        if let Some(row) = store.get(resource, id).await? {
            return Ok(Some((resource, row)));
        }
    }
    Ok(None)
}

/// Returns the kind of an id without a row.
fn guess(id: &str, entries: &[LedgerEntry]) -> Option<&'static Resource> {
    let shown = entries.iter().rev().find_map(|entry| find_event(&entry.event_type));
    shown.map(|(resource, _)| resource).or_else(|| resource_of_id(id))
}

async fn memberships(
    store: &dyn Store,
    resource: &'static Resource,
    question: &Question<'_>,
) -> Result<Option<Memberships>, StoreError> {
    let column = match resource {
        resource if *resource == USERS => "user_id",
        resource if *resource == ORGANIZATIONS => "organization_id",
        _ => return Ok(None),
    };
    let limit = MEMBERSHIPS_MAX + 1;
    let found = store.rows_where(&ORGANIZATION_MEMBERSHIPS, column, question.id, limit).await?;
    let has_more = found.len() > MEMBERSHIPS_MAX;
    let mut rows: Vec<&RowView> = found.iter().take(MEMBERSHIPS_MAX).collect();
    let living = rows.iter().filter(|row| !row.is_deleted()).count() as u64;
    let all = rows.len() as u64;
    // The id makes the order unique, so that the same question gets the same answer.
    rows.sort_by_key(|row| (row.is_deleted(), row.columns["created_at"].to_string(), row.id.clone()));
    let mut listed = Vec::new();
    for view in rows.into_iter().take(question.limit) {
        let row = Row::read(store, &ORGANIZATION_MEMBERSHIPS, view, false).await?;
        listed.push(Membership::new(view, row));
    }
    Ok(Some(Memberships { listed, living, all, has_more }))
}

impl Subject {
    /// Whether an operator erased the row.
    pub(super) fn is_erased(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.state == State::Erased)
    }
}
