//! Clerk's world, declared once: for every resource its events, its table, its columns and where
//! each column is read from. The SQL engines build their statements from it, [`crate::event`] reads
//! events by it. A new resource is one entry here and one migration.

use std::fmt;

/// A kind of subject: one table.
pub struct Resource {
    /// The table's name, also the resource's name in metrics.
    pub table: &'static str,
    /// The event types about it.
    pub events: &'static [Event],
    /// The typed columns beside those that every table has (see [`COMMON_COLUMNS`]).
    pub columns: &'static [Column],
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

const fn upsert(name: &'static str) -> Event {
    Event { name, verb: Verb::Upsert }
}

const fn delete(name: &'static str) -> Event {
    Event { name, verb: Verb::Delete }
}

const fn column(name: &'static str, kind: Kind, path: &'static [&'static str]) -> Column {
    Column { name, kind, source: Source::Path(path) }
}

/// Users.
pub static USERS: Resource = Resource {
    table: "users",
    events: &[upsert("user.created"), upsert("user.updated"), delete("user.deleted")],
    columns: &[
        column("external_id", Kind::Text, &["external_id"]),
        column("username", Kind::Text, &["username"]),
        column("first_name", Kind::Text, &["first_name"]),
        column("last_name", Kind::Text, &["last_name"]),
        Column {
            name: "primary_email_address",
            kind: Kind::Text,
            source: Source::Chosen {
                list: "email_addresses",
                id_of: "primary_email_address_id",
                field: "email_address",
            },
        },
        Column {
            name: "primary_phone_number",
            kind: Kind::Text,
            source: Source::Chosen {
                list: "phone_numbers",
                id_of: "primary_phone_number_id",
                field: "phone_number",
            },
        },
        column("image_url", Kind::Text, &["image_url"]),
        column("banned", Kind::Bool, &["banned"]),
        column("locked", Kind::Bool, &["locked"]),
        column("last_sign_in_at", Kind::Time, &["last_sign_in_at"]),
        column("last_active_at", Kind::Time, &["last_active_at"]),
        column("public_metadata", Kind::Json, &["public_metadata"]),
        column("private_metadata", Kind::Json, &["private_metadata"]),
        column("unsafe_metadata", Kind::Json, &["unsafe_metadata"]),
    ],
};

/// Organizations.
pub static ORGANIZATIONS: Resource = Resource {
    table: "organizations",
    events: &[upsert("organization.created"), upsert("organization.updated"), delete("organization.deleted")],
    columns: &[
        column("name", Kind::Text, &["name"]),
        column("slug", Kind::Text, &["slug"]),
        column("image_url", Kind::Text, &["image_url"]),
        column("created_by", Kind::Text, &["created_by"]),
        column("members_count", Kind::Integer, &["members_count"]),
        column("max_allowed_memberships", Kind::Integer, &["max_allowed_memberships"]),
        column("public_metadata", Kind::Json, &["public_metadata"]),
        column("private_metadata", Kind::Json, &["private_metadata"]),
    ],
};

/// Memberships of users in organizations. Whoever leaves and comes back gets a new id.
pub static ORGANIZATION_MEMBERSHIPS: Resource = Resource {
    table: "organization_memberships",
    events: &[
        upsert("organizationMembership.created"),
        upsert("organizationMembership.updated"),
        delete("organizationMembership.deleted"),
    ],
    columns: &[
        column("organization_id", Kind::Text, &["organization", "id"]),
        column("user_id", Kind::Text, &["public_user_data", "user_id"]),
        column("role", Kind::Text, &["role"]),
        column("permissions", Kind::Json, &["permissions"]),
        column("public_metadata", Kind::Json, &["public_metadata"]),
        column("private_metadata", Kind::Json, &["private_metadata"]),
    ],
};

/// Every resource that has a table, in the order in which a batch writes them: one fixed order of
/// locks for all workers.
pub static RESOURCES: [&Resource; 3] = [&ORGANIZATIONS, &USERS, &ORGANIZATION_MEMBERSHIPS];

/// Events that carry one-time passwords: acknowledged, counted, never kept.
pub const NEVER_KEPT: [&str; 2] = ["email.created", "sms.created"];

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
            events.extend(resource.events.iter().map(|event| event.name));
        }
        let all = events.len();
        events.sort_unstable();
        events.dedup();
        assert_eq!(events.len(), all);
    }

    #[test]
    fn an_event_is_found_by_its_name_alone() {
        assert_eq!(find_event("user.deleted"), Some((&USERS, Verb::Delete)));
        let membership = Some((&ORGANIZATION_MEMBERSHIPS, Verb::Delete));
        assert_eq!(find_event("organizationMembership.deleted"), membership);
        assert_eq!(find_event("user.frobnicated"), None);
    }
}
