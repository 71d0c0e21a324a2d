//! Rules of a forward, as a pure state machine: which change is sent next, what an answer does, and what may be saved.
//!
//! A subject has a queue of changes in the order of the feed, and at most one of them is being sent. Once its first change
//! has failed, the subject is *blocked*: its changes are recorded with the next save, so that the position can pass them,
//! and the first is tried again after a backoff. All others go on. After the last attempt the first change becomes a dead
//! letter. Once that is saved, the next one is sent: a kill in between must not bring the first one back behind it.
//!
//! An attempt counts if the receiver has accepted another change since the attempt before began. While it accepts nothing,
//! it is down, and no change is to blame; its first answer 2xx ends the backoff of those changes. A change that nothing
//! can prove to be the cause becomes a dead letter after `give_up_after`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use rollbook_core::store::{ChangeLine, ForwardChange, ForwardProgress, ForwardState, Position};
use rollbook_core::time::Timestamp;

use crate::limits::Limits;
use crate::verdict::Verdict;

#[cfg(test)]
mod histories;
#[cfg(test)]
mod tests;

/// Table and id of a row.
type Subject = Arc<(String, String)>;

/// State of a forward in memory.
#[derive(Debug)]
pub(crate) struct Board {
    limits: Limits,
    queues: HashMap<Subject, Queue>,
    /// Subjects with a first change that can be sent, by the time from which it can and its position.
    due: BTreeSet<(Timestamp, Position, Subject)>,
    /// Positions that were read and are neither settled nor recorded.
    fresh: BTreeSet<Position>,
    /// Recorded changes after the position: the feed is read again from there, and they are known already.
    known: BTreeSet<Position>,
    read_through: Position,
    waiting: usize,
    blocked: usize,
    failed: u64,
    /// Number of changes that the receiver accepted.
    accepted: u64,
    /// Whether changes failed without a proof that the receiver is up.
    is_in_doubt: bool,
    paused_until: Option<Timestamp>,
    /// Changes to record or replace with the next save.
    recorded: BTreeMap<Position, ForwardChange>,
    /// Recorded changes to remove with the next save.
    removed: BTreeSet<Position>,
    /// Subjects that wait for the next save.
    held: Vec<Subject>,
}

/// Changes of one subject.
#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    is_sending: bool,
    /// Whether the first change has failed.
    is_blocked: bool,
    /// Whether nothing is sent before the next save.
    is_held: bool,
}

#[derive(Debug)]
struct Item {
    change: ForwardChange,
    /// Whether the store has it, or gets it with the next save.
    is_recorded: bool,
    /// Number of accepted changes when the last attempt began.
    accepted_before: Option<u64>,
    /// Whether the last failure did not count.
    is_in_doubt: bool,
}

fn subject_of(line: &ChangeLine) -> Subject {
    Arc::new((line.resource.clone(), line.subject_id.clone()))
}

impl Board {
    /// A board at a position, with the number of dead letters.
    pub(crate) fn new(limits: Limits, position: Position, failed: u64) -> Self {
        Self {
            limits,
            queues: HashMap::new(),
            due: BTreeSet::new(),
            fresh: BTreeSet::new(),
            known: BTreeSet::new(),
            read_through: position,
            waiting: 0,
            blocked: 0,
            failed,
            accepted: 0,
            is_in_doubt: false,
            paused_until: None,
            recorded: BTreeMap::new(),
            removed: BTreeSet::new(),
            held: Vec::new(),
        }
    }

    /// Adds a change that the store has recorded. They come in the order of their positions.
    pub(crate) fn restore(&mut self, change: ForwardChange) {
        let position = change.line.position;
        if position > self.read_through {
            self.known.insert(position);
        }
        if change.state == ForwardState::Waiting {
            // Whether the receiver was up when it failed is not recorded: the first change that it accepts makes it due.
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
            if line.position <= self.read_through || self.known.remove(&line.position) {
                continue;
            }
            let position = line.position;
            let change = ForwardChange {
                state: ForwardState::Waiting,
                tries: 0,
                attempts: 0,
                failed_at: None,
                next_try_at: now,
                last_error: None,
                line,
            };
            self.fresh.insert(position);
            self.add(Item { change, is_recorded: false, accepted_before: None, is_in_doubt: false });
        }
        self.read_through = self.read_through.max(through);
        let read_through = self.read_through;
        self.known.retain(|position| *position > read_through);
    }

    /// Adds a change at its place. It is the last of its subject, unless the feed is read again after a restart.
    fn add(&mut self, item: Item) {
        let subject = subject_of(&item.change.line);
        let position = item.change.line.position;
        self.waiting += usize::from(item.is_recorded);
        let queue = self.queues.entry(Arc::clone(&subject)).or_default();
        let before = queue.items.iter().rposition(|known| known.change.line.position < position);
        let index = before.map_or(0, |index| index + 1).max(usize::from(queue.is_sending));
        if let Some(first) = queue.items.front().filter(|_| index == 0) {
            let first = &first.change;
            self.due.remove(&(first.next_try_at, first.line.position, Arc::clone(&subject)));
        }
        queue.items.insert(index, item);
        if index == 0 {
            self.offer(&subject);
        } else if queue.is_blocked {
            self.record_all(&subject);
        }
    }

    /// Makes the first change of a subject that is not being sent due at its time.
    fn offer(&mut self, subject: &Subject) {
        let Some(queue) = self.queues.get_mut(subject).filter(|queue| !queue.is_held) else { return };
        let Some(first) = queue.items.front() else {
            self.queues.remove(subject);
            return;
        };
        let is_blocked = first.is_recorded;
        self.blocked = self.blocked + usize::from(is_blocked) - usize::from(queue.is_blocked);
        queue.is_blocked = is_blocked;
        self.due.insert((first.change.next_try_at, first.change.line.position, Arc::clone(subject)));
    }

    /// Records all changes of a blocked subject with the next save.
    fn record_all(&mut self, subject: &Subject) {
        let Some(queue) = self.queues.get_mut(subject) else { return };
        for item in queue.items.iter_mut().filter(|item| !item.is_recorded) {
            item.is_recorded = true;
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
        let (at, _, _) = self.due.first()?;
        if *at > now {
            return None;
        }
        let (_, _, subject) = self.due.pop_first()?;
        let accepted = self.accepted;
        let queue = self.queues.get_mut(&subject)?;
        queue.is_sending = true;
        let first = queue.items.front_mut()?;
        first.accepted_before.get_or_insert(accepted);
        Some(first.change.line.clone())
    }

    /// Time from which [`Self::next`] may have a change; `None` if nothing waits.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        let (at, _, _) = self.due.first()?;
        Some(self.paused_until.map_or(*at, |until| until.max(*at)))
    }

    /// Notes the answer to a change. `jitter` in `0.0..1.0` selects the delay between half of the backoff and all of it.
    pub(crate) fn answered(&mut self, line: &ChangeLine, verdict: &Verdict, now: Timestamp, jitter: f64) {
        let subject = subject_of(line);
        let Some(queue) = self.queues.get_mut(&subject) else { return };
        queue.is_sending = false;
        match verdict {
            Verdict::Accepted => {
                self.accepted += 1;
                self.settle(&subject);
                self.end_doubt(now);
            }
            Verdict::Gone => {}
            Verdict::NotSent => {
                let pause = self.limits.retry.backoff_limit(1);
                if let Some(first) = queue.items.front_mut() {
                    first.change.next_try_at = now.plus(pause);
                }
            }
            _ => self.failed(&subject, verdict, now, jitter),
        }
        self.offer(&subject);
    }

    /// Removes the first change of a subject, which was delivered.
    fn settle(&mut self, subject: &Subject) {
        let Some(item) = self.queues.get_mut(subject).and_then(|queue| queue.items.pop_front()) else {
            return;
        };
        let position = item.change.line.position;
        self.fresh.remove(&position);
        self.recorded.remove(&position);
        if item.is_recorded {
            self.waiting -= 1;
            self.removed.insert(position);
        }
        self.forget_block(subject);
    }

    /// Counts a subject without a change as not blocked.
    fn forget_block(&mut self, subject: &Subject) {
        if let Some(queue) = self.queues.get_mut(subject).filter(|queue| queue.items.is_empty()) {
            self.blocked -= usize::from(std::mem::take(&mut queue.is_blocked));
        }
    }

    fn failed(&mut self, subject: &Subject, verdict: &Verdict, now: Timestamp, jitter: f64) {
        let (limits, accepted) = (self.limits, self.accepted);
        let Some(queue) = self.queues.get_mut(subject) else { return };
        let Some(first) = queue.items.front_mut() else { return };
        let is_limited = matches!(verdict, Verdict::Refused { status: 429, .. });
        let counts = !is_limited && first.accepted_before.is_some_and(|before| accepted > before);
        first.accepted_before = Some(accepted);
        // A limit on requests is not an outage: the backoff holds.
        first.is_in_doubt = !counts && !is_limited;
        self.is_in_doubt |= first.is_in_doubt;
        let change = &mut first.change;
        change.tries = change.tries.saturating_add(1);
        change.attempts = change.attempts.saturating_add(u32::from(counts));
        change.last_error = Some(verdict.reason());
        let failed_at = *change.failed_at.get_or_insert(now);
        let backoff = limits.retry.backoff_limit(change.tries);
        change.next_try_at = now.plus(backoff.mul_f64(f64::midpoint(1.0, jitter.clamp(0.0, 1.0))));
        if let Verdict::Refused { pause: Some(pause), .. } = verdict {
            let until = now.plus(*pause);
            self.paused_until = Some(self.paused_until.map_or(until, |known| known.max(until)));
        }
        if change.attempts >= limits.retry.attempts_max || now.since(failed_at) >= limits.give_up_after {
            self.give_up(subject);
            return;
        }
        self.waiting += usize::from(!std::mem::replace(&mut first.is_recorded, true));
        let change = first.change.clone();
        self.fresh.remove(&change.line.position);
        self.recorded.insert(change.line.position, change);
        self.record_all(subject);
    }

    /// Makes the first change of a subject a dead letter.
    fn give_up(&mut self, subject: &Subject) {
        let Some(mut item) = self.queues.get_mut(subject).and_then(|queue| queue.items.pop_front()) else {
            return;
        };
        let position = item.change.line.position;
        self.waiting -= usize::from(item.is_recorded);
        self.failed += 1;
        self.fresh.remove(&position);
        item.change.state = ForwardState::Failed;
        self.recorded.insert(position, item.change);
        self.forget_block(subject);
        if let Some(queue) = self.queues.get_mut(subject) {
            queue.is_held = true;
            self.held.push(Arc::clone(subject));
        }
    }

    /// The receiver accepts changes again: those that failed without a proof against them are due at once.
    fn end_doubt(&mut self, now: Timestamp) {
        if !std::mem::take(&mut self.is_in_doubt) {
            return;
        }
        for (subject, queue) in &mut self.queues {
            if let Some(first) = queue.items.front_mut().filter(|first| first.is_in_doubt) {
                first.is_in_doubt = false;
                let position = first.change.line.position;
                let before = (first.change.next_try_at, position, Arc::clone(subject));
                if !queue.is_sending && self.due.remove(&before) {
                    first.change.next_try_at = now.min(first.change.next_try_at);
                    self.due.insert((first.change.next_try_at, position, Arc::clone(subject)));
                }
            }
        }
    }

    /// Number of dead letters.
    pub(crate) const fn dead_letters(&self) -> u64 {
        self.failed
    }

    /// Position after which the feed is read on.
    pub(crate) const fn read_through(&self) -> Position {
        self.read_through
    }

    /// Whether more of the feed may be read.
    pub(crate) fn wants_more(&self) -> bool {
        self.full().is_none() && self.fresh.len() < self.limits.fresh_max
    }

    /// Reason why no more is read until an operator or the receiver does something.
    pub(crate) fn full(&self) -> Option<String> {
        let Limits { blocked_max, waiting_max, failed_max, .. } = self.limits;
        if self.blocked >= blocked_max {
            return Some(format!("{} subjects are blocked (blocked_max)", self.blocked));
        }
        if self.waiting >= waiting_max {
            return Some(format!("{} changes of blocked subjects wait", self.waiting));
        }
        (self.failed >= failed_max).then(|| format!("there are {} dead letters", self.failed))
    }

    /// Progress to save. [`Self::saved`] must follow if it was saved, and nothing else before.
    pub(crate) fn progress(&self, now: Timestamp) -> ForwardProgress {
        ForwardProgress {
            position: self.position(),
            stopped: None,
            recorded: self.recorded.values().cloned().collect(),
            removed: self.removed.iter().copied().collect(),
            saved_at: now,
        }
    }

    /// Notes that the last progress was saved.
    pub(crate) fn saved(&mut self) {
        self.recorded.clear();
        self.removed.clear();
        for subject in std::mem::take(&mut self.held) {
            if let Some(queue) = self.queues.get_mut(&subject) {
                queue.is_held = false;
            }
            self.offer(&subject);
        }
    }

    /// Position up to which every change is settled.
    pub(crate) fn position(&self) -> Position {
        self.fresh.first().map_or(self.read_through, |first| first - 1)
    }

    /// Whether there is something to save but the position.
    pub(crate) fn has_records(&self) -> bool {
        !self.recorded.is_empty() || !self.removed.is_empty()
    }
}
