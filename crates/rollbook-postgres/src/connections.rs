//! The connections: so many at once, each used by one call at a time.
//!
//! A connection comes back only from a call that ended well on it; any other is closed, and the server rolls
//! back what it was at. Instead of sqlx's pool, which answers "timed out" where a connection is refused,
//! and which tests a connection by a round trip before each use.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

/// After so long unused a connection is not used again: firewalls forget silent ones.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// So old a connection is not used again: a name may point elsewhere by then.
const AGE_MAX: Duration = Duration::from_secs(1800);

/// All connections to one database.
pub(crate) struct Connections {
    options: PgConnectOptions,
    timeout: Duration,
    permits: Semaphore,
    idle: Mutex<Vec<Idle>>,
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
    opened: Instant,
    _permit: SemaphorePermit<'a>,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum NoConnection {
    /// All are in use, for longer than a call may wait.
    Busy,
    /// The server has not answered in time.
    Slow,
    /// The server, or the way to it, has refused.
    Refused(sqlx::Error),
}

impl Connections {
    /// At most `max` at once; one is waited for at most `timeout`.
    pub(crate) fn new(options: PgConnectOptions, max: u32, timeout: Duration) -> Self {
        let max = usize::try_from(max).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        Self { options, timeout, permits: Semaphore::new(max), idle: Mutex::new(Vec::new()) }
    }

    /// One that is free, or a new one; surely a new one if it must be `fresh`.
    pub(crate) async fn take(&self, fresh: bool) -> Result<Leased<'_>, NoConnection> {
        let deadline = Instant::now() + self.timeout;
        // The semaphore is never closed, so there is only one way to get none.
        let Ok(Ok(permit)) = timeout_at(deadline, self.permits.acquire()).await else {
            return Err(NoConnection::Busy);
        };
        let idle = if fresh { None } else { self.pop() };
        if let Some(Idle { connection, opened, .. }) = idle {
            return Ok(Leased { connection, reused: true, opened, _permit: permit });
        }
        match timeout_at(deadline, self.options.connect()).await {
            Ok(Ok(connection)) => {
                Ok(Leased { connection, reused: false, opened: Instant::now(), _permit: permit })
            }
            Ok(Err(error)) => Err(NoConnection::Refused(error)),
            Err(_) => Err(NoConnection::Slow),
        }
    }

    /// Keeps a connection for the next call.
    pub(crate) fn give_back(&self, leased: Leased<'_>) {
        let now = Instant::now();
        let Leased { connection, opened, .. } = leased;
        self.idle().push(Idle { connection, opened, since: now });
    }

    /// Closes all that nobody uses: one was found dead, the others likely are too.
    pub(crate) fn close_idle(&self) {
        self.idle().clear();
    }

    /// The one used last, so that those which are not needed grow old.
    fn pop(&self) -> Option<Idle> {
        let now = Instant::now();
        let mut idle = self.idle();
        idle.retain(|idle| now - idle.since < IDLE_MAX && now - idle.opened < AGE_MAX);
        idle.pop()
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Place;

    #[tokio::test]
    async fn a_refused_connection_says_so_at_once() {
        // Port 1 is nobody's.
        let (place, _) = Place::parse("postgres://me@127.0.0.1:1/x?sslmode=disable").expect("a URL");
        let connections = Connections::new(place.options, 1, Duration::from_secs(60));
        match connections.take(false).await.map(|_| ()) {
            Err(NoConnection::Refused(sqlx::Error::Io(error))) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
            }
            other => panic!("{other:?}"),
        }
    }
}
