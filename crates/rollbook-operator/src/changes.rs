//! Lines of the change feed, for people and programs.

use rollbook_core::store::{ChangeKind, ChangeLine, ChangeOrigin, Position};
use rollbook_core::time::Timestamp;
use serde::Serialize;

use crate::serialize::{optional_text, text};

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
    #[serde(serialize_with = "text")]
    pub kind: ChangeKind,
    /// Columns that differ.
    pub changed: Vec<String>,
    /// Source of the change.
    #[serde(serialize_with = "text")]
    pub origin: ChangeOrigin,
    /// The `svix-id`, or the run.
    pub cause: Option<String>,
    /// Time of the change at Clerk.
    #[serde(serialize_with = "optional_text")]
    pub event_at: Option<Timestamp>,
    /// Time of the line.
    #[serde(serialize_with = "text")]
    pub at: Timestamp,
}

impl From<ChangeLine> for ChangeView {
    fn from(line: ChangeLine) -> Self {
        let ChangeLine { position, resource, subject_id, kind, changed, origin, cause, event_at, at } = line;
        Self { position, resource, subject_id, kind, changed, origin, cause, event_at, at }
    }
}
