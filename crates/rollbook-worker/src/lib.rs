//! The applying face: leases messages, reads them, applies what they say, settles the leases.
//!
//! Constraints, each held by a test:
//!
//! * Every lease that is taken ends in one settlement, or runs out with its worker. None is taken once
//!   stop was seen.
//! * An outage is never a message's failure: while the store is unreachable nothing is leased and no attempt
//!   is spent (`gate`).
//! * A bad message costs its neighbours nothing: it is looked for by bisection where the store refuses
//!   it (`apply`), and handled with empty hands all around where it kills its worker (`isolation`).
//! * A lane that ends or panics unasked ends the worker with an error: it never limps on.
//! * No log and no metric holds a body or a value out of one.
//!
//! How: [`Worker::run`] drives a few independent lanes. Each leases a batch, hands it to the plain
//! functions of `batch`, and settles it while it leases the next, so that the two writes to the queue
//! share one commit. Lanes need no agreement about who does what: the merge makes order irrelevant.

mod apply;
mod backoff;
mod batch;
mod cascade_metrics;
mod cascades;
mod deferred;
mod error;
mod evidence;
mod gate;
mod isolation;
mod lane;
mod metrics;
mod pace;
mod progress;
mod requests;
mod settings;
mod shared;
mod store_health;
mod upkeep;
mod worker;

pub use error::WorkerError;
pub use progress::Progress;
pub use settings::{Settings, UpkeepSettings};
pub use store_health::{StoreHealth, StoreOutage, StoreRefusals};
pub use worker::Worker;
