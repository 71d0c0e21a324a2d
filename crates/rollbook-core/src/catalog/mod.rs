//! Catalog of Clerk's resources: for each resource its events, its table, its columns and the source of each
//! column. The SQL engines build their statements from it, and [`crate::event`] parses events by it. A new
//! resource is one entry here and one migration.
//!
//! * The event type alone decides the effect of an event. A type that is not listed here is ignored, even if
//!   its resource is known: Clerk does not say whether an unknown verb carries a full object, a part of one,
//!   or a deletion, and a row written from a guess could not be distinguished from a correct one.
//! * Nested objects are copies and make no rows: a membership's organization and user, a session's user, a
//!   subscription's items. Copies lack fields, and some have a state of their own.
//! * Statuses are values of Clerk that grow without notice. They are stored as text and never refused.

mod billing;
mod people;

use std::fmt;

pub use billing::{PAYMENT_ATTEMPTS, SUBSCRIPTION_ITEMS, SUBSCRIPTIONS};
pub use people::{
    ORGANIZATION_DOMAINS, ORGANIZATION_INVITATIONS, ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, PERMISSIONS,
    ROLES, SESSIONS, USERS, WAITLIST_ENTRIES,
};

/// A kind of subject with one table.
pub struct Resource {
    /// Position in [`RESOURCES`].
    pub number: usize,
    /// Name of the table. Also the name of the resource in metrics.
    pub table: &'static str,
    /// Value of `object` in Clerk's objects of this resource.
    pub object: &'static str,
    /// Event types of the resource.
    pub events: &'static [Event],
    /// Typed columns, without those that every table has (see [`COMMON_COLUMNS`]).
    pub columns: &'static [Column],
    /// Parents of its rows.
    pub links: &'static [Link],
    /// Columns that hold the address of a person who may not be a user.
    pub addresses: &'static [&'static str],
    /// Paths in `data` of values that are never stored, because they grant access.
    pub secrets: &'static [&'static [&'static str]],
    /// Paths in `data` that a comparison with Clerk's API skips: counts and times of activity, which change
    /// without an event, and nested copies of other objects.
    pub volatile: &'static [&'static [&'static str]],
}

/// Maximum number of links of a resource.
pub const LINKS_MAX: usize = 2;

/// Link from a row to its parent.
pub struct Link {
    /// Column with the parent's id.
    pub column: &'static str,
    /// Resource of the parent. Parents have no parents.
    pub parent: &'static Resource,
    /// Whether the row is deleted with its parent. A row that is not, such as a payment, still belongs to the
    /// parent: it is erased when an operator erases the parent.
    pub cascades: bool,
}

/// An event type of a resource.
pub struct Event {
    /// Name of the event type, such as `user.created`.
    pub name: &'static str,
    /// Effect of the event. The type decides, not a flag in the body: `organizationMembership.deleted`
    /// carries a complete membership and no flag.
    pub verb: Verb,
}

/// Effect of an event on its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// The subject is created or updated with `data`.
    Upsert,
    /// The subject is deleted.
    Delete,
}

/// A typed column.
pub struct Column {
    /// Name of the column.
    pub name: &'static str,
    /// Type of the column.
    pub kind: Kind,
    /// Source of the value in `data`.
    pub source: Source,
}

/// Type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// Text of a column with an index. Its length is limited, because an index cannot hold longer entries.
    IndexedText,
    /// Id: a short text. Clerk sends null or an empty string for a missing id.
    Id,
    /// Integer.
    Integer,
    /// Boolean.
    Bool,
    /// Timestamp; Clerk sends milliseconds.
    Time,
    /// Any JSON value except null.
    Json,
}

/// Source of a column's value in an event's `data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The value at this path of keys.
    Path(&'static [&'static str]),
    /// The value at the first of these paths that has one.
    Either(&'static [&'static str], &'static [&'static str]),
    /// `field` of the element in `list` that has the id `data[id_of]`. Clerk refers to the primary address by
    /// its id; it is not necessarily the first in the list.
    Chosen {
        /// Key of the list.
        list: &'static str,
        /// Key of the chosen id.
        id_of: &'static str,
        /// Key in the chosen element.
        field: &'static str,
    },
}

/// Columns that every table has. The typed columns are between them; listings show them in this order.
pub const COMMON_COLUMNS: [&str; 7] =
    ["id", "data", "created_at", "updated_at", "deleted_at", "synced_at", "synced_by"];

/// Link to a parent that the row is deleted with.
const fn deleted_with(parent: &'static Resource, column: &'static str) -> Link {
    Link { column, parent, cascades: true }
}

/// Link to a parent that the row outlives.
const fn belongs_to(parent: &'static Resource, column: &'static str) -> Link {
    Link { column, parent, cascades: false }
}

const fn upsert(name: &'static str) -> Event {
    Event { name, verb: Verb::Upsert }
}

const fn delete(name: &'static str) -> Event {
    Event { name, verb: Verb::Delete }
}

const fn column(name: &'static str, kind: Kind, path: &'static [&'static str]) -> Column {
    Column { name, kind, source: Source::Path(path) }
}

/// Every resource that has a table, in the order in which a batch writes them, parents first. The fixed order
/// of locks is the same for all workers.
pub static RESOURCES: [&Resource; 12] = [
    &ORGANIZATIONS,
    &USERS,
    &ORGANIZATION_MEMBERSHIPS,
    &ORGANIZATION_INVITATIONS,
    &ORGANIZATION_DOMAINS,
    &ROLES,
    &PERMISSIONS,
    &SESSIONS,
    &WAITLIST_ENTRIES,
    &SUBSCRIPTIONS,
    &SUBSCRIPTION_ITEMS,
    &PAYMENT_ATTEMPTS,
];

/// Event types that carry one-time passwords: they are acknowledged and counted, but never stored.
pub const NEVER_STORED: [&str; 2] = ["email.created", "sms.created"];

/// Returns every event type that Clerk documents.
pub fn event_types() -> impl Iterator<Item = &'static str> {
    let of_resources = RESOURCES.into_iter().flat_map(|resource| resource.events).map(|event| event.name);
    of_resources.chain(NEVER_STORED)
}

/// Returns the resource and verb of an event type, if the catalog has it.
pub fn find_event(event_type: &str) -> Option<(&'static Resource, Verb)> {
    RESOURCES.into_iter().find_map(|resource| {
        let event = resource.events.iter().find(|event| event.name == event_type)?;
        Some((resource, event.verb))
    })
}

/// Returns the resource with this table.
pub fn find_resource(table: &str) -> Option<&'static Resource> {
    RESOURCES.into_iter().find(|resource| resource.table == table)
}

/// Returns the resources with rows that are deleted with a row of `parent`, each with the link.
pub fn children_of(parent: &'static Resource) -> impl Iterator<Item = (&'static Resource, &'static Link)> {
    RESOURCES.into_iter().filter_map(move |child| Some((child, child.link_to(parent)?)))
}

impl Resource {
    /// Returns the link by which a row is deleted with its parent of this resource.
    pub fn link_to(&self, parent: &Resource) -> Option<&'static Link> {
        self.links.iter().find(|link| link.cascades && link.parent == parent)
    }

    /// Returns whether this column holds the id of a parent.
    pub fn is_link(&self, column: &str) -> bool {
        self.link(column).is_some()
    }

    /// Returns the link of this column.
    pub fn link(&self, column: &str) -> Option<&'static Link> {
        self.links.iter().find(|link| link.column == column)
    }
}

impl PartialEq for Resource {
    /// The name of the table is the identity, because there is one static per resource.
    fn eq(&self, other: &Self) -> bool {
        self.table == other.table
    }
}

impl Eq for Resource {}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_resource_is_its_position() {
        for (position, resource) in RESOURCES.into_iter().enumerate() {
            assert_eq!(resource.number, position, "{resource:?}");
        }
    }

    #[test]
    fn names_are_unique_and_plain_identifiers() {
        let plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let mut events = Vec::new();
        for resource in RESOURCES {
            assert!(plain(resource.table));
            let mut names: Vec<&str> = COMMON_COLUMNS.to_vec();
            names.extend(resource.columns.iter().map(|column| column.name));
            assert!(names.iter().all(|name| plain(name)), "{names:?}");
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), COMMON_COLUMNS.len() + resource.columns.len(), "{resource:?}");
            assert!(resource.secrets.iter().all(|path| !path.is_empty()), "{resource:?}");
            let has = |name: &str, kind| {
                resource.columns.iter().any(|column| column.name == name && column.kind == kind)
            };
            assert!(resource.links.len() <= LINKS_MAX, "{resource:?}");
            for link in resource.links {
                assert!(has(link.column, Kind::Id), "{resource:?} has no {}", link.column);
                // A batch writes parents first, and examines only direct parents.
                assert!(link.parent.links.is_empty() && link.parent != resource, "{resource:?}");
                let place = |of| RESOURCES.iter().position(|known| *known == of);
                assert!(place(link.parent) < place(resource), "{resource:?}");
            }
            assert!(resource.addresses.iter().all(|name| has(name, Kind::IndexedText)), "{resource:?}");
            events.extend(resource.events.iter().map(|event| event.name));
        }
        let all = events.len();
        events.sort_unstable();
        events.dedup();
        assert_eq!(events.len(), all);
    }

    #[test]
    fn every_documented_type_is_listed_once() {
        let mut types: Vec<&str> = event_types().collect();
        types.sort_unstable();
        types.dedup();
        assert_eq!((types.len(), event_types().count()), (45, 45));
    }

    #[test]
    fn an_event_is_found_by_its_name_alone() {
        assert_eq!(find_event("user.deleted"), Some((&USERS, Verb::Delete)));
        let membership = Some((&ORGANIZATION_MEMBERSHIPS, Verb::Delete));
        assert_eq!(find_event("organizationMembership.deleted"), membership);
        for unknown in ["user.frobnicated", "subscriptionItem.created", "invitation.created", "email.created"]
        {
            assert_eq!(find_event(unknown), None);
        }
    }
}
