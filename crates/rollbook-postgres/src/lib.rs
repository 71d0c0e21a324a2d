//! The store on Postgres, from version [`OLDEST_VERSION`] on.
//!
//! Constraints:
//!
//! * When a call returns, its commit is on the server's disk, and on the disk of a synchronous standby if there is
//!   one: each transaction sets `synchronous_commit = on`, whatever the settings of role and database are, and
//!   no timeout of the server ends the wait for a standby.
//! * No state is kept in a session outside of a transaction: behind a `PgBouncer` in transaction mode the next transaction
//!   may run on another connection.
//! * Every wait has a limit: for a connection, a lock, a statement and the whole call.
//! * No error text contains a value: Postgres's own messages and details do, so they are not shown (`fault`).
//! * All transactions take locks in one order: tables in the order of the catalog, rows by the bytes of their ids, the
//!   ledger last.

mod address;
mod backend;
mod blame;
mod connections;
mod environment;
mod fault;
mod hosts;
mod link;
mod migrations;
mod parameters;
mod pooler;
mod rights;
mod settings;
mod store;
mod tls;
mod transaction;
mod types;
mod values;

pub use link::Ignored;
pub use migrations::{OLDEST_VERSION, apply_migrations, pending_migrations};
pub use settings::PostgresSettings;
pub use store::PostgresStore;
