//! The queue in memory.
//!
//! One due time per message answers every question about time: a message is ready once it is due. A lease
//! moves the due time to the end of the lease, a retry to the end of the backoff. A message that is due and
//! still marked as leased has lost its worker.

mod admin;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{
    Consumer, DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetterPosition, Discard, Enqueued, Lease,
    LeaseRequest, LeaseToken, MessageState, Producer, QueueError, QueueStats, QueuedMessage, Settled,
    Settlement,
};
use rollbook_core::retry::Failure;
use rollbook_core::time::{Clock, Timestamp};
use rollbook_core::trace::Traceparent;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::conformance::queue::DUE_WITHIN;

/// A queue in memory. Share it in an [`Arc`]. Waiting lease calls wake when a message arrives, is settled or
/// becomes due.
pub struct MemoryQueue {
    depth_max: u64,
    /// Maximum time until a due time. A due time further ahead comes from a clock that was wrong.
    due_ahead_max: Duration,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    messages: BTreeMap<MessageId, Message>,
    dead: BTreeMap<DeadLetterPosition, DeadLetter>,
    discards: Vec<(MessageId, Discard)>,
    /// Messages and tokens of the last answer to each lane.
    requests: BTreeMap<u32, (u64, Vec<(MessageId, LeaseToken)>)>,
    /// Counter for everything that must be unique: arrivals, tokens, positions.
    last_number: i64,
}

struct Message {
    received_at: Timestamp,
    traceparent: Option<Traceparent>,
    body: Bytes,
    due_at: Timestamp,
    /// Order of arrival. It decides between messages with the same due time: first in, first out.
    arrival: i64,
    attempts: u32,
    unsettled: u32,
    leased: Option<LeaseToken>,
    corrupt: bool,
}

impl Message {
    fn new(delivery: Delivery, now: Timestamp, arrival: i64) -> Self {
        let Delivery { id: _, received_at, traceparent, body } = delivery;
        let (attempts, unsettled, leased, corrupt) = (0, 0, None, false);
        Self { received_at, traceparent, body, due_at: now, arrival, attempts, unsettled, leased, corrupt }
    }

    fn state(&self, now: Timestamp) -> MessageState {
        match (self.due_at <= now, &self.leased) {
            (true, _) => MessageState::Waiting,
            (false, Some(_)) => MessageState::Leased { until: self.due_at },
            (false, None) => MessageState::Delayed { until: self.due_at },
        }
    }

    fn show(&self, id: &MessageId, now: Timestamp) -> QueuedMessage {
        QueuedMessage {
            id: id.clone(),
            received_at: self.received_at,
            traceparent: self.traceparent,
            attempts: self.attempts,
            state: self.state(now),
            body: self.body.clone(),
        }
    }

    fn lease(&mut self, id: &MessageId, token: LeaseToken, due_at: Timestamp) -> Lease {
        if self.leased.is_some() {
            self.unsettled += 1;
        }
        self.due_at = due_at;
        self.leased = Some(token.clone());
        self.show_lease(id, token)
    }

    fn show_lease(&self, id: &MessageId, token: LeaseToken) -> Lease {
        Lease {
            token,
            id: id.clone(),
            attempt: self.attempts + 1,
            unsettled: self.unsettled,
            received_at: self.received_at,
            traceparent: self.traceparent,
            body: self.body.clone(),
            unreadable: self.corrupt.then(|| "the queue's entry can't be read back".to_owned()),
        }
    }
}

impl MemoryQueue {
    /// Creates an empty queue with room for `depth_max` messages, dead letters not counted.
    pub fn new(depth_max: u64, clock: Arc<dyn Clock>) -> Self {
        let due_ahead_max = DUE_WITHIN;
        Self { depth_max, due_ahead_max, clock, state: Mutex::default(), changed: Notify::new() }
    }

    /// Sets the maximum length of leases and backoffs.
    #[must_use]
    pub fn with_due_within(self, due_ahead_max: Duration) -> Self {
        Self { due_ahead_max, ..self }
    }

    /// Damages the entry of a queued message: its next lease reports that it cannot be read. Returns whether
    /// there is such a message.
    pub fn corrupt(&self, id: &MessageId) -> bool {
        self.state().messages.get_mut(id).map(|message| message.corrupt = true).is_some()
    }

    /// Returns the ids of all messages that are not settled, sorted.
    pub fn message_ids(&self) -> Vec<MessageId> {
        self.state().messages.keys().cloned().collect()
    }

    /// Returns all dead letters, oldest first.
    pub fn dead(&self) -> Vec<DeadLetter> {
        self.state().dead.values().cloned().collect()
    }

    /// Leases exactly `ids` if that is a correct answer to a lease of at most `max`: as many as possible,
    /// none due later than one that remains, earliest first. Used to compare an engine with this model where
    /// the port leaves the order of equal due times open.
    pub fn lease_these(&self, ids: &[MessageId], max: usize, lease_for: Duration) -> Option<Vec<Lease>> {
        let now = self.clock.now();
        let mut state = self.state();
        let mut due: Vec<Timestamp> = state.due(now).iter().map(|id| state.messages[id].due_at).collect();
        due.truncate(max);
        let is_due = |id: &MessageId| state.messages.get(id).map(|message| message.due_at);
        let given: Option<Vec<Timestamp>> = ids.iter().map(is_due).collect();
        let distinct = ids.iter().collect::<BTreeSet<_>>().len() == ids.len();
        (distinct && given? == due).then(|| state.lease(ids, now.plus(lease_for)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease_now(&self, request: &LeaseRequest) -> Vec<Lease> {
        let now = self.clock.now();
        let mut state = self.state();
        let due_at = now.plus(request.lease_for);
        state.correct(now, self.due_ahead_max, due_at);
        let leases = match state.repeated(request, now) {
            leases if leases.is_empty() => {
                let mut ids = state.due(now);
                let fitting = state.fitting(&ids, request);
                ids.truncate(fitting);
                state.lease(&ids, due_at)
            }
            leases => leases,
        };
        let given = leases.iter().map(|lease| (lease.id.clone(), lease.token.clone())).collect();
        state.requests.insert(request.id.lane, (request.id.number, given));
        leases
    }

    /// Returns the time until the next message is due, if there is one.
    fn next_due_after(&self) -> Option<Duration> {
        let now = self.clock.now();
        self.state().messages.values().map(|message| message.due_at.since(now)).min()
    }
}

impl State {
    fn next_number(&mut self) -> i64 {
        self.last_number += 1;
        self.last_number
    }

    /// Corrects due times that are too far in the future because the clock was ahead.
    fn correct(&mut self, now: Timestamp, due_ahead_max: Duration, leased_until: Timestamp) {
        let furthest = now.plus(due_ahead_max).max(leased_until);
        for message in self.messages.values_mut().filter(|message| message.due_at > furthest) {
            message.due_at = if message.leased.is_some() { leased_until } else { now };
        }
    }

    /// Returns the ids of the messages that are due, oldest due first.
    fn due(&self, now: Timestamp) -> Vec<MessageId> {
        let mut due: Vec<_> = self.messages.iter().filter(|(_, message)| message.due_at <= now).collect();
        due.sort_by_key(|(_, message)| (message.due_at, message.arrival));
        due.into_iter().map(|(id, _)| id.clone()).collect()
    }

    fn lease(&mut self, ids: &[MessageId], due_at: Timestamp) -> Vec<Lease> {
        let mut leases = Vec::with_capacity(ids.len());
        for id in ids {
            let token = LeaseToken(self.next_number().to_string());
            if let Some(message) = self.messages.get_mut(id) {
                leases.push(message.lease(id, token, due_at));
            }
        }
        leases
    }

    /// Returns how many of `ids`, in this order, fit into the request.
    fn fitting(&self, ids: &[MessageId], request: &LeaseRequest) -> usize {
        let mut bytes = 0;
        let fits = |id: &&MessageId| {
            let is_first = bytes == 0;
            bytes += self.messages[*id].body.len().max(1);
            is_first || bytes <= request.bytes_max
        };
        ids.iter().take(request.max).take_while(fits).count()
    }

    /// Returns the leases that this same request got before and still holds. Those that no longer fit are
    /// released.
    fn repeated(&mut self, request: &LeaseRequest, now: Timestamp) -> Vec<Lease> {
        let Some((number, given)) = self.requests.get(&request.id.lane) else { return Vec::new() };
        if *number != request.id.number {
            return Vec::new();
        }
        let mut held = given.clone();
        held.retain(|(id, token)| {
            self.messages.get(id).is_some_and(|held| held.leased.as_ref() == Some(token) && held.due_at > now)
        });
        let ids: Vec<MessageId> = held.iter().map(|(id, _)| id.clone()).collect();
        let rest = held.split_off(self.fitting(&ids, request));
        for (id, _) in rest {
            if let Some(message) = self.messages.get_mut(&id) {
                (message.leased, message.due_at) = (None, now);
            }
        }
        held.into_iter().map(|(id, token)| self.messages[&id].show_lease(&id, token)).collect()
    }

    /// Returns the message of a valid lease. A lease that expired stays valid until another worker takes the
    /// message.
    fn held(&mut self, lease: &Lease) -> Option<&mut Message> {
        self.messages.get_mut(&lease.id).filter(|held| held.leased.as_ref() == Some(&lease.token))
    }

    fn park(&mut self, id: &MessageId, failure: Failure, now: Timestamp) {
        let position = DeadLetterPosition(self.next_number());
        let Some(message) = self.messages.remove(id) else { return };
        let letter = DeadLetter {
            position,
            id: id.clone(),
            received_at: message.received_at,
            traceparent: message.traceparent,
            parked_at: now,
            attempts: message.attempts,
            failure,
            body: message.body,
        };
        self.dead.insert(position, letter);
    }

    fn settle(&mut self, lease: &Lease, settlement: Settlement, now: Timestamp) -> Settled {
        let Some(message) = self.held(lease) else { return Settled::LeaseLost };
        message.leased = None;
        message.attempts = lease.attempt;
        match settlement {
            Settlement::Ack => drop(self.messages.remove(&lease.id)),
            Settlement::Retry { after, .. } => {
                message.due_at = now.plus(after);
                message.unsettled = 0;
            }
            Settlement::DeadLetter { failure } => self.park(&lease.id, failure, now),
            Settlement::Release => {
                message.due_at = now;
                message.attempts -= 1;
            }
            Settlement::Postpone { after } => {
                message.due_at = now.plus(after);
                message.attempts -= 1;
            }
        }
        Settled::Done
    }

    fn stats(&self, now: Timestamp) -> QueueStats {
        let mut stats = QueueStats { dead: self.dead.len() as u64, ..QueueStats::default() };
        for message in self.messages.values() {
            let count = match message.state(now) {
                MessageState::Waiting => &mut stats.ready,
                MessageState::Leased { .. } => &mut stats.leased,
                MessageState::Delayed { .. } => &mut stats.delayed,
            };
            *count += 1;
        }
        stats.oldest_received_at = self.messages.values().map(|message| message.received_at).min();
        stats
    }

    /// Returns the matching dead letters of the page, and the position of the next step.
    fn step(&self, page: &DeadLetterPage) -> (Vec<DeadLetterPosition>, Option<DeadLetterPosition>) {
        let DeadLetterPage { filter, after, limit } = page;
        let behind = self.dead.values().filter(|letter| after.is_none_or(|after| letter.position > after));
        if filter.id.is_some() {
            // At most one match, found by its id.
            let found = behind.filter(|letter| matches(filter, letter)).take(*limit);
            return (found.map(|letter| letter.position).collect(), None);
        }
        let looked_at: Vec<_> = behind.take(*limit).collect();
        let next = looked_at.last().map(|letter| letter.position).filter(|_| looked_at.len() == *limit);
        let chosen = looked_at.into_iter().filter(|letter| matches(filter, letter));
        (chosen.map(|letter| letter.position).collect(), next)
    }
}

fn matches(filter: &DeadLetterFilter, letter: &DeadLetter) -> bool {
    let DeadLetterFilter { id, event_type, reason, since } = filter;
    id.as_ref().is_none_or(|id| *id == letter.id)
        && event_type.as_ref().is_none_or(|event_type| letter.failure.event_type.as_ref() == Some(event_type))
        && reason.as_ref().is_none_or(|reason| letter.failure.reason.as_str() == reason)
        && since.is_none_or(|since| letter.parked_at >= since)
}

#[async_trait]
impl Producer for MemoryQueue {
    async fn enqueue_many(&self, deliveries: &[Delivery]) -> Vec<Result<Enqueued, QueueError>> {
        let now = self.clock.now();
        let mut state = self.state();
        let mut answers = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            if state.messages.contains_key(&delivery.id) {
                answers.push(Ok(Enqueued::Duplicate));
                continue;
            }
            let depth = state.messages.len() as u64;
            if depth >= self.depth_max {
                answers.push(Err(QueueError::Full { depth, limit: self.depth_max }));
                continue;
            }
            state.dead.retain(|_, letter| letter.id != delivery.id);
            let message = Message::new(delivery.clone(), now, state.next_number());
            state.messages.insert(delivery.id.clone(), message);
            answers.push(Ok(Enqueued::Queued));
        }
        self.changed.notify_waiters();
        answers
    }
}

#[async_trait]
impl Consumer for MemoryQueue {
    async fn lease(&self, request: LeaseRequest) -> Result<Vec<Lease>, QueueError> {
        let give_up_at = Instant::now() + request.wait;
        loop {
            // Listening begins before the check: a message that arrives in between is not missed.
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let leases = self.lease_now(&request);
            let now = Instant::now();
            if !leases.is_empty() || now >= give_up_at {
                return Ok(leases);
            }
            let due_after = self.next_due_after().unwrap_or(request.wait).max(Duration::from_millis(1));
            // The next iteration checks again, whether woken or timed out.
            _ = tokio::time::timeout_at(give_up_at.min(now + due_after), changed).await;
        }
    }

    async fn count_attempt(&self, lease: &Lease) -> Result<Settled, QueueError> {
        let mut state = self.state();
        let Some(message) = state.held(lease) else { return Ok(Settled::LeaseLost) };
        message.attempts = lease.attempt;
        Ok(Settled::Done)
    }

    async fn settle_many(&self, settlements: &[(Lease, Settlement)]) -> Vec<Result<Settled, QueueError>> {
        let now = self.clock.now();
        let mut state = self.state();
        let settle =
            |(lease, settlement): &(Lease, Settlement)| Ok(state.settle(lease, settlement.clone(), now));
        let answers = settlements.iter().map(settle).collect();
        self.changed.notify_waiters();
        answers
    }
}
