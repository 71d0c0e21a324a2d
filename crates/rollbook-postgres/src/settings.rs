//! Settings of the store.

use std::fmt;
use std::time::Duration;

/// Settings of the store.
#[derive(Clone)]
pub struct PostgresSettings {
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, with parameters such as `sslmode=verify-full` behind a
    /// `?`. May hold a password.
    pub url: String,
    /// Schema of the mirror's tables: lower-case letters, digits and `_`.
    pub schema: String,
    /// Whether migrations make the triggers of the change feed, or drop them.
    pub changes: bool,
    /// Whether connections go through a `PgBouncer` in transaction mode: then no statement stays prepared from one
    /// transaction to the next.
    pub pgbouncer: bool,
    /// Maximum open connections; at least 1.
    pub connections_max: u32,
    /// Maximum duration of a statement. The wait for a lock is limited to half of it.
    pub statement_timeout: Duration,
    /// Maximum wait for a connection.
    pub connect_timeout: Duration,
}

impl fmt::Debug for PostgresSettings {
    /// Leaves out the URL, which may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSettings").field("schema", &self.schema).finish_non_exhaustive()
    }
}
