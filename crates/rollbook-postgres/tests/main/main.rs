//! Tests of the Postgres engine: the conformance suite of the store, and tests about servers.

mod application;
mod authorizing;
mod bouncer;
mod cascades;
mod concurrency;
mod crashes;
mod defaults;
mod errors;
mod failover;
mod feed;
mod histories;
mod limits;
mod migrations;
mod network;
mod reconciling;
mod roles;
mod sessions;
mod spoilt_sessions;
mod steps;
mod store;
mod tls;
mod triggers;
mod upgrades;
mod world;
