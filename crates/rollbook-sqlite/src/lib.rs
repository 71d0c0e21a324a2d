//! Queue and store on SQLite: the embedded default.
//!
//! Constraints:
//!
//! * A commit is on the disk when it returns: `synchronous=FULL` on every connection, checked.
//! * One connection writes each file, on one thread of its own (`database`): what waits is committed
//!   together, and nothing is ever half cancelled.
//! * An SQLite with the WAL-reset fault is refused (<https://sqlite.org/wal.html>): it can lose commits.
//! * When the disk is full the batch fails and everything before it stays; when the disk lies (an I/O
//!   error), the file is closed and the process has to start again, since what the kernel still holds of
//!   it can't be known.

mod backend;
mod connection;
mod database;
mod fault;
mod migrations;
mod queue;
mod rehearse;
mod rewrite;
mod store;

pub use backend::SqliteFile;
pub use migrations::{Schema, apply_migrations, apply_migrations_until, pending_migrations};
pub use queue::{QueueSettings, SqliteQueue};
pub use store::SqliteStore;
