//! Ports of a forward: the store's, a clock, and the endpoint.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rollbook_core::store::{Changes, Forwards, Rows};
use rollbook_core::time::Clock;

use crate::verdict::Verdict;

/// Ports of the forwarder.
#[derive(Clone)]
pub struct Ports {
    /// The change feed.
    pub changes: Arc<dyn Changes>,
    /// The records of forwards.
    pub forwards: Arc<dyn Forwards>,
    /// The rows, for `expand`.
    pub rows: Arc<dyn Rows>,
    /// Rollbook's clock.
    pub clock: Arc<dyn Clock>,
}

/// A signed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// `webhook-id`: the same for each attempt.
    pub id: String,
    /// `webhook-timestamp`, in seconds.
    pub timestamp: String,
    /// `webhook-signature`.
    pub signature: String,
    /// Body: the change as JSON.
    pub body: Bytes,
}

/// Port of the endpoint: sends one request and judges the answer. The caller may drop the future.
#[async_trait]
pub trait Endpoint: Send + Sync {
    /// Sends a request. The status of the answer must come within `limit`. A little more time may be spent on the rest of the
    /// answer, which changes nothing.
    async fn send(&self, push: Push, limit: Duration) -> Verdict;
}
