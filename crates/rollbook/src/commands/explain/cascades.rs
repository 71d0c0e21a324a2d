//! What is left to do after a deletion: a large cascade under way, and rows that refuse their change.

use std::fmt::Write as _;

use rollbook_core::catalog::{Resource, find_resource};
use rollbook_core::store::{PendingCascade, PendingCascades, PendingWork, RowView, Store, StoreError};
use serde_json::{Value, json};

use super::row::ERASED_BY;
use crate::output::{harmless, thousands};
use crate::words::{kind, many};

/// What is left to do, and what is known of the parents.
#[derive(Default)]
pub(super) struct Left {
    /// Deleted or erased parents with rows that were not processed yet.
    parents: u64,
    /// Rows that refuse their change.
    rows: u64,
    listed: Vec<Line>,
}

/// A parent or a row with something left to do.
struct Line {
    pending: PendingCascade,
    /// Of a row: the parent that is gone.
    parent: Option<Parent>,
    /// Of a parent: whether it was erased, not only deleted.
    is_erased: bool,
}

struct Parent {
    resource: &'static Resource,
    id: String,
    is_erased: bool,
}

/// Reads what is left to do about a parent or a row.
pub(super) async fn read(store: &dyn Store, id: &str, limit: usize) -> Result<Left, StoreError> {
    let PendingCascades { parents, rows, listed } = store.cascades(Some(id), limit).await?;
    let mut lines = Vec::new();
    for pending in listed {
        let resource = find_resource(&pending.table);
        let (mut parent, mut is_erased) = (None, false);
        match (pending.what, resource) {
            (PendingWork::Children, Some(resource)) => {
                is_erased = gone(store, resource, &pending.id).await?.unwrap_or_default();
            }
            (PendingWork::Row, Some(resource)) => parent = parent_of(store, &pending, resource).await?,
            _ => {}
        }
        lines.push(Line { pending, parent, is_erased });
    }
    Ok(Left { parents, rows, listed: lines })
}

/// The parent of a row that is deleted or erased: the one that is noted, or the first that its row names.
async fn parent_of(
    store: &dyn Store,
    pending: &PendingCascade,
    resource: &'static Resource,
) -> Result<Option<Parent>, StoreError> {
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
        if let Some(is_erased) = gone(store, resource, &id).await? {
            return Ok(Some(Parent { resource, id, is_erased }));
        }
    }
    Ok(None)
}

/// Whether a row was erased; `None` where it is alive or not there.
async fn gone(store: &dyn Store, resource: &'static Resource, id: &str) -> Result<Option<bool>, StoreError> {
    let row = store.get(resource, id).await?.filter(RowView::is_deleted);
    Ok(row.map(|row| row.columns.get("synced_by").is_some_and(|by| by == ERASED_BY)))
}

impl Left {
    pub(super) fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    fn total(&self) -> u64 {
        self.parents + self.rows
    }

    /// Whether all of it is about the row with this id itself, not about what hangs on it.
    fn is_about_itself(&self, id: &str) -> bool {
        let itself = |line: &Line| line.pending.id == id && line.pending.what != PendingWork::Children;
        self.listed.iter().all(itself)
    }

    /// A note for the list of deliveries.
    pub(super) fn note(&self, id: &str) -> String {
        if self.is_about_itself(id) {
            return "Its row is not as it should be yet: see what is left to do.".to_owned();
        }
        "Not all that hangs on it is as it should be yet: see what is left to do.".to_owned()
    }
}

/// As text; empty where nothing is left.
pub(super) fn text(left: &Left, asked: &str) -> String {
    let mut text = String::new();
    if left.is_empty() {
        return text;
    }
    let about = if left.is_about_itself(asked) { "about its row" } else { "about what hangs on it" };
    _ = writeln!(text, "\nWhat is left to do {about} ({} in all)", thousands(left.total()));
    for line in &left.listed {
        _ = writeln!(text, "  - {}{}", line.sentence(), reason(&line.pending));
    }
    let more = left.total().saturating_sub(left.listed.len() as u64);
    if more > 0 {
        _ = writeln!(text, "  and {} more", thousands(more));
    }
    text
}

impl Line {
    fn sentence(&self) -> String {
        let (id, table) = (harmless(&self.pending.id), harmless(&self.pending.table));
        match (self.pending.what, &self.parent) {
            (PendingWork::Children, _) if self.is_erased => {
                format!("not all rows that hang on {id}, which was erased, were processed yet; workers go on")
            }
            (PendingWork::Children, _) => {
                format!(
                    "not all rows that hang on {id}, which was deleted, were processed yet; workers go on"
                )
            }
            (PendingWork::Row, Some(Parent { resource, id: parent, is_erased: true })) => format!(
                "{id} ({table}) still has content, although the {} {} that it belongs to was erased",
                kind(resource),
                harmless(parent)
            ),
            (PendingWork::Row, Some(Parent { resource, id: parent, .. })) => format!(
                "{id} ({table}) does not show yet that the {} {} that it belongs to was deleted",
                kind(resource),
                harmless(parent)
            ),
            (PendingWork::Row, None) => format!(
                "{id} ({table}) does not show yet what follows from the deletion or erasure of what it belonged to"
            ),
            (PendingWork::Content, _) => {
                format!("{id} ({table}) keeps content that is due to be erased (deleted_rows)")
            }
        }
    }
}

fn reason(line: &PendingCascade) -> String {
    let Some(why) = &line.last_error else { return format!(" (since {})", line.noted_at) };
    format!(
        ": {}; {} since {}, next at {}",
        harmless(why),
        many(u64::from(line.attempts), "try"),
        line.noted_at,
        line.next_try_at
    )
}

/// For programs; `None` where nothing is left.
pub(super) fn json(left: &Left) -> Option<Value> {
    let listed = left.listed.iter().map(|line| {
        let pending = &line.pending;
        let parent = line.parent.as_ref();
        let noted = pending.parent.as_ref().map(|(table, id)| json!({ "table": table, "id": id }));
        json!({
            "table": pending.table,
            "id": pending.id,
            "what": match pending.what {
                PendingWork::Children => "children",
                PendingWork::Row => "row",
                PendingWork::Content => "content",
            },
            "parent": parent.map(|parent| json!({ "table": parent.resource.table, "id": parent.id })).or(noted),
            "parent_erased": parent.map(|parent| parent.is_erased),
            "noted_at": pending.noted_at.to_string(),
            "attempts": pending.attempts,
            "next_try_at": pending.next_try_at.to_string(),
            "error": pending.last_error,
        })
    });
    (left.total() > 0)
        .then(|| json!({ "parents": left.parents, "rows": left.rows, "listed": listed.collect::<Vec<_>>() }))
}

#[cfg(test)]
mod tests {
    use rollbook_core::catalog::ORGANIZATIONS;
    use rollbook_core::time::Timestamp;

    use super::*;

    fn pending(what: PendingWork, id: &str) -> PendingCascade {
        PendingCascade {
            table: "organization_memberships".to_owned(),
            id: id.to_owned(),
            what,
            parent: None,
            noted_at: Timestamp::from_seconds(1_800_000_000),
            attempts: 2,
            next_try_at: Timestamp::from_seconds(1_800_000_010),
            last_error: Some("a trigger refuses the row".to_owned()),
        }
    }

    fn left(what: PendingWork, id: &str, parent_erased: Option<bool>) -> Left {
        let parent = parent_erased.map(|is_erased| Parent {
            resource: &ORGANIZATIONS,
            id: "org_1".to_owned(),
            is_erased,
        });
        let is_erased = parent_erased == Some(true);
        Left { parents: 1, rows: 2, listed: vec![Line { pending: pending(what, id), parent, is_erased }] }
    }

    #[test]
    fn a_row_that_refuses_is_named_with_its_reason_and_its_next_try() {
        let left = left(PendingWork::Row, "orgmem_250", Some(false));
        let told = text(&left, "org_1");
        for part in
            ["orgmem_250", "a trigger refuses the row", "2 tries", "2027-01-15T08:00:10", "and 2 more"]
        {
            assert!(told.contains(part), "{told}");
        }
        assert_eq!(json(&left).expect("something is left")["listed"][0]["parent"]["id"], "org_1");
    }

    #[test]
    fn a_deletion_and_an_erasure_are_told_apart_and_so_are_parent_and_child() {
        for (what, erased, asked, words) in [
            (PendingWork::Row, Some(false), "org_1", "the organization org_1 that it belongs to was deleted"),
            (PendingWork::Row, Some(true), "org_1", "the organization org_1 that it belongs to was erased"),
            (PendingWork::Row, None, "org_1", "from the deletion or erasure of what it belonged to"),
            (PendingWork::Children, Some(true), "org_1", "which was erased, were processed yet"),
            (PendingWork::Children, Some(false), "org_1", "which was deleted, were processed yet"),
            (PendingWork::Row, Some(true), "org_1", "What is left to do about what hangs on it"),
            (PendingWork::Row, Some(true), "orgmem_1", "What is left to do about its row"),
            (PendingWork::Content, None, "orgmem_1", "What is left to do about its row"),
        ] {
            let told = text(&left(what, "orgmem_1", erased), asked);
            assert!(told.contains(words), "{words}\n{told}");
        }
        let erased = json(&left(PendingWork::Row, "orgmem_1", Some(true))).expect("something is left");
        assert_eq!(erased["listed"][0]["parent_erased"], true);
        assert!(left(PendingWork::Row, "orgmem_1", None).note("orgmem_1").starts_with("Its row is not"));
        assert!(
            left(PendingWork::Row, "orgmem_1", None).note("org_1").starts_with("Not all that hangs on it")
        );
    }

    #[test]
    fn nothing_is_said_where_nothing_is_left() {
        assert_eq!(text(&Left::default(), "org_1"), "");
        assert_eq!(json(&Left::default()), None);
    }
}
