//! Collects the history of one id from store and queue.

use rollbook_core::catalog::{ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, Resource, USERS};
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::QueueAdmin;
use rollbook_core::store::{LedgerEntry, Reads, RowView, StoreError};
use rollbook_core::time::Clock;

use super::Question;
use super::cause::{self, Explained};
use super::history::{AppliedDelivery, History, Memberships, Subject};
use super::notes;
use super::pending::{self, Pending};
use super::queued::{self, Queued};
use super::reading::subject_of;
use super::row::{Membership, Row};
use crate::lookup::row_of;
use crate::resource_of_id;

/// Ledger entries that are read in addition to the limit. A listed entry may have lost against one of them.
const ENTRIES_EXTRA: usize = 500;
/// Maximum number of memberships that are counted. They are read as whole rows.
const MEMBERSHIPS_MAX: usize = 10_000;
/// Maximum number of listed parents and rows with pending work.
const PENDING_MAX: usize = 20;
/// Prefix of the id of a delivery.
const DELIVERY: &str = "msg_";

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
    store: &dyn Reads,
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
    history(question, subject, (read, queue), pending, (deliveries, has_older))
}

impl Stored {
    async fn read(store: &dyn Reads, question: &Question<'_>) -> Result<Self, StoreError> {
        let id = question.id;
        let found = row_of(store, id).await?;
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

/// Puts the facts together, and adds what follows from them.
fn history(
    question: &Question<'_>,
    subject: Option<Subject>,
    (store, queue): (Result<(), String>, Result<Queued, String>),
    pending: Pending,
    (deliveries, has_older): (Vec<Explained>, bool),
) -> History {
    let has_row = subject.as_ref().is_some_and(|subject| subject.row.is_some());
    let is_queued = queue.as_ref().is_ok_and(Queued::has_something);
    let mut history = History {
        id: question.id.to_owned(),
        named: None,
        is_known: has_row || !deliveries.is_empty() || is_queued,
        subject,
        deliveries: deliveries.into_iter().map(AppliedDelivery::new).collect(),
        has_older,
        ledger: question.ledger,
        store,
        queue,
        pending,
        held: Vec::new(),
        notes: Vec::new(),
        can_mean: Vec::new(),
    };
    history.notes = notes::notes(&history);
    if !history.is_known && history.store.is_ok() {
        history.can_mean = notes::meanings(&history);
    }
    history
}

async fn of_delivery(
    store: &dyn Reads,
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
    history(question, None, (read, queue), pending, (delivery.into_iter().collect(), false))
}

/// Reads the ledger entry of a delivery, and the pending work on its subject.
async fn stored_delivery(
    store: &dyn Reads,
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
async fn among_others(store: &dyn Reads, entry: LedgerEntry) -> Result<Explained, StoreError> {
    let Some(subject_id) = &entry.subject_id else { return Ok(cause::alone(entry)) };
    let mut entries = store.deliveries(subject_id, ENTRIES_EXTRA).await?;
    if entries.iter().all(|other| other.message_id != entry.message_id) {
        entries.push(entry.clone());
    }
    let row = match subject_of(&entry) {
        Some((resource, _)) => match store.get(resource, subject_id).await? {
            Some(view) => Some(Row::read(store, resource, &view, cause::had_earlier_life(&entries)).await?),
            None => None,
        },
        None => None,
    };
    let explained = cause::explain_all(entries, row.as_ref()).into_iter();
    let this = explained.into_iter().find(|explained| explained.entry.message_id == entry.message_id);
    Ok(this.unwrap_or_else(|| cause::alone(entry)))
}

/// Returns the kind of an id without a row.
fn guess(id: &str, entries: &[LedgerEntry]) -> Option<&'static Resource> {
    let shown = entries.iter().rev().find_map(subject_of);
    shown.map(|(resource, _)| resource).or_else(|| resource_of_id(id))
}

async fn memberships(
    store: &dyn Reads,
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
