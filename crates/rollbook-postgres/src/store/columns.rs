//! Conditions over the columns of a table.

use rollbook_core::catalog::Resource;
use rollbook_core::table_layout::proving_columns;

/// Returns the condition of a row that has content.
pub(super) fn has_content(row: &str, resource: &'static Resource) -> String {
    format!("num_nonnulls({}) > 0", listed(proving_columns(resource).map(|name| format!("{row}.{name}"))))
}

pub(super) fn listed(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
    names.join(", ")
}
