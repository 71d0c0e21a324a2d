//! Tests of the forwarder, with the store in memory and an endpoint that a test scripts, on a simulated clock.
//!
//! The clock is tokio's paused time (`start_paused`): a `sleep` moves it, and takes no real time. Tests wait for conditions
//! with `until`; they sleep only where the time that passes is the subject, such as an outage of an hour.

mod backfills;
mod delivering;
mod faults;
mod generations;
mod hanging;
mod http;
mod kills;
mod operating;
mod outages;
mod rows;
mod signatures;
mod stage;
