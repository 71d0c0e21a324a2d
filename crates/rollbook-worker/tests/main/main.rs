//! The worker on the in-memory queue and store of the testkit, in tokio's paused time.

mod applying;
mod cascades;
mod crashes;
mod failures;
mod outages;
mod stopping;
mod support;
mod upkeep;
mod watching;
