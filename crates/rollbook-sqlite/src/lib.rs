//! Queue and store on SQLite: the embedded default.
//!
//! Constraints:
//!
//! * A commit is on the disk when it returns: `synchronous=FULL` on every connection, checked.
//! * One connection writes each file, on its own thread (`database`): waiting work is committed together, and
//!   a cancelled call leaves no work half done. Another thread copies the log into the file (`checkpoints`).
//! * An SQLite with the WAL-reset fault is refused (<https://sqlite.org/wal.html>): it can lose commits.
//! * If the disk is full, the batch fails and everything before it stays. After an I/O error the file is
//!   closed and the process has to restart, because the state of the kernel's cache is unknown.

mod backend;
mod checkpoints;
mod connection;
mod database;
mod fault;
mod feed;
mod migrations;
mod place;
mod queue;
mod rehearse;
mod rewrite;
mod select;
mod store;

pub use backend::SqliteFile;
pub use feed::Feed;
pub use migrations::{Schema, apply_migrations, apply_migrations_until, pending_migrations};
pub use queue::{QueueSettings, SqliteQueue};
pub use store::SqliteStore;
