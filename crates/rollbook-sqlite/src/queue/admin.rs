//! Port of operators: counts, lists, redrive and removal.

use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{
    BulkStep, DISCARDS_KEPT, DeadLetter, DeadLetterPage, DeadLetterPosition, DeadLetterSums, Discard,
    QueueError, QueueStats, StorageSpace,
};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::time::Timestamp;
use rusqlite::{Connection, Row, named_params};

use super::{Counters, PageBytes, count, traceparent};
use crate::select::select;

/// Base of the `seq` of a redriven message; the number of the dead letter is added.
const REDRIVEN_BASE: i64 = -(1 << 62);
/// Maximum bytes of bodies that one step moves or deletes. A step moves or deletes at least one body.
const STEP_BYTES_MAX: usize = 8 << 20;

/// Reads the counters, counts leased and delayed messages (one scan of that part of the index by due time),
/// and finds the oldest by two seeks. The cost does not depend on the number of due messages.
pub(super) fn stats(connection: &Connection, now: Timestamp) -> rusqlite::Result<QueueStats> {
    let counters = Counters::read(connection)?;
    let mut ahead = connection.prepare_cached(AHEAD)?;
    let (leased, delayed): (u64, u64) =
        ahead.query_row((now.as_millis(),), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut oldest = connection.prepare_cached(OLDEST)?;
    let oldest: Option<i64> = oldest.query_row([], |row| row.get(0))?;
    Ok(QueueStats {
        ready: counters.depth.saturating_sub(leased + delayed),
        leased,
        delayed,
        dead: counters.dead,
        oldest_received_at: oldest.map(Timestamp::from_millis),
    })
}

/// The room on the file system of this folder, as `df` counts it: without the blocks that only root may use. Nothing is known
/// where it does not answer.
pub(super) fn space(folder: &Path) -> StorageSpace {
    let Ok(found) = rustix::fs::statvfs(folder) else { return StorageSpace::default() };
    let used = found.f_blocks.saturating_sub(found.f_bfree);
    StorageSpace {
        disk_available: Some(found.f_bavail.saturating_mul(found.f_frsize)),
        disk_size: Some(used.saturating_add(found.f_bavail).saturating_mul(found.f_frsize)),
        ..StorageSpace::default()
    }
}

/// Messages that may not be leased yet: leased and delayed.
const AHEAD: &str = "SELECT count(*) FILTER (WHERE token IS NOT NULL), count(*) FILTER (WHERE token IS NULL)
   FROM leases WHERE due_at > ?1";

/// The first that came and is still there, or a redriven one that is older.
const OLDEST: &str = "SELECT min(received_at) FROM (
    SELECT * FROM (SELECT received_at FROM messages WHERE seq > 0 ORDER BY seq LIMIT 1)
    UNION ALL
    SELECT * FROM (SELECT received_at FROM leases INDEXED BY leases_redriven WHERE seq < 0
                    ORDER BY received_at LIMIT 1))";

const MATCHING: &str = "(:id IS NULL OR id = :id)
    AND (:event_type IS NULL OR event_type = :event_type)
    AND (:reason IS NULL OR reason = :reason)
    AND (:since IS NULL OR died_at >= :since)";

/// Runs a query over dead letters, with all parameters of a filter.
fn query<T>(
    connection: &Connection,
    sql: &str,
    DeadLetterPage { filter, after, limit }: &DeadLetterPage,
    mut each: impl FnMut(&Row<'_>) -> rusqlite::Result<ControlFlow<T>>,
) -> rusqlite::Result<Option<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(named_params! {
        ":after": after.map_or(0, |position| position.0),
        ":id": filter.id.as_ref().map(MessageId::as_str),
        ":event_type": filter.event_type,
        ":reason": filter.reason,
        ":since": filter.since.map(Timestamp::as_millis),
        ":limit": i64::try_from(*limit).unwrap_or(i64::MAX),
    })?;
    while let Some(row) = rows.next()? {
        if let ControlFlow::Break(end) = each(row)? {
            return Ok(Some(end));
        }
    }
    Ok(None)
}

/// Dead letters that match: a page, oldest first.
pub(super) fn list(connection: &Connection, page: &DeadLetterPage) -> rusqlite::Result<Vec<DeadLetter>> {
    read_page(connection, page, "seq > :after", "seq")
}

/// Dead letters that match: a page, newest first.
pub(super) fn list_newest(
    connection: &Connection,
    page: &DeadLetterPage,
) -> rusqlite::Result<Vec<DeadLetter>> {
    let before = page.after.unwrap_or(DeadLetterPosition(i64::MAX));
    read_page(connection, &page.filter.page(Some(before), page.limit), "seq < :after", "seq DESC")
}

fn read_page(
    connection: &Connection,
    page: &DeadLetterPage,
    window: &str,
    order: &str,
) -> rusqlite::Result<Vec<DeadLetter>> {
    let sql = format!(
        "SELECT seq, CAST(id AS BLOB), received_at, died_at, attempts, reason, detail, event_type, body, traceparent
           FROM dead_letters WHERE {window} AND {MATCHING} ORDER BY {order} LIMIT :limit"
    );
    let (mut letters, mut bytes) = (Vec::new(), PageBytes::default());
    query(connection, &sql, page, |row| {
        let letter = read(row)?;
        if !bytes.has_room_for(&letter.body) {
            return Ok(ControlFlow::Break(()));
        }
        letters.push(letter);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(letters)
}

fn read(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    let id: Vec<u8> = row.get(1)?;
    Ok(DeadLetter {
        position: DeadLetterPosition(row.get(0)?),
        id: MessageId::new(String::from_utf8_lossy(&id)),
        received_at: Timestamp::from_millis(row.get(2)?),
        traceparent: traceparent(row, 9)?,
        parked_at: Timestamp::from_millis(row.get(3)?),
        attempts: row.get(4)?,
        failure: failure(row, 5)?,
        body: Bytes::from(row.get::<_, Vec<u8>>(8)?),
    })
}

/// Reads reason, detail and event type from this column and the two behind it.
fn failure(row: &Row<'_>, column: usize) -> rusqlite::Result<Failure> {
    let reason: String = row.get(column)?;
    Ok(Failure {
        // A reason that this build does not know was written by a newer one.
        reason: Reason::parse(&reason).unwrap_or(Reason::CorruptEntry),
        detail: row.get(column + 1)?,
        event_type: row.get(column + 2)?,
    })
}

/// One step of counting dead letters by reason and type. Reads no body.
pub(super) fn sum(connection: &Connection, page: &DeadLetterPage) -> rusqlite::Result<DeadLetterSums> {
    let window = if page.filter.id.is_some() { "id = :id AND" } else { "" };
    let sql = format!(
        "SELECT seq, {MATCHING}, died_at, reason, '', event_type FROM dead_letters
          WHERE {window} seq > :after ORDER BY seq LIMIT :limit"
    );
    let (mut sums, mut last, mut count) = (DeadLetterSums::default(), None, 0);
    query(connection, &sql, page, |row| {
        let (seq, matches): (i64, Option<bool>) = (row.get(0)?, row.get(1)?);
        if matches == Some(true) {
            sums.add(&failure(row, 3)?, Timestamp::from_millis(row.get(2)?));
        }
        (last, count) = (Some(DeadLetterPosition(seq)), count + 1);
        Ok(ControlFlow::<()>::Continue(()))
    })?;
    sums.next = last.filter(|_| count >= page.limit && page.filter.id.is_none());
    Ok(sums)
}

/// The dead letters that one step of a bulk operation is about.
struct Step {
    /// Dead letters that match.
    chosen: Vec<i64>,
    /// Position at which the next step begins.
    next: Option<DeadLetterPosition>,
}

/// Looks at the dead letters of the page, whether they match or not, and chooses no more than
/// `bytes_max` of bodies. Reads no body.
fn step(connection: &Connection, page: &DeadLetterPage, bytes_max: usize) -> rusqlite::Result<Step> {
    // One id is found by its index, wherever it stands.
    let window = if page.filter.id.is_some() { "id = :id AND" } else { "" };
    let sql = format!(
        "SELECT seq, {MATCHING}, length(body) FROM dead_letters WHERE {window} seq > :after ORDER BY seq LIMIT :limit"
    );
    let (mut chosen, mut looked_at, mut bytes) = (Vec::new(), None, 0_usize);
    let mut count = 0;
    let is_cut = query(connection, &sql, page, |row| {
        let (seq, matches, length): (i64, Option<bool>, usize) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if matches == Some(true) {
            bytes = bytes.saturating_add(length);
            if bytes > bytes_max && !chosen.is_empty() {
                return Ok(ControlFlow::Break(()));
            }
            chosen.push(seq);
        }
        (looked_at, count) = (Some(DeadLetterPosition(seq)), count + 1);
        Ok(ControlFlow::Continue(()))
    })?;
    let is_full = is_cut.is_some() || (count >= page.limit && page.filter.id.is_none());
    Ok(Step { chosen, next: looked_at.filter(|_| is_full) })
}

/// One step of counting dead letters.
pub(super) fn count_matching(connection: &Connection, page: &DeadLetterPage) -> rusqlite::Result<BulkStep> {
    let Step { chosen, next } = step(connection, page, usize::MAX)?;
    Ok(BulkStep { changed: chosen.len(), next })
}

/// One step of moving dead letters back, as far as the queue has room.
pub(super) fn redrive(
    connection: &Connection,
    page: &DeadLetterPage,
    now: Timestamp,
    depth_max: u64,
) -> rusqlite::Result<Result<BulkStep, QueueError>> {
    let mut counters = Counters::read(connection)?;
    let room = usize::try_from(depth_max.saturating_sub(counters.depth)).unwrap_or(usize::MAX);
    let mut message = connection.prepare_cached(
        "INSERT INTO messages (seq, id, received_at, enqueued_at, format, body, traceparent)
         SELECT ?2, id, received_at, ?3, format, body, traceparent FROM dead_letters WHERE seq = ?1
         ON CONFLICT DO NOTHING",
    )?;
    let mut lease = connection.prepare_cached(
        "INSERT INTO leases (seq, due_at, token, attempts, unsettled, received_at)
         SELECT seq, enqueued_at, NULL, 0, 0, received_at FROM messages WHERE seq = ?1 ON CONFLICT DO NOTHING",
    )?;
    let mut dead_letter = connection.prepare_cached("DELETE FROM dead_letters WHERE seq = ?1")?;
    let Step { mut chosen, mut next } = step(connection, page, STEP_BYTES_MAX)?;
    if chosen.len() > room {
        chosen.truncate(room);
        let Some(last) = chosen.last() else {
            return Ok(Err(QueueError::Full { depth: counters.depth, limit: depth_max }));
        };
        next = Some(DeadLetterPosition(*last));
    }
    let mut changed = 0;
    for dead_seq in &chosen {
        // Negative, and in the order in which they died. The number of a dead letter is never given twice.
        let seq = REDRIVEN_BASE + dead_seq;
        // A message of this id that waits is this one: it was sent again.
        changed += message.execute((dead_seq, seq, now.as_millis()))?;
        lease.execute((seq,))?;
        dead_letter.execute((dead_seq,))?;
    }
    counters.depth += count(changed);
    counters.dead = counters.dead.saturating_sub(count(chosen.len()));
    counters.write(connection)?;
    Ok(Ok(BulkStep { changed, next }))
}

/// One step of deleting dead letters for good.
pub(super) fn discard(
    connection: &Connection,
    page: &DeadLetterPage,
    now: Timestamp,
) -> rusqlite::Result<BulkStep> {
    let mut counters = Counters::read(connection)?;
    let mut record = connection.prepare_cached(
        "INSERT INTO discarded (id, discarded_at, died_at, attempts, reason, detail, event_type)
         SELECT id, ?2, died_at, attempts, reason, detail, event_type FROM dead_letters WHERE seq = ?1",
    )?;
    let mut dead_letter = connection.prepare_cached("DELETE FROM dead_letters WHERE seq = ?1")?;
    let Step { chosen, next } = step(connection, page, STEP_BYTES_MAX)?;
    for seq in &chosen {
        record.execute((seq, now.as_millis()))?;
        dead_letter.execute((seq,))?;
    }
    let sql = "DELETE FROM discarded WHERE seq <= (SELECT max(seq) FROM discarded) - ?1";
    connection.prepare_cached(sql)?.execute((i64::try_from(DISCARDS_KEPT).unwrap_or(i64::MAX),))?;
    counters.dead = counters.dead.saturating_sub(count(chosen.len()));
    counters.write(connection)?;
    Ok(BulkStep { changed: chosen.len(), next })
}

/// Records of discards of this message, oldest first.
pub(super) fn discards(connection: &Connection, id: &MessageId) -> rusqlite::Result<Vec<Discard>> {
    let sql = "SELECT discarded_at, died_at, attempts, reason, detail, event_type FROM discarded WHERE id = ?1 ORDER BY seq";
    select(connection, sql, (id.as_str(),), |row| {
        Ok(Discard {
            discarded_at: Timestamp::from_millis(row.get(0)?),
            parked_at: Timestamp::from_millis(row.get(1)?),
            attempts: row.get(2)?,
            failure: failure(row, 3)?,
        })
    })
}
