//! Enqueue of deliveries.

use rollbook_core::delivery::Delivery;
use rollbook_core::queue::{Enqueued, QueueError};
use rollbook_core::time::Timestamp;
use rollbook_core::trace::Traceparent;
use rusqlite::Connection;

use super::{Counters, count};

/// Inserts new deliveries until the limit is reached, and refuses the other new ones.
pub(super) fn insert(
    connection: &Connection,
    deliveries: &[Delivery],
    now: Timestamp,
    depth_max: u64,
) -> rusqlite::Result<Vec<Result<Enqueued, QueueError>>> {
    let mut counters = Counters::read(connection)?;
    let mut message = connection.prepare_cached(
        "INSERT INTO messages (seq, id, received_at, enqueued_at, body, traceparent) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (id) DO NOTHING",
    )?;
    let mut known = connection.prepare_cached("SELECT 1 FROM messages WHERE id = ?1")?;
    let mut revive = connection.prepare_cached("DELETE FROM dead_letters WHERE id = ?1")?;
    let mut answers = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        let (id, received_at) = (delivery.id.as_str(), delivery.received_at.as_millis());
        // A duplicate is durable already, even if the queue is full.
        if counters.depth >= depth_max {
            let full = QueueError::Full { depth: counters.depth, limit: depth_max };
            answers.push(if known.exists((id,))? { Ok(Enqueued::Duplicate) } else { Err(full) });
            continue;
        }
        let seq = counters.seq + 1;
        let (body, traceparent) = (&delivery.body[..], delivery.traceparent.map(Traceparent::to_bytes));
        if message.execute((seq, id, received_at, now.as_millis(), body, traceparent))? == 0 {
            answers.push(Ok(Enqueued::Duplicate));
            continue;
        }
        counters.seq = seq;
        counters.depth += 1;
        // A dead letter that is sent again is tried again.
        if counters.dead > 0 {
            counters.dead = counters.dead.saturating_sub(count(revive.execute((id,))?));
        }
        answers.push(Ok(Enqueued::Queued));
    }
    counters.write(connection)?;
    Ok(answers)
}
