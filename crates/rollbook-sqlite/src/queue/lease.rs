//! Giving messages out.

use std::time::Duration;

use bytes::Bytes;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{Lease, LeaseToken};
use rollbook_core::retry::Reason;
use rollbook_core::time::Timestamp;
use rusqlite::Connection;

use super::{Counters, settle};

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
    let entries = due(connection, max, now)?;
    if entries.is_empty() {
        let mut next = connection.prepare_cached("SELECT min(due_at) FROM messages")?;
        let next_due_at: Option<i64> = next.query_row([], |row| row.get(0))?;
        return Ok(Taken { leases: Vec::new(), next_due_at: next_due_at.map(Timestamp::from_millis) });
    }
    let mut counters = Counters::read(connection)?;
    counters.token += 1;
    let token = counters.token;
    let mut mark = connection.prepare_cached(
        "UPDATE messages SET due_at = ?2, token = ?3, attempts = ?4, unsettled = ?5 WHERE seq = ?1",
    )?;
    let until = now.plus(lease_for).as_millis();
    let mut leases = Vec::with_capacity(entries.len());
    for entry in entries {
        let seq = entry.seq;
        mark.execute((seq, until, token, entry.attempts, entry.unsettled))?;
        match entry.into_lease(token) {
            Some(lease) => leases.push(lease),
            None => park(connection, seq, token, now, &mut counters)?,
        }
    }
    counters.write(connection)?;
    Ok(Taken { leases, next_due_at: None })
}

/// A row as it will be once it is leased, before anything in it is trusted.
struct Entry {
    seq: i64,
    id: Vec<u8>,
    attempts: u32,
    unsettled: u32,
    received_at: i64,
    format: i64,
    body: Vec<u8>,
}

/// What is due, oldest first. A token that is still there belongs to a lease that ran out.
fn due(connection: &Connection, max: usize, now: Timestamp) -> rusqlite::Result<Vec<Entry>> {
    // CROSS JOIN: the index on due_at leads, whatever the planner thinks of the sizes.
    let mut statement = connection.prepare_cached(
        "SELECT seq, CAST(id AS BLOB), attempts + 1, unsettled + (token IS NOT NULL), received_at, format, body
           FROM messages CROSS JOIN bodies USING (seq)
          WHERE due_at <= ?1 ORDER BY due_at, seq LIMIT ?2",
    )?;
    let limit = i64::try_from(max).unwrap_or(i64::MAX);
    let rows = statement.query_map((now.as_millis(), limit), |row| {
        Ok(Entry {
            seq: row.get(0)?,
            id: row.get(1)?,
            attempts: row.get(2)?,
            unsettled: row.get(3)?,
            received_at: row.get(4)?,
            format: row.get(5)?,
            body: row.get(6)?,
        })
    })?;
    rows.collect()
}

impl Entry {
    /// `None` where it can't be read.
    fn into_lease(self, token: i64) -> Option<Lease> {
        let id = String::from_utf8(self.id).ok().filter(|_| self.format == FORMAT)?;
        Some(Lease {
            token: LeaseToken(format!("{}:{token}", self.seq)),
            id: MessageId::new(id),
            attempt: self.attempts,
            unsettled: self.unsettled,
            received_at: Timestamp::from_millis(self.received_at),
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
