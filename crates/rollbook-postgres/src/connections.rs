//! The connections: so many at once, each used by one call at a time.
//!
//! A connection comes back only from a call that ended well on it, or whose values alone were refused; any
//! other is closed, and the server rolls back what it was at. Instead of `deadpool`, whose objects return
//! when they are dropped, and of sqlx's pool, which answers "timed out" where a connection is refused
//! (decision 0111).
//!
//! Idle connections die unseen: the server's time-out, a restart, a firewall that forgets, a failover. A
//! connection that was idle for [`CHECK_AFTER`] must answer the `BEGIN` of its next transaction within
//! [`CHECK_MAX`], which costs no round trip. Where one is found dead, the others of its time are closed too.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection, raw_sql};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

use crate::hosts::Hosts;
use crate::link::NoConnection;
use crate::types::Sql;

/// A connection that was unused for so long is not used again: firewalls forget silent ones.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// A connection of this age is not used again: a name may point elsewhere by then.
const AGE_MAX: Duration = Duration::from_secs(1800);
/// A connection that was unused for so long is checked. Those of a busy worker never are: a server that is
/// slow because it is overloaded must not get new connections on top.
const CHECK_AFTER: Duration = Duration::from_secs(1);
/// How long a check may take, at most: a third of the time for a connection, so that the rest is left for a
/// new one.
const CHECK_MAX: Duration = Duration::from_secs(2);

/// All connections to one database.
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
    /// How often all were closed. What was opened before does not come back.
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
    /// Whether an earlier call has used it: then it may have died unseen.
    pub(crate) reused: bool,
    /// Whether its transaction has begun, as its check.
    pub(crate) begun: bool,
    opened: Instant,
    generation: u64,
    _permit: SemaphorePermit<'a>,
}

impl Connections {
    /// At most `max` at once; one is waited for at most `timeout`. `begin` begins a transaction.
    pub(crate) fn new(hosts: Hosts, max: u32, timeout: Duration, begin: Sql) -> Self {
        let max = usize::try_from(max).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        Self { hosts, timeout, begin, permits: Semaphore::new(max), pool: Mutex::default() }
    }

    /// One that is free and answers if it must, or a new one; surely a new one if it must be `fresh`.
    pub(crate) async fn take(&self, fresh: bool) -> Result<Leased<'_>, NoConnection> {
        let deadline = Instant::now() + self.timeout;
        // The semaphore is never closed, so there is only one way to get none.
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
        let (opened, generation) = (Instant::now(), self.pool().generation);
        let connection = self.hosts.connect(deadline).await?;
        Ok(Leased { connection, reused: false, begun: false, opened, generation, _permit: permit })
    }

    /// Begins a transaction.
    pub(crate) async fn begin(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        raw_sql(AssertSqlSafe(Sql::clone(&self.begin))).execute(connection).await.map(drop)
    }

    /// Keeps a connection for the next call, unless others of its time were found dead since.
    pub(crate) fn give_back(&self, leased: Leased<'_>) {
        let Leased { connection, opened, generation, .. } = leased;
        let mut pool = self.pool();
        if generation == pool.generation {
            pool.idle.push(Idle { connection, opened, since: Instant::now() });
        }
    }

    /// Closes the connections of the time of one that was found dead, or that leads to the wrong server, since they
    /// likely are the same: the idle ones now, the others when they come back.
    pub(crate) fn close_like(&self, leased: &Leased<'_>) {
        self.close_generation(leased.generation);
    }

    /// Likewise for all connections of now.
    pub(crate) fn close_all(&self) {
        let generation = self.pool().generation;
        self.close_generation(generation);
    }

    /// What was opened since another one of the generation was found dead stays.
    fn close_generation(&self, generation: u64) {
        let mut pool = self.pool();
        if generation == pool.generation {
            pool.generation += 1;
            pool.idle.clear();
        }
    }

    /// Whether a connection begins a transaction, soon.
    async fn answers(&self, connection: &mut PgConnection) -> bool {
        let limit = CHECK_MAX.min(self.timeout / 3);
        matches!(timeout(limit, self.begin(connection)).await, Ok(Ok(())))
    }

    /// The one used last, so that those which are not needed grow old; and the generation of now.
    fn pop(&self) -> (Option<Idle>, u64) {
        let now = Instant::now();
        let mut pool = self.pool();
        pool.idle.retain(|idle| now - idle.since < IDLE_MAX && now - idle.opened < AGE_MAX);
        (pool.idle.pop(), pool.generation)
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
