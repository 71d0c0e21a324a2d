//! Dead letters: list, redrive, discard.

use std::collections::{BTreeMap, HashMap};

use redis::{Script, cmd};
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{
    BulkStep, DeadLetter, DeadLetterFilter, DeadLetterPosition, PAGE_BYTES_MAX, QueueError,
};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::time::Timestamp;
use serde_json::Value;

use super::{BATCH_MAX, RedisQueue, Shard};
use crate::id;
use crate::shard::SHARDS_MAX;
use crate::value::{self, Stored};

/// Maximum dead letters read in one call.
const PAGE: usize = 500;

/// Positions of dead letters per millisecond (settle.lua).
const POSITIONS_A_MILLISECOND: i64 = 1024;

/// Detail of a dead letter without a readable reason.
const UNKNOWN: &str = "reason unknown: its entry in failures is missing or unreadable";

/// Dead letter without its body.
struct Found {
    position: DeadLetterPosition,
    shard: usize,
    id: Vec<u8>,
    parked_at: Timestamp,
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
        let (mut letters, mut bytes) = (Vec::new(), 0_usize);
        let mut stored = HashMap::new();
        for (index, letter) in found.iter().enumerate() {
            if !stored.contains_key(&index) {
                if bytes > PAGE_BYTES_MAX {
                    break;
                }
                self.read_bodies(&found, index, &mut stored).await?;
            }
            // No body: redriven or discarded meanwhile.
            let Some(letter) = stored.remove(&index).flatten().map(|value| letter.letter(&value)) else {
                continue;
            };
            bytes = bytes.saturating_add(letter.body.len());
            if bytes > PAGE_BYTES_MAX && !letters.is_empty() {
                break;
            }
            letters.push(letter);
        }
        Ok(letters)
    }

    /// Reads the body of this letter, and of the following ones in its shard up to the size limit of an
    /// answer.
    async fn read_bodies(
        &self,
        found: &[Found],
        from: usize,
        stored: &mut HashMap<usize, Option<Vec<u8>>>,
    ) -> Result<(), QueueError> {
        let index = found[from].shard;
        let same =
            (from..found.len()).filter(|next| found[*next].shard == index && !stored.contains_key(next));
        let wanted: Vec<usize> = same.take(PAGE).collect();
        let values: Vec<Option<Vec<u8>>> = self
            .ask(&self.scripts.bodies, &self.shards[index], |command| {
                command.arg(PAGE_BYTES_MAX);
                for position in &wanted {
                    command.arg(&found[*position].id);
                }
            })
            .await?;
        stored.extend(wanted.into_iter().zip(values));
        // Without this entry, an empty answer would be requested again endlessly.
        stored.entry(from).or_insert(None);
        Ok(())
    }

    /// Counts one page; reads no bodies.
    pub(super) async fn count_dead(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<BulkStep, QueueError> {
        let (found, next) = self.next_dead(filter, after, limit).await?;
        Ok(BulkStep { changed: found.len(), next })
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

    /// Runs one step of a bulk operation, by a script per shard: of the next `limit` dead letters those that
    /// match.
    async fn step(
        &self,
        script: &Script,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<BulkStep, QueueError> {
        let (found, mut next) = self.next_dead(filter, after, limit).await?;
        let (mut changed, mut full) = (0, false);
        for (shard, ids) in by_shard(&found) {
            for part in ids.chunks(BATCH_MAX) {
                let (count, is_full): (usize, u8) = self
                    .call(script, &self.shards[shard], |command| {
                        command.arg(self.depth_max()).arg(part);
                    })
                    .await?;
                changed += count;
                self.shards[shard].wake();
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
            // Processed letters are gone: the next step starts before the first one and finds the others.
            next = found.first().map(|first| DeadLetterPosition(first.position.0 - 1));
        }
        Ok(BulkStep { changed, next })
    }

    /// Returns the matching dead letters among the next `limit`, and the start of the next step.
    async fn next_dead(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<(Vec<Found>, Option<DeadLetterPosition>), QueueError> {
        let everything = DeadLetterFilter { id: filter.id.clone(), ..DeadLetterFilter::default() };
        let mut found = self.find_dead(&everything, after, limit).await?;
        let last = found.last().map(|found| found.position);
        let next = last.filter(|_| found.len() == limit && filter.id.is_none());
        found.retain(|found| found.matches(filter));
        Ok((found, next))
    }

    /// Returns matching dead letters of all shards, oldest first.
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

    /// Returns the dead letter with this id, by its indexes.
    async fn find_dead_one(
        &self,
        id: &MessageId,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
    ) -> Result<Vec<Found>, QueueError> {
        let stored = id::stored(id.as_str());
        for index in self.shards_of(id) {
            let shard = &self.shards[index];
            let position: Option<i64> =
                self.read(shard, cmd("ZSCORE").arg(shard.keys.dead()).arg(&*stored)).await?;
            let Some(position) = position else { continue };
            let failure: Option<String> =
                self.read(shard, cmd("HGET").arg(shard.keys.failures()).arg(&*stored)).await?;
            let found = Found::read(stored.to_vec(), position, index, failure.as_deref());
            if found.matches(filter) && after.is_none_or(|after| found.position > after) {
                return Ok(vec![found]);
            }
        }
        Ok(Vec::new())
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
        // First local position that follows `after` in the listing of all shards.
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
            let page: Vec<(Vec<u8>, i64)> = self.read(shard, &command).await?;
            let Some((_, last)) = page.last() else { break };
            from = last + 1;
            let mut command = cmd("HMGET");
            command.arg(shard.keys.failures());
            for (id, _) in &page {
                command.arg(id);
            }
            let failures: Vec<Option<String>> = self.read(shard, &command).await?;
            let letters = page
                .into_iter()
                .zip(failures)
                .map(|((id, position), failure)| Found::read(id, position, index, failure.as_deref()));
            found.extend(letters.filter(|letter| letter.matches(filter)));
        }
        found.truncate(limit);
        Ok(found)
    }
}

fn by_shard(found: &[Found]) -> BTreeMap<usize, Vec<&[u8]>> {
    let mut ids: BTreeMap<usize, Vec<&[u8]>> = BTreeMap::new();
    for letter in found {
        ids.entry(letter.shard).or_default().push(&letter.id);
    }
    ids
}

/// Converts a shard's local position to one that is unique over all shards.
fn listing_position(local: i64, shard: usize) -> DeadLetterPosition {
    DeadLetterPosition(local * i64::from(SHARDS_MAX) + i64::try_from(shard).unwrap_or_default())
}

/// Returns the last local position of a shard that does not follow `position`.
fn local_position(position: DeadLetterPosition, shard: usize) -> i64 {
    (position.0 - i64::try_from(shard).unwrap_or_default()).div_euclid(i64::from(SHARDS_MAX))
}

impl Found {
    /// Builds a dead letter from its indexes. Missing values are reported as unknown: it is listed in any
    /// case.
    fn read(id: Vec<u8>, local: i64, shard: usize, failure: Option<&str>) -> Self {
        let parts = failure.and_then(|failure| failure.split_once(' '));
        let failure: Option<Value> = parts.and_then(|(_, failure)| serde_json::from_str(failure).ok());
        let is_known = failure.is_some();
        let failure = failure.unwrap_or_default();
        let text = |key: &str| failure[key].as_str();
        let parked_at = parts.and_then(|(parked_at, _)| parked_at.parse().ok());
        Self {
            position: listing_position(local, shard),
            shard,
            id,
            // The position starts with the time (settle.lua).
            parked_at: Timestamp::from_millis(parked_at.unwrap_or(local / POSITIONS_A_MILLISECOND)),
            attempts: failure["attempts"].as_u64().and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
            failure: Failure {
                // An unknown reason was written by a newer build.
                reason: text("reason").and_then(Reason::parse).unwrap_or(Reason::CorruptEntry),
                detail: if is_known { text("detail").unwrap_or_default() } else { UNKNOWN }.to_owned(),
                event_type: text("event_type").map(str::to_owned),
            },
        }
    }

    fn matches(&self, filter: &DeadLetterFilter) -> bool {
        let DeadLetterFilter { id, event_type, reason, since } = filter;
        id.as_ref().is_none_or(|id| *id::stored(id.as_str()) == self.id[..])
            && event_type.as_ref().is_none_or(|wanted| self.failure.event_type.as_ref() == Some(wanted))
            && reason.as_ref().is_none_or(|reason| self.failure.reason.as_str() == reason)
            && since.is_none_or(|since| self.parked_at >= since)
    }

    fn letter(&self, stored: &[u8]) -> DeadLetter {
        let Stored { received_at, traceparent, body } = value::show(stored);
        DeadLetter {
            position: self.position,
            id: id::to_message_id(&self.id),
            received_at,
            traceparent,
            parked_at: self.parked_at,
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
    fn in_every_shard_a_page_starts_after_the_last_letter_of_the_previous_page() {
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
