//! A story, gathered and not yet told.

use std::sync::Arc;
use std::time::Duration;

use rollbook_core::catalog::{
    ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, RESOURCES, Resource, USERS, find_event,
};
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::QueueAdmin;
use rollbook_core::store::{LedgerEntry, RowView, Store, StoreError};
use rollbook_core::time::Timestamp;

use super::super::named;
use super::cascades::{self, Left};
use super::queue::{self, Seen};
use super::row::{Membership, Row, State};
use super::why::{self, Told};

/// More lines of the ledger, beside those that are told: what a line is older than may be among them.
const LINES_BESIDE: usize = 500;
/// The most memberships that are counted. They are read as whole rows.
const MEMBERSHIPS_MAX: usize = 10_000;
/// The most rows that refuse their change that are listed.
const CASCADES_MAX: usize = 20;
/// What an id of a delivery begins with.
const DELIVERY: &str = "msg_";

/// What is asked.
pub(super) struct Ask<'a> {
    pub(super) id: &'a str,
    /// The most deliveries, memberships and messages that are told.
    pub(super) limit: usize,
    /// The most messages that are looked at.
    pub(super) scan: u64,
    pub(super) ledger: Ledger,
    pub(super) now: Timestamp,
}

/// What the configuration says of the ledger.
#[derive(Clone, Copy)]
pub(super) struct Ledger {
    pub(super) is_on: bool,
    /// How long it keeps a line; `None` for good.
    pub(super) kept_for: Option<Duration>,
}

/// All that is known.
pub(super) struct Story {
    pub(super) id: String,
    /// `None` where it is the story of a delivery.
    pub(super) subject: Option<Subject>,
    /// In the order in which they were applied.
    pub(super) deliveries: Vec<Told>,
    /// Whether older ones are left out.
    pub(super) has_older: bool,
    pub(super) ledger: Ledger,
    /// What waits or is parked, or why that is not known.
    pub(super) queue: Result<Seen, String>,
    /// What is left to do after a deletion, of this subject or what hangs on it.
    pub(super) cascades: Left,
    pub(super) now: Timestamp,
}

/// Whom it is about.
pub(super) struct Subject {
    /// The kind, where anything tells it.
    pub(super) resource: Option<&'static Resource>,
    pub(super) row: Option<Row>,
    /// Of a user or an organization.
    pub(super) memberships: Option<Memberships>,
}

/// Who belongs to what.
pub(super) struct Memberships {
    /// The first of them, those that live before the others.
    pub(super) listed: Vec<Membership>,
    pub(super) living: u64,
    pub(super) all: u64,
    /// Whether there are more than were counted.
    pub(super) has_more: bool,
}

/// Gathers what store and queue know.
///
/// # Errors
/// The store can't be asked.
pub(super) async fn gather(
    store: &dyn Store,
    queue: anyhow::Result<Arc<dyn QueueAdmin>>,
    ask: &Ask<'_>,
) -> Result<Story, StoreError> {
    let queue = queue.map_err(|error| format!("{error:#}"));
    if ask.id.starts_with(DELIVERY) {
        return of_delivery(store, &queue, ask).await;
    }
    let found = find(store, ask.id).await?;
    let lines = store.deliveries(ask.id, ask.limit + LINES_BESIDE).await?;
    let resource = found.as_ref().map(|(resource, _)| *resource).or_else(|| guess(ask.id, &lines));
    if resource.is_none() {
        let of_delivery = of_delivery(store, &queue, ask).await?;
        if of_delivery.knows_something() {
            return Ok(of_delivery);
        }
    }
    let row = match &found {
        Some((resource, view)) => {
            Some(Row::read(store, resource, view, why::had_earlier_life(&lines)).await?)
        }
        None => None,
    };
    let memberships = match resource {
        Some(resource) => memberships(store, resource, ask).await?,
        None => None,
    };
    let mut deliveries = why::tell(lines, row.as_ref());
    let has_older = deliveries.len() > ask.limit;
    deliveries.drain(..deliveries.len().saturating_sub(ask.limit));
    let queue = match queue {
        Ok(queue) => queue::about(&*queue, resource, ask).await.map_err(|error| error.to_string()),
        Err(why) => Err(why),
    };
    let subject = Some(Subject { resource, row, memberships });
    let (id, now) = (ask.id.to_owned(), ask.now);
    let cascades = cascades::read(store, ask.id, CASCADES_MAX).await?;
    Ok(Story { id, subject, deliveries, has_older, ledger: ask.ledger, queue, cascades, now })
}

impl Story {
    /// The id of the subject: what was asked for, or whom the delivery that was asked for is about.
    pub(super) fn subject_id(&self) -> &str {
        let of_delivery = self.deliveries.first().and_then(|told| told.line.subject_id.as_deref());
        of_delivery.filter(|_| self.subject.is_none()).unwrap_or(&self.id)
    }

    /// Whether anyone has heard of it.
    pub(super) fn knows_something(&self) -> bool {
        let has_row = self.subject.as_ref().is_some_and(|subject| subject.row.is_some());
        has_row || !self.deliveries.is_empty() || self.queue.as_ref().is_ok_and(Seen::has_something)
    }
}

async fn of_delivery(
    store: &dyn Store,
    queue: &Result<Arc<dyn QueueAdmin>, String>,
    ask: &Ask<'_>,
) -> Result<Story, StoreError> {
    let id = MessageId::new(ask.id);
    let deliveries = match store.delivery(&id).await? {
        Some(line) => vec![among_others(store, line).await?],
        None => Vec::new(),
    };
    let queue = match queue {
        Ok(queue) => queue::one(&**queue, &id).await.map_err(|error| error.to_string()),
        Err(why) => Err(why.clone()),
    };
    let (id, now, ledger) = (ask.id.to_owned(), ask.now, ask.ledger);
    let cascades = match deliveries.first().and_then(|told| told.line.subject_id.as_deref()) {
        Some(subject_id) => cascades::read(store, subject_id, CASCADES_MAX).await?,
        None => Left::default(),
    };
    Ok(Story { id, subject: None, deliveries, has_older: false, ledger, queue, cascades, now })
}

/// A line, judged by the others about the same subject.
async fn among_others(store: &dyn Store, line: LedgerEntry) -> Result<Told, StoreError> {
    let Some(subject_id) = &line.subject_id else { return Ok(why::alone(line)) };
    let mut lines = store.deliveries(subject_id, LINES_BESIDE).await?;
    if lines.iter().all(|other| other.message_id != line.message_id) {
        lines.push(line.clone());
    }
    let row = match find_event(&line.event_type) {
        Some((resource, _)) => match store.get(resource, subject_id).await? {
            Some(view) => Some(Row::read(store, resource, &view, why::had_earlier_life(&lines)).await?),
            None => None,
        },
        None => None,
    };
    let told = why::tell(lines, row.as_ref()).into_iter();
    let this = told.into_iter().find(|told| told.line.message_id == line.message_id);
    Ok(this.unwrap_or_else(|| why::alone(line)))
}

/// The row with this id, in whichever table.
async fn find(store: &dyn Store, id: &str) -> Result<Option<(&'static Resource, RowView)>, StoreError> {
    for resource in RESOURCES {
        if let Some(row) = store.get(resource, id).await? {
            return Ok(Some((resource, row)));
        }
    }
    Ok(None)
}

/// What kind of thing this is, where there is no row.
fn guess(id: &str, lines: &[LedgerEntry]) -> Option<&'static Resource> {
    let told = lines.iter().rev().find_map(|line| find_event(&line.event_type));
    told.map(|(resource, _)| resource).or_else(|| named(id))
}

async fn memberships(
    store: &dyn Store,
    resource: &'static Resource,
    ask: &Ask<'_>,
) -> Result<Option<Memberships>, StoreError> {
    let column = match resource {
        resource if *resource == USERS => "user_id",
        resource if *resource == ORGANIZATIONS => "organization_id",
        _ => return Ok(None),
    };
    let found = store.rows_where(&ORGANIZATION_MEMBERSHIPS, column, ask.id, MEMBERSHIPS_MAX + 1).await?;
    let has_more = found.len() > MEMBERSHIPS_MAX;
    let mut rows: Vec<&RowView> = found.iter().take(MEMBERSHIPS_MAX).collect();
    let living = rows.iter().filter(|row| !row.is_deleted()).count() as u64;
    let all = rows.len() as u64;
    // The id decides last, so that the same story reads the same.
    rows.sort_by_key(|row| (row.is_deleted(), row.columns["created_at"].to_string(), row.id.clone()));
    let mut listed = Vec::new();
    for view in rows.into_iter().take(ask.limit) {
        let row = Row::read(store, &ORGANIZATION_MEMBERSHIPS, view, false).await?;
        listed.push(Membership::new(view, row));
    }
    Ok(Some(Memberships { listed, living, all, has_more }))
}

impl Subject {
    /// Whether the row has lost its content at an operator's word.
    pub(super) fn is_erased(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.state == State::Erased)
    }
}
