//! The public HTTP face: takes deliveries, and answers 200 only once they are durable.
//!
//! Constraints:
//!
//! * A 200 means that [`Producer::enqueue_many`] has returned. Everything else is an error that makes
//!   Svix try again, or a refusal that trying again would not change.
//! * It knows no store and reads no event: a signed body is bytes, never parsed and never inflated. An
//!   event that nobody understands is the worker's trouble; refusing it here would lose it after 27 h 35 min.
//! * Everything that a stranger can make it hold has a limit in [`Settings`]: connections, time, bytes.
//! * Bytes of strangers cannot starve signed ones: a request without a delivery's headers is refused before its
//!   body, whatever carries no genuine delivery yields its connection and its body's room to newcomers, and
//!   only the answer to a genuine delivery leaves a connection open.
//! * In trouble it answers 503 at once. Svix waits 15 s for an answer and punishes silence with a longer
//!   pause than it does a failure. It never answers 410, which would disable the endpoint.
//! * HTTP/1 only: Svix speaks it through proxies, and what isn't spoken can't be abused.
//!
//! The way of a request, in the order of the files: `server` accepts the connection, `handler` routes
//! it and reads its headers, `body` reads it as far as there is `room`, `handler` judges it, `batcher` makes it durable together with its neighbours,
//! `answer` says what became of it, and `refusals` logs and counts what is not taken.
//!
//! [`Producer::enqueue_many`]: rollbook_core::queue::Producer::enqueue_many

mod answer;
mod batcher;
mod body;
mod census;
mod handler;
mod metrics;
mod outage;
mod refusals;
mod room;
mod server;
mod settings;
mod skew;

pub use server::{Receiver, ReceiverError};
pub use settings::{BODY_WINDOW, Settings};
