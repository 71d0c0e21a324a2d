//! All connections of a port: who has a place, who yields for a newcomer, who is overdue.
//!
//! Who yields, in this order: the oldest connection that never proved itself (it is silent, sends slowly, or does
//! not go though its last answer closed it), then, where all have, the one that has been idle longest. A new one
//! does not yield in its first [`SPARED_FOR`]: however many come at once, each gets the time to send its
//! request. The order is kept in a list that is made anew only when it is used up, so that a crowd of
//! newcomers costs one sort for each thousand of them, and a request costs nothing here.

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
use crate::serve::Discards;

/// The longest head of a request, in bytes. Svix's are below one KiB, proxies add theirs. Then 431.
pub(crate) const HEAD_LENGTH_MAX: usize = 16 * 1024;
/// The most that hyper reads ahead on one connection, in bytes: a head must fit, and a body is read in
/// pieces of this size.
const READ_AHEAD_MAX: usize = 64 * 1024;
/// How long a new connection is spared, in milliseconds.
const SPARED_FOR: u64 = 250;
/// How often a newcomer looks again for a connection that may yield, while all are being answered.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How often overdue connections are looked for: a share of the shortest limit, between these two.
const LOOKS_PER_LIMIT: u32 = 10;
const LOOK_MIN: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// No limit in time is longer: it means "for ever" then, and adding one must not overflow.
const SPAN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The limits of a port.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum connections at one time.
    pub connections_max: usize,
    /// Time for a request's head, from its first byte; for a connection's first request, from the accept.
    pub header_timeout: Duration,
    /// Time between an answer and the first byte of the next request.
    pub idle_timeout: Duration,
    /// Time that a client may leave an answer unread.
    pub write_timeout: Duration,
    /// Age from which on a connection ends with its next answer.
    pub age_max: Duration,
}

/// Why the port ended a connection though its client might have gone on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The port was full, and a new client took its place.
    Full,
    /// No whole head came in time.
    HeaderTimeout,
    /// No next request came in time.
    IdleTimeout,
    /// It was old, and ended with an answer.
    Age,
}

impl Closed {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Full, Self::HeaderTimeout, Self::IdleTimeout, Self::Age];

    /// A short name for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::HeaderTimeout => "header_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::Age => "age",
        }
    }
}

/// How many connections there are and were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections in each state, in the order of [`State::ALL`].
    pub open: [u64; State::ALL.len()],
    /// Connections that the port has ended, in the order of [`Closed::ALL`].
    pub closed: [u64; Closed::ALL.len()],
}

/// The connections of one port.
#[derive(Clone)]
pub struct Connections {
    pub(crate) limits: Limits,
    pub(crate) http: http1::Builder,
    pub(crate) table: Arc<Table>,
    pub(crate) discards: Arc<Discards>,
    places: Arc<Semaphore>,
}

impl Connections {
    /// None yet.
    pub fn new(limits: Limits) -> Self {
        let span = |span: Duration| span.min(SPAN_MAX);
        let limits = Limits {
            connections_max: limits.connections_max.clamp(1, Semaphore::MAX_PERMITS),
            header_timeout: span(limits.header_timeout),
            idle_timeout: span(limits.idle_timeout),
            write_timeout: span(limits.write_timeout),
            age_max: span(limits.age_max),
        };
        let mut http = http1::Builder::new();
        // Times are judged by the table: hyper's own limit counts idle time as part of the next head.
        http.timer(TokioTimer::new())
            .header_read_timeout(None)
            .half_close(true)
            .max_header_size(HEAD_LENGTH_MAX)
            .max_buf_size(READ_AHEAD_MAX);
        let places = Arc::new(Semaphore::new(limits.connections_max));
        Self { limits, http, table: Arc::new(Table::new()), discards: Arc::default(), places }
    }

    /// A place, where one is free.
    pub fn try_place(&self) -> Option<Place> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Place::take(&self.table, permit))
    }

    /// A place for a client that is there already. If none is free, one connection yields; if all are being
    /// answered, the first one ends with its answer. Safe to cancel.
    pub async fn place(&self) -> Place {
        loop {
            if let Some(place) = self.try_place() {
                return place;
            }
            if self.table.drop_oldest(millis_since(self.table.origin)) == Dropped::AllBusy {
                self.table.is_wanted.store(true, Ordering::Relaxed);
            }
            let free = Arc::clone(&self.places).acquire_owned();
            // The semaphore is never closed.
            if let Ok(Ok(permit)) = timeout(LOOK_AGAIN, free).await {
                return Place::take(&self.table, permit);
            }
        }
    }

    /// Ends connections that are overdue, for as long as it is polled.
    pub async fn watch(&self) -> Infallible {
        let shortest = self.limits.header_timeout.min(self.limits.idle_timeout);
        let mut looks = interval((shortest / LOOKS_PER_LIMIT).clamp(LOOK_MIN, LOOK_MAX));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.table.end_overdue(&self.limits, millis_since(self.table.origin));
        }
    }

    /// How many there are and were.
    pub fn counts(&self) -> Counts {
        self.table.counts()
    }

    /// The limits, where they make sense the ones that were asked for.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

/// A place among the connections, kept until it is dropped.
pub struct Place {
    pub(crate) connection: Arc<Connection>,
    id: u64,
    table: Arc<Table>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn take(table: &Arc<Table>, permit: OwnedSemaphorePermit) -> Self {
        let connection = Arc::new(Connection::new(table.origin));
        let id = table.lock().enter(Arc::clone(&connection));
        Self { connection, id, table: Arc::clone(table), _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connection.ended();
        self.table.lock().open.remove(&self.id);
    }
}

pub(crate) struct Table {
    origin: Instant,
    rows: Mutex<Rows>,
    closed: [AtomicU64; Closed::ALL.len()],
    /// Whether a client waits for a place and none could yield at once.
    is_wanted: AtomicBool,
}

#[derive(Default)]
struct Rows {
    open: HashMap<u64, Arc<Connection>>,
    next: u64,
    /// Unproven connections that may yield, oldest first, each with the time it was listed by.
    yielding: VecDeque<(u64, Arc<Connection>)>,
}

impl Rows {
    fn enter(&mut self, connection: Arc<Connection>) -> u64 {
        self.next += 1;
        self.open.insert(self.next, connection);
        self.next
    }

    fn drop_oldest(&mut self, now: u64) -> Dropped {
        // Those that are left of the last list are older than all that came since; then comes a new list.
        if self.cut_next_listed() {
            return Dropped::One;
        }
        let (unproven, soon) = self.may_yield(false, now);
        self.yielding = unproven.into();
        if self.cut_next_listed() {
            Dropped::One
        } else if soon {
            Dropped::TooNew
        } else if self.may_yield(true, now).0.into_iter().any(|(since, one)| one.cut_if(since, |_| true)) {
            Dropped::One
        } else {
            Dropped::AllBusy
        }
    }

    /// Cuts the oldest of the list that is still as it was when it was listed.
    fn cut_next_listed(&mut self) -> bool {
        while let Some((since, connection)) = self.yielding.pop_front() {
            if !connection.is_trusted() && connection.cut_if(since, |_| true) {
                return true;
            }
        }
        false
    }

    /// Connections that may yield, oldest first, and whether there are others that will soon.
    fn may_yield(&self, trusted: bool, now: u64) -> (Vec<(u64, Arc<Connection>)>, bool) {
        let (mut found, mut soon) = (Vec::new(), false);
        for (id, connection) in self.open.iter().filter(|(_, one)| one.is_trusted() == trusted) {
            let Stamp { phase, since } = connection.stamp();
            if !trusted && phase.is_at_its_beginning() && now.saturating_sub(since) < SPARED_FOR {
                soon = true;
            } else if phase.may_yield() {
                found.push((since, *id, Arc::clone(connection)));
            }
        }
        // Of those that began in the same millisecond, the first accepted is the oldest.
        found.sort_unstable_by_key(|(since, id, _)| (*since, *id));
        (found.into_iter().map(|(since, _, connection)| (since, connection)).collect(), soon)
    }
}

/// What came of looking for a connection that yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dropped {
    One,
    /// None, since those that would yield next are too new.
    TooNew,
    /// None, since all are being answered.
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

    pub(crate) fn count(&self, closed: Closed) {
        self.closed[closed as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a connection should end with its answer because somebody waits for its place.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed) && self.is_wanted.swap(false, Ordering::Relaxed)
    }

    fn drop_oldest(&self, now: u64) -> Dropped {
        let dropped = self.lock().drop_oldest(now);
        if dropped == Dropped::One {
            self.count(Closed::Full);
        }
        dropped
    }

    fn end_overdue(&self, limits: &Limits, now: u64) {
        let rows = self.lock();
        for connection in rows.open.values() {
            let stamp = connection.stamp();
            let (limit, reason) = match stamp.phase {
                Phase::New | Phase::Head => (limits.header_timeout, Closed::HeaderTimeout),
                Phase::Idle => (limits.idle_timeout, Closed::IdleTimeout),
                _ => continue,
            };
            let overdue = u128::from(now.saturating_sub(stamp.since)) >= limit.as_millis();
            if overdue && connection.cut_if(stamp.since, |phase| phase == stamp.phase) {
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
