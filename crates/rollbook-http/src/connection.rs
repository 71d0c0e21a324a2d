//! State of one connection: written by the task that serves it, read by the table that judges it.
//!
//! Phase and time are one atomic word, so that "idle since then" can be turned into "cut" only while it still
//! holds: a request whose first bytes were read is never dropped as idle.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

/// What a connection is doing, as metrics show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Accepted, and not a byte came yet.
    New,
    /// A request is being read: its head or its body.
    Reading,
    /// A request was accepted as worth an answer, which is being prepared.
    Answering,
    /// The last request was answered; the client may send the next.
    Idle,
    /// The last answer is on its way, and the connection ends after it.
    Closing,
}

impl State {
    /// Every state, in the order of a connection's life.
    pub const ALL: [Self; 5] = [Self::New, Self::Reading, Self::Answering, Self::Idle, Self::Closing];

    /// A short name for metrics.
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

/// A [`State`] in finer steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    New,
    Head,
    Body,
    Answering,
    Idle,
    Closing,
    /// The table has decided to drop it, or it has ended.
    Cut,
}

const PHASE_BITS: u32 = 3;

impl Phase {
    const ALL: [Self; 7] =
        [Self::New, Self::Head, Self::Body, Self::Answering, Self::Idle, Self::Closing, Self::Cut];

    /// The state that metrics show; `None` for one that is as good as gone.
    pub(crate) const fn state(self) -> Option<State> {
        match self {
            Self::New => Some(State::New),
            Self::Head | Self::Body => Some(State::Reading),
            Self::Answering => Some(State::Answering),
            Self::Idle => Some(State::Idle),
            Self::Closing => Some(State::Closing),
            Self::Cut => None,
        }
    }

    pub(crate) const fn may_yield(self) -> bool {
        !matches!(self, Self::Answering | Self::Cut)
    }

    /// Whether a first request may be on its way or is being read.
    pub(crate) const fn is_at_its_beginning(self) -> bool {
        matches!(self, Self::New | Self::Head | Self::Body)
    }
}

/// A phase and when it began, in milliseconds since the table was made.
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
        Self { phase: Phase::ALL.get(index).copied().unwrap_or(Phase::Cut), since: word >> PHASE_BITS }
    }
}

/// One connection, as its request handler and the table know it.
#[derive(Debug)]
pub struct Connection {
    origin: Instant,
    opened: u64,
    stamp: AtomicU64,
    trusted: AtomicBool,
    asked: AtomicBool,
    /// Wakes the task that serves it once it is cut.
    pub(crate) cut: Notify,
}

impl Connection {
    pub(crate) fn new(origin: Instant) -> Self {
        let opened = millis_since(origin);
        let stamp = AtomicU64::new(Stamp { phase: Phase::New, since: opened }.pack());
        let (trusted, asked) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { origin, opened, stamp, trusted, asked, cut: Notify::new() }
    }

    /// The current request is worth an answer: until that is given, the connection does not yield.
    pub fn answering(&self) {
        self.change(|_| Some(Phase::Answering), true);
    }

    /// The client has proven who it is: from now on the connection yields only after those whose has not.
    pub fn trust(&self) {
        self.trusted.store(true, Ordering::Relaxed);
    }

    /// Whether the current request was found worth an answer.
    pub fn is_answering(&self) -> bool {
        self.stamp().phase == Phase::Answering
    }

    pub(crate) fn is_trusted(&self) -> bool {
        self.trusted.load(Ordering::Relaxed)
    }

    /// Whether a request's head has ever been read whole.
    pub(crate) fn has_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    pub(crate) fn age(&self) -> Duration {
        Duration::from_millis(millis_since(self.origin).saturating_sub(self.opened))
    }

    pub(crate) fn stamp(&self) -> Stamp {
        Stamp::unpack(self.stamp.load(Ordering::Relaxed))
    }

    /// Bytes came. The first of a request begin its head; a first request's head began with the connection.
    pub(crate) fn bytes_came(&self) {
        match self.stamp().phase {
            Phase::New => self.change(|phase| (phase == Phase::New).then_some(Phase::Head), false),
            Phase::Idle => self.change(|phase| (phase == Phase::Idle).then_some(Phase::Head), true),
            _ => {}
        }
    }

    /// A head was read whole. How long the client has had counts on from the head's first byte.
    pub(crate) fn request_began(&self) {
        self.asked.store(true, Ordering::Relaxed);
        // Pipelined: the bytes were read with those of the request before.
        let pipelined = self.stamp().phase == Phase::Idle;
        self.change(|_| Some(Phase::Body), pipelined);
    }

    /// The answer is there and goes out.
    pub(crate) fn answered(&self, closes: bool) {
        self.change(|_| Some(if closes { Phase::Closing } else { Phase::Idle }), true);
    }

    /// It has ended by itself.
    pub(crate) fn ended(&self) {
        self.change(|_| Some(Phase::Cut), false);
    }

    /// Cuts the connection if it may still yield and `since` is still its time. Returns whether it did.
    pub(crate) fn cut_if(&self, since: u64, is_due: impl Fn(Phase) -> bool) -> bool {
        let cut = self.stamp.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let stamp = Stamp::unpack(word);
            let due = stamp.since == since && stamp.phase.may_yield() && is_due(stamp.phase);
            due.then_some(Stamp { phase: Phase::Cut, ..stamp }.pack())
        });
        if cut.is_ok() {
            self.cut.notify_one();
        }
        cut.is_ok()
    }

    /// For tests of time, which then need not pass.
    #[cfg(test)]
    pub(crate) fn put(&self, phase: Phase, since: u64) {
        self.stamp.store(Stamp { phase, since }.pack(), Ordering::Relaxed);
    }

    /// Goes to the phase that `next` names, unless it is cut. With `anew`, its time begins now.
    fn change(&self, next: impl Fn(Phase) -> Option<Phase>, anew: bool) {
        let now = if anew { Some(millis_since(self.origin)) } else { None };
        // An error means that there was nothing to change.
        _ = self.stamp.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let stamp = Stamp::unpack(word);
            let phase = if stamp.phase == Phase::Cut { None } else { next(stamp.phase) }?;
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
    fn a_stamp_is_what_was_packed() {
        for phase in Phase::ALL {
            let stamp = Stamp { phase, since: 86_400_000 };
            assert_eq!(Stamp::unpack(stamp.pack()), stamp);
        }
    }

    #[test]
    fn a_request_whose_first_byte_came_is_not_cut_as_idle() {
        let connection = Connection::new(Instant::now());
        connection.request_began();
        connection.answered(false);
        let idle = connection.stamp();
        assert_eq!(idle.phase, Phase::Idle);
        connection.bytes_came();
        assert!(!connection.cut_if(idle.since, |phase| phase == Phase::Idle));
        assert_eq!(connection.stamp().phase, Phase::Head);
    }

    #[test]
    fn a_request_that_is_being_answered_never_yields_and_a_cut_one_stays_cut() {
        let connection = Connection::new(Instant::now());
        connection.answering();
        assert!(!connection.cut_if(connection.stamp().since, |_| true));
        connection.answered(true);
        assert!(connection.cut_if(connection.stamp().since, |_| true));
        for change in [Connection::bytes_came, Connection::request_began, Connection::answering] {
            change(&connection);
            assert_eq!(connection.stamp().phase, Phase::Cut);
        }
    }
}
