//! Giving messages out.

use std::time::Duration;

use bytes::Bytes;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{Lease, LeaseToken};
use rollbook_core::retry::Reason;
use rollbook_core::time::Timestamp;
use rollbook_core::trace::Traceparent;
use rusqlite::{Connection, Row};

use super::{Counters, settle, traceparent};

/// The one format that bodies are stored in so far: as they came.
const FORMAT: i64 = 1;

/// What a look for due messages found.
pub(super) struct Taken {
    /// The leases.
    pub(super) leases: Vec<Lease>,
    /// When the next message will be due, where none was.
    pub(super) next_due_at: Option<Timestamp>,
}

/// Leases up to `max` due messages, oldest due first. An entry that can't be read is parked instead.
pub(super) fn take(
    connection: &Connection,
    max: usize,
    lease_for: Duration,
    now: Timestamp,
) -> rusqlite::Result<Taken> {
    let mut counters = Counters::read(connection)?;
    let entries = due(connection, max, now, counters.leased_to)?;
    if entries.is_empty() {
        let mut next = connection.prepare_cached("SELECT min(due_at) FROM leases")?;
        let next_due_at: Option<i64> = next.query_row([], |row| row.get(0))?;
        return Ok(Taken { leases: Vec::new(), next_due_at: next_due_at.map(Timestamp::from_millis) });
    }
    counters.token += 1;
    let token = counters.token;
    let until = now.plus(lease_for).as_millis();
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
        match entry.into_lease(token) {
            Some(lease) => leases.push(lease),
            None => park(connection, seq, token, now, &mut counters)?,
        }
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
fn due(connection: &Connection, max: usize, now: Timestamp, leased_to: i64) -> rusqlite::Result<Vec<Entry>> {
    let limit = i64::try_from(max).unwrap_or(i64::MAX);
    // CROSS JOIN: the index on due_at leads, whatever the planner thinks of the sizes.
    let mut again = connection.prepare_cached(
        "SELECT seq, 0, due_at, CAST(id AS BLOB), attempts + 1, unsettled + (token IS NOT NULL),
                messages.received_at, format, body, traceparent
           FROM leases CROSS JOIN messages USING (seq)
          WHERE due_at <= ?1 ORDER BY due_at, seq LIMIT ?2",
    )?;
    let mut entries: Vec<Entry> =
        again.query_map((now.as_millis(), limit), Entry::read)?.collect::<rusqlite::Result<_>>()?;
    // A redriven message is beyond `leased_to` too, but has its row in leases already.
    let mut new = connection.prepare_cached(
        "SELECT seq, 1, enqueued_at, CAST(id AS BLOB), 1, 0, received_at, format, body, traceparent
           FROM messages
          WHERE seq > ?1 AND NOT EXISTS (SELECT 1 FROM leases WHERE leases.seq = messages.seq)
          ORDER BY seq LIMIT ?2",
    )?;
    // New ones go in the order of arrival, also where a clock went back between them: `leased_to` can
    // only say "all up to here".
    let mut latest = i64::MIN;
    for entry in new.query_map((leased_to, limit), Entry::read)? {
        let entry = entry?;
        latest = latest.max(entry.due_at);
        entries.push(Entry { due_at: latest, ..entry });
    }
    entries.sort_by_key(|entry| (entry.due_at, entry.seq));
    entries.truncate(max);
    Ok(entries)
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

    /// `None` where it can't be read.
    fn into_lease(self, token: i64) -> Option<Lease> {
        let id = String::from_utf8(self.id).ok().filter(|_| self.format == FORMAT)?;
        Some(Lease {
            token: LeaseToken(format!("{}:{token}", self.seq)),
            id: MessageId::new(id),
            attempt: self.attempts,
            unsettled: self.unsettled,
            received_at: Timestamp::from_millis(self.received_at),
            traceparent: self.traceparent,
            body: Bytes::from(self.body),
        })
    }
}

fn park(
    connection: &Connection,
    seq: i64,
    token: i64,
    now: Timestamp,
    counters: &mut Counters,
) -> rusqlite::Result<()> {
    let detail = "the queue's entry can't be read: a newer Rollbook stored it, or the file is damaged";
    settle::park(connection, (seq, token), now, (Reason::CorruptEntry.as_str(), detail, None), counters)?;
    Ok(())
}
