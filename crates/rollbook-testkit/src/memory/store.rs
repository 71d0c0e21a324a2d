//! The store in memory. The state that rows take from their parents is computed when they are read, so it
//! cannot be outdated: the other engines are compared with this one.

mod access;
mod changes;
mod forwards;
mod reconciliation;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rollbook_core::catalog::{Link, RESOURCES, Resource};
use rollbook_core::change::{Applied, Change, Effect, Field, Row, SubjectChange};
use rollbook_core::delivery::MessageId;
use rollbook_core::merge::{Content, DeletedRows, FromParents, Links, SubjectState, fold, from_parents};
use rollbook_core::store::{
    ErasedCounts, Erasure, ErasureProgress, Freshness, Ledger, LedgerEntry, Reconciliation as _,
    RetentionChoices, RetentionLimits, RetentionStep, RowView, Rows, Store, StoreError,
};
use rollbook_core::table_layout::ERASED_BY;
use rollbook_core::time::{Clock, Timestamp};
use serde_json::{Map, Value};

use self::changes::Touched;

/// A store in memory. Share it in an [`Arc`].
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    retention: RetentionChoices,
    /// Tables by name.
    tables: BTreeMap<&'static str, Table>,
    ledger: BTreeMap<MessageId, LedgerEntry>,
    records: reconciliation::Records,
    feed: changes::Feed,
    forwards: forwards::Records,
}

/// Rows by id.
type Table = BTreeMap<String, StoredRow>;

/// Stored data of a subject.
#[derive(Clone)]
pub(crate) struct StoredRow {
    pub(crate) state: SubjectState,
    /// Content, if it is known and not erased. Of a row that was reset only the ids of parents count.
    pub(crate) content: Option<Row>,
    pub(crate) synced_at: Timestamp,
    pub(crate) synced_by: String,
}

impl StoredRow {
    /// Returns the content that the row shows, unless a parent is erased.
    fn shown(&self) -> Option<&Row> {
        self.content.as_ref().filter(|_| self.state.content != Content::Unknown)
    }
}

impl MemoryStore {
    /// Creates an empty store. The clock gives the value of `synced_at`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default() }
    }

    /// Sets what the store keeps from now on.
    pub fn keep(&self, retention: RetentionChoices) {
        self.state().retention = retention;
    }

    /// Returns all rows of a resource, in the order of their ids.
    pub fn rows_of(&self, resource: &'static Resource) -> Vec<RowView> {
        let state = self.state();
        state.views(resource).collect()
    }

    /// Returns the complete ledger.
    pub fn ledger(&self) -> BTreeMap<MessageId, LedgerEntry> {
        self.state().ledger.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&self, resource: &'static Resource, id: &str) -> Option<&StoredRow> {
        self.tables.get(resource.table)?.get(id)
    }

    fn state_from_parents(&self, resource: &'static Resource, row: &StoredRow) -> FromParents {
        let known = |parent, id: &str| self.find(parent, id).map(|row| row.state);
        row.content.as_ref().map(|content| from_parents(resource, content, known)).unwrap_or_default()
    }

    fn view(&self, resource: &'static Resource, id: &str, row: &StoredRow) -> RowView {
        view(resource, id, row, self.state_from_parents(resource, row))
    }

    fn views(&self, resource: &'static Resource) -> impl Iterator<Item = RowView> {
        let rows = self.tables.get(resource.table).into_iter().flatten();
        rows.map(move |(id, row)| self.view(resource, id, row))
    }

    /// Merges the changes of one resource. Returns the outcome of each. Adds rows that were written to `touched`.
    fn merge(
        &mut self,
        table: &'static str,
        changes: &[(&Change, &SubjectChange)],
        deleted_rows: DeletedRows,
        now: Timestamp,
        touched: &mut Vec<Touched>,
    ) -> Vec<Applied> {
        let table = self.tables.entry(table).or_default();
        let known = |id: &str| table.get(id).map(|row| row.state);
        let assertions: Vec<&SubjectChange> =
            changes.iter().map(|(_, subject_change)| *subject_change).collect();
        let folded = fold(&assertions, deleted_rows, known);
        for winner in folded.winners {
            let (change, subject_change) = changes[winner.last];
            let before = table.get(&subject_change.id).and_then(|row| row.content.clone());
            let written = winner.content.and_then(|position| assertions[position].row.clone());
            let mut content = written.or(before.clone()).filter(|_| winner.state.content != Content::Erased);
            for (number, link) in subject_change.resource.links.iter().enumerate() {
                let index = column_of(subject_change.resource, link);
                let learned = winner.parents[number].and_then(|position| assertions[position].row.as_ref());
                let (content, known) = (content.as_mut(), learned.or(before.as_ref()));
                if let Some((content, known)) = content.zip(known) {
                    content.values[index].clone_from(&known.values[index]);
                }
            }
            let row = StoredRow {
                state: winner.state,
                content,
                synced_at: now,
                synced_by: change.origin.synced_by().to_owned(),
            };
            table.insert(subject_change.id.clone(), row);
            touched.push(Touched::by(&change.origin, subject_change.resource, &subject_change.id));
        }
        folded.outcomes
    }

    /// Writes a ledger entry, unless the delivery has one: a redelivery adds nothing.
    fn note(&mut self, change: &Change, outcome: Applied, applied_at: Timestamp) {
        let origin = &change.origin;
        self.ledger.entry(origin.entry_id().clone()).or_insert_with(|| LedgerEntry {
            message_id: origin.entry_id().clone(),
            event_type: origin.event_type().to_owned(),
            subject_id: change.subject_id().map(str::to_owned),
            outcome,
            event_at: origin.event_at(),
            received_at: origin.received_at(),
            applied_at,
            attempts: origin.attempt(),
        });
    }

    /// Returns the ids of all child rows of these parents, whether they are deleted with them or not.
    fn belonging(&self, parents: &[(&'static Resource, String)]) -> BTreeSet<String> {
        let mut ids = BTreeSet::new();
        for resource in RESOURCES {
            for (id, row) in self.tables.get(resource.table).into_iter().flatten() {
                let named = row.content.iter().flat_map(|row| rollbook_core::merge::parents(resource, row));
                let of = |(of, parent): &(&Resource, String), link: &Resource, id: &str| {
                    *of == link && parent == id
                };
                if named
                    .into_iter()
                    .any(|(link, id)| parents.iter().any(|parent| of(parent, link.parent, id)))
                {
                    ids.insert(id.clone());
                }
            }
        }
        ids
    }
}

/// Returns the index of a link's column among the columns of a resource.
fn column_of(resource: &Resource, link: &Link) -> usize {
    let found = resource.columns.iter().position(|column| column.name == link.column);
    found.expect("the catalog has a column for each link")
}

/// Returns the row with the column names of the contract.
pub(crate) fn view(
    resource: &'static Resource,
    id: &str,
    stored: &StoredRow,
    from_parents: FromParents,
) -> RowView {
    let time = |at: Option<Timestamp>| at.map_or(Value::Null, |at| at.to_string().into());
    let whole = stored.shown().filter(|_| !from_parents.erased);
    let deleted_at = stored.state.deleted_at.or(from_parents.deleted_at).map(Timestamp::from_millis);
    let mut columns = Map::new();
    for (index, column) in resource.columns.iter().enumerate() {
        let content = if resource.is_link(column.name) { stored.content.as_ref() } else { whole };
        let value = content.map_or(Value::Null, |row| value(&row.values[index]));
        columns.insert(column.name.to_owned(), value);
    }
    let common = [
        ("id", id.into()),
        ("data", whole.map_or(Value::Null, |row| json(&row.data))),
        ("created_at", time(whole.and_then(|row| row.created_at))),
        ("updated_at", time(whole.and_then(|row| row.updated_at))),
        ("deleted_at", time(deleted_at)),
        ("synced_at", time(Some(stored.synced_at))),
        ("synced_by", stored.synced_by.clone().into()),
    ];
    columns.extend(common.map(|(name, value)| (name.to_owned(), value)));
    RowView { id: id.to_owned(), columns }
}

fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Text(text) => text.as_str().into(),
        Field::Integer(number) => (*number).into(),
        Field::Bool(yes) => (*yes).into(),
        Field::Time(at) => at.to_string().into(),
        Field::Json(text) => json(text),
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("a change holds well-formed JSON")
}

#[async_trait]
impl Store for MemoryStore {
    async fn apply_many(&self, changes: &[Change]) -> Result<Vec<Applied>, StoreError> {
        let now = self.clock.now();
        let mut state = self.state();
        let retention = state.retention;
        let (mut outcomes, mut touched) = (vec![Applied::Ignored; changes.len()], Vec::new());
        for resource in RESOURCES {
            let mut places = Vec::new();
            let mut about = Vec::new();
            for (place, change) in changes.iter().enumerate() {
                if let Effect::Merge(subject_change) = &change.effect
                    && subject_change.resource == resource
                {
                    places.push(place);
                    about.push((change, &**subject_change));
                }
            }
            let applied = state.merge(resource.table, &about, retention.deleted_rows, now, &mut touched);
            for (place, outcome) in places.into_iter().zip(applied) {
                outcomes[place] = outcome;
            }
        }
        state.record(touched, now);
        for (change, outcome) in changes.iter().zip(&outcomes).filter(|_| retention.ledger) {
            state.note(change, *outcome, now);
        }
        Ok(outcomes)
    }

    async fn remember_instance(&self, id: &str) -> Result<(), StoreError> {
        self.save_freshness(&Freshness::of_instance(id, self.clock.now())).await
    }

    async fn retain(&self, due: &RetentionLimits) -> Result<RetentionStep, StoreError> {
        let mut state = self.state();
        let mut tidied = RetentionStep::default();
        let old = |entry: &LedgerEntry| due.ledger_before.is_some_and(|before| entry.applied_at < before);
        let entries: Vec<MessageId> = state
            .ledger
            .values()
            .filter(|entry| old(entry))
            .take(due.limit)
            .map(|entry| entry.message_id.clone())
            .collect();
        for id in entries {
            state.ledger.remove(&id);
            tidied.ledger += 1;
        }
        if let Some(before) = due.changes_before {
            tidied.changes = state.feed.prune(before, due.limit);
        }
        let Some(before) = due.deleted_before else { return Ok(tidied) };
        let over = |row: &StoredRow| {
            row.state.content != Content::Erased
                && row.state.deleted_at.is_some_and(|at| at < before.as_millis())
        };
        let mut touched = Vec::new();
        for resource in RESOURCES {
            let rows = state.tables.get_mut(resource.table).into_iter().flatten();
            for (id, row) in rows.filter(|(_, row)| over(row)).take(due.limit - touched.len()) {
                row.state.content = Content::Erased;
                row.state.links = Links::default();
                row.state.floor = 0;
                row.content = None;
                touched.push(Touched::erased(resource, id));
            }
        }
        tidied.rows = touched.len() as u64;
        state.record(touched, self.clock.now());
        Ok(tidied)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl Rows for MemoryStore {
    async fn get(&self, resource: &'static Resource, id: &str) -> Result<Option<RowView>, StoreError> {
        let state = self.state();
        Ok(state.find(resource, id).map(|row| state.view(resource, id, row)))
    }

    async fn rows(
        &self,
        resource: &'static Resource,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RowView>, StoreError> {
        let state = self.state();
        let behind = state.views(resource).filter(|row| after.is_none_or(|after| row.id.as_str() > after));
        Ok(behind.take(limit).collect())
    }

    async fn rows_where(
        &self,
        resource: &'static Resource,
        column: &'static str,
        value: &str,
        limit: usize,
    ) -> Result<Vec<RowView>, StoreError> {
        let state = self.state();
        let found = state.views(resource).filter(|row| row.columns.get(column) == Some(&Value::from(value)));
        Ok(found.take(limit).collect())
    }
}

#[async_trait]
impl Ledger for MemoryStore {
    async fn delivery(&self, id: &MessageId) -> Result<Option<LedgerEntry>, StoreError> {
        Ok(self.state().ledger.get(id).cloned())
    }

    async fn deliveries(&self, subject_id: &str, limit: usize) -> Result<Vec<LedgerEntry>, StoreError> {
        let state = self.state();
        let about = |entry: &&LedgerEntry| entry.subject_id.as_deref() == Some(subject_id);
        let mut entries: Vec<LedgerEntry> = state.ledger.values().filter(about).cloned().collect();
        entries.sort_by(|one, other| {
            (one.applied_at, &one.message_id).cmp(&(other.applied_at, &other.message_id))
        });
        entries.drain(..entries.len().saturating_sub(limit));
        Ok(entries)
    }
}

#[async_trait]
impl Erasure for MemoryStore {
    async fn erase_in_steps(
        &self,
        subjects: &[(&'static Resource, String)],
        at: Timestamp,
        _: &ErasureProgress<'_>,
    ) -> Result<ErasedCounts, StoreError> {
        let mut state = self.state();
        let mut gone = state.belonging(subjects);
        for (resource, id) in subjects {
            gone.insert(id.clone());
            let known = state.find(resource, id).map(|row| row.state).unwrap_or_default();
            let row = StoredRow {
                state: known.erased_by_operator(at),
                content: None,
                synced_at: at,
                synced_by: ERASED_BY.to_owned(),
            };
            state.tables.entry(resource.table).or_default().insert(id.clone(), row);
        }
        let touched = subjects.iter().map(|(resource, id)| Touched::erased(resource, id));
        state.record(touched.collect(), self.clock.now());
        let before = state.ledger.len();
        state.ledger.retain(|_, entry| entry.subject_id.as_ref().is_none_or(|id| !gone.contains(id)));
        let ledger = before - state.ledger.len();
        Ok(ErasedCounts { rows: gone.len() as u64, ledger: ledger as u64 })
    }
}
