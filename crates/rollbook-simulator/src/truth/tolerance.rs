//! Tolerance: permitted differences of rows from the truth after a reconciliation.
//!
//! A reconciliation reads Clerk's API. Its rows are right, but not equal in everything: a deletion has the
//! time at which the API was read, counts and nested copies are as new as the reading, and the last content
//! of an object that is deleted by then is unknown.

use std::collections::BTreeSet;

use rollbook_core::catalog::{Kind, Source, find_resource};
use serde_json::{Map, Value};

use super::Expected;

/// A subject: table and id.
pub type Subject = (&'static str, String);

/// Paths in an event's `data` that the API does not send, or sends only sometimes, by table.
const ONLY_IN_EVENTS: [(&str, &[&str]); 5] = [
    ("users", &["email_addresses", "default_second_factor"]),
    ("organization_invitations", &["user_id"]),
    ("organization_invitations", &["data"]),
    ("organization_invitations", &["organization_id"]),
    ("organization_invitations", &["public_organization_data"]),
];

/// Columns that a reading of the API leaves empty.
const COLUMNS_OF_EVENTS: [(&str, &str); 1] = [("organization_invitations", "user_id")];

/// Permitted differences of rows from the truth. Rows with `synced_by` `reconcile` may always differ in
/// volatile values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tolerance {
    /// Deleted subjects with any time of deletion.
    pub deletion_time: BTreeSet<Subject>,
    /// Living subjects with any volatile values; deleted subjects with any content.
    pub content: BTreeSet<Subject>,
    /// Deleted subjects that may have no row.
    pub row: BTreeSet<Subject>,
}

impl Tolerance {
    /// Returns whether a value is as expected. `is_read` is whether the row comes from the API.
    pub(crate) fn permits(
        &self,
        subject: &Subject,
        expected: &Expected,
        (column, actual): (&str, Option<&Value>),
        is_read: bool,
    ) -> bool {
        let is_deleted = matches!(expected, Expected::Deleted { .. });
        let (table, _) = subject;
        if column == "deleted_at" && is_deleted {
            return self.deletion_time.contains(subject) && actual.is_some_and(Value::is_string);
        }
        if is_deleted && self.content.contains(subject) {
            return column != "id";
        }
        if !is_read && !self.content.contains(subject) {
            return false;
        }
        if column == "data" {
            let stable =
                |data: Option<&Value>| data.and_then(Value::as_object).map(|data| stable(table, data));
            return stable(expected.columns().get(column)) == stable(actual);
        }
        let is_empty = actual.is_none_or(Value::is_null);
        COLUMNS_OF_EVENTS.contains(&(*table, column)) && is_empty || is_volatile(table, column)
    }
}

/// Returns whether a column shows a volatile value. Ids of parents are in nested copies, but never change.
fn is_volatile(table: &str, column: &str) -> bool {
    find_resource(table).is_some_and(|resource| {
        let path = resource.columns.iter().find(|one| one.name == column).map(|one| (one.kind, one.source));
        let Some((_, Source::Path(path))) =
            path.filter(|(kind, _)| *kind != Kind::Id || !resource.is_link(column))
        else {
            return false;
        };
        resource.volatile.iter().any(|volatile| path.starts_with(volatile))
    })
}

/// Returns `data` without volatile values and without what only events have.
fn stable(table: &str, data: &Map<String, Value>) -> Value {
    let mut data = Value::from(data.clone());
    let volatile = find_resource(table).map_or(&[][..], |resource| resource.volatile);
    let of_events = ONLY_IN_EVENTS.iter().filter(|(of, _)| *of == table).map(|(_, path)| path);
    for path in volatile.iter().chain(of_events) {
        remove(&mut data, path);
    }
    data
}

/// Removes the value at a path of keys, in every element where the path passes a list.
fn remove(value: &mut Value, path: &[&str]) {
    match (value, path) {
        (Value::Array(elements), _) => elements.iter_mut().for_each(|element| remove(element, path)),
        (Value::Object(object), [key]) => {
            object.remove(*key);
        }
        (Value::Object(object), [key, below @ ..]) => {
            if let Some(inner) = object.get_mut(*key) {
                remove(inner, below);
            }
        }
        _ => {}
    }
}
