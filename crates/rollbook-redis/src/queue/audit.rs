//! Audit: compares the bodies with the indexes, and restores what the bodies prove.
//!
//! * The sizes are compared first, in one step: if they add up, no message is read. Only the leased entries,
//!   which are few, are always checked.
//! * Otherwise one pass reads the stream of new messages and scans the bodies. A body without an index entry
//!   is a candidate: it may just have moved. A candidate of two passes is stranded, and the script that
//!   restores it checks once more.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};

use redis::cmd;
use rollbook_core::queue::{Audit, QueueError};

use super::lease::millis;
use super::{RedisQueue, Shard};

/// Maximum entries of the stream of new messages read, and ids restored, in one call.
const PAGE: usize = 1_000;

/// Sizes of a shard's keys.
#[derive(Clone, Copy)]
struct Sizes {
    messages: u64,
    new: u64,
    again: u64,
    due: u64,
    dead: u64,
    ages: u64,
    failures: u64,
}

impl Sizes {
    /// Returns whether the sizes are consistent with each message being in exactly one place.
    const fn add_up(self) -> bool {
        self.messages == self.new + self.again + self.due + self.dead
            && self.ages == self.again + self.due
            && self.failures == self.dead
    }
}

impl RedisQueue {
    pub(super) async fn audit_shard(
        &self,
        shard: &Shard,
        repair: bool,
        audit: &mut Audit,
    ) -> Result<(), QueueError> {
        let lease_for = millis(self.settings.lease_for).to_string();
        let without_holder: u64 = self.audit_step(shard, repair, &["leases", &lease_for]).await?;
        audit.stranded += without_holder;
        if without_holder > 0 {
            shard.wake();
        }
        let sizes = self.sizes(shard).await?;
        audit.messages += sizes.messages.saturating_sub(sizes.dead);
        if sizes.add_up() {
            return Ok(());
        }
        let candidates = self.candidates(shard, None).await?;
        if !candidates.is_empty() {
            let stranded = self.candidates(shard, Some(candidates)).await?;
            for part in stranded.chunks(PAGE) {
                audit.stranded += self.audit_step::<u64>(shard, repair, ("restore", part)).await?;
            }
            shard.wake();
        }
        for (index, lack) in [
            ("due", "messages without a time of receipt in ages"),
            ("dead", "dead letters without a reason in failures"),
            ("ages", ""),
            ("failures", ""),
            ("tries", ""),
        ] {
            let (dangling, lacking) = self.audit_index(shard, repair, index).await?;
            audit.dangling += dangling;
            if lacking > 0 {
                audit.notes.push(format!("{}: {lacking} {lack}", shard.keys.meta()));
            }
        }
        Ok(())
    }

    /// Runs a step of the script. Writes nothing unless `repair` is set.
    async fn audit_step<T: redis::FromRedisValue>(
        &self,
        shard: &Shard,
        repair: bool,
        what: impl redis::ToRedisArgs,
    ) -> Result<T, QueueError> {
        let arguments = |command: &mut redis::Cmd| {
            command.arg(u8::from(repair)).arg(what);
        };
        if repair {
            self.call(&self.scripts.audit, shard, arguments).await
        } else {
            self.ask(&self.scripts.audit, shard, arguments).await
        }
    }

    async fn sizes(&self, shard: &Shard) -> Result<Sizes, QueueError> {
        let (messages, new, again, due, dead, ages, failures) =
            self.audit_step(shard, false, &["counts"]).await?;
        Ok(Sizes { messages, new, again, due, dead, ages, failures })
    }

    /// Returns the messages without an index entry: of all messages, or of the ids in `among`.
    async fn candidates(
        &self,
        shard: &Shard,
        among: Option<Vec<Vec<u8>>>,
    ) -> Result<Vec<Vec<u8>>, QueueError> {
        // Hashes of the ids: a million need about 20 MB. A collision hides a message until the next audit.
        let hasher = RandomState::new();
        let new = self.ids_of_new(shard, &hasher).await?;
        let is_unindexed = |id: &Vec<u8>| !new.contains(&hasher.hash_one(id));
        if let Some(among) = among {
            return Ok(among.into_iter().filter(is_unindexed).collect());
        }
        let mut candidates = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let (next, unindexed): (String, Vec<Vec<u8>>) =
                self.audit_step(shard, false, &["bodies", &cursor]).await?;
            candidates.extend(unindexed.into_iter().filter(is_unindexed));
            cursor = next;
            if cursor == "0" {
                candidates.sort();
                candidates.dedup();
                return Ok(candidates);
            }
        }
    }

    async fn ids_of_new(&self, shard: &Shard, hasher: &RandomState) -> Result<HashSet<u64>, QueueError> {
        let (mut ids, mut from) = (HashSet::new(), "-".to_owned());
        loop {
            let mut command = cmd("XRANGE");
            command.arg(shard.keys.new_messages()).arg(&from).arg("+").arg("COUNT").arg(PAGE);
            let page: Vec<(String, Vec<Vec<u8>>)> = self.read(shard, &command).await?;
            let is_last = page.len() < PAGE;
            for (entry, fields) in page {
                from = format!("({entry}");
                ids.extend(fields.get(1).map(|id| hasher.hash_one(id)));
            }
            if is_last {
                return Ok(ids);
            }
        }
    }

    /// Returns the number of index members without a message, and of those that lack related data.
    async fn audit_index(&self, shard: &Shard, repair: bool, index: &str) -> Result<(u64, u64), QueueError> {
        let (mut dangling, mut lacking, mut cursor) = (0, 0, "0".to_owned());
        loop {
            let (next, more_dangling, more_lacking): (String, u64, u64) =
                self.audit_step(shard, repair, &["index", index, &cursor]).await?;
            (dangling, lacking, cursor) = (dangling + more_dangling, lacking + more_lacking, next);
            if cursor == "0" {
                return Ok((dangling, lacking));
            }
        }
    }
}
