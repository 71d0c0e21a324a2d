//! What an operator sees and does.

use bytes::Bytes;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{
    BulkStep, DeadLetter, DeadLetterFilter, DeadLetterPosition, QueueError, QueueStats,
};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, named_params};

use super::{Counters, count, traceparent};

/// The counters, and one pass over the index of what has been leased, which is little unless much waits
/// for its backoff.
pub(super) fn stats(connection: &Connection, now: Timestamp) -> rusqlite::Result<QueueStats> {
    let counters = Counters::read(connection)?;
    let mut touched = connection.prepare_cached(
        "SELECT count(*) FILTER (WHERE due_at > ?1 AND token IS NOT NULL),
                count(*) FILTER (WHERE due_at > ?1 AND token IS NULL),
                min(received_at)
           FROM leases",
    )?;
    let (leased, delayed, oldest_touched): (u64, u64, Option<i64>) =
        touched.query_row((now.as_millis(),), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    // Those that were never leased came in the order of their times.
    let mut first =
        connection.prepare_cached("SELECT received_at FROM messages WHERE seq > ?1 ORDER BY seq LIMIT 1")?;
    let oldest_new: Option<i64> = first.query_row((counters.leased_to,), |row| row.get(0)).optional()?;
    Ok(QueueStats {
        ready: counters.depth.saturating_sub(leased + delayed),
        leased,
        delayed,
        dead: counters.dead,
        oldest_received_at: oldest_touched.into_iter().chain(oldest_new).min().map(Timestamp::from_millis),
    })
}

const MATCHING: &str = "seq > :after
    AND (:id IS NULL OR id = :id)
    AND (:event_type IS NULL OR event_type = :event_type)
    AND (:reason IS NULL OR reason = :reason)
    AND (:since IS NULL OR died_at >= :since)
  ORDER BY seq LIMIT :limit";

/// Runs a query over the dead letters that match, oldest first.
fn matching<T>(
    connection: &Connection,
    columns: &str,
    filter: &DeadLetterFilter,
    after: Option<DeadLetterPosition>,
    limit: usize,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {columns} FROM dead_letters WHERE {MATCHING}"))?;
    let rows = statement.query_map(
        named_params! {
            ":after": after.map_or(0, |position| position.0),
            ":id": filter.id.as_ref().map(MessageId::as_str),
            ":event_type": filter.event_type,
            ":reason": filter.reason,
            ":since": filter.since.map(Timestamp::as_millis),
            ":limit": i64::try_from(limit).unwrap_or(i64::MAX),
        },
        read,
    )?;
    rows.collect()
}

/// Dead letters that match.
pub(super) fn list(
    connection: &Connection,
    filter: &DeadLetterFilter,
    after: Option<DeadLetterPosition>,
    limit: usize,
) -> rusqlite::Result<Vec<DeadLetter>> {
    let columns = "seq, CAST(id AS BLOB), received_at, died_at, attempts, reason, detail, event_type, body, traceparent";
    matching(connection, columns, filter, after, limit, |row| {
        let (id, reason): (Vec<u8>, String) = (row.get(1)?, row.get(5)?);
        Ok(DeadLetter {
            position: DeadLetterPosition(row.get(0)?),
            id: MessageId::new(String::from_utf8_lossy(&id)),
            received_at: Timestamp::from_millis(row.get(2)?),
            traceparent: traceparent(row, 9)?,
            died_at: Timestamp::from_millis(row.get(3)?),
            attempts: row.get(4)?,
            failure: Failure {
                // A reason that this build does not know was written by a newer one.
                reason: Reason::parse(&reason).unwrap_or(Reason::CorruptEntry),
                detail: row.get(6)?,
                event_type: row.get(7)?,
            },
            body: Bytes::from(row.get::<_, Vec<u8>>(8)?),
        })
    })
}

/// The dead letters that one step of a bulk operation changes, and where the next step begins. A step looks at
/// no more than `limit`, whether they match or not.
fn step(
    connection: &Connection,
    filter: &DeadLetterFilter,
    after: Option<DeadLetterPosition>,
    limit: usize,
) -> rusqlite::Result<(Vec<i64>, Option<DeadLetterPosition>)> {
    if filter.id.is_some() {
        // One at most, found by its index.
        return Ok((matching(connection, "seq", filter, after, limit.min(1), |row| row.get(0))?, None));
    }
    let everything = DeadLetterFilter::default();
    let looked_at: Vec<i64> = matching(connection, "seq", &everything, after, limit, |row| row.get(0))?;
    let last = looked_at.last().copied().unwrap_or_default();
    let mut chosen: Vec<i64> = matching(connection, "seq", filter, after, limit, |row| row.get(0))?;
    chosen.retain(|seq| *seq <= last);
    Ok((chosen, (looked_at.len() >= limit).then_some(DeadLetterPosition(last))))
}

/// One step of moving dead letters back, as far as the queue has room.
pub(super) fn redrive(
    connection: &Connection,
    filter: &DeadLetterFilter,
    after: Option<DeadLetterPosition>,
    limit: usize,
    (now, depth_max): (Timestamp, u64),
) -> rusqlite::Result<Result<BulkStep, QueueError>> {
    let mut counters = Counters::read(connection)?;
    let room = usize::try_from(depth_max.saturating_sub(counters.depth)).unwrap_or(usize::MAX);
    let mut message = connection.prepare_cached(
        "INSERT INTO messages (seq, id, received_at, enqueued_at, format, body, traceparent)
         SELECT ?2, id, received_at, ?3, format, body, traceparent FROM dead_letters WHERE seq = ?1",
    )?;
    // Not a new message: it is older than those that came before it, and its row here says so.
    let mut lease = connection.prepare_cached(
        "INSERT INTO leases (seq, due_at, token, attempts, unsettled, received_at)
         SELECT seq, enqueued_at, NULL, 0, 0, received_at FROM messages WHERE seq = ?1",
    )?;
    let mut dead_letter = connection.prepare_cached("DELETE FROM dead_letters WHERE seq = ?1")?;
    let (mut chosen, mut next) = step(connection, filter, after, limit)?;
    if chosen.len() > room {
        chosen.truncate(room);
        let Some(last) = chosen.last() else {
            return Ok(Err(QueueError::Full { depth: counters.depth, limit: depth_max }));
        };
        next = Some(DeadLetterPosition(*last));
    }
    for dead_seq in &chosen {
        counters.seq += 1;
        message.execute((dead_seq, counters.seq, now.as_millis()))?;
        lease.execute((counters.seq,))?;
        dead_letter.execute((dead_seq,))?;
    }
    counters.depth += count(chosen.len());
    counters.dead -= count(chosen.len());
    counters.write(connection)?;
    Ok(Ok(BulkStep { changed: chosen.len(), next }))
}

/// One step of deleting dead letters for good.
pub(super) fn discard(
    connection: &Connection,
    filter: &DeadLetterFilter,
    after: Option<DeadLetterPosition>,
    limit: usize,
) -> rusqlite::Result<BulkStep> {
    let mut counters = Counters::read(connection)?;
    let mut dead_letter = connection.prepare_cached("DELETE FROM dead_letters WHERE seq = ?1")?;
    let (chosen, next) = step(connection, filter, after, limit)?;
    for seq in &chosen {
        dead_letter.execute((seq,))?;
    }
    counters.dead -= count(chosen.len());
    counters.write(connection)?;
    Ok(BulkStep { changed: chosen.len(), next })
}
