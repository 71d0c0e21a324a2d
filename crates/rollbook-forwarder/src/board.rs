//! Rules of a forward, as a pure state machine: which change is sent next, what an answer does, and what may be saved.
//!
//! The changes of a subject are sent in the order of the feed, one at a time. Once its first change
//! has failed, the subject is *blocked*: its changes are recorded with the next save, so that the position can pass them,
//! and the first is tried again after a backoff. All others go on: first attempts and retries each have room of their own.
//! After the last attempt the first change becomes a dead letter. Once that is saved, the next one is sent: a kill in between
//! must not bring the first one back behind it.
//!
//! A subject with many changes at a slow endpoint keeps a few of them open (in memory, not recorded), and the others are
//! recorded too. Where the limit of recorded changes, blocked subjects or dead letters is reached, a change stays open
//! instead, and is tried again from memory: the limits are exact.
//!
//! An attempt counts if the endpoint has accepted another change since the attempt before began. While it accepts nothing,
//! it is down, and no change is to blame; its first answer 2xx ends the backoff of those changes. A change that nothing
//! can prove to be the cause becomes a dead letter after `give_up_after`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use rollbook_core::store::{ChangeLine, Forward, ForwardChange, ForwardState, Position};
use rollbook_core::time::Timestamp;

use self::due::Due;
use self::subject_changes::{Item, Subject, SubjectChanges, subject_of};
use crate::limits::Limits;
use crate::verdict::{RETRY_AFTER_MAX, Verdict};

mod due;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod limit_tests;
mod room;
mod saving;
mod subject_changes;
#[cfg(test)]
mod tests;

/// State of a forward in memory.
#[derive(Debug)]
pub(crate) struct Board {
    limits: Limits,
    by_subject: HashMap<Subject, SubjectChanges>,
    due: Due,
    /// Positions that were read and are neither settled nor recorded.
    fresh: BTreeSet<Position>,
    /// Recorded changes after the position: the feed is read again from there, and they are known already.
    known: BTreeSet<Position>,
    read_through: Position,
    /// Lines that an earlier turn had read.
    earlier: Earlier,
    waiting: u64,
    blocked: usize,
    failed: u64,
    /// Number of changes that the endpoint accepted.
    accepted: u64,
    /// Whether changes failed without a proof that the endpoint is up.
    is_in_doubt: bool,
    paused_until: Option<Timestamp>,
    /// Changes to record or replace with the next save.
    recorded: BTreeMap<Position, ForwardChange>,
    /// Recorded changes to remove with the next save.
    removed: BTreeSet<Position>,
    /// Subjects that wait for the next save.
    held: Vec<Subject>,
    /// Subjects that wait until earlier lines are read again, with the position of their first change.
    deferred: BTreeSet<(Position, Subject)>,
    /// Whether there is something to save.
    has_news: bool,
}

/// Lines that an earlier turn had read: up to `through`, and those that were open and are not yet read again.
#[derive(Debug, Default)]
struct Earlier {
    through: Position,
    open: BTreeSet<Position>,
}

impl Board {
    /// A board of a forward as the store has it. Its recorded changes follow with [`Self::restore`].
    pub(crate) fn new(limits: Limits, forward: &Forward, now: Timestamp) -> Self {
        let earlier = forward.open_changes.clone().unwrap_or_default();
        // The clock may have been ahead when the pause was saved.
        let paused_until = forward.paused_until.map(|until| until.min(now.plus(RETRY_AFTER_MAX)));
        Self {
            limits,
            by_subject: HashMap::new(),
            due: Due::default(),
            fresh: BTreeSet::new(),
            known: BTreeSet::new(),
            read_through: forward.position,
            earlier: Earlier { through: earlier.through, open: earlier.open.into_iter().collect() },
            waiting: 0,
            blocked: 0,
            failed: forward.failed,
            accepted: 0,
            is_in_doubt: false,
            paused_until,
            recorded: BTreeMap::new(),
            removed: BTreeSet::new(),
            held: Vec::new(),
            deferred: BTreeSet::new(),
            has_news: false,
        }
    }

    /// Adds a change that the store has recorded. They come in the order of their positions.
    pub(crate) fn restore(&mut self, mut change: ForwardChange, now: Timestamp) {
        let position = change.line.position;
        if position > self.read_through {
            self.known.insert(position);
        }
        if change.state == ForwardState::Waiting {
            // The clock may have been ahead when it was saved.
            let backoff = self.limits.retry.backoff_limit(change.tries.max(1));
            change.next_try_at = change.next_try_at.min(now.plus(backoff));
            // Whether the endpoint was up when it failed is not recorded: the first change that it accepts makes it due.
            self.is_in_doubt = true;
            self.add(Item { change, is_recorded: true, accepted_before: None, is_in_doubt: true });
        }
    }

    /// Adds what was read of the feed: selected lines, and the position up to which it was read.
    pub(crate) fn read(
        &mut self,
        lines: impl IntoIterator<Item = ChangeLine>,
        through: Position,
        now: Timestamp,
    ) {
        for line in lines {
            let position = line.position;
            let is_settled = position <= self.earlier.through && !self.earlier.open.contains(&position);
            if position <= self.read_through || self.known.remove(&position) || is_settled {
                continue;
            }
            self.fresh.insert(position);
            self.add(Item::fresh(line, now));
        }
        let read_through = self.read_through.max(through);
        self.has_news |= read_through > self.read_through;
        self.read_through = read_through;
        self.known.retain(|position| *position > read_through);
        self.earlier.open.retain(|position| *position > read_through);
        while self.deferred.first().is_some_and(|(position, _)| !self.is_early(*position)) {
            if let Some((_, subject)) = self.deferred.pop_first() {
                self.offer(&subject);
            }
        }
    }

    /// Whether an earlier change of the same subject may be among the lines that have to be read again.
    fn is_early(&self, position: Position) -> bool {
        let Earlier { through, open } = &self.earlier;
        let is_known = position <= *through && open.first().is_none_or(|open| *open > position);
        position > self.read_through && !is_known
    }

    fn add(&mut self, item: Item) {
        let subject = subject_of(&item.change.line);
        let of_subject = self.by_subject.entry(Arc::clone(&subject)).or_default();
        if item.is_recorded {
            self.waiting += 1;
            self.blocked += usize::from(of_subject.recorded == 0);
        }
        if let Some(first) = of_subject.items.front() {
            self.due.remove(first, &subject);
        }
        of_subject.insert(item);
        let is_blocked =
            of_subject.items.front().is_some_and(|first| first.is_recorded || first.change.tries > 0);
        let from = if is_blocked { 0 } else { self.limits.fresh_of_subject_max };
        self.record(&subject, from);
        self.offer(&subject);
    }

    /// Makes the first change of a subject that is not being sent due at its time.
    fn offer(&mut self, subject: &Subject) {
        let Some(of_subject) = self.by_subject.get(subject).filter(|of_subject| !of_subject.is_held) else {
            return;
        };
        if of_subject.sending.is_some() {
            return;
        }
        let Some(first) = of_subject.items.front() else {
            self.by_subject.remove(subject);
            return;
        };
        let position = first.change.line.position;
        if self.is_early(position) {
            self.deferred.insert((position, Arc::clone(subject)));
        } else {
            self.due.insert(first, subject);
        }
    }

    /// Records changes of a subject with the next save, from this one of its list on, as far as there is room.
    fn record(&mut self, subject: &Subject, from: usize) {
        let Some(of_subject) = self.by_subject.get_mut(subject) else { return };
        let Limits { waiting_max, blocked_max, .. } = self.limits;
        for item in of_subject.items.iter_mut().skip(from).filter(|item| !item.is_recorded) {
            let has_room =
                self.waiting < waiting_max && (of_subject.recorded > 0 || self.blocked < blocked_max);
            if !has_room {
                return;
            }
            item.is_recorded = true;
            self.blocked += usize::from(of_subject.recorded == 0);
            of_subject.recorded += 1;
            self.waiting += 1;
            self.fresh.remove(&item.change.line.position);
            self.recorded.insert(item.change.line.position, item.change.clone());
        }
    }

    /// Takes the next change to send. The answer to it must be given to [`Self::answered`].
    pub(crate) fn next(&mut self, now: Timestamp) -> Option<ChangeLine> {
        if self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        let (request, subject) = self.due.begin(&self.limits, now)?;
        let accepted = self.accepted;
        let of_subject = self.by_subject.get_mut(&subject)?;
        of_subject.sending = Some(request);
        let first = of_subject.items.front_mut()?;
        first.accepted_before.get_or_insert(accepted);
        Some(first.change.line.clone())
    }

    /// Notes whether rows in requests take so much memory that no request may exceed `concurrency`.
    pub(crate) const fn set_tight(&mut self, is_tight: bool) {
        self.due.set_tight(is_tight);
    }

    /// Time from which [`Self::next`] may have a change without another answer; `None` if it will have none.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        let at = self.due.next_at(&self.limits)?;
        Some(self.paused_until.map_or(at, |until| until.max(at)))
    }

    /// Notes the answer to a change. `jitter` in `0.0..1.0` selects the delay between half of the backoff and all of it.
    pub(crate) fn answered(&mut self, line: &ChangeLine, verdict: &Verdict, now: Timestamp, jitter: f64) {
        let subject = subject_of(line);
        let Some(of_subject) = self.by_subject.get_mut(&subject) else { return };
        if let Some(request) = of_subject.sending.take() {
            self.due.end(request, *verdict == Verdict::Accepted, now);
        }
        match verdict {
            Verdict::Accepted => {
                self.accepted += 1;
                self.settle(&subject);
                self.end_doubt(now);
            }
            Verdict::Gone | Verdict::Postponed => {}
            _ => self.failed(&subject, verdict, now, jitter),
        }
        self.offer(&subject);
    }

    /// Removes the first change of a subject from its list.
    fn take_first(&mut self, subject: &Subject) -> Option<Item> {
        let of_subject = self.by_subject.get_mut(subject)?;
        let item = of_subject.items.pop_front()?;
        self.has_news = true;
        self.fresh.remove(&item.change.line.position);
        if item.is_recorded {
            self.waiting -= 1;
            of_subject.recorded -= 1;
            self.blocked -= usize::from(of_subject.recorded == 0);
        }
        Some(item)
    }

    /// Removes the first change of a subject, which was delivered.
    fn settle(&mut self, subject: &Subject) {
        let Some(item) = self.take_first(subject) else { return };
        let position = item.change.line.position;
        self.recorded.remove(&position);
        if item.is_recorded {
            self.removed.insert(position);
        }
    }

    fn failed(&mut self, subject: &Subject, verdict: &Verdict, now: Timestamp, jitter: f64) {
        let (Limits { retry, give_up_after, failed_max, .. }, accepted) = (self.limits, self.accepted);
        let Some(first) =
            self.by_subject.get_mut(subject).and_then(|of_subject| of_subject.items.front_mut())
        else {
            return;
        };
        let is_limited = matches!(verdict, Verdict::Refused { status: 429, .. });
        let counts = !is_limited && first.accepted_before.is_some_and(|before| accepted > before);
        first.accepted_before = Some(accepted);
        // A limit on requests is not an outage: the backoff holds.
        first.is_in_doubt = !counts && !is_limited;
        self.is_in_doubt |= first.is_in_doubt;
        self.has_news = true;
        let change = &mut first.change;
        change.tries = change.tries.saturating_add(1);
        change.attempts = change.attempts.saturating_add(u32::from(counts));
        change.last_error = Some(verdict.reason());
        let failed_at = *change.failed_at.get_or_insert(now);
        let backoff = retry.backoff_limit(change.tries);
        change.next_try_at = now.plus(backoff.mul_f64(f64::midpoint(1.0, jitter.clamp(0.0, 1.0))));
        if let Verdict::Refused { pause: Some(pause), .. } = verdict {
            let until = now.plus(*pause);
            self.paused_until = Some(self.paused_until.map_or(until, |known| known.max(until)));
        }
        // The clock may have stepped between two processes: the time alone proves nothing.
        let is_old = change.tries >= retry.attempts_max && now.since(failed_at) >= give_up_after;
        if (change.attempts >= retry.attempts_max || is_old) && self.failed < failed_max {
            self.give_up(subject);
            return;
        }
        if first.is_recorded {
            let change = first.change.clone();
            self.recorded.insert(change.line.position, change);
        }
        self.record(subject, 0);
    }

    /// Makes the first change of a subject a dead letter.
    fn give_up(&mut self, subject: &Subject) {
        let Some(mut item) = self.take_first(subject) else { return };
        self.failed += 1;
        item.change.state = ForwardState::Failed;
        self.recorded.insert(item.change.line.position, item.change);
        if let Some(of_subject) = self.by_subject.get_mut(subject) {
            of_subject.is_held = true;
            self.held.push(Arc::clone(subject));
        }
    }

    /// The endpoint accepts changes again: those that failed without a proof against them are due at once.
    fn end_doubt(&mut self, now: Timestamp) {
        if !std::mem::take(&mut self.is_in_doubt) {
            return;
        }
        for (subject, of_subject) in &mut self.by_subject {
            if let Some(first) = of_subject.items.front_mut().filter(|first| first.is_in_doubt) {
                first.is_in_doubt = false;
                let is_waiting = of_subject.sending.is_none() && self.due.remove(first, subject);
                if is_waiting {
                    first.change.next_try_at = now.min(first.change.next_try_at);
                    self.due.insert(first, subject);
                }
            }
        }
    }

    /// Ends a pause that is over, so that it is not saved any more.
    pub(crate) fn end_pause(&mut self, now: Timestamp) {
        self.paused_until = self.paused_until.filter(|until| now < *until);
    }

    /// Number of dead letters.
    pub(crate) const fn dead_letters(&self) -> u64 {
        self.failed
    }
}
