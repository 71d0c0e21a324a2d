//! A row, as an operator needs to see it.

use rollbook_core::catalog::{Column, Kind, Resource};
use rollbook_core::store::{RowView, Store, StoreError};
use serde_json::Value;

/// Texts that are no names and no addresses.
const TEXTS: [&str; 11] = [
    "status",
    "role",
    "key",
    "type",
    "enrollment_mode",
    "verification_status",
    "plan_slug",
    "interval",
    "currency",
    "charge_type",
    "failed_code",
];
/// What an erasure is told by, in the place of a `svix-id`.
pub(super) const ERASED_BY: &str = "erase";

/// How a row is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// An application has made a place for it: `ensure_user`, `ensure_organization`.
    Place,
    /// It lives.
    Alive,
    /// It has ended.
    Deleted,
    /// An operator has had it erased.
    Erased,
}

/// What is told of a row.
pub(super) struct Row {
    pub(super) state: State,
    pub(super) deleted_at: Option<String>,
    /// With whom it ended, where it did not do so by itself.
    pub(super) ended_with: Option<(&'static Resource, String)>,
    /// Whether what it is or was like is there.
    pub(super) has_content: bool,
    /// The delivery that made it what it is, or who else did.
    pub(super) synced_by: String,
    /// Columns with their values, without those that are empty.
    pub(super) columns: Vec<(&'static str, Value)>,
}

impl Row {
    /// Looks at a row, and at what it hangs on.
    pub(super) async fn read(
        store: &dyn Store,
        resource: &'static Resource,
        view: &RowView,
        had_earlier_life: bool,
    ) -> Result<Self, StoreError> {
        let text = |name: &str| view.columns.get(name).and_then(Value::as_str).map(str::to_owned);
        let (deleted_at, synced_by) = (text("deleted_at"), text("synced_by").unwrap_or_default());
        let has_content = view.columns.get("data").is_some_and(|data| !data.is_null());
        let mut is_erased = synced_by == ERASED_BY || (had_earlier_life && !has_content);
        let mut ended_with = None;
        for link in resource.links {
            let (Some(ended_at), Some(id)) = (&deleted_at, text(link.column)) else { continue };
            let Some(parent) = store.get(link.parent, &id).await? else { continue };
            let parent_erased = parent.columns["synced_by"] == ERASED_BY;
            if parent.columns["deleted_at"] == ended_at.as_str() && (link.cascades || parent_erased) {
                is_erased |= parent_erased && !has_content;
                ended_with = Some((link.parent, id));
                break;
            }
        }
        let state = match &deleted_at {
            Some(_) if is_erased => State::Erased,
            Some(_) => State::Deleted,
            None if has_content => State::Alive,
            None => State::Place,
        };
        let columns = columns(resource, view);
        Ok(Self { state, deleted_at, ended_with, has_content, synced_by, columns })
    }

    /// Whether it has ended and nothing tells what it was like.
    pub(super) fn is_gone(&self) -> bool {
        self.deleted_at.is_some() && !self.has_content
    }
}

/// Ids, states and times, in the order of the table.
fn columns(resource: &'static Resource, view: &RowView) -> Vec<(&'static str, Value)> {
    let typed = resource.columns.iter().filter(|column| is_told(column)).map(|column| column.name);
    let names = ["created_at", "updated_at"].into_iter().chain(typed);
    let names = names.chain(["deleted_at", "synced_at", "synced_by"]);
    let value = |name| view.columns.get(name).cloned().unwrap_or_default();
    names.map(|name| (name, value(name))).filter(|(_, value)| !value.is_null()).collect()
}

fn is_told(column: &Column) -> bool {
    match column.kind {
        Kind::Id | Kind::Bool | Kind::Time => true,
        Kind::Integer => column.name != "amount",
        Kind::Text | Kind::IndexedText => TEXTS.contains(&column.name),
        Kind::Json => false,
    }
}

/// A membership in a list.
pub(super) struct Membership {
    pub(super) id: String,
    pub(super) organization_id: Option<String>,
    pub(super) user_id: Option<String>,
    pub(super) role: Option<String>,
    pub(super) since: Option<String>,
    pub(super) row: Row,
}

impl Membership {
    pub(super) fn new(view: &RowView, row: Row) -> Self {
        let text = |name: &str| view.columns.get(name).and_then(Value::as_str).map(str::to_owned);
        Self {
            id: view.id.clone(),
            organization_id: text("organization_id"),
            user_id: text("user_id"),
            role: text("role"),
            since: text("created_at"),
            row,
        }
    }
}
