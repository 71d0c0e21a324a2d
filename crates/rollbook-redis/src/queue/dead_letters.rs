//! Dead letters: list, sums, redrive, discard.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use redis::{Script, cmd};
use rollbook_core::delivery::MessageId;
use rollbook_core::queue::{
    BulkStep, DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetterPosition, DeadLetterSums,
    PAGE_BYTES_MAX, QueueError,
};

use super::dead_letter_entry::{Found, local_before, local_position};
use super::{BATCH_MAX, RedisQueue, Shard};
use crate::id;

/// Maximum dead letters read in one call.
const PAGE: usize = 500;

impl RedisQueue {
    /// Lists the newest ones before a position.
    pub(super) async fn list_newest_dead(
        &self,
        page: &DeadLetterPage,
    ) -> Result<Vec<DeadLetter>, QueueError> {
        let DeadLetterPage { filter, after: before, limit } = page;
        let mut found = if let Some(id) = &filter.id {
            let mut one = self.find_dead_one(id, &filter.page(None, 1)).await?;
            one.retain(|found| before.is_none_or(|before| found.position < before));
            one
        } else {
            let mut all = Vec::new();
            for (index, shard) in self.shards.iter().enumerate() {
                all.extend(self.find_in(index, shard, page, true).await?);
            }
            all.sort_by_key(|found| Reverse(found.position));
            all
        };
        found.truncate(*limit);
        self.with_bodies(&found).await
    }

    /// Reads the bodies of these dead letters, up to the size of a page.
    pub(super) async fn with_bodies(&self, found: &[Found]) -> Result<Vec<DeadLetter>, QueueError> {
        let (mut letters, mut bytes) = (Vec::new(), 0_usize);
        let mut stored = HashMap::new();
        for (index, letter) in found.iter().enumerate() {
            if !stored.contains_key(&index) {
                if bytes > PAGE_BYTES_MAX {
                    break;
                }
                self.read_bodies(found, index, &mut stored).await?;
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

    /// Sums one page; reads no bodies.
    pub(super) async fn sum_dead(&self, page: &DeadLetterPage) -> Result<DeadLetterSums, QueueError> {
        let (found, next) = self.next_dead(page).await?;
        let mut sums = DeadLetterSums { next, ..DeadLetterSums::default() };
        for letter in &found {
            sums.add(&letter.failure, letter.parked_at);
        }
        Ok(sums)
    }

    /// Runs one step of a bulk operation, by a script per shard: of the dead letters of the page those that match.
    pub(super) async fn step(
        &self,
        page: &DeadLetterPage,
        script: &Script,
        argument: u64,
    ) -> Result<BulkStep, QueueError> {
        let (found, mut next) = self.next_dead(page).await?;
        let (mut changed, mut full) = (0, false);
        for (shard, ids) in by_shard(&found) {
            for part in ids.chunks(BATCH_MAX) {
                let (count, is_full): (usize, u8) = self
                    .call(script, &self.shards[shard], |command| {
                        command.arg(argument).arg(part);
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

    /// Returns the matching dead letters of the page, and the start of the next step.
    pub(super) async fn next_dead(
        &self,
        page: &DeadLetterPage,
    ) -> Result<(Vec<Found>, Option<DeadLetterPosition>), QueueError> {
        let DeadLetterPage { filter, after, limit } = page;
        let everything = DeadLetterFilter { id: filter.id.clone(), ..DeadLetterFilter::default() };
        let mut found = self.find_dead(&everything.page(*after, *limit)).await?;
        let last = found.last().map(|found| found.position);
        let next = last.filter(|_| found.len() == *limit && filter.id.is_none());
        found.retain(|found| found.matches(filter));
        Ok((found, next))
    }

    /// Returns matching dead letters of all shards, oldest first.
    pub(super) async fn find_dead(&self, page: &DeadLetterPage) -> Result<Vec<Found>, QueueError> {
        if let Some(id) = &page.filter.id {
            let mut found = self.find_dead_one(id, page).await?;
            found.truncate(page.limit);
            return Ok(found);
        }
        let mut all = Vec::new();
        for (index, shard) in self.shards.iter().enumerate() {
            all.extend(self.find_in(index, shard, page, false).await?);
        }
        all.sort_by_key(|found| found.position);
        all.truncate(page.limit);
        Ok(all)
    }

    /// Returns the dead letter with this id, by its indexes.
    async fn find_dead_one(&self, id: &MessageId, page: &DeadLetterPage) -> Result<Vec<Found>, QueueError> {
        let stored = id::stored(id.as_str());
        for index in self.shards_of(id) {
            let shard = &self.shards[index];
            let position: Option<i64> =
                self.read(shard, cmd("ZSCORE").arg(shard.keys.dead()).arg(&*stored)).await?;
            let Some(position) = position else { continue };
            let failure: Option<String> =
                self.read(shard, cmd("HGET").arg(shard.keys.failures()).arg(&*stored)).await?;
            let found = Found::read(stored.to_vec(), position, index, failure.as_deref());
            if found.matches(&page.filter) && page.after.is_none_or(|after| found.position > after) {
                return Ok(vec![found]);
            }
        }
        Ok(Vec::new())
    }

    /// Reads the reasons of a page of dead letters.
    async fn with_failures(
        &self,
        index: usize,
        shard: &Shard,
        page: Vec<(Vec<u8>, i64)>,
    ) -> Result<Vec<Found>, QueueError> {
        let mut command = cmd("HMGET");
        command.arg(shard.keys.failures());
        for (id, _) in &page {
            command.arg(id);
        }
        let failures: Vec<Option<String>> = self.read(shard, &command).await?;
        let letters = page.into_iter().zip(failures);
        Ok(letters.map(|((id, position), why)| Found::read(id, position, index, why.as_deref())).collect())
    }

    /// Returns matching dead letters of a shard, the oldest or the newest first.
    async fn find_in(
        &self,
        index: usize,
        shard: &Shard,
        DeadLetterPage { filter, after, limit }: &DeadLetterPage,
        newest_first: bool,
    ) -> Result<Vec<Found>, QueueError> {
        let mut found = Vec::new();
        let (range, mut from, end, next) = if newest_first {
            let from = after.map_or_else(|| "+inf".to_owned(), |it| local_before(it, index).to_string());
            ("ZREVRANGEBYSCORE", from, "-inf", -1)
        } else {
            // First local position that follows `after` in the listing of all shards.
            let from = after.map_or(0, |after| local_position(after, index) + 1);
            ("ZRANGEBYSCORE", from.to_string(), "+inf", 1)
        };
        while found.len() < *limit {
            let mut command = cmd(range);
            command.arg(shard.keys.dead()).arg(&from).arg(end).arg("WITHSCORES");
            let page: Vec<(Vec<u8>, i64)> = self.read(shard, command.arg("LIMIT").arg(0).arg(PAGE)).await?;
            let Some((_, last)) = page.last() else { break };
            from = (last + next).to_string();
            let letters = self.with_failures(index, shard, page).await?;
            found.extend(letters.into_iter().filter(|letter| letter.matches(filter)));
        }
        found.truncate(*limit);
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
