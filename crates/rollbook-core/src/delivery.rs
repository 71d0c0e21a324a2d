//! A delivery: one verified request, before anyone has read what it says.

use std::fmt;

use bytes::Bytes;

use crate::time::Timestamp;
use crate::trace::Traceparent;

/// The `svix-id` of a delivery: its name for life, through retries, dead letter, redrive and ledger.
/// Svix sends the same id for every attempt, resend and replay of a message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(String);

impl MessageId {
    /// The longest id that is taken. Svix's own are 31 characters.
    pub const LENGTH_MAX: usize = 128;

    /// An id that has been checked already (by [`crate::signature`]) or comes from a queue.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One verified request. The body is kept byte for byte: nothing has parsed it yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The `svix-id`.
    pub id: MessageId,
    /// When the receiver had read it whole.
    pub received_at: Timestamp,
    /// The trace that it came in, where its sender says so. Not signed.
    pub traceparent: Option<Traceparent>,
    /// The signed bytes.
    pub body: Bytes,
}

impl fmt::Debug for Delivery {
    /// Never the body: it holds personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delivery({}, {} bytes)", self.id, self.body.len())
    }
}
