//! Columns of a table, as statements and listings name them.

use rollbook_core::catalog::{Kind, Resource};

/// Returns a table's columns as an application sees them, in the order of statements and listings.
pub(super) fn columns(resource: &'static Resource) -> impl Iterator<Item = (&'static str, Kind)> {
    let typed = resource.columns.iter().map(|column| (column.name, column.kind));
    let last = [
        ("data", Kind::Json),
        ("created_at", Kind::Time),
        ("updated_at", Kind::Time),
        ("deleted_at", Kind::Time),
        ("synced_at", Kind::Time),
        ("synced_by", Kind::Text),
    ];
    [("id", Kind::Text)].into_iter().chain(typed).chain(last)
}

/// Returns the columns that hold a row's content, without the ids of its parents.
pub(super) fn content(resource: &'static Resource) -> impl Iterator<Item = &'static str> {
    let typed = resource.columns.iter().map(|column| column.name);
    typed.filter(|name| !resource.is_link(name)).chain(["data", "created_at", "updated_at"])
}

/// Condition of a row that has content: in `data`, or in a typed column that names no parent. `created_at` and
/// `updated_at` do not count, because a team's trigger may set them at each write.
pub(super) fn has_content(row: &str, resource: &'static Resource) -> String {
    let names = content(resource).filter(|name| !matches!(*name, "created_at" | "updated_at"));
    format!("num_nonnulls({}) > 0", listed(names.map(|name| format!("{row}.{name}"))))
}

pub(super) fn listed(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
    names.join(", ")
}
