//! Messages that wait, looked at without taking them.
//!
//! A listing walks over the bodies of one shard after the other (HSCAN), which neither a retry nor a lease moves.
//! A step of that walk may bring more than a page holds: the ids that are left over go into the cursor, and come
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

/// The most messages on a page, with their bodies.
const PAGE_MAX: usize = 500;

/// Where HSCAN begins, and what it says when it has come round.
const ROUND: &str = "0";

/// A place in a listing: `shard/run/cursor`, then `/` and the hexadecimal digits of the id for each that was left over.
struct Place {
    shard: usize,
    /// The run of the server that gave the cursor.
    run: String,
    cursor: String,
    /// These come first.
    rest: Vec<Vec<u8>>,
}

/// The script's answer: run, cursor, ids left over, messages.
type Answer = (String, String, Vec<Vec<u8>>, Vec<Row>);

/// A message: id, value, state, until when, attempts.
type Row = (Vec<u8>, Vec<u8>, String, i64, u32);

impl Place {
    /// Where a shard begins.
    fn of_shard(shard: usize) -> Self {
        Self { shard, run: String::new(), cursor: ROUND.to_owned(), rest: Vec::new() }
    }

    /// None that we wrote begins anew.
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
        let place = after.map_or_else(|| Place::of_shard(0), Place::parse);
        if place.shard >= self.shards.len() {
            return Ok(MessagesPage { messages: Vec::new(), next: None });
        }
        let (first, later) = place.rest.split_at(limit.min(place.rest.len()));
        let (run, cursor, mut rest, rows): Answer = self.look(&place, limit, first).await?;
        rest.extend_from_slice(later);
        let next = if cursor != ROUND || !rest.is_empty() {
            Some(Place { shard: place.shard, run, cursor, rest })
        } else {
            Some(place.shard + 1).filter(|shard| *shard < self.shards.len()).map(Place::of_shard)
        };
        let messages = rows.into_iter().map(message).collect();
        Ok(MessagesPage { messages, next: next.map(|next| next.cursor()) })
    }

    pub(super) async fn find(&self, id: &MessageId) -> Result<Option<QueuedMessage>, QueueError> {
        for shard in self.shards_of(id) {
            let ids = [id::stored(id.as_str()).into_owned()];
            let (_, _, _, rows): Answer = self.look(&Place::of_shard(shard), 1, &ids).await?;
            if let Some(row) = rows.into_iter().next() {
                return Ok(Some(message(row)));
            }
        }
        Ok(None)
    }

    /// Looks at these, or where there are none at the next in the walk.
    async fn look<T: FromRedisValue>(
        &self,
        place: &Place,
        max: usize,
        ids: &[Vec<u8>],
    ) -> Result<T, QueueError> {
        self.ask(&self.scripts.look, &self.shards[place.shard], |command| {
            command.arg(max).arg(PAGE_BYTES_MAX).arg(&place.run).arg(&place.cursor);
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
    QueuedMessage { id: id::shown(&id), received_at, traceparent, attempts, state, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written() {
        for rest in [&[][..], &[&b"msg_a"[..]], &[b"msg_-Z", b"a/b\xff"]] {
            let rest = rest.iter().map(|id| id.to_vec()).collect();
            let place =
                Place { shard: 63, run: "4f".to_owned(), cursor: "18446744073709551615".to_owned(), rest };
            let read = Place::parse(&place.cursor());
            assert_eq!(
                (read.shard, read.run, read.cursor, read.rest),
                (place.shard, place.run, place.cursor, place.rest)
            );
        }
    }
}
