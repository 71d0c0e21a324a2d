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
    let mut counters = Counters::read(connection)?;
    let token = counters.token + 1;
    let mut entries = mark(connection, max, now.plus(lease_for), token, now)?;
    if entries.is_empty() {
        let mut next = connection.prepare_cached("SELECT min(due_at) FROM messages")?;
        let next_due_at: Option<i64> = next.query_row([], |row| row.get(0))?;
        return Ok(Taken { leases: Vec::new(), next_due_at: next_due_at.map(Timestamp::from_millis) });
    }
    counters.token = token;
    entries.sort_unstable_by_key(|entry| entry.seq);
    let mut leases = Vec::with_capacity(entries.len());
    for entry in entries {
        let seq = entry.seq;
        match read(connection, entry, token)? {
            Some(lease) => leases.push(lease),
            None => park(connection, seq, token, now, &mut counters)?,
        }
    }
    counters.write(connection)?;
    Ok(Taken { leases, next_due_at: None })
}

/// A leased row before anything in it is trusted.
struct Entry {
    seq: i64,
    id: Vec<u8>,
    attempts: u32,
    unsettled: u32,
    received_at: i64,
    format: i64,
}

/// Marks due messages as leased. A token that is still there belongs to a lease that ran out.
fn mark(
    connection: &Connection,
    max: usize,
    due_at: Timestamp,
    token: i64,
    now: Timestamp,
) -> rusqlite::Result<Vec<Entry>> {
    let mut statement = connection.prepare_cached(
        "UPDATE messages
            SET due_at = ?1, token = ?2, attempts = attempts + 1, unsettled = unsettled + (token IS NOT NULL)
          WHERE seq IN (SELECT seq FROM messages WHERE due_at <= ?3 ORDER BY due_at, seq LIMIT ?4)
         RETURNING seq, CAST(id AS BLOB), attempts, unsettled, received_at, format",
    )?;
    let limit = i64::try_from(max).unwrap_or(i64::MAX);
    let rows = statement.query_map((due_at.as_millis(), token, now.as_millis(), limit), |row| {
        Ok(Entry {
            seq: row.get(0)?,
            id: row.get(1)?,
            attempts: row.get(2)?,
            unsettled: row.get(3)?,
            received_at: row.get(4)?,
            format: row.get(5)?,
        })
    })?;
    rows.collect()
}

fn read(connection: &Connection, entry: Entry, token: i64) -> rusqlite::Result<Option<Lease>> {
    let mut statement = connection.prepare_cached("SELECT body FROM bodies WHERE seq = ?1")?;
    let body: Vec<u8> = statement.query_row((entry.seq,), |row| row.get(0))?;
    let Ok(id) = String::from_utf8(entry.id) else { return Ok(None) };
    if entry.format != FORMAT {
        return Ok(None);
    }
    Ok(Some(Lease {
        token: LeaseToken(format!("{}:{token}", entry.seq)),
        id: MessageId::new(id),
        attempt: entry.attempts,
        unsettled: entry.unsettled,
        received_at: Timestamp::from_millis(entry.received_at),
        body: Bytes::from(body),
    }))
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
