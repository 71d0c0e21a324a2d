//! Reading of the ledger. A reader cannot write.

use async_trait::async_trait;

use super::StoreError;
use crate::change::Applied;
use crate::delivery::MessageId;
use crate::time::Timestamp;

/// Port of readers of the ledger.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Returns the ledger entry of a delivery.
    async fn delivery(&self, id: &MessageId) -> Result<Option<LedgerEntry>, StoreError>;

    /// Returns the ledger entries of the `limit` deliveries about a subject that were applied last, in the
    /// order of application.
    async fn deliveries(&self, subject_id: &str, limit: usize) -> Result<Vec<LedgerEntry>, StoreError>;
}

/// One ledger entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Message id (`svix-id`).
    pub message_id: MessageId,
    /// Event type.
    pub event_type: String,
    /// Id of the subject, if known.
    pub subject_id: Option<String>,
    /// Outcome of the change.
    pub outcome: Applied,
    /// Time of the event at Clerk.
    pub event_at: Timestamp,
    /// Time at which the receiver had read the delivery.
    pub received_at: Timestamp,
    /// Time at which the change was applied.
    pub applied_at: Timestamp,
    /// Number of times the message had been leased when it was applied.
    pub attempts: u32,
}

/// A ledger entry has an outcome that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the ledger entry of {id} has an outcome that this version of Rollbook does not know: a newer version wrote it. Fix: \
     upgrade this Rollbook, or run the command of the newer version"
)]
pub struct UnknownOutcome {
    /// Id of the delivery.
    pub id: MessageId,
}

impl LedgerEntry {
    /// Returns the outcome with this name, which the entry of a delivery has.
    ///
    /// # Errors
    /// This version does not know the outcome.
    pub fn parse_outcome(id: &MessageId, name: &str) -> Result<Applied, UnknownOutcome> {
        Applied::parse(name).ok_or_else(|| UnknownOutcome { id: id.clone() })
    }
}
