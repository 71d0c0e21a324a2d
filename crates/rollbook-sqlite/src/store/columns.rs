//! Conditions over the columns of a table.

use rollbook_core::catalog::Resource;
use rollbook_core::table_layout::proving_columns;

/// Returns the condition of a row that has content.
pub(super) fn has_content(resource: &'static Resource, row: &str) -> String {
    let columns: Vec<String> = proving_columns(resource).map(|name| format!("{row}.{name}")).collect();
    format!("coalesce({}) IS NOT NULL", columns.join(", "))
}
