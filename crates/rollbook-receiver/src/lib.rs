//! Receiver: the public HTTP server that accepts deliveries and answers 200 only once they are durable.
//!
//! Constraints:
//!
//! * A 200 means that [`Producer::enqueue_many`] has returned. Any other answer is an error after which Svix
//!   retries, or a refusal that a retry would not change.
//! * The receiver does not access the store and reads no event: a signed body is bytes, never parsed and
//!   never decompressed. The worker handles events that can't be understood; refusing one here would lose it
//!   after 27 h 35 min.
//! * Everything that an unauthenticated client can make the receiver hold has a limit in [`Settings`]:
//!   connections, time, bytes.
//! * Unsigned bytes can't starve signed ones: a request without a delivery's headers is refused before its
//!   body is read; requests without a verified delivery lose their connection and their body memory to new
//!   clients; and only the answer to a verified delivery leaves a connection open.
//! * On failure the receiver answers 503 at once. Svix waits 15 s for an answer and pauses longer after a
//!   timeout than after an error. The receiver never answers 410, which would disable the endpoint.
//! * HTTP/1 only: Svix uses it through proxies, and a protocol that is not supported can't be abused.
//!
//! Path of a request through the files: `server` accepts the connection, `handler` routes it and reads its
//! headers, `body` reads the body within the memory of `body_budget`, `handler` verifies it, `batcher` makes
//! it durable together with other deliveries, `answer` builds the response, and `refusals` logs and counts
//! refused requests. `secrets` has the signing secrets, which are replaced while the receiver runs.
//!
//! [`Producer::enqueue_many`]: rollbook_core::queue::Producer::enqueue_many

mod answer;
mod batcher;
mod body;
mod body_budget;
mod connection_metrics;
mod handler;
mod metrics;
mod outage;
mod paths;
mod reason;
mod refusals;
mod secrets;
mod server;
mod settings;
mod skew;

pub use handler::{OtherPages, Page};
pub use paths::{WebhookPaths, WrongPath};
pub use secrets::EndpointSecrets;
pub use server::{Receiver, ReceiverError};
pub use settings::{BODY_WINDOW, Settings};
