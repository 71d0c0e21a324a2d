//! Event of a simulated Clerk instance.

use std::fmt;

use bytes::Bytes;
use fastrand::Rng;
use rollbook_core::delivery::MessageId;
use rollbook_core::time::Timestamp;

use crate::ids;

/// Instance id in every event of a history and in every built-in sample.
pub const INSTANCE_ID: &str = "ins_2oWzDXRWo6YxXgJNj6bdIs0eFeG";

/// One event as Svix delivers it.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// Message id, sent as `svix-id`.
    pub id: MessageId,
    /// Event type, such as `user.created`.
    pub event_type: String,
    /// Event timestamp: `timestamp` of the envelope.
    pub at: Timestamp,
    /// Request body: the bytes to sign and send.
    pub body: Bytes,
}

impl Event {
    /// Creates an event with a fresh message id.
    pub fn new(event_type: &str, at: Timestamp, body: Bytes, rng: &mut Rng) -> Self {
        Self { id: MessageId::new(ids::id("msg_", rng, at)), event_type: event_type.to_owned(), at, body }
    }
}

impl fmt::Debug for Event {
    /// Prints the length of the body, never the body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({}, {}, {} bytes)", self.id, self.event_type, self.body.len())
    }
}
