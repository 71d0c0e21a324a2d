//! Reads and permanently removes messages without leasing them.

use bytes::Bytes;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{MessageState, MessagesCursor, MessagesPage, QueuedMessage};
use rollbook_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::{Counters, PageBytes, count, traceparent};

const SELECT: &str =
    "SELECT seq, CAST(id AS BLOB), messages.received_at, body, due_at, token IS NOT NULL, attempts, traceparent
   FROM messages LEFT JOIN leases USING (seq)";

/// Returns a page of messages in the order of `seq`, which a message keeps until it is done or dead. The
/// cursor is the `seq` of the last one.
pub(super) fn list(
    connection: &Connection,
    after: Option<&MessagesCursor>,
    limit: usize,
    now: Timestamp,
) -> rusqlite::Result<MessagesPage> {
    let after: i64 = after.and_then(|cursor| cursor.0.parse().ok()).unwrap_or(i64::MIN);
    let limit = i64::try_from(limit.max(1)).unwrap_or(i64::MAX);
    let sql = format!("{SELECT} WHERE seq > ?1 ORDER BY seq LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query((after, limit))?;
    let (mut messages, mut last) = (Vec::new(), None);
    let mut page = PageBytes::default();
    while let Some(row) = rows.next()? {
        let message = read(row, now)?;
        if !page.has_room_for(&message.body) {
            break;
        }
        last = Some(row.get::<_, i64>(0)?);
        messages.push(message);
    }
    Ok(MessagesPage { messages, next: last.map(|seq| MessagesCursor(seq.to_string())) })
}

/// Returns one message.
pub(super) fn find(
    connection: &Connection,
    id: &MessageId,
    now: Timestamp,
) -> rusqlite::Result<Option<QueuedMessage>> {
    let mut statement = connection.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?;
    statement.query_row((id.as_str(),), |row| read(row, now)).optional()
}

fn read(row: &Row<'_>, now: Timestamp) -> rusqlite::Result<QueuedMessage> {
    let id: Vec<u8> = row.get(1)?;
    // A message without a row in leases is new: it is due, and no attempt was made.
    let (due_at, is_leased, attempts): (Option<i64>, bool, Option<u32>) =
        (row.get(4)?, row.get(5)?, row.get(6)?);
    let state = match due_at.map(Timestamp::from_millis).filter(|due_at| *due_at > now) {
        Some(until) if is_leased => MessageState::Leased { until },
        Some(until) => MessageState::Delayed { until },
        None => MessageState::Waiting,
    };
    Ok(QueuedMessage {
        id: MessageId::new(String::from_utf8_lossy(&id)),
        received_at: Timestamp::from_millis(row.get(2)?),
        traceparent: traceparent(row, 7)?,
        attempts: attempts.unwrap_or(0),
        state,
        body: Bytes::from(row.get::<_, Vec<u8>>(3)?),
    })
}

/// Deletes these messages and dead letters. Returns how many existed.
pub(super) fn remove(connection: &Connection, ids: &[MessageId]) -> rusqlite::Result<usize> {
    let mut counters = Counters::read(connection)?;
    let mut lease = connection
        .prepare_cached("DELETE FROM leases WHERE seq = (SELECT seq FROM messages WHERE id = ?1)")?;
    let mut message = connection.prepare_cached("DELETE FROM messages WHERE id = ?1")?;
    let mut dead_letter = connection.prepare_cached("DELETE FROM dead_letters WHERE id = ?1")?;
    let (mut waiting, mut dead) = (0, 0);
    for id in ids {
        lease.execute((id.as_str(),))?;
        waiting += message.execute((id.as_str(),))?;
        dead += dead_letter.execute((id.as_str(),))?;
    }
    counters.depth = counters.depth.saturating_sub(count(waiting));
    counters.dead = counters.dead.saturating_sub(count(dead));
    counters.write(connection)?;
    Ok(waiting + dead)
}
