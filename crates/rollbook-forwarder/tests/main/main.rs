//! Tests of the forwarder, with the store in memory and a receiver that a test scripts, on a simulated clock.

mod backfills;
mod delivering;
mod http;
mod kills;
mod operating;
mod outages;
mod signatures;
mod stage;
