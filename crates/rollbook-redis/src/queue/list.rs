//! Read-only listing of messages that are not settled.
//!
//! A listing scans the bodies of one shard after the other (HSCAN); neither a retry nor a lease moves them. A
//! step of the scan may return more than a page holds: the remaining ids are stored in the cursor, and come
//! first on the next page.

use redis::FromRedisValue;
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{
    MessageState, MessagesCursor, MessagesPage, PAGE_BYTES_MAX, QueueError, QueuedMessage,
};
use rollbook_core::time::Timestamp;

use super::RedisQueue;
use crate::id;
use crate::value::{self, Stored};

/// Maximum messages on a page, with their bodies.
const PAGE_MAX: usize = 500;

/// Cursor with which HSCAN starts and which it returns at the end.
const SCAN_START: &str = "0";

/// Position in a listing: `shard/run/cursor`, then `/` and the hexadecimal digits for each remaining id.
struct Position {
    shard: usize,
    /// Run id of the server that returned the cursor.
    run: String,
    cursor: String,
    /// Remaining ids of the page before; they come first.
    rest: Vec<Vec<u8>>,
}

/// Answer of the script: run, cursor, remaining ids, messages.
type Answer = (String, String, Vec<Vec<u8>>, Vec<Row>);

/// Message: id, value, state, end of the state, attempts.
type Row = (Vec<u8>, Vec<u8>, String, i64, u32);

impl Position {
    /// Start of a shard.
    fn of_shard(shard: usize) -> Self {
        Self { shard, run: String::new(), cursor: SCAN_START.to_owned(), rest: Vec::new() }
    }

    /// Parses a cursor; starts from the beginning if the cursor is not valid.
    fn parse(cursor: &MessagesCursor) -> Self {
        let mut parts = cursor.0.split('/').map(str::to_owned);
        let mut next = || parts.next();
        let (Some(Ok(shard)), Some(run), Some(cursor)) = (next().map(|shard| shard.parse()), next(), next())
        else {
            return Self::of_shard(0);
        };
        Self { shard, run, cursor, rest: parts.filter_map(|id| id::from_hex(&id)).collect() }
    }

    fn cursor(&self) -> MessagesCursor {
        let mut cursor = format!("{}/{}/{}", self.shard, self.run, self.cursor);
        for id in &self.rest {
            cursor.push('/');
            cursor.push_str(&id::hex(id));
        }
        MessagesCursor(cursor)
    }
}

impl RedisQueue {
    pub(super) async fn list(
        &self,
        after: Option<&MessagesCursor>,
        limit: usize,
    ) -> Result<MessagesPage, QueueError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let position = after.map_or_else(|| Position::of_shard(0), Position::parse);
        if position.shard >= self.shards.len() {
            return Ok(MessagesPage { messages: Vec::new(), next: None });
        }
        let (first, later) = position.rest.split_at(limit.min(position.rest.len()));
        let (run, cursor, mut rest, rows): Answer = self.read_page(&position, limit, first).await?;
        rest.extend_from_slice(later);
        let next = if cursor != SCAN_START || !rest.is_empty() {
            Some(Position { shard: position.shard, run, cursor, rest })
        } else {
            Some(position.shard + 1).filter(|shard| *shard < self.shards.len()).map(Position::of_shard)
        };
        let messages = rows.into_iter().map(message).collect();
        Ok(MessagesPage { messages, next: next.map(|next| next.cursor()) })
    }

    pub(super) async fn find(&self, id: &MessageId) -> Result<Option<QueuedMessage>, QueueError> {
        for shard in self.shards_of(id) {
            let ids = [id::stored(id.as_str()).into_owned()];
            let (_, _, _, rows): Answer = self.read_page(&Position::of_shard(shard), 1, &ids).await?;
            if let Some(row) = rows.into_iter().next() {
                return Ok(Some(message(row)));
            }
        }
        Ok(None)
    }

    /// Reads these ids, or if there are none the next messages of the scan.
    async fn read_page<T: FromRedisValue>(
        &self,
        position: &Position,
        max: usize,
        ids: &[Vec<u8>],
    ) -> Result<T, QueueError> {
        self.ask(&self.scripts.list, &self.shards[position.shard], |command| {
            command.arg(max).arg(PAGE_BYTES_MAX).arg(&position.run).arg(&position.cursor);
            for id in ids {
                command.arg(id);
            }
        })
        .await
    }
}

fn message((id, stored, state, until, attempts): Row) -> QueuedMessage {
    let until = Timestamp::from_millis(until);
    let state = match state.as_str() {
        "leased" => MessageState::Leased { until },
        "delayed" => MessageState::Delayed { until },
        _ => MessageState::Waiting,
    };
    let Stored { received_at, traceparent, body } = value::show(&stored);
    QueuedMessage { id: id::to_message_id(&id), received_at, traceparent, attempts, state, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_position_is_parsed_back() {
        for rest in [&[][..], &[&b"msg_a"[..]], &[b"msg_-Z", b"a/b\xff"]] {
            let rest = rest.iter().map(|id| id.to_vec()).collect();
            let position =
                Position { shard: 63, run: "4f".to_owned(), cursor: "18446744073709551615".to_owned(), rest };
            let read = Position::parse(&position.cursor());
            assert_eq!(
                (read.shard, read.run, read.cursor, read.rest),
                (position.shard, position.run, position.cursor, position.rest)
            );
        }
    }
}
