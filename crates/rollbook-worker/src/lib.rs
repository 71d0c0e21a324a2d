//! The worker: leases messages from the queue, parses them, applies them to the store, and settles the leases.
//!
//! Constraints, each held by a test:
//!
//! * Every lease ends in one settlement, or expires with its worker. After a request to stop, nothing is
//!   leased.
//! * An outage is never a message's failure: while the store is unreachable, nothing is leased and no attempt
//!   is counted (`gate`).
//! * A bad message costs its neighbours nothing. If the store refuses it, bisection finds it (`apply`). If it
//!   kills its worker, it is processed in isolation (`isolation`).
//! * A lane that ends or panics without a request to stop ends the whole worker with an error.
//! * No log line and no metric contains a body or a value of one.
//!
//! [`Worker::run`] drives a few independent lanes. Each leases a batch, passes it to the plain functions of
//! `batch`, and settles it while it leases the next one, so that both writes to the queue share one commit.
//! Lanes do not coordinate: the merge makes order irrelevant.
//!
//! Next to the lanes, background tasks call the store: `changes` gives committed changes their positions, `cascades`
//! repairs child rows of deleted parents, `upkeep` is retention. `pace` sizes batches, `evidence` decides whether a
//! message or the store is to blame, and `store_health` reports outages.

mod apply;
mod backoff;
mod batch;
mod cascade_metrics;
mod cascades;
mod changes;
mod changes_metrics;
mod dead_letter_log;
mod deferred;
mod error;
mod evidence;
mod gate;
mod gate_metric;
mod isolation;
mod lane;
mod metrics;
mod mismatch_log;
mod pace;
mod progress;
mod requests;
mod settings;
mod shared;
mod store_health;
mod turns;
mod upkeep;
mod worker;

pub use error::WorkerError;
pub use progress::Progress;
pub use settings::{Settings, UpkeepSettings};
pub use store_health::{StoreHealth, StoreOutage, StoreRefusals};
pub use worker::Worker;
