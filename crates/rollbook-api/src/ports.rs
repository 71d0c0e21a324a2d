//! Ports: everything that the API needs from outside.

use std::sync::Arc;

use async_trait::async_trait;
use rollbook_core::catalog::Resource;
use rollbook_core::store::{Access, Changes, Rows};
use rollbook_core::time::Clock;

/// Ports of the API.
#[derive(Clone)]
pub struct Ports {
    /// The change feed.
    pub changes: Arc<dyn Changes>,
    /// Single rows.
    pub rows: Arc<dyn Rows>,
    /// Rows by which an application decides.
    pub access: Arc<dyn Access>,
    /// Rollbook's clock.
    pub clock: Arc<dyn Clock>,
    /// Reads single objects at Clerk; `None` without a key for Clerk's API.
    pub refresh: Option<Arc<dyn Refresh>>,
}

/// Reads single objects at Clerk, and merges them into the store.
#[async_trait]
pub trait Refresh: Send + Sync {
    /// Reads a user or an organization at Clerk now, and brings its row up to date. Afterwards the store shows what Clerk
    /// shows, or a later state.
    async fn refresh(&self, resource: &'static Resource, id: &str) -> Result<(), RefreshError>;
}

/// Reason why an object could not be read at Clerk. The text is logged, and never sent to a caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RefreshError(pub String);
