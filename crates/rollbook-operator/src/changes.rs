//! Lines of the change feed, for people and programs.

use rollbook_core::catalog::find_resource;
use rollbook_core::json::Document;
use rollbook_core::store::{
    ChangeKind, ChangeLine, ChangeOrigin, Generation, Position, RowText, Rows, StoreError,
};
use rollbook_core::time::Timestamp;
use serde::Serialize;

/// A line of the feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChangeView {
    /// Position.
    pub position: Position,
    /// Name of the table.
    pub resource: String,
    /// Id of the row.
    pub subject_id: String,
    /// Kind of the change.
    pub kind: ChangeKind,
    /// Columns that differ.
    pub changed: Vec<String>,
    /// Source of the change.
    pub origin: ChangeOrigin,
    /// The `svix-id`, or the run.
    pub cause: Option<String>,
    /// Time of the change at Clerk.
    pub event_at: Option<Timestamp>,
    /// Time of the line.
    pub at: Timestamp,
}

impl From<ChangeLine> for ChangeView {
    fn from(line: ChangeLine) -> Self {
        let ChangeLine { position, resource, subject_id, kind, changed, origin, cause, event_at, at } = line;
        Self { position, resource, subject_id, kind, changed, origin, cause, event_at, at }
    }
}

/// A line, with its row if that is asked for: the form of a change in answers of the API and in requests of a forward.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExpandedChange {
    /// The line.
    #[serde(flatten)]
    pub change: ChangeView,
    /// The row as it is now: `None` if not asked for, null if the table has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<Document>,
}

impl ExpandedChange {
    /// Returns the line without its row.
    pub const fn plain(change: ChangeView) -> Self {
        Self { change, row: None }
    }

    /// Returns the line with its row as it is now.
    ///
    /// # Errors
    /// The store can't read the row.
    pub async fn read(change: ChangeView, rows: &dyn Rows) -> Result<Self, StoreError> {
        let row = row(&change, rows).await?;
        Ok(Self { change, row: Some(row) })
    }
}

/// A change as a forward sends it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PushedChange {
    /// The change.
    #[serde(flatten)]
    pub change: ExpandedChange,
    /// Generation of the feed that the position belongs to.
    pub feed: String,
}

/// Returns the name of a generation, as programs see it.
pub fn generation_name(generation: Generation) -> String {
    format!("{generation:016x}")
}

/// Reads the row of a change as it is now; null if the table has none.
///
/// # Errors
/// The store can't read the row.
pub async fn row(change: &ChangeView, rows: &dyn Rows) -> Result<Document, StoreError> {
    // A table of a newer release is not known here.
    let Some(resource) = find_resource(&change.resource) else { return Ok(Document::default()) };
    let row = rows.get_text(resource, &change.subject_id).await?;
    Ok(row.map(RowText::into_json).unwrap_or_default())
}
