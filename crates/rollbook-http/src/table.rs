//! Table of all connections of a port: which ones have a slot, which one is dropped for a new client, which
//! ones are overdue.
//!
//! The order of dropping: first the oldest unauthenticated connection (silent, slow, or still open after a
//! closing response), then, where all are authenticated, the one idle for the longest time. A connection is
//! protected for its first [`PROTECTED_FOR`], so that in a burst of clients each has the time to send its
//! request. The order is kept in a list that is rebuilt only when it is used up: a burst costs one sort per
//! thousand new clients, and a request costs nothing here.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::connection::{Connection, Phase, Stamp, State, millis_since};
use crate::discards::Discards;

/// Usual maximum length of a request head, in bytes. Svix sends less than one KiB, proxies add more headers.
pub const HEAD_LENGTH_MAX: usize = 16 * 1024;
/// Maximum bytes that hyper reads ahead on one connection: a head must fit, and a body is read in pieces of this size.
const READ_AHEAD_MAX: usize = 64 * 1024;
/// Time for which a new connection is not dropped, in milliseconds.
const PROTECTED_FOR: u64 = 250;
/// Interval of a new client's retries to find a connection to drop, while all are being answered.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Checks for overdue connections per shortest time limit; the interval lies between the two limits below.
const CHECKS_PER_LIMIT: u32 = 10;
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(10);
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// Maximum of every time limit; larger values mean "unlimited". Adding a limit to a timestamp must not overflow.
const TIME_LIMIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Limits of a port.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of open connections.
    pub connections_max: usize,
    /// Maximum length of a request head, in bytes, at most 64 KiB; a longer one is answered 431.
    pub head_length_max: usize,
    /// Maximum time for a request head, from its first byte; for the first request, from the accept.
    pub header_timeout: Duration,
    /// Maximum time between a response and the first byte of the next request.
    pub idle_timeout: Duration,
    /// Maximum time that a client may leave a response unread.
    pub write_timeout: Duration,
    /// Age after which a connection closes with its next response.
    pub age_max: Duration,
}

/// Reason for which the port closed a connection that the client could still have used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The port was full, and a new client took the slot.
    Full,
    /// No complete head arrived in time.
    HeaderTimeout,
    /// No next request arrived in time.
    IdleTimeout,
    /// The connection reached its maximum age and closed with a response.
    Age,
}

impl CloseReason {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::Full, Self::HeaderTimeout, Self::IdleTimeout, Self::Age];

    /// Label value for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::HeaderTimeout => "header_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::Age => "age",
        }
    }
}

/// Numbers of open and closed connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open connections by state, in the order of [`State::ALL`].
    pub open: [u64; State::ALL.len()],
    /// Connections closed by the port by reason, in the order of [`CloseReason::ALL`].
    pub closed: [u64; CloseReason::ALL.len()],
}

/// All connections of one port.
#[derive(Clone)]
pub struct Connections {
    pub(crate) limits: Limits,
    pub(crate) http: http1::Builder,
    pub(crate) table: Arc<Table>,
    pub(crate) discards: Arc<Discards>,
    slots: Arc<Semaphore>,
}

impl Connections {
    /// Creates an empty table; limits out of range are clamped.
    pub fn new(limits: Limits) -> Self {
        let clamp = |limit: Duration| limit.min(TIME_LIMIT_MAX);
        let limits = Limits {
            connections_max: limits.connections_max.clamp(1, Semaphore::MAX_PERMITS),
            head_length_max: limits.head_length_max.min(READ_AHEAD_MAX),
            header_timeout: clamp(limits.header_timeout),
            idle_timeout: clamp(limits.idle_timeout),
            write_timeout: clamp(limits.write_timeout),
            age_max: clamp(limits.age_max),
        };
        let mut http = http1::Builder::new();
        // The table enforces the time limits: hyper's own limit counts idle time as part of the next head.
        http.timer(TokioTimer::new())
            .header_read_timeout(None)
            .half_close(true)
            .max_header_size(limits.head_length_max)
            .max_buf_size(READ_AHEAD_MAX);
        let slots = Arc::new(Semaphore::new(limits.connections_max));
        Self { limits, http, table: Arc::new(Table::new()), discards: Arc::default(), slots }
    }

    /// Returns a slot if one is free.
    pub fn try_slot(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        Some(Slot::take(&self.table, permit))
    }

    /// Waits for a slot for an accepted client. If none is free, one connection is dropped; if all are being
    /// answered, the first one to answer closes. Cancel-safe.
    pub async fn slot(&self) -> Slot {
        loop {
            if let Some(slot) = self.try_slot() {
                return slot;
            }
            if self.table.drop_oldest(millis_since(self.table.origin)) == Dropped::AllBusy {
                self.table.is_wanted.store(true, Ordering::Relaxed);
            }
            let free = Arc::clone(&self.slots).acquire_owned();
            // The semaphore is never closed.
            if let Ok(Ok(permit)) = timeout(RETRY_INTERVAL, free).await {
                return Slot::take(&self.table, permit);
            }
        }
    }

    /// Closes overdue connections for as long as the future is polled.
    pub async fn watch(&self) -> Infallible {
        let shortest = self.limits.header_timeout.min(self.limits.idle_timeout);
        let mut checks =
            interval((shortest / CHECKS_PER_LIMIT).clamp(CHECK_INTERVAL_MIN, CHECK_INTERVAL_MAX));
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            checks.tick().await;
            self.table.end_overdue(&self.limits, millis_since(self.table.origin));
        }
    }

    /// Numbers of open and closed connections.
    pub fn counts(&self) -> Counts {
        self.table.counts()
    }

    /// Effective limits: the requested ones, clamped to their ranges.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

/// A slot in the table of connections; released on drop.
pub struct Slot {
    pub(crate) connection: Arc<Connection>,
    id: u64,
    table: Arc<Table>,
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    fn take(table: &Arc<Table>, permit: OwnedSemaphorePermit) -> Self {
        let connection = Arc::new(Connection::new(table.origin));
        let id = table.lock().insert(Arc::clone(&connection));
        Self { connection, id, table: Arc::clone(table), _permit: permit }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connection.ended();
        self.table.lock().open.remove(&self.id);
    }
}

pub(crate) struct Table {
    origin: Instant,
    rows: Mutex<Rows>,
    closed: [AtomicU64; CloseReason::ALL.len()],
    /// Whether a client waits for a slot and no connection could be dropped at once.
    is_wanted: AtomicBool,
}

#[derive(Default)]
struct Rows {
    open: HashMap<u64, Arc<Connection>>,
    next: u64,
    /// Unauthenticated connections that may be dropped, oldest first, each with its timestamp when listed.
    drop_order: VecDeque<(u64, Arc<Connection>)>,
}

impl Rows {
    fn insert(&mut self, connection: Arc<Connection>) -> u64 {
        self.next += 1;
        self.open.insert(self.next, connection);
        self.next
    }

    fn drop_oldest(&mut self, now: u64) -> Dropped {
        // Connections left in the last list are older than all later ones, so a new list is built only after them.
        if self.drop_next_listed() {
            return Dropped::One;
        }
        let (unauthenticated, soon) = self.droppable(false, now);
        self.drop_order = unauthenticated.into();
        if self.drop_next_listed() {
            Dropped::One
        } else if soon {
            Dropped::TooNew
        } else if self.droppable(true, now).0.into_iter().any(|(since, one)| one.drop_if(since, |_| true)) {
            Dropped::One
        } else {
            Dropped::AllBusy
        }
    }

    /// Drops the oldest connection of the list that has not changed since it was listed.
    fn drop_next_listed(&mut self) -> bool {
        while let Some((since, connection)) = self.drop_order.pop_front() {
            if !connection.is_trusted() && connection.drop_if(since, |_| true) {
                return true;
            }
        }
        false
    }

    /// Connections that may be dropped, oldest first, and whether others are still too new.
    fn droppable(&self, trusted: bool, now: u64) -> (Vec<(u64, Arc<Connection>)>, bool) {
        let (mut found, mut soon) = (Vec::new(), false);
        for (id, connection) in self.open.iter().filter(|(_, one)| one.is_trusted() == trusted) {
            let Stamp { phase, since } = connection.stamp();
            if !trusted
                && matches!(phase, Phase::New | Phase::Head | Phase::Body)
                && now.saturating_sub(since) < PROTECTED_FOR
            {
                soon = true;
            } else if phase.is_droppable() {
                found.push((since, *id, Arc::clone(connection)));
            }
        }
        // Within one millisecond, the first accepted connection is the oldest.
        found.sort_unstable_by_key(|(since, id, _)| (*since, *id));
        (found.into_iter().map(|(since, _, connection)| (since, connection)).collect(), soon)
    }
}

/// Result of looking for a connection to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dropped {
    One,
    /// No connection dropped: the next candidates are too new.
    TooNew,
    /// No connection dropped: all are being answered.
    AllBusy,
}

impl Table {
    fn new() -> Self {
        Self {
            origin: Instant::now(),
            rows: Mutex::default(),
            closed: Default::default(),
            is_wanted: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn count(&self, closed: CloseReason) {
        self.closed[closed as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether a connection should close with its response because a client waits for its slot.
    /// Resets the flag.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed) && self.is_wanted.swap(false, Ordering::Relaxed)
    }

    fn drop_oldest(&self, now: u64) -> Dropped {
        let dropped = self.lock().drop_oldest(now);
        if dropped == Dropped::One {
            self.count(CloseReason::Full);
        }
        dropped
    }

    fn end_overdue(&self, limits: &Limits, now: u64) {
        let rows = self.lock();
        for connection in rows.open.values() {
            let stamp = connection.stamp();
            let (limit, reason) = match stamp.phase {
                Phase::New | Phase::Head => (limits.header_timeout, CloseReason::HeaderTimeout),
                Phase::Idle => (limits.idle_timeout, CloseReason::IdleTimeout),
                _ => continue,
            };
            let overdue = u128::from(now.saturating_sub(stamp.since)) >= limit.as_millis();
            if overdue && connection.drop_if(stamp.since, |phase| phase == stamp.phase) {
                self.count(reason);
            }
        }
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for connection in self.lock().open.values() {
            if let Some(state) = connection.stamp().phase.state() {
                counts.open[state as usize] += 1;
            }
        }
        for (count, closed) in counts.closed.iter_mut().zip(&self.closed) {
            *count = closed.load(Ordering::Relaxed);
        }
        counts
    }
}

#[cfg(test)]
mod tests;
