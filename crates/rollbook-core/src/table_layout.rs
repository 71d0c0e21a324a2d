//! Layout of a resource's table, the same in every SQL engine: the columns in their order, and what an upsert
//! keeps of a stored row.
//!
//! The engines write the statements; types, parameters and quoting are theirs.

use crate::catalog::{COMMON_COLUMNS, Kind, Resource};

/// Value of `synced_by` in a row that an operator has erased.
pub const ERASED_BY: &str = "erase";

/// Value of `synced_by` in a row that an operator has reset.
pub const RESET_BY: &str = "reset";

/// Columns that hold a row's [`crate::merge::SubjectState`], except its links.
pub const STATE_COLUMNS: [&str; 5] =
    ["version_updated_at", "version_event_at", "version_hash", "version_deleted_at", "version_floor"];

/// Returns the columns that an application sees, in the order of statements and listings.
pub fn columns(resource: &'static Resource) -> impl Iterator<Item = (&'static str, Kind)> {
    let typed = resource.columns.iter().map(|column| (column.name, column.kind));
    let [first, last @ ..] = COMMON_COLUMNS.map(|name| (name, common_kind(name)));
    [first].into_iter().chain(typed).chain(last)
}

fn common_kind(name: &str) -> Kind {
    match name {
        "data" => Kind::Json,
        "created_at" | "updated_at" | "deleted_at" | "synced_at" => Kind::Time,
        _ => Kind::Text,
    }
}

/// Returns the columns that hold a row's content: all that an erasure of a parent removes. The ids of the parents stay.
pub fn content_columns(resource: &'static Resource) -> impl Iterator<Item = &'static str> {
    proving_columns(resource).chain(["created_at", "updated_at"])
}

/// Returns the content columns that prove that a row has content. A team's trigger may set `created_at` and
/// `updated_at` at each write, so they prove nothing.
pub fn proving_columns(resource: &'static Resource) -> impl Iterator<Item = &'static str> {
    let typed = resource.columns.iter().map(|column| column.name);
    typed.filter(|name| !resource.is_link(name)).chain(["data"])
}

/// Returns every column that is null in an erased row, also the ids of its parents.
pub fn erased_columns(resource: &'static Resource) -> impl Iterator<Item = &'static str> {
    let links = resource.links.iter().map(|link| link.column);
    content_columns(resource).chain(links).chain(links_column(resource))
}

/// Returns the column with the links that the content does not name, if rows of the resource have parents.
pub fn links_column(resource: &Resource) -> Option<&'static str> {
    (!resource.links.is_empty()).then_some("version_links")
}

/// Returns the name of a typed column that rows can be searched by, an id or a text. `None` if the resource
/// has no such column.
pub fn searchable_column(resource: &'static Resource, name: &str) -> Option<&'static str> {
    let is_text = |kind| matches!(kind, Kind::Text | Kind::IndexedText | Kind::Id);
    let found = resource.columns.iter().find(|column| column.name == name && is_text(column.kind));
    found.map(|column| column.name)
}

/// Effect of an upsert on a column of a stored row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUpsert {
    /// Writes the new value.
    Replace,
    /// Keeps the stored id of a parent if the new one is null and the content is not erased.
    KeepLink,
    /// Keeps the stored time if the upsert brings neither a deletion nor content.
    KeepDeletion,
    /// Keeps the stored value if the upsert brings no content and does not erase it.
    KeepContent,
}

/// Returns what an upsert does with this column.
pub fn on_upsert(resource: &Resource, column: &str) -> OnUpsert {
    match column {
        "deleted_at" => OnUpsert::KeepDeletion,
        "synced_at" | "synced_by" | "version_links" | "version_revision" => OnUpsert::Replace,
        name if STATE_COLUMNS.contains(&name) => OnUpsert::Replace,
        name if resource.is_link(name) => OnUpsert::KeepLink,
        _ => OnUpsert::KeepContent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{ORGANIZATION_MEMBERSHIPS, PAYMENT_ATTEMPTS, RESOURCES, USERS};

    #[test]
    fn every_listing_begins_with_the_id_and_ends_with_the_common_columns() {
        for resource in RESOURCES {
            let names: Vec<&str> = columns(resource).map(|(name, _)| name).collect();
            assert_eq!((names[0], &names[names.len() - 6..]), ("id", &COMMON_COLUMNS[1..]), "{resource:?}");
            assert_eq!(names.len(), COMMON_COLUMNS.len() + resource.columns.len(), "{resource:?}");
        }
    }

    #[test]
    fn an_erasure_of_a_parent_keeps_the_ids_of_parents_and_an_erasure_of_the_row_does_not() {
        for resource in [&ORGANIZATION_MEMBERSHIPS, &PAYMENT_ATTEMPTS] {
            for link in resource.links {
                assert!(!content_columns(resource).any(|name| name == link.column), "{}", link.column);
                assert!(erased_columns(resource).any(|name| name == link.column), "{}", link.column);
                assert_eq!(on_upsert(resource, link.column), OnUpsert::KeepLink);
            }
        }
        assert!(!proving_columns(&USERS).any(|name| name == "updated_at"), "a trigger may set it");
        assert_eq!((links_column(&USERS), on_upsert(&USERS, "data")), (None, OnUpsert::KeepContent));
    }
}
