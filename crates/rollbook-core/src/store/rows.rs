//! Reading of rows. A reader cannot write.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::search::{HOLDING_PAGE, holds_any};
use super::{PendingCascades, StoreError};
use crate::catalog::Resource;
use crate::json::Document;
use crate::time::Timestamp;

/// Port of readers of rows.
#[async_trait]
pub trait Rows: Send + Sync {
    /// Returns one row, deleted or not.
    async fn get(&self, resource: &'static Resource, id: &str) -> Result<Option<RowView>, StoreError>;

    /// Returns one row, deleted or not, for a reader who passes it on. A tree of values may take forty times its text.
    async fn get_text(&self, resource: &'static Resource, id: &str) -> Result<Option<RowText>, StoreError> {
        Ok(self.get(resource, id).await?.map(|row| RowText(row.columns.into())))
    }

    /// Returns at most `limit` rows in the order of their ids, starting after `after`.
    async fn rows(
        &self,
        resource: &'static Resource,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RowView>, StoreError>;

    /// Returns at most `limit` rows in which the typed column `column` (an id or a text) equals `value`.
    async fn rows_where(
        &self,
        resource: &'static Resource,
        column: &'static str,
        value: &str,
        limit: usize,
    ) -> Result<Vec<RowView>, StoreError>;

    /// Returns the ids of at most `limit` rows with one of these texts in `data`, in upper or lower case.
    /// Reads the whole table, in small steps, and reports after each how many rows it has read. The result may
    /// contain rows without these texts, so the caller checks each.
    async fn ids_holding(
        &self,
        resource: &'static Resource,
        texts: &[String],
        limit: usize,
        progress: &ReadProgress<'_>,
    ) -> Result<Vec<String>, StoreError> {
        let texts: Vec<String> = texts.iter().map(|text| text.to_lowercase()).collect();
        let (mut ids, mut after, mut rows) = (Vec::new(), None, 0);
        if texts.is_empty() {
            return Ok(ids);
        }
        loop {
            let page = self.rows(resource, after.as_deref(), HOLDING_PAGE).await?;
            let Some(last) = page.last() else { return Ok(ids) };
            after = Some(last.id.clone());
            rows += page.len() as u64;
            progress(rows);
            let holding =
                page.iter().filter(|row| row.columns.get("data").is_some_and(|data| holds_any(data, &texts)));
            ids.extend(holding.map(|row| row.id.clone()));
            if ids.len() >= limit {
                ids.truncate(limit);
                return Ok(ids);
            }
        }
    }

    /// Returns the pending cascades: all, or those of the parent or row with the id `about`. At most `limit`
    /// are listed, oldest first.
    async fn cascades(&self, _about: Option<&str>, _limit: usize) -> Result<PendingCascades, StoreError> {
        Ok(PendingCascades::default())
    }
}

/// Callback with the number of rows that a search has read so far.
pub type ReadProgress<'a> = dyn Fn(u64) + Send + Sync + 'a;

/// A row as an application sees it: the columns of the contract by name. JSON columns are JSON, times are ISO
/// 8601 text, a missing value is null.
#[derive(Clone, Debug, PartialEq)]
pub struct RowView {
    /// Clerk's id.
    pub id: String,
    /// All columns, including `id`.
    pub columns: Map<String, Value>,
}

/// A row as an application sees it, as the JSON text of its columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowText(Document);

impl RowText {
    /// Returns a row with these columns.
    pub fn new(columns: &BTreeMap<String, Document>) -> Self {
        Self(Document::object(columns))
    }

    /// Returns whether the row is marked as deleted.
    pub fn is_deleted(&self) -> bool {
        self.has("deleted_at")
    }

    /// Returns whether the row has content.
    pub fn has_content(&self) -> bool {
        self.has("data")
    }

    /// Returns the time at which Rollbook last wrote the row.
    pub fn synced_at(&self) -> Option<Timestamp> {
        Timestamp::parse(&self.0.get("synced_at")?.as_text()?)
    }

    /// Returns the JSON text.
    pub fn into_json(self) -> Document {
        self.0
    }

    fn has(&self, column: &str) -> bool {
        self.0.get(column).is_some_and(|value| !value.is_null())
    }
}

impl RowView {
    /// Returns whether the row is marked as deleted.
    pub fn is_deleted(&self) -> bool {
        self.columns.get("deleted_at").is_some_and(|at| !at.is_null())
    }
}
