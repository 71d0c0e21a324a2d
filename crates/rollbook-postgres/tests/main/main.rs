//! The Postgres engine against what every store must keep, and what only a real server can show.

mod application;
mod bouncer;
mod cascades;
mod crashes;
mod errors;
mod limits;
mod migrations;
mod sessions;
mod store;
mod together;
mod world;
