//! State of one connection: written by the task that serves it, read by the connection table.
//!
//! Phase and timestamp share one atomic word, so the table drops an idle connection only if it is still idle:
//! a request that has sent its first bytes is never dropped as idle.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

/// Activity of a connection, as the metrics show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Accepted; no byte received yet.
    New,
    /// The head or the body of a request is being read.
    Reading,
    /// The handler accepted the request and prepares the response.
    Answering,
    /// The last request was answered; the client may send the next one.
    Idle,
    /// The last response is being sent; the connection closes after it.
    Closing,
}

impl State {
    /// All states, in the order of a connection's life.
    pub const ALL: [Self; 5] = [Self::New, Self::Reading, Self::Answering, Self::Idle, Self::Closing];

    /// Label value for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Reading => "reading",
            Self::Answering => "answering",
            Self::Idle => "idle",
            Self::Closing => "closing",
        }
    }
}

/// Finer-grained [`State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    New,
    Head,
    Body,
    Answering,
    Idle,
    Closing,
    /// The table has dropped the connection, or the connection has closed.
    Dropped,
}

const PHASE_BITS: u32 = 3;

impl Phase {
    const ALL: [Self; 7] =
        [Self::New, Self::Head, Self::Body, Self::Answering, Self::Idle, Self::Closing, Self::Dropped];

    /// State shown in the metrics; `None` for a dropped or closed connection.
    pub(crate) const fn state(self) -> Option<State> {
        match self {
            Self::New => Some(State::New),
            Self::Head | Self::Body => Some(State::Reading),
            Self::Answering => Some(State::Answering),
            Self::Idle => Some(State::Idle),
            Self::Closing => Some(State::Closing),
            Self::Dropped => None,
        }
    }

    pub(crate) const fn is_droppable(self) -> bool {
        !matches!(self, Self::Answering | Self::Dropped)
    }
}

/// A phase and its start, in milliseconds since the table was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) phase: Phase,
    pub(crate) since: u64,
}

impl Stamp {
    const fn pack(self) -> u64 {
        self.since << PHASE_BITS | self.phase as u64
    }

    fn unpack(word: u64) -> Self {
        let index = (word & ((1 << PHASE_BITS) - 1)) as usize;
        Self { phase: Phase::ALL.get(index).copied().unwrap_or(Phase::Dropped), since: word >> PHASE_BITS }
    }
}

/// One connection, shared by the request handler and the connection table.
#[derive(Debug)]
pub struct Connection {
    origin: Instant,
    opened: Instant,
    stamp: AtomicU64,
    trusted: AtomicBool,
    sent_request: AtomicBool,
    /// Wakes the serving task after the table has dropped the connection.
    pub(crate) dropped: Notify,
}

impl Connection {
    pub(crate) fn new(origin: Instant) -> Self {
        let opened = Instant::now();
        let stamp = AtomicU64::new(Stamp { phase: Phase::New, since: millis_since(origin) }.pack());
        let (trusted, sent_request) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { origin, opened, stamp, trusted, sent_request, dropped: Notify::new() }
    }

    /// Marks the current request as accepted: the connection is not dropped until the request is answered.
    pub fn answer_begins(&self) {
        self.change(|_| Some(Phase::Answering), true);
    }

    /// Marks the client as authenticated: the connection is dropped only after all unauthenticated ones.
    pub fn authenticated(&self) {
        self.trusted.store(true, Ordering::Relaxed);
    }

    /// Returns whether the handler has accepted the current request.
    pub fn is_answering(&self) -> bool {
        self.stamp().phase == Phase::Answering
    }

    pub(crate) fn is_trusted(&self) -> bool {
        self.trusted.load(Ordering::Relaxed)
    }

    /// Returns whether a complete request head was ever read.
    pub(crate) fn has_sent_request(&self) -> bool {
        self.sent_request.load(Ordering::Relaxed)
    }

    pub(crate) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    pub(crate) fn stamp(&self) -> Stamp {
        Stamp::unpack(self.stamp.load(Ordering::Relaxed))
    }

    /// Records that bytes arrived. The first bytes of a request start its head; the head of the first request
    /// starts with the connection.
    pub(crate) fn bytes_received(&self) {
        match self.stamp().phase {
            Phase::New => self.change(|phase| (phase == Phase::New).then_some(Phase::Head), false),
            Phase::Idle => self.change(|phase| (phase == Phase::Idle).then_some(Phase::Head), true),
            _ => {}
        }
    }

    /// Records that a complete head was read. The client's time still counts from the first byte of the head.
    pub(crate) fn head_read(&self) {
        self.sent_request.store(true, Ordering::Relaxed);
        // Pipelined: these bytes were read together with the request before.
        let pipelined = self.stamp().phase == Phase::Idle;
        self.change(|_| Some(Phase::Body), pipelined);
    }

    /// Records that the response is ready and is being sent.
    pub(crate) fn answered(&self, closes: bool) {
        self.change(|_| Some(if closes { Phase::Closing } else { Phase::Idle }), true);
    }

    /// Records that the connection closed by itself.
    pub(crate) fn ended(&self) {
        self.change(|_| Some(Phase::Dropped), false);
    }

    /// Drops the connection if its phase allows that and still began at `since`. Returns whether it was dropped.
    pub(crate) fn drop_if(&self, since: u64, is_due: impl Fn(Phase) -> bool) -> bool {
        let dropped = self.stamp.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let stamp = Stamp::unpack(word);
            let due = stamp.since == since && stamp.phase.is_droppable() && is_due(stamp.phase);
            due.then_some(Stamp { phase: Phase::Dropped, ..stamp }.pack())
        });
        if dropped.is_ok() {
            self.dropped.notify_one();
        }
        dropped.is_ok()
    }

    /// Sets the phase and its start, so that tests of time limits need not wait.
    #[cfg(test)]
    pub(crate) fn put(&self, phase: Phase, since: u64) {
        self.stamp.store(Stamp { phase, since }.pack(), Ordering::Relaxed);
    }

    /// Changes to the phase that `next` returns, unless the connection is dropped. With `restart`, the phase starts now.
    fn change(&self, next: impl Fn(Phase) -> Option<Phase>, restart: bool) {
        let now = if restart { Some(millis_since(self.origin)) } else { None };
        // An error means that nothing had to change.
        _ = self.stamp.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let stamp = Stamp::unpack(word);
            let phase = if stamp.phase == Phase::Dropped { None } else { next(stamp.phase) }?;
            Some(Stamp { phase, since: now.unwrap_or(stamp.since) }.pack())
        });
    }
}

pub(crate) fn millis_since(origin: Instant) -> u64 {
    u64::try_from(origin.elapsed().as_millis()).unwrap_or(u64::MAX >> PHASE_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacking_a_packed_stamp_returns_the_same_stamp() {
        for phase in Phase::ALL {
            let stamp = Stamp { phase, since: 86_400_000 };
            assert_eq!(Stamp::unpack(stamp.pack()), stamp);
        }
    }

    #[test]
    fn a_connection_that_received_the_first_byte_of_a_request_is_not_dropped_as_idle() {
        let connection = Connection::new(Instant::now());
        connection.head_read();
        connection.answered(false);
        let idle = connection.stamp();
        assert_eq!(idle.phase, Phase::Idle);
        connection.bytes_received();
        assert!(!connection.drop_if(idle.since, |phase| phase == Phase::Idle));
        assert_eq!(connection.stamp().phase, Phase::Head);
    }

    #[test]
    fn an_answering_connection_is_never_dropped_and_a_dropped_one_stays_dropped() {
        let connection = Connection::new(Instant::now());
        connection.answer_begins();
        assert!(!connection.drop_if(connection.stamp().since, |_| true));
        connection.answered(true);
        assert!(connection.drop_if(connection.stamp().since, |_| true));
        for change in [Connection::bytes_received, Connection::head_read, Connection::answer_begins] {
            change(&connection);
            assert_eq!(connection.stamp().phase, Phase::Dropped);
        }
    }
}
