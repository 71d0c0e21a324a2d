//! The worker on the in-memory queue and store of the testkit, in tokio's paused time.

mod applying;
mod cascades;
mod crashes;
mod failures;
mod half_open;
mod observability;
mod outages;
mod slow;
mod stopping;
mod support;
mod upkeep;
