//! `explain`: the history of one user, organization or delivery.
//!
//! Constraints:
//!
//! * The reader knows nothing of the code. What cannot be known (the ledger was pruned, the scan ended early, the
//!   store or the queue is unreachable) is part of the result.
//! * The result contains no body, no name and no address: only ids, types, times, states and roles.
//! * It reads only, and a bounded part of the queue.

mod cause;
mod collect;
mod held;
mod history;
mod notes;
mod pending;
mod queued;
mod reading;
mod reason;
mod row;

use std::time::Duration;

use serde::Serialize;
use serde::ser::SerializeStruct as _;

pub use self::collect::explain;
pub use self::held::{HeldSubject, held};
pub use self::history::{AppliedDelivery, History, Memberships, Reason, Subject};
pub use self::pending::{Parent, Pending, PendingItem};
pub use self::queued::{DeadMessage, DiscardedMessage, Message, Queued};
pub use self::row::{Membership, Row, State, UnfitColumn};
pub use crate::serialize::RowRef;

/// Id to explain, and limits.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Id of an object at Clerk, or of a delivery.
    pub id: &'a str,
    /// Maximum number of deliveries, of memberships, and of messages that are listed.
    pub limit: usize,
    /// Maximum number of messages that are read from the queue.
    pub scan: u64,
    /// Configuration of the ledger.
    pub ledger: Ledger,
}

/// Configuration of the ledger.
#[derive(Clone, Copy, Debug)]
pub struct Ledger {
    /// Whether the store has a ledger.
    pub is_on: bool,
    /// Retention of an entry; `None` if entries are kept for ever.
    pub kept_for: Option<Duration>,
}

impl Serialize for Ledger {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut ledger = serializer.serialize_struct("Ledger", 2)?;
        ledger.serialize_field("is_on", &self.is_on)?;
        ledger.serialize_field("kept_for_seconds", &self.kept_for.map(|kept_for| kept_for.as_secs()))?;
        ledger.end()
    }
}
