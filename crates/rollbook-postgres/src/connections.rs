//! Pool of connections, each used by one call at a time.
//!
//! A connection is used again only after a call that succeeded on it, or that failed because of its values
//! alone. Any other connection is closed, and the server rolls back its transaction. `deadpool` would take
//! back a dropped connection with its transaction open, and sqlx's pool reports "timed out" when a connection
//! is refused (decision 0111).
//!
//! Idle connections break unnoticed: a timeout of the server, a restart, a firewall, a failover. A connection
//! that was idle for [`CHECK_AFTER`] must answer the `BEGIN` of its next transaction within [`CHECK_MAX`],
//! which costs no round trip. If one is broken, all connections of its generation are closed.

use std::sync::Mutex;
use std::time::Duration;

use rollbook_core::lock::lock;
use sqlx::{AssertSqlSafe, PgConnection, raw_sql};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

use crate::hosts::Hosts;
use crate::link::NoConnection;
use crate::types::Sql;

/// Maximum idle time of a connection: firewalls drop silent ones.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// Maximum age of a connection: the host name may resolve to another server by then.
const AGE_MAX: Duration = Duration::from_secs(1800);
/// Idle time after which a connection is checked. Connections of a busy worker are never checked: an
/// overloaded, slow server must not get additional connections.
const CHECK_AFTER: Duration = Duration::from_secs(1);
/// Maximum duration of a check. A third of the connect timeout also applies, so that the rest is left for a
/// new connection.
const CHECK_MAX: Duration = Duration::from_secs(2);

/// Pool of connections to one database.
pub(crate) struct Connections {
    hosts: Hosts,
    timeout: Duration,
    begin: Sql,
    permits: Semaphore,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Idle>,
    /// Number of times that all connections were closed. Connections of an earlier generation are not used again.
    generation: u64,
}

struct Idle {
    connection: PgConnection,
    opened: Instant,
    since: Instant,
}

/// A connection in use. Dropping it closes it.
pub(crate) struct Leased<'a> {
    pub(crate) connection: PgConnection,
    /// Whether an earlier call has used the connection: then it may have broken unnoticed.
    pub(crate) reused: bool,
    /// Whether the check of the connection has begun the transaction.
    pub(crate) begun: bool,
    opened: Instant,
    generation: u64,
    _permit: SemaphorePermit<'a>,
}

impl Connections {
    /// Returns a pool of at most `max` connections. A call waits up to `timeout` for one. `begin` begins a transaction.
    pub(crate) fn new(hosts: Hosts, max: u32, timeout: Duration, begin: Sql) -> Self {
        let max = usize::try_from(max).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        Self { hosts, timeout, begin, permits: Semaphore::new(max), pool: Mutex::default() }
    }

    /// Returns an idle connection, checked if necessary, or a new one. With `fresh`, always a new one.
    pub(crate) async fn take(&self, fresh: bool) -> Result<Leased<'_>, NoConnection> {
        let deadline = Instant::now() + self.timeout;
        // The semaphore is never closed, so the only error is the timeout.
        let Ok(Ok(permit)) = timeout_at(deadline, self.permits.acquire()).await else {
            return Err(NoConnection::Busy);
        };
        if !fresh && let (Some(mut idle), generation) = self.pop() {
            let must_answer = idle.since.elapsed() >= CHECK_AFTER;
            if !must_answer || self.answers(&mut idle.connection).await {
                let Idle { connection, opened, .. } = idle;
                let begun = must_answer;
                return Ok(Leased { connection, reused: true, begun, opened, generation, _permit: permit });
            }
            self.close_generation(generation);
        }
        let (opened, generation) = (Instant::now(), lock(&self.pool).generation);
        let connection = self.hosts.connect(deadline).await?;
        Ok(Leased { connection, reused: false, begun: false, opened, generation, _permit: permit })
    }

    /// Begins a transaction.
    pub(crate) async fn begin(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        raw_sql(AssertSqlSafe(Sql::clone(&self.begin))).execute(connection).await.map(drop)
    }

    /// Returns a connection to the pool, unless its generation has been closed.
    pub(crate) fn give_back(&self, leased: Leased<'_>) {
        let Leased { connection, opened, generation, .. } = leased;
        let mut pool = lock(&self.pool);
        if generation == pool.generation {
            pool.idle.push(Idle { connection, opened, since: Instant::now() });
        }
    }

    /// Closes the connections of the time of one that was found dead, or that leads to the wrong server,
    /// since they likely are the same: the idle ones now, the others when they come back.
    pub(crate) fn close_like(&self, leased: &Leased<'_>) {
        self.close_generation(leased.generation);
    }

    /// Closes all connections of the current generation.
    pub(crate) fn close_all(&self) {
        let generation = lock(&self.pool).generation;
        self.close_generation(generation);
    }

    /// Closes a generation. Connections that were opened after it was closed are kept.
    fn close_generation(&self, generation: u64) {
        let mut pool = lock(&self.pool);
        if generation == pool.generation {
            pool.generation += 1;
            pool.idle.clear();
        }
    }

    /// Returns whether a connection begins a transaction in time.
    async fn answers(&self, connection: &mut PgConnection) -> bool {
        let limit = CHECK_MAX.min(self.timeout / 3);
        matches!(timeout(limit, self.begin(connection)).await, Ok(Ok(())))
    }

    /// Returns the connection used last, so that surplus ones reach their age limit, and the current generation.
    fn pop(&self) -> (Option<Idle>, u64) {
        let now = Instant::now();
        let mut pool = lock(&self.pool);
        pool.idle.retain(|idle| now - idle.since < IDLE_MAX && now - idle.opened < AGE_MAX);
        (pool.idle.pop(), pool.generation)
    }
}
