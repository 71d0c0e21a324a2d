//! The SQLite engines against what every queue and every store must keep, and what only files can show.

mod audit;
mod bytes;
mod disk;
mod queue;
mod retention;
mod steps;
mod store;
mod triggers;
