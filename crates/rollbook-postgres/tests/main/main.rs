//! The Postgres engine against what every store must keep, and what only a real server can show.

mod application;
mod bouncer;
mod cascades;
mod crashes;
mod errors;
mod failover;
mod limits;
mod migrations;
mod network;
mod sessions;
mod store;
mod together;
mod upgrades;
mod world;
