//! Lease of messages.
//!
//! The cost of a lease depends only on the leased messages, not on how many wait in which state: messages
//! that are due again are found by the index on the due time, new ones follow `leased_to`, and only bodies of
//! leased messages are read.

use std::time::Duration;

use bytes::Bytes;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{Lease, LeaseRequest, LeaseToken};
use rollbook_core::time::Timestamp;
use rollbook_core::trace::Traceparent;
use rusqlite::{Connection, Row};

use super::{Counters, traceparent};

/// Format of stored bodies: as received. There is no other one yet.
const FORMAT: i64 = 1;
/// Maximum messages after `leased_to` that one lease skips because they were leased before. An earlier build
/// put hundreds of thousands of redriven messages there.
const PASSED_MAX: usize = 10_000;
/// Maximum due times that one lease corrects.
const CORRECTED_MAX: usize = 1_000;

/// Result of a search for due messages.
pub(super) struct Taken {
    /// The leases.
    pub(super) leases: Vec<Lease>,
    /// Time at which the next message will be due, if none was.
    pub(super) next_due_at: Option<Timestamp>,
}

/// Leases due messages, oldest due first, within the limits of the request.
pub(super) fn take(
    connection: &Connection,
    request: &LeaseRequest,
    now: Timestamp,
    due_ahead_max: Duration,
) -> rusqlite::Result<Taken> {
    let before = Counters::read(connection)?;
    let mut counters = before.clone();
    correct(connection, request, now, due_ahead_max)?;
    let found = due(connection, request, now, &mut counters)?;
    if found.chosen.is_empty() {
        if counters != before {
            counters.write(connection)?;
        }
        let mut next = connection.prepare_cached("SELECT min(due_at) FROM leases")?;
        let next_due_at: Option<i64> = next.query_row([], |row| row.get(0))?;
        let next_due_at = if found.is_cut_short { Some(now.as_millis()) } else { next_due_at };
        return Ok(Taken { leases: Vec::new(), next_due_at: next_due_at.map(Timestamp::from_millis) });
    }
    counters.token += 1;
    let token = counters.token;
    let until = now.plus(request.lease_for).as_millis();
    let mut whole = connection.prepare_cached(
        "SELECT CAST(id AS BLOB), messages.received_at, format, body, traceparent,
                coalesce(attempts, 0), coalesce(unsettled + (token IS NOT NULL), 0)
           FROM messages LEFT JOIN leases USING (seq) WHERE seq = ?1",
    )?;
    let mut mark = connection.prepare_cached(
        "INSERT INTO leases (seq, due_at, token, attempts, unsettled, received_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (seq) DO UPDATE SET due_at = ?2, token = ?3, attempts = ?4, unsettled = ?5",
    )?;
    let mut leases = Vec::with_capacity(found.chosen.len());
    for Candidate { seq, is_new, .. } in found.chosen {
        let entry = whole.query_row((seq,), Entry::read)?;
        mark.execute((seq, until, token, entry.attempts, entry.unsettled, entry.received_at))?;
        if is_new {
            counters.leased_to = counters.leased_to.max(seq);
        }
        leases.push(entry.into_lease(seq, token));
    }
    counters.write(connection)?;
    Ok(Taken { leases, next_due_at: None })
}

/// Corrects due times that lie further in the future than any lease or backoff: they were written while the
/// clock was ahead. A lease may belong to a running worker, so it lasts as long as a new one; all other
/// messages are due now.
fn correct(
    connection: &Connection,
    request: &LeaseRequest,
    now: Timestamp,
    due_ahead_max: Duration,
) -> rusqlite::Result<()> {
    let furthest = now.plus(due_ahead_max.max(request.lease_for)).as_millis();
    let mut statement = connection.prepare_cached(
        "UPDATE leases SET due_at = CASE WHEN token IS NULL THEN ?2 ELSE ?3 END
          WHERE seq IN (SELECT seq FROM leases WHERE due_at > ?1 ORDER BY due_at DESC LIMIT ?4)",
    )?;
    let until = now.plus(request.lease_for).as_millis();
    statement.execute((furthest, now.as_millis(), until, CORRECTED_MAX))?;
    Ok(())
}

/// Message that may be leased, without its body.
struct Candidate {
    seq: i64,
    is_new: bool,
    due_at: i64,
    bytes: usize,
}

/// Messages that are due and fit into a request.
struct Found {
    chosen: Vec<Candidate>,
    /// Whether new messages may follow those that were skipped.
    is_cut_short: bool,
}

/// Returns due messages, oldest first: those with an expired lease or backoff, and new ones. A token that is
/// still stored belongs to an expired lease.
fn due(
    connection: &Connection,
    request: &LeaseRequest,
    now: Timestamp,
    counters: &mut Counters,
) -> rusqlite::Result<Found> {
    let mut candidates = again(connection, request, now)?;
    let is_cut_short = new(connection, request, counters, &mut candidates)?;
    candidates.sort_by_key(|candidate| (candidate.due_at, candidate.seq));
    let mut room = StorageSpace::of(request);
    let fitting = candidates.iter().take_while(|candidate| room.has_for(candidate)).count();
    candidates.truncate(fitting);
    Ok(Found { chosen: candidates, is_cut_short })
}

/// Adds messages that were leased before or redriven, and are due again.
fn again(
    connection: &Connection,
    request: &LeaseRequest,
    now: Timestamp,
) -> rusqlite::Result<Vec<Candidate>> {
    // CROSS JOIN makes SQLite start with the index on due_at, whatever the planner estimates. The length of a
    // body is known without reading it.
    let mut statement = connection.prepare_cached(
        "SELECT seq, due_at, length(body) FROM leases CROSS JOIN messages USING (seq)
          WHERE due_at <= ?1 ORDER BY due_at, seq",
    )?;
    let mut rows = statement.query((now.as_millis(),))?;
    let (mut candidates, mut room) = (Vec::new(), StorageSpace::of(request));
    while room.messages > 0
        && let Some(row) = rows.next()?
    {
        let (seq, due_at, bytes) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let candidate = Candidate { seq, is_new: false, due_at, bytes };
        if !room.has_for(&candidate) {
            break;
        }
        candidates.push(candidate);
    }
    Ok(candidates)
}

/// Adds messages that were never leased, in the order of arrival, even if a clock went back between them:
/// `leased_to` can only say "all up to here". Returns whether it stopped at the limit of skipped messages.
fn new(
    connection: &Connection,
    request: &LeaseRequest,
    counters: &mut Counters,
    candidates: &mut Vec<Candidate>,
) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, enqueued_at, length(body), EXISTS (SELECT 1 FROM leases WHERE leases.seq = messages.seq)
           FROM messages WHERE seq > ?1 ORDER BY seq",
    )?;
    let mut rows = statement.query((counters.leased_to,))?;
    let (mut room, mut passed, mut latest) = (StorageSpace::of(request), 0, i64::MIN);
    while room.messages > 0
        && let Some(row) = rows.next()?
    {
        let (seq, enqueued_at, bytes) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if row.get(3)? {
            if room.is_empty {
                // No message up to here is new: the next lease begins after it.
                counters.leased_to = seq;
            }
            passed += 1;
            if passed >= PASSED_MAX {
                return Ok(true);
            }
            continue;
        }
        latest = latest.max(enqueued_at);
        let candidate = Candidate { seq, is_new: true, due_at: latest, bytes };
        if !room.has_for(&candidate) {
            break;
        }
        candidates.push(candidate);
    }
    Ok(false)
}

/// Room that is left in an answer.
struct StorageSpace {
    messages: usize,
    bytes: usize,
    is_empty: bool,
}

impl StorageSpace {
    fn of(request: &LeaseRequest) -> Self {
        Self { messages: request.max, bytes: request.bytes_max, is_empty: true }
    }

    /// Takes room for a message. The first message always fits: otherwise a large one could never be leased.
    fn has_for(&mut self, candidate: &Candidate) -> bool {
        if self.messages == 0 || (candidate.bytes > self.bytes && !self.is_empty) {
            return false;
        }
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub(candidate.bytes);
        self.is_empty = false;
        true
    }
}

/// Leased message with unchecked content.
struct Entry {
    id: Vec<u8>,
    received_at: i64,
    format: i64,
    body: Vec<u8>,
    traceparent: Option<Traceparent>,
    attempts: u32,
    unsettled: u32,
}

impl Entry {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            received_at: row.get(1)?,
            format: row.get(2)?,
            body: row.get(3)?,
            traceparent: traceparent(row, 4)?,
            attempts: row.get(5)?,
            unsettled: row.get(6)?,
        })
    }

    fn into_lease(self, seq: i64, token: i64) -> Lease {
        let id = String::from_utf8(self.id);
        let unreadable = if self.format == FORMAT {
            id.is_err().then(|| "the id of the queue's entry is not text: queue.db is damaged".to_owned())
        } else {
            Some(format!(
                "the queue's entry is in format {} and this Rollbook knows {FORMAT}: a newer one stored it, or queue.db \
                 is damaged",
                self.format
            ))
        };
        let id = id.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        Lease {
            token: LeaseToken(format!("{seq}:{token}")),
            id: MessageId::new(id),
            attempt: self.attempts.saturating_add(1),
            unsettled: self.unsettled,
            received_at: Timestamp::from_millis(self.received_at),
            traceparent: self.traceparent,
            body: Bytes::from(self.body),
            unreadable,
        }
    }
}
