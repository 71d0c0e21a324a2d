//! Clerk's world, declared once: for every resource its events, its table, its columns and where
//! each column is read from. The SQL engines build their statements from it, [`crate::event`] reads
//! events by it. A new resource is one entry here and one migration.
//!
//! * An event's type decides what it does, by this list and by nothing else. A type that is not here is
//!   ignored, also one of a known resource: whether an unknown verb means a whole object, a part of
//!   one or its end is Clerk's secret, and a row made of a guess could not be told from the truth.
//! * What is nested in an object is a copy and makes no row: a membership's organization and user, a session's
//!   user, a subscription's items. Copies lack fields, and some come with a state of their own.
//! * Statuses are values of Clerk's that grow without notice: text, never a reason to refuse.

mod billing;
mod people;

use std::fmt;

pub use billing::{PAYMENT_ATTEMPTS, SUBSCRIPTION_ITEMS, SUBSCRIPTIONS};
pub use people::{
    ORGANIZATION_DOMAINS, ORGANIZATION_INVITATIONS, ORGANIZATION_MEMBERSHIPS, ORGANIZATIONS, PERMISSIONS,
    ROLES, SESSIONS, USERS, WAITLIST_ENTRIES,
};

/// A kind of subject: one table.
pub struct Resource {
    /// The table's name, also the resource's name in metrics.
    pub table: &'static str,
    /// The event types about it.
    pub events: &'static [Event],
    /// The typed columns beside those that every table has (see [`COMMON_COLUMNS`]).
    pub columns: &'static [Column],
    /// What its rows hang on.
    pub links: &'static [Link],
    /// The columns that hold the address of a person who need not be a user.
    pub addresses: &'static [&'static str],
    /// Paths in `data` whose values are never kept: they let their reader in.
    pub secrets: &'static [&'static [&'static str]],
}

/// The most links that a resource has.
pub const LINKS_MAX: usize = 2;

/// What a row hangs on.
pub struct Link {
    /// The column with the parent's id.
    pub column: &'static str,
    /// The parent's resource. Parents have no parents.
    pub parent: &'static Resource,
    /// Whether the row ends with its parent. Where it does not, as with a payment, it is still the parent's: it
    /// goes when an operator has its parent erased.
    pub cascades: bool,
}

/// An event type of a resource.
pub struct Event {
    /// Its name, such as `user.created`.
    pub name: &'static str,
    /// What it does. The type decides, not a flag in the body: `organizationMembership.deleted`
    /// carries a whole membership and no flag.
    pub verb: Verb,
}

/// What an event does to its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// The subject now looks like `data`.
    Upsert,
    /// The subject is gone.
    Delete,
}

/// A typed column.
pub struct Column {
    /// Its name in the table.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Where its value is in `data`.
    pub source: Source,
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// Text that rows are looked up by: an index holds it, and no index holds a text of any length.
    IndexedText,
    /// The id of something: a short text. Where there is none, Clerk sends null or an empty text.
    Id,
    /// A whole number.
    Integer,
    /// Yes or no.
    Bool,
    /// A moment; Clerk sends milliseconds.
    Time,
    /// Any JSON but null.
    Json,
}

/// Where a column's value is in an event's `data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// At this path of keys.
    Path(&'static [&'static str]),
    /// At the first of these paths where there is anything.
    Either(&'static [&'static str], &'static [&'static str]),
    /// In the element of `list` whose `id` is the one that `data[id_of]` names: `field` of it. Clerk
    /// names the primary address by its id; it is not simply the first.
    Chosen {
        /// The key of the list.
        list: &'static str,
        /// The key of the chosen id.
        id_of: &'static str,
        /// The key in the chosen element.
        field: &'static str,
    },
}

/// The columns that every table has, around the typed ones: in this order in every listing.
pub const COMMON_COLUMNS: [&str; 7] =
    ["id", "data", "created_at", "updated_at", "deleted_at", "synced_at", "synced_by"];

/// Ends with its parent.
const fn ends_with(parent: &'static Resource, column: &'static str) -> Link {
    Link { column, parent, cascades: true }
}

/// Outlives its parent.
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

/// Every resource that has a table, in the order in which a batch writes them, parents first: one fixed
/// order of locks for all workers.
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

/// Events that carry one-time passwords: acknowledged, counted, never kept.
pub const NEVER_KEPT: [&str; 2] = ["email.created", "sms.created"];

/// Every event type that Clerk documents.
pub fn event_types() -> impl Iterator<Item = &'static str> {
    let of_resources = RESOURCES.into_iter().flat_map(|resource| resource.events).map(|event| event.name);
    of_resources.chain(NEVER_KEPT)
}

/// The resource and verb of an event type, where the catalog has it.
pub fn find_event(event_type: &str) -> Option<(&'static Resource, Verb)> {
    RESOURCES.into_iter().find_map(|resource| {
        let event = resource.events.iter().find(|event| event.name == event_type)?;
        Some((resource, event.verb))
    })
}

/// The resource with this table.
pub fn find_resource(table: &str) -> Option<&'static Resource> {
    RESOURCES.into_iter().find(|resource| resource.table == table)
}

impl Resource {
    /// Whether this column holds the id of a parent.
    pub fn is_link(&self, column: &str) -> bool {
        self.link(column).is_some()
    }

    /// The link whose parent's id is in this column.
    pub fn link(&self, column: &str) -> Option<&'static Link> {
        self.links.iter().find(|link| link.column == column)
    }
}

impl PartialEq for Resource {
    /// There is one static for each resource, so its table's name is its identity.
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
    fn no_name_is_there_twice_and_each_is_a_plain_identifier() {
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
                // A batch writes parents first, and looks no further than to them.
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
