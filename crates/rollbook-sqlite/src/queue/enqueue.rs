//! Taking deliveries in.

use std::collections::HashSet;

use rollbook_core::delivery::Delivery;
use rollbook_core::queue::{Enqueued, QueueError};
use rollbook_core::time::Timestamp;
use rollbook_core::trace::Traceparent;
use rusqlite::Connection;

use super::{Counters, count};

/// Inserts what is new; refuses all, and writes nothing, where that would pass the limit.
pub(super) fn insert(
    connection: &Connection,
    deliveries: &[Delivery],
    now: Timestamp,
    depth_max: u64,
) -> rusqlite::Result<Result<Vec<Enqueued>, QueueError>> {
    let mut counters = Counters::read(connection)?;
    // Which of them are new is looked up beforehand only when it matters: close to the limit.
    if counters.depth.saturating_add(count(deliveries.len())) > depth_max
        && counters.depth.saturating_add(count_new(connection, deliveries)?) > depth_max
    {
        return Ok(Err(QueueError::Full { depth: counters.depth, limit: depth_max }));
    }
    let mut message = connection.prepare_cached(
        "INSERT INTO messages (seq, id, received_at, enqueued_at, body, traceparent) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (id) DO NOTHING",
    )?;
    let mut revive = connection.prepare_cached("DELETE FROM dead_letters WHERE id = ?1")?;
    let mut answers = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        let (id, received_at) = (delivery.id.as_str(), delivery.received_at.as_millis());
        let seq = counters.seq + 1;
        let (body, traceparent) = (&delivery.body[..], delivery.traceparent.map(Traceparent::to_bytes));
        if message.execute((seq, id, received_at, now.as_millis(), body, traceparent))? == 0 {
            answers.push(Enqueued::Duplicate);
            continue;
        }
        counters.seq = seq;
        counters.depth += 1;
        // Whoever sends a dead letter again wants it tried again.
        if counters.dead > 0 {
            counters.dead -= count(revive.execute((id,))?);
        }
        answers.push(Enqueued::Queued);
    }
    counters.write(connection)?;
    Ok(Ok(answers))
}

fn count_new(connection: &Connection, deliveries: &[Delivery]) -> rusqlite::Result<u64> {
    let mut known = connection.prepare_cached("SELECT 1 FROM messages WHERE id = ?1")?;
    let mut new = HashSet::new();
    for delivery in deliveries {
        if !known.exists((delivery.id.as_str(),))? {
            new.insert(delivery.id.as_str());
        }
    }
    Ok(count(new.len()))
}
