//! A row, without the personal data in it.

use rollbook_core::catalog::{Column, Kind, Resource};
use rollbook_core::event::{Mismatch, mismatches};
use rollbook_core::json::Document;
use rollbook_core::store::{Reads, RowView, StoreError};
use rollbook_core::table_layout::ERASED_BY;
use serde::Serialize;
use serde_json::Value;

use crate::serialize::{RowRef, object};

/// Text columns that contain no names and no addresses.
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

/// State of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Placeholder row, made by `ensure_user` or `ensure_organization`.
    #[serde(rename = "place")]
    Placeholder,
    /// Not deleted.
    Alive,
    /// Deleted.
    Deleted,
    /// Erased by an operator.
    Erased,
}

/// A row.
#[derive(Debug, Serialize)]
pub struct Row {
    /// State of the row.
    pub state: State,
    /// Time of the deletion. The JSON has it among the columns.
    #[serde(skip)]
    pub deleted_at: Option<String>,
    /// Parent with which the row was deleted, if the row was not deleted by itself.
    pub ended_with: Option<RowRef>,
    /// Whether content is stored.
    pub has_content: bool,
    /// Delivery or command that wrote the state. The JSON has it among the columns.
    #[serde(skip)]
    pub synced_by: String,
    /// Columns with their values, without empty ones and without personal data.
    #[serde(serialize_with = "object")]
    pub columns: Vec<(&'static str, Value)>,
    /// Columns that are null because Clerk's value does not fit them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unfit: Vec<UnfitColumn>,
}

/// A column that is null because Clerk's value does not fit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct UnfitColumn {
    /// Name of the column.
    pub column: &'static str,
    /// Form of what Clerk sent, without the value.
    pub why: Mismatch,
}

impl Row {
    /// Reads a row's state, and the parents that the state depends on.
    pub(super) async fn read(
        store: &dyn Reads,
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
                ended_with = Some(RowRef { resource: link.parent, id });
                break;
            }
        }
        let state = match &deleted_at {
            Some(_) if is_erased => State::Erased,
            Some(_) => State::Deleted,
            None if has_content => State::Alive,
            None => State::Placeholder,
        };
        let (columns, unfit) = (columns(resource, view), unfit(resource, view));
        Ok(Self { state, deleted_at, ended_with, has_content, synced_by, columns, unfit })
    }

    /// Returns whether the row is deleted and no content is stored.
    pub(super) fn is_empty_tombstone(&self) -> bool {
        self.deleted_at.is_some() && !self.has_content
    }
}

/// Returns ids, states and times, in the order of the table.
fn columns(resource: &'static Resource, view: &RowView) -> Vec<(&'static str, Value)> {
    let typed = resource.columns.iter().filter(|column| is_shown(column)).map(|column| column.name);
    let names = ["created_at", "updated_at"].into_iter().chain(typed);
    let names = names.chain(["deleted_at", "synced_at", "synced_by"]);
    let value = |name| view.columns.get(name).cloned().unwrap_or_default();
    names.map(|name| (name, value(name))).filter(|(_, value)| !value.is_null()).collect()
}

/// Returns the columns that are null although `data` has a value for them.
fn unfit(resource: &'static Resource, view: &RowView) -> Vec<UnfitColumn> {
    let data = view.columns.get("data").map(Document::from);
    let found = data.map(|data| mismatches(resource, data.value())).unwrap_or_default();
    found.into_iter().map(|(column, why)| UnfitColumn { column, why }).collect()
}

fn is_shown(column: &Column) -> bool {
    match column.kind {
        Kind::Id | Kind::Bool | Kind::Time => true,
        Kind::Integer => column.name != "amount",
        Kind::Text | Kind::IndexedText => TEXTS.contains(&column.name),
        Kind::Json => false,
    }
}

/// A membership of a user in an organization.
#[derive(Debug, Serialize)]
pub struct Membership {
    /// Id of the membership.
    pub id: String,
    /// Id of the organization.
    pub organization_id: Option<String>,
    /// Id of the user.
    pub user_id: Option<String>,
    /// Role of the user.
    pub role: Option<String>,
    /// Time at which the membership was created at Clerk.
    pub since: Option<String>,
    /// Time of the deletion.
    pub ended_at: Option<String>,
    /// Parent with which the membership was deleted, if it was not deleted by itself.
    pub ended_with: Option<RowRef>,
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
            ended_at: row.deleted_at,
            ended_with: row.ended_with,
        }
    }
}
