//! The store on Postgres, from version 12 on.
//!
//! Constraints:
//!
//! * A commit is on the server's disk when a call returns, and on a synchronous standby's where there is
//!   one: each transaction says `synchronous_commit = on` for itself, whatever role and database say, and
//!   no timeout of the server cuts the wait for a standby short.
//! * Nothing lives in a session outside of a transaction, reads included: behind a `PgBouncer` in
//!   transaction mode the next one may run on another connection.
//! * No wait without an end: for a connection, a lock, a statement and the whole call.
//! * No text of an error quotes a value: Postgres's own messages and details do, so they are not shown
//!   (`fault`).
//! * Locks are taken in one order by everyone: tables in the catalog's, rows by the bytes of their ids, the
//!   ledger last.

mod backend;
mod blame;
mod connections;
mod environment;
mod fault;
mod hosts;
mod link;
mod migrations;
mod parameters;
mod place;
mod settings;
mod store;
mod tls;
mod transaction;
mod types;

pub use migrations::{apply_migrations, pending_migrations};
pub use settings::PostgresSettings;
pub use store::PostgresStore;
