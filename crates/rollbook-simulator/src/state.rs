//! Objects that exist at Clerk at one moment of a history, as Clerk's Backend API shows them.
//!
//! The API sees every change when it happens; webhooks arrive late, twice or never. A state can be stepped
//! event by event, so a test decides what Clerk knows at each time. It can also be edited by hand, for changes
//! that no event announces.

mod list;
mod shape;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use rollbook_core::time::Timestamp;
use serde_json::{Map, Value};

use crate::event::Event;

/// Tables of the objects that the API serves, by the names that the catalog gives them.
pub const TABLES: [&str; 9] = [
    "organizations",
    "users",
    "organization_memberships",
    "organization_invitations",
    "organization_domains",
    "roles",
    "permissions",
    "waitlist_entries",
    "subscription_items",
];

/// Child tables that Clerk deletes with a parent, with the key of the parent's id in [`parent`].
const CHILD_TABLES: [(&str, &str); 4] = [
    ("organization_memberships", "organizations"),
    ("organization_memberships", "users"),
    ("organization_invitations", "organizations"),
    ("organization_domains", "organizations"),
];

/// Creation, change or deletion of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Index of the event that announces it, or of the event of the parent that the object is deleted with.
    pub(crate) event: usize,
    pub(crate) table: &'static str,
    pub(crate) id: String,
    /// Whether the object exists from then on. Its content is the event's `data`.
    pub(crate) exists: bool,
}

/// Objects of one table, as the last event about each describes it.
type ObjectsById = BTreeMap<String, Arc<Map<String, Value>>>;

/// Objects that exist at Clerk.
#[derive(Clone)]
pub struct ClerkState {
    bodies: Arc<[Bytes]>,
    steps: Arc<[Step]>,
    /// Number of steps that have been applied.
    applied: usize,
    objects: BTreeMap<&'static str, ObjectsById>,
}

impl ClerkState {
    /// Creates the state before the first event.
    pub(crate) fn new(events: &[Event], steps: &[Step]) -> Self {
        let objects = TABLES.iter().map(|table| (*table, BTreeMap::new())).collect();
        let bodies = events.iter().map(|event| event.body.clone()).collect();
        Self { bodies, steps: steps.into(), applied: 0, objects }
    }

    /// Applies the changes of the first `events` events that are not applied yet. The state never goes back.
    pub fn advance_to(&mut self, events: usize) {
        let steps = self.steps.clone();
        let open = &steps[self.applied..];
        let due = &open[..open.partition_point(|step| step.event < events)];
        self.applied += due.len();
        // Only the last change of an object is read, because reading is slow.
        let last: BTreeMap<(&'static str, &str), &Step> =
            due.iter().map(|step| ((step.table, step.id.as_str()), step)).collect();
        for ((table, id), step) in last {
            let Some(objects) = self.objects.get_mut(table) else { continue };
            if step.exists {
                objects.insert(id.to_owned(), Arc::new(data_of(&self.bodies[step.event])));
            } else {
                objects.remove(id);
            }
        }
    }

    /// Returns the ids of all objects of a table.
    pub fn ids(&self, table: &str) -> Vec<String> {
        self.objects.get(table).into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }

    /// Returns an object as a point read of the API shows it, with `members_count` if it is an organization.
    pub fn object(&self, table: &str, id: &str) -> Option<Map<String, Value>> {
        self.objects.get(table)?.get(id).map(|object| self.shaped(table, object, true))
    }

    /// Adds or replaces an object, as an event's `data` describes it. No event announces it. Returns `false`
    /// if the object has no id or the API does not serve the table.
    pub fn insert(&mut self, table: &str, object: Map<String, Value>) -> bool {
        let id = object.get("id").and_then(Value::as_str).map(str::to_owned);
        let (Some(id), Some(objects)) = (id, self.objects.get_mut(table)) else { return false };
        objects.insert(id, Arc::new(object));
        true
    }

    /// Adds a copy of an object with another id and time of creation. Returns `false` if there is no such object.
    pub fn insert_copy(&mut self, table: &str, of: &str, id: &str, created_at: Timestamp) -> bool {
        let Some(object) = self.objects.get(table).and_then(|objects| objects.get(of)) else { return false };
        let mut object = Map::clone(object);
        object.insert("id".into(), id.into());
        for key in ["created_at", "updated_at"] {
            object.insert(key.into(), created_at.as_millis().into());
        }
        self.insert(table, object)
    }

    /// Deletes an object and the objects that Clerk deletes with it. No event announces it. Returns `false` if
    /// there is no such object.
    pub fn remove(&mut self, table: &str, id: &str) -> bool {
        let is_removed = self.objects.get_mut(table).is_some_and(|objects| objects.remove(id).is_some());
        for (child, _) in CHILD_TABLES.iter().filter(|(_, of)| *of == table) {
            if let Some(objects) = self.objects.get_mut(child) {
                objects.retain(|_, object| parent(object, table) != Some(id));
            }
        }
        is_removed
    }

    fn find(&self, table: &str, id: &str) -> Option<&Map<String, Value>> {
        self.objects.get(table)?.get(id).map(Arc::as_ref)
    }
}

impl fmt::Debug for ClerkState {
    /// Prints counts only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.objects.iter().map(|(table, objects)| (table, objects.len()));
        f.debug_map().entries(counts).finish()
    }
}

/// Returns the `data` of an event of this simulator.
fn data_of(body: &[u8]) -> Map<String, Value> {
    let event: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    match event.get("data") {
        Some(Value::Object(data)) => data.clone(),
        _ => Map::new(),
    }
}

/// Returns the id of an object's parent in the table `of`.
fn parent<'a>(object: &'a Map<String, Value>, of: &str) -> Option<&'a str> {
    let nested = |outer: &str, key: &str| object.get(outer).and_then(|value| value.get(key));
    let id = match of {
        "users" => nested("public_user_data", "user_id"),
        _ => object
            .get("organization_id")
            .or_else(|| nested("organization", "id"))
            .or_else(|| object.get("data")?.get("public_organization_data")?.get("id")),
    };
    id.and_then(Value::as_str)
}
