//! Settlement of leases.

use std::time::Duration;

use rollbook_core::queue::{Lease, Settled, Settlement};
use rollbook_core::time::Timestamp;
use rusqlite::Connection;

use super::Counters;

/// Settles each lease that still has its token.
pub(super) fn settle(
    connection: &Connection,
    settlements: &[(Lease, Settlement)],
    now: Timestamp,
) -> rusqlite::Result<Vec<Settled>> {
    let mut counters = Counters::read(connection)?;
    let mut settled = Vec::with_capacity(settlements.len());
    for (lease, settlement) in settlements {
        let done = match entry(lease) {
            Some(entry) => end(connection, entry, (lease.attempt, settlement), now, &mut counters)?,
            None => false,
        };
        settled.push(if done { Settled::Done } else { Settled::LeaseLost });
    }
    counters.write(connection)?;
    Ok(settled)
}

/// Counts the attempt of a lease that still has its token.
pub(super) fn count_attempt(connection: &Connection, lease: &Lease) -> rusqlite::Result<Settled> {
    let stands = match entry(lease) {
        Some(entry) => set_attempts(connection, entry, lease.attempt)?,
        None => false,
    };
    Ok(if stands { Settled::Done } else { Settled::LeaseLost })
}

fn set_attempts(connection: &Connection, (seq, token): (i64, i64), attempts: u32) -> rusqlite::Result<bool> {
    let sql = "UPDATE leases SET attempts = ?3 WHERE seq = ?1 AND token = ?2";
    Ok(connection.prepare_cached(sql)?.execute((seq, token, attempts))? == 1)
}

/// Parses a lease's token `seq:token`, as [`super::lease`] wrote it.
fn entry(lease: &Lease) -> Option<(i64, i64)> {
    let (seq, token) = lease.token.0.split_once(':')?;
    Some((seq.parse().ok()?, token.parse().ok()?))
}

fn end(
    connection: &Connection,
    entry: (i64, i64),
    (attempt, settlement): (u32, &Settlement),
    now: Timestamp,
    counters: &mut Counters,
) -> rusqlite::Result<bool> {
    let (seq, token) = entry;
    match settlement {
        Settlement::Ack => remove(connection, entry, counters),
        Settlement::Retry { after, .. } => {
            let mut statement = connection.prepare_cached(
                "UPDATE leases SET token = NULL, due_at = ?3, unsettled = 0, attempts = ?4
                  WHERE seq = ?1 AND token = ?2",
            )?;
            Ok(statement.execute((seq, token, now.plus(*after).as_millis(), attempt))? == 1)
        }
        Settlement::Release | Settlement::Postpone { .. } => {
            let after = if let Settlement::Postpone { after } = settlement { *after } else { Duration::ZERO };
            let mut statement = connection.prepare_cached(
                "UPDATE leases SET token = NULL, due_at = ?3, attempts = ?4 WHERE seq = ?1 AND token = ?2",
            )?;
            Ok(statement.execute((seq, token, now.plus(after).as_millis(), attempt.saturating_sub(1)))? == 1)
        }
        Settlement::DeadLetter { failure } => {
            let why = (failure.reason.as_str(), failure.detail.as_str(), failure.event_type.as_deref());
            set_attempts(connection, entry, attempt)?;
            move_to_dead_letters(connection, entry, now, why, counters)
        }
    }
}

fn remove(
    connection: &Connection,
    (seq, token): (i64, i64),
    counters: &mut Counters,
) -> rusqlite::Result<bool> {
    let mut lease = connection.prepare_cached("DELETE FROM leases WHERE seq = ?1 AND token = ?2")?;
    if lease.execute((seq, token))? == 0 {
        return Ok(false);
    }
    connection.prepare_cached("DELETE FROM messages WHERE seq = ?1")?.execute((seq,))?;
    counters.depth = counters.depth.saturating_sub(1);
    Ok(true)
}

/// Moves a leased message to the dead letters, with its reason, detail and event type.
fn move_to_dead_letters(
    connection: &Connection,
    entry: (i64, i64),
    now: Timestamp,
    (reason, detail, event_type): (&str, &str, Option<&str>),
    counters: &mut Counters,
) -> rusqlite::Result<bool> {
    let mut copy = connection.prepare_cached(
        "INSERT INTO dead_letters
             (id, received_at, died_at, attempts, reason, detail, event_type, format, body, traceparent)
         SELECT id, messages.received_at, ?3, attempts, ?4, ?5, ?6, format, body, traceparent
           FROM leases JOIN messages USING (seq) WHERE seq = ?1 AND token = ?2",
    )?;
    let copied = copy.execute((entry.0, entry.1, now.as_millis(), reason, detail, event_type))? == 1;
    if copied {
        counters.dead += 1;
        remove(connection, entry, counters)?;
    }
    Ok(copied)
}
