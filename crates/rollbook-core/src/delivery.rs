//! A delivery: one verified request with an unparsed body.

use std::fmt;

use bytes::Bytes;

use crate::time::Timestamp;
use crate::trace::Traceparent;

/// Message id (`svix-id`). It stays the same through retries, dead letter, redrive and ledger. Svix sends the
/// same id for every attempt, resend and replay of a message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(String);

impl MessageId {
    /// Maximum length of an id, in characters. Svix's own have 31.
    pub const LENGTH_MAX: usize = 128;

    /// Creates an id from a text that [`crate::signature`] has checked already or that comes from a queue.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One verified request. The body is kept byte for byte and has not been parsed.
#[derive(Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Message id (`svix-id`).
    pub id: MessageId,
    /// Time at which the receiver had read the complete request.
    pub received_at: Timestamp,
    /// Trace context, if the sender gives one. Not signed.
    pub traceparent: Option<Traceparent>,
    /// Signed bytes.
    pub body: Bytes,
}

impl fmt::Debug for Delivery {
    /// Omits the body: it holds personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delivery({}, {} bytes)", self.id, self.body.len())
    }
}
