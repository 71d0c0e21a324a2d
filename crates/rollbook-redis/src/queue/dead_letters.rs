//! Dead letters: listed in pages, sent back, forgotten.

use std::collections::BTreeMap;

use redis::{Script, cmd};
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{BulkStep, DeadLetter, DeadLetterFilter, DeadLetterPosition, QueueError};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::time::Timestamp;
use serde_json::Value;

use super::{BATCH_MAX, RedisQueue, Shard};
use crate::shard::SHARDS_MAX;
use crate::value::{self, Stored};

/// How many are looked at in one call.
const PAGE: usize = 500;

/// A dead letter without its body.
struct Found {
    position: DeadLetterPosition,
    id: String,
    died_at: Timestamp,
    attempts: u32,
    failure: Failure,
}

impl RedisQueue {
    pub(super) async fn list_dead(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        let found = self.find_dead(filter, after, limit).await?;
        let mut letters = Vec::with_capacity(found.len());
        for page in found.chunks(PAGE) {
            let mut stored: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
            for shard in 0..self.shards.len() {
                let ids = page.iter().map(|found| found.id.as_str());
                let ids: Vec<&str> = ids.filter(|id| self.shard_of(id) == shard).collect();
                stored.extend(self.bodies(&self.shards[shard], &ids).await?);
            }
            // One that has no body any more was sent back or forgotten meanwhile.
            letters
                .extend(page.iter().filter_map(|found| Some(found.letter(stored.get(found.id.as_str())?))));
        }
        Ok(letters)
    }

    async fn bodies<'a>(
        &self,
        shard: &Shard,
        ids: &[&'a str],
    ) -> Result<Vec<(&'a str, Vec<u8>)>, QueueError> {
        let bodies: Vec<Option<Vec<u8>>> = if ids.is_empty() {
            Vec::new()
        } else {
            self.read(shard, cmd("HMGET").arg(shard.keys.messages()).arg(ids)).await?
        };
        let pairs = ids.iter().copied().zip(bodies);
        Ok(pairs.filter_map(|(id, body)| Some((id, body?))).collect())
    }

    pub(super) async fn redrive_dead(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<BulkStep, QueueError> {
        self.step(&self.scripts.redrive, filter, after, limit).await
    }

    pub(super) async fn discard_dead(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<BulkStep, QueueError> {
        self.step(&self.scripts.discard, filter, after, limit).await
    }

    /// One step of a bulk operation, by a script for each shard: of the next `limit` dead letters those that match.
    async fn step(
        &self,
        script: &Script,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<BulkStep, QueueError> {
        let everything = DeadLetterFilter { id: filter.id.clone(), ..DeadLetterFilter::default() };
        let mut found = self.find_dead(&everything, after, limit).await?;
        let last = found.last().map(|found| found.position);
        let mut next = last.filter(|_| found.len() == limit && filter.id.is_none());
        found.retain(|found| found.matches(filter));
        let (mut changed, mut full) = (0, false);
        for (shard, ids) in self.by_shard(&found) {
            for part in ids.chunks(BATCH_MAX) {
                let (count, is_full): (usize, u8) = self
                    .call(script, &self.shards[shard], |command| {
                        command.arg(self.depth_max()).arg(part);
                    })
                    .await?;
                changed += count;
                self.shards[shard].stir();
                full |= is_full == 1;
            }
        }
        if full && changed == 0 {
            return Err(QueueError::Full {
                depth: self.read_stats().await?.depth(),
                limit: self.settings.depth_max,
            });
        }
        if full {
            // Those that went are no longer there: the next step finds the others.
            next = found.first().map(|first| DeadLetterPosition(first.position.0 - 1));
        }
        Ok(BulkStep { changed, next })
    }

    fn by_shard<'a>(&self, found: &'a [Found]) -> BTreeMap<usize, Vec<&'a str>> {
        let mut ids: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for letter in found {
            ids.entry(self.shard_of(&letter.id)).or_default().push(&letter.id);
        }
        ids
    }

    /// Those that match, over all shards, oldest first.
    async fn find_dead(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<Vec<Found>, QueueError> {
        if let Some(id) = &filter.id {
            let mut found = self.find_dead_one(id, filter, after).await?;
            found.truncate(limit);
            return Ok(found);
        }
        let mut all = Vec::new();
        for (index, shard) in self.shards.iter().enumerate() {
            all.extend(self.find_dead_in(index, shard, filter, after, limit).await?);
        }
        all.sort_by_key(|found| found.position);
        all.truncate(limit);
        Ok(all)
    }

    /// The one of this id, by its indexes.
    async fn find_dead_one(
        &self,
        id: &MessageId,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
    ) -> Result<Vec<Found>, QueueError> {
        let index = self.shard_of(id.as_str());
        let shard = &self.shards[index];
        let position: Option<i64> =
            self.read(shard, cmd("ZSCORE").arg(shard.keys.dead()).arg(id.as_str())).await?;
        let failure: Option<String> =
            self.read(shard, cmd("HGET").arg(shard.keys.failures()).arg(id.as_str())).await?;
        let found = position.zip(failure).and_then(|(position, failure)| {
            Found::read(id.to_string(), listing_position(position, index), &failure)
        });
        let is_meant =
            |found: &Found| found.matches(filter) && after.is_none_or(|after| found.position > after);
        Ok(found.filter(is_meant).into_iter().collect())
    }

    async fn find_dead_in(
        &self,
        index: usize,
        shard: &Shard,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<Vec<Found>, QueueError> {
        let mut found = Vec::new();
        // Those of this shard whose place in the whole listing is behind `after`.
        let mut from = after.map_or(0, |after| local_position(after, index) + 1);
        while found.len() < limit {
            let mut command = cmd("ZRANGEBYSCORE");
            command
                .arg(shard.keys.dead())
                .arg(from)
                .arg("+inf")
                .arg("WITHSCORES")
                .arg("LIMIT")
                .arg(0)
                .arg(PAGE);
            let page: Vec<(String, i64)> = self.read(shard, &command).await?;
            let Some((_, last)) = page.last() else { break };
            from = last + 1;
            let mut command = cmd("HMGET");
            command.arg(shard.keys.failures());
            for (id, _) in &page {
                command.arg(id);
            }
            let failures: Vec<Option<String>> = self.read(shard, &command).await?;
            let letters = page.into_iter().zip(failures).filter_map(|((id, position), failure)| {
                Found::read(id, listing_position(position, index), &failure?)
            });
            found.extend(letters.filter(|letter| letter.matches(filter)));
        }
        found.truncate(limit);
        Ok(found)
    }
}

/// A shard's own position, made unique over all shards.
fn listing_position(local: i64, shard: usize) -> DeadLetterPosition {
    DeadLetterPosition(local * i64::from(SHARDS_MAX) + i64::try_from(shard).unwrap_or_default())
}

/// The last of a shard's own positions that is not behind this place.
fn local_position(position: DeadLetterPosition, shard: usize) -> i64 {
    (position.0 - i64::try_from(shard).unwrap_or_default()).div_euclid(i64::from(SHARDS_MAX))
}

impl Found {
    fn read(id: String, position: DeadLetterPosition, told: &str) -> Option<Self> {
        let (died_at, failure) = told.split_once(' ')?;
        let failure: Value = serde_json::from_str(failure).ok()?;
        let text = |key: &str| failure[key].as_str();
        Some(Self {
            position,
            id,
            died_at: Timestamp::from_millis(died_at.parse().ok()?),
            attempts: failure["attempts"].as_u64().and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
            failure: Failure {
                // A reason that this build does not know was written by a newer one.
                reason: text("reason").and_then(Reason::parse).unwrap_or(Reason::CorruptEntry),
                detail: text("detail").unwrap_or_default().to_owned(),
                event_type: text("event_type").map(str::to_owned),
            },
        })
    }

    fn matches(&self, filter: &DeadLetterFilter) -> bool {
        let DeadLetterFilter { id, event_type, reason, since } = filter;
        id.as_ref().is_none_or(|id| id.as_str() == self.id)
            && event_type.as_ref().is_none_or(|wanted| self.failure.event_type.as_ref() == Some(wanted))
            && reason.as_ref().is_none_or(|reason| self.failure.reason.as_str() == reason)
            && since.is_none_or(|since| self.died_at >= since)
    }

    fn letter(&self, stored: &[u8]) -> DeadLetter {
        let Stored { received_at, traceparent, body } = value::show(stored);
        DeadLetter {
            position: self.position,
            id: MessageId::new(&self.id),
            received_at,
            traceparent,
            died_at: self.died_at,
            attempts: self.attempts,
            failure: self.failure.clone(),
            body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_begins_behind_the_last_letter_of_the_page_before_in_every_shard() {
        for (shard, local) in [(0, 5), (3, 5), (63, 7)] {
            let last = listing_position(local, shard);
            for other in 0..64 {
                for candidate in local - 1..=local + 1 {
                    let is_behind = listing_position(candidate, other) > last;
                    assert_eq!(
                        candidate > local_position(last, other),
                        is_behind,
                        "{shard} {other} {candidate}"
                    );
                }
            }
        }
    }
}
