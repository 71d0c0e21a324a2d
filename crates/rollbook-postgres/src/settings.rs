//! What a user may set.

use std::fmt;
use std::time::Duration;

/// What a user may set.
#[derive(Clone)]
pub struct PostgresSettings {
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, with parameters such as `sslmode=verify-full` behind a
    /// `?`. May hold a password.
    pub url: String,
    /// The schema of the mirror's tables: lower-case letters, digits and `_`.
    pub schema: String,
    /// Whether a `PgBouncer` in transaction mode stands before the server: then no statement stays
    /// prepared from one transaction to the next.
    pub pgbouncer: bool,
    /// How many connections may be open at once; at least 1.
    pub connections_max: u32,
    /// How long one statement may take. A lock is waited for half as long.
    pub statement_timeout: Duration,
    /// How long a call may wait for a connection.
    pub connect_timeout: Duration,
}

impl fmt::Debug for PostgresSettings {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSettings").field("schema", &self.schema).finish_non_exhaustive()
    }
}
