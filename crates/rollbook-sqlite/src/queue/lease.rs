//! Giving messages out.

use bytes::Bytes;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{Lease, LeaseRequest, LeaseToken};
use rollbook_core::time::Timestamp;
use rollbook_core::trace::Traceparent;
use rusqlite::{Connection, Row};

use super::{Counters, traceparent};

/// The one format that bodies are stored in so far: as they came.
const FORMAT: i64 = 1;

/// What a look for due messages found.
pub(super) struct Taken {
    /// The leases.
    pub(super) leases: Vec<Lease>,
    /// When the next message will be due, where none was.
    pub(super) next_due_at: Option<Timestamp>,
}

/// Leases due messages, oldest due first, within the limits of the request.
pub(super) fn take(
    connection: &Connection,
    request: &LeaseRequest,
    now: Timestamp,
) -> rusqlite::Result<Taken> {
    let mut counters = Counters::read(connection)?;
    let entries = due(connection, request, now, counters.leased_to)?;
    if entries.is_empty() {
        let mut next = connection.prepare_cached("SELECT min(due_at) FROM leases")?;
        let next_due_at: Option<i64> = next.query_row([], |row| row.get(0))?;
        return Ok(Taken { leases: Vec::new(), next_due_at: next_due_at.map(Timestamp::from_millis) });
    }
    counters.token += 1;
    let token = counters.token;
    let until = now.plus(request.lease_for).as_millis();
    let mut mark = connection.prepare_cached(
        "INSERT INTO leases (seq, due_at, token, attempts, unsettled, received_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (seq) DO UPDATE SET due_at = ?2, token = ?3, attempts = ?4, unsettled = ?5",
    )?;
    let mut leases = Vec::with_capacity(entries.len());
    for entry in entries {
        let seq = entry.seq;
        mark.execute((seq, until, token, entry.attempts, entry.unsettled, entry.received_at))?;
        counters.leased_to = counters.leased_to.max(if entry.is_new { seq } else { 0 });
        leases.push(entry.into_lease(token));
    }
    counters.write(connection)?;
    Ok(Taken { leases, next_due_at: None })
}

/// A message as it will be once it is leased, before anything in it is trusted.
struct Entry {
    seq: i64,
    is_new: bool,
    due_at: i64,
    id: Vec<u8>,
    attempts: u32,
    unsettled: u32,
    received_at: i64,
    format: i64,
    body: Vec<u8>,
    traceparent: Option<Traceparent>,
}

/// What is due, oldest first: messages whose lease or backoff has passed, and new ones. A token that
/// is still there belongs to a lease that ran out.
fn due(
    connection: &Connection,
    request: &LeaseRequest,
    now: Timestamp,
    leased_to: i64,
) -> rusqlite::Result<Vec<Entry>> {
    let limit = i64::try_from(request.max).unwrap_or(i64::MAX);
    // CROSS JOIN: the index on due_at leads, whatever the planner thinks of the sizes.
    let mut again = connection.prepare_cached(
        "SELECT seq, 0, due_at, CAST(id AS BLOB), attempts, unsettled + (token IS NOT NULL),
                messages.received_at, format, body, traceparent
           FROM leases CROSS JOIN messages USING (seq)
          WHERE due_at <= ?1 ORDER BY due_at, seq LIMIT ?2",
    )?;
    let mut entries = Vec::new();
    let mut room = Room::of(request);
    for entry in again.query_map((now.as_millis(), limit), Entry::read)? {
        let entry = entry?;
        if !room.has_for(&entry) {
            break;
        }
        entries.push(entry);
    }
    // A redriven message is beyond `leased_to` too, but has its row in leases already.
    let mut new = connection.prepare_cached(
        "SELECT seq, 1, enqueued_at, CAST(id AS BLOB), 0, 0, received_at, format, body, traceparent
           FROM messages
          WHERE seq > ?1 AND NOT EXISTS (SELECT 1 FROM leases WHERE leases.seq = messages.seq)
          ORDER BY seq LIMIT ?2",
    )?;
    // New ones go in the order of arrival, also where a clock went back between them: `leased_to` can
    // only say "all up to here".
    let mut latest = i64::MIN;
    let mut room = Room::of(request);
    for entry in new.query_map((leased_to, limit), Entry::read)? {
        let entry = entry?;
        if !room.has_for(&entry) {
            break;
        }
        latest = latest.max(entry.due_at);
        entries.push(Entry { due_at: latest, ..entry });
    }
    entries.sort_by_key(|entry| (entry.due_at, entry.seq));
    let mut room = Room::of(request);
    let fitting = entries.iter().take_while(|entry| room.has_for(entry)).count();
    entries.truncate(fitting);
    Ok(entries)
}

/// What still fits into an answer.
struct Room {
    messages: usize,
    bytes: usize,
    is_empty: bool,
}

impl Room {
    fn of(request: &LeaseRequest) -> Self {
        Self { messages: request.max, bytes: request.bytes_max, is_empty: true }
    }

    /// Takes room for an entry. The first is taken whatever its size: it could never be leased otherwise.
    fn has_for(&mut self, entry: &Entry) -> bool {
        if self.messages == 0 || (entry.body.len() > self.bytes && !self.is_empty) {
            return false;
        }
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub(entry.body.len());
        self.is_empty = false;
        true
    }
}

impl Entry {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            is_new: row.get(1)?,
            due_at: row.get(2)?,
            id: row.get(3)?,
            attempts: row.get(4)?,
            unsettled: row.get(5)?,
            received_at: row.get(6)?,
            format: row.get(7)?,
            body: row.get(8)?,
            traceparent: traceparent(row, 9)?,
        })
    }

    fn into_lease(self, token: i64) -> Lease {
        let id = String::from_utf8(self.id);
        let unreadable = if self.format != FORMAT {
            Some(format!(
                "the queue's entry is in format {} and this Rollbook knows {FORMAT}: a newer one stored it, or queue.db \
                 is damaged",
                self.format
            ))
        } else {
            id.is_err().then(|| "the id of the queue's entry is not text: queue.db is damaged".to_owned())
        };
        let id = id.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        Lease {
            token: LeaseToken(format!("{}:{token}", self.seq)),
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
