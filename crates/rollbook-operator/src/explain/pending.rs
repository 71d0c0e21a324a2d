//! Pending work after a deletion: cascades in progress, and rows that refuse their change.

use rollbook_core::catalog::{Resource, find_resource};
use rollbook_core::store::{PendingCascade, PendingCascades, PendingWork, Reads, RowView, StoreError};
use rollbook_core::table_layout::ERASED_BY;
use rollbook_core::time::Timestamp;
use serde::Serialize;
use serde_json::Value;

/// Pending work about one parent or row.
#[derive(Debug, Default, Serialize)]
pub struct Pending {
    /// Number of deleted or erased parents with child rows not yet processed.
    pub parents: u64,
    /// Number of rows that refuse their change.
    pub rows: u64,
    /// Some of both.
    pub listed: Vec<PendingItem>,
}

/// A parent or a row with pending work.
#[derive(Debug, Serialize)]
pub struct PendingItem {
    /// Table of the parent or the row.
    pub table: String,
    /// Id of the parent or the row.
    pub id: String,
    /// Kind of pending work.
    #[serde(serialize_with = "work")]
    pub what: PendingWork,
    /// Deleted or erased parent that the row does not show yet.
    pub parent: Option<Parent>,
    /// Whether that parent was erased, not only deleted; `None` if its row does not show it.
    pub parent_erased: Option<bool>,
    /// Whether the parent or row itself was erased, not only deleted.
    #[serde(skip)]
    pub is_erased: bool,
    /// Time at which the work was recorded, if known.
    pub noted_at: Option<Timestamp>,
    /// Number of attempts that were refused or timed out.
    pub attempts: u32,
    /// Time of the next attempt.
    pub next_try_at: Timestamp,
    /// Reason of the last refusal.
    pub error: Option<String>,
}

/// Parent of a row, by table and id. The table may be unknown to this release.
#[derive(Debug, Serialize)]
pub struct Parent {
    /// Table of the parent.
    pub table: String,
    /// Id of the parent.
    pub id: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn work<S: serde::Serializer>(work: &PendingWork, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match work {
        PendingWork::Children => "children",
        PendingWork::Row => "row",
        PendingWork::Content => "content",
    })
}

/// Reads the pending work about a parent or a row.
pub(super) async fn read(store: &dyn Reads, id: &str, limit: usize) -> Result<Pending, StoreError> {
    let PendingCascades { parents, rows, listed } = store.cascades(Some(id), limit).await?;
    let mut items = Vec::new();
    for pending in listed {
        let resource = find_resource(&pending.table);
        let (mut parent, mut is_erased) = (None, false);
        match (pending.what, resource) {
            (PendingWork::Children, Some(resource)) => {
                is_erased = erased(store, resource, &pending.id).await?.unwrap_or_default();
            }
            (PendingWork::Row, Some(resource)) => parent = parent_of(store, &pending, resource).await?,
            _ => {}
        }
        items.push(PendingItem::new(pending, parent, is_erased));
    }
    Ok(Pending { parents, rows, listed: items })
}

/// Returns the deleted or erased parent of a row, and whether it was erased: the recorded parent, or the
/// first one that the row names.
async fn parent_of(
    store: &dyn Reads,
    pending: &PendingCascade,
    resource: &'static Resource,
) -> Result<Option<(Parent, bool)>, StoreError> {
    let mut parents: Vec<(&'static Resource, String)> = Vec::new();
    if let Some((table, id)) = &pending.parent {
        parents.extend(find_resource(table).map(|resource| (resource, id.clone())));
    } else if let Some(row) = store.get(resource, &pending.id).await? {
        for link in resource.links {
            let id = row.columns.get(link.column).and_then(Value::as_str);
            parents.extend(id.map(|id| (link.parent, id.to_owned())));
        }
    }
    for (resource, id) in parents {
        if let Some(is_erased) = erased(store, resource, &id).await? {
            return Ok(Some((Parent { table: resource.table.to_owned(), id }, is_erased)));
        }
    }
    Ok(None)
}

/// Returns whether a deleted row was erased; `None` if the row is not deleted or does not exist.
async fn erased(
    store: &dyn Reads,
    resource: &'static Resource,
    id: &str,
) -> Result<Option<bool>, StoreError> {
    let row = store.get(resource, id).await?.filter(RowView::is_deleted);
    Ok(row.map(|row| row.columns.get("synced_by").is_some_and(|by| by == ERASED_BY)))
}

impl PendingItem {
    fn new(pending: PendingCascade, parent: Option<(Parent, bool)>, is_erased: bool) -> Self {
        let parent_erased = parent.as_ref().map(|(_, is_erased)| *is_erased);
        let recorded = pending.parent.map(|(table, id)| Parent { table, id });
        Self {
            table: pending.table,
            id: pending.id,
            what: pending.what,
            parent: parent.map(|(parent, _)| parent).or(recorded),
            parent_erased,
            is_erased,
            noted_at: pending.noted_at,
            attempts: pending.attempts,
            next_try_at: pending.next_try_at,
            error: pending.last_error,
        }
    }
}

impl Pending {
    /// Returns whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// Number of parents and rows with pending work.
    pub fn total(&self) -> u64 {
        self.parents + self.rows
    }

    /// Returns whether all pending work concerns the row with this id itself, not its child rows.
    pub fn is_about_itself(&self, id: &str) -> bool {
        let itself = |item: &PendingItem| item.id == id && item.what != PendingWork::Children;
        self.listed.iter().all(itself)
    }

    /// Returns a note for the list of deliveries.
    pub(super) fn note(&self, id: &str) -> String {
        if self.is_about_itself(id) {
            return "Work on its row is pending: see the list of pending work.".to_owned();
        }
        "Work on its child rows is pending: see the list of pending work.".to_owned()
    }
}
