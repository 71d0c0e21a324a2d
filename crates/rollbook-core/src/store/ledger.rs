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

/// Maximum length of a name that [`UnknownOutcome`] shows: longer than any name of an outcome.
const NAME_MAX: usize = 32;

/// A ledger entry has an outcome that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the ledger entry of {id} has {}, which this version of Rollbook does not know: a newer version wrote it. Fix: upgrade \
     this Rollbook, or run the command of the newer version",
    self.shown()
)]
pub struct UnknownOutcome {
    /// Id of the delivery.
    pub id: MessageId,
    name: String,
}

impl UnknownOutcome {
    /// Names the outcome if its name can be one of Rollbook's: other text may be personal data.
    fn shown(&self) -> String {
        let is_name = |name: &str| {
            (1..=NAME_MAX).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        };
        if is_name(&self.name) { format!("the outcome \"{}\"", self.name) } else { "an outcome".to_owned() }
    }
}

impl LedgerEntry {
    /// Returns the outcome with this name, which the entry of a delivery has.
    ///
    /// # Errors
    /// This version does not know the outcome.
    pub fn parse_outcome(id: &MessageId, name: &str) -> Result<Applied, UnknownOutcome> {
        Applied::parse(name).ok_or_else(|| UnknownOutcome { id: id.clone(), name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_outcome_is_named_unless_it_may_be_something_else() {
        let id = MessageId::new("msg_a");
        assert_eq!(LedgerEntry::parse_outcome(&id, "updated"), Ok(Applied::Updated));
        let text = |name: &str| LedgerEntry::parse_outcome(&id, name).expect_err("it is unknown").to_string();
        assert_eq!(
            text("merged_twice"),
            "the ledger entry of msg_a has the outcome \"merged_twice\", which this version of Rollbook does not know: a \
             newer version wrote it. Fix: upgrade this Rollbook, or run the command of the newer version"
        );
        let longest = "a".repeat(NAME_MAX);
        assert!(text(&longest).contains(&longest));
        for other in ["", "Updated", "ann@x.example", &"a".repeat(NAME_MAX + 1)] {
            assert!(text(other).starts_with("the ledger entry of msg_a has an outcome, which"), "{other}");
        }
    }
}
