//! The store in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rollbook_core::catalog::{RESOURCES, Resource};
use rollbook_core::change::{Applied, Assertion, Change, Effect, Field, Row, Version};
use rollbook_core::delivery::MessageId;
use rollbook_core::merge::{Stored, fold};
use rollbook_core::store::{LedgerEntry, RowView, Store, StoreError};
use rollbook_core::time::{Clock, Timestamp};
use serde_json::{Map, Value};

/// A store in memory. Share it in an [`Arc`].
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the name of the table.
    tables: BTreeMap<&'static str, Table>,
    ledger: BTreeMap<MessageId, LedgerEntry>,
}

/// By id.
type Table = BTreeMap<String, StoredRow>;

/// What is kept of a subject.
#[derive(Clone)]
pub(crate) struct StoredRow {
    pub(crate) version: Version,
    /// `None` where the subject is deleted.
    pub(crate) content: Option<Row>,
    pub(crate) synced_at: Timestamp,
    pub(crate) synced_by: MessageId,
}

impl MemoryStore {
    /// An empty store; the clock says when a row was `synced_at`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default() }
    }

    /// All rows of a resource, in the order of their ids.
    pub fn rows_of(&self, resource: &'static Resource) -> Vec<RowView> {
        let state = self.state();
        state.table(resource).map(|(id, row)| view(resource, id, row)).collect()
    }

    /// The whole ledger.
    pub fn ledger(&self) -> BTreeMap<MessageId, LedgerEntry> {
        self.state().ledger.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn table(&self, resource: &'static Resource) -> impl Iterator<Item = (&String, &StoredRow)> {
        self.tables.get(resource.table).into_iter().flatten()
    }

    /// Merges the changes of one resource. Returns what each did.
    fn merge(
        &mut self,
        table: &'static str,
        changes: &[(&Change, &Assertion)],
        now: Timestamp,
    ) -> Vec<Applied> {
        let table = self.tables.entry(table).or_default();
        let known = |id: &str| {
            let row = table.get(id)?;
            Some(Stored { version: Some(row.version), floor: 0 })
        };
        let assertions: Vec<&Assertion> = changes.iter().map(|(_, assertion)| *assertion).collect();
        let folded = fold(&assertions, known);
        for (change, winner) in folded.winners.iter().map(|position| changes[*position]) {
            let row = StoredRow {
                version: winner.version,
                content: winner.row.clone(),
                synced_at: now,
                synced_by: change.origin.message_id.clone(),
            };
            table.insert(winner.id.clone(), row);
        }
        folded.outcomes
    }

    /// The first line of a delivery stays: a redelivery has nothing to add.
    fn note(&mut self, change: &Change, outcome: Applied) {
        let origin = &change.origin;
        self.ledger.entry(origin.message_id.clone()).or_insert_with(|| LedgerEntry {
            event_type: origin.event_type.clone(),
            subject_id: change.subject_id().map(str::to_owned),
            outcome,
            attempts: origin.attempt,
        });
    }
}

/// The row by the names of the contract. A deleted one keeps its id, when it went and what said so.
pub(crate) fn view(resource: &'static Resource, id: &str, stored: &StoredRow) -> RowView {
    let time = |at: Option<Timestamp>| at.map_or(Value::Null, |at| at.to_string().into());
    let content = stored.content.as_ref();
    let deleted_at = content.is_none().then(|| Timestamp::from_millis(stored.version.event_at));
    let mut columns = Map::new();
    for (index, column) in resource.columns.iter().enumerate() {
        let value = content.map_or(Value::Null, |row| value(&row.values[index]));
        columns.insert(column.name.to_owned(), value);
    }
    let common = [
        ("id", id.into()),
        ("data", content.map_or(Value::Null, |row| json(&row.data))),
        ("created_at", time(content.and_then(|row| row.created_at))),
        ("updated_at", time(content.and_then(|row| row.updated_at))),
        ("deleted_at", time(deleted_at)),
        ("synced_at", time(Some(stored.synced_at))),
        ("synced_by", stored.synced_by.as_str().into()),
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
        let mut outcomes = vec![Applied::Ignored; changes.len()];
        for resource in RESOURCES {
            let mut places = Vec::new();
            let mut about = Vec::new();
            for (place, change) in changes.iter().enumerate() {
                if let Effect::Merge(assertion) = &change.effect
                    && assertion.resource == resource
                {
                    places.push(place);
                    about.push((change, &**assertion));
                }
            }
            for (place, outcome) in places.into_iter().zip(state.merge(resource.table, &about, now)) {
                outcomes[place] = outcome;
            }
        }
        for (change, outcome) in changes.iter().zip(&outcomes) {
            state.note(change, *outcome);
        }
        Ok(outcomes)
    }

    async fn get(&self, resource: &'static Resource, id: &str) -> Result<Option<RowView>, StoreError> {
        let state = self.state();
        let row = state.tables.get(resource.table).and_then(|table| table.get(id));
        Ok(row.map(|row| view(resource, id, row)))
    }

    async fn rows(
        &self,
        resource: &'static Resource,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RowView>, StoreError> {
        let state = self.state();
        let behind = state.table(resource).filter(|(id, _)| after.is_none_or(|after| id.as_str() > after));
        Ok(behind.take(limit).map(|(id, row)| view(resource, id, row)).collect())
    }

    async fn delivery(&self, id: &MessageId) -> Result<Option<LedgerEntry>, StoreError> {
        Ok(self.state().ledger.get(id).cloned())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
