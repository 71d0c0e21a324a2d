//! The SQLite engines against what every queue and every store must keep, and what only files can show.

mod disk;
mod queue;
mod store;
