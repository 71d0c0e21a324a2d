//! What a shard says of itself (`meta`), and whether we may work with it.

use rollbook_core::queue::QueueError;
use tracing::{error, warn};

use super::{FORMAT, RedisQueue, Shard};
use crate::owner::{Claim, Owner};
use crate::pool::Call;

/// An epoch that was made for data that were there begins so (`set_up.lua`).
const KEPT: &str = "kept-";

/// What stands in a shard's `meta`.
pub(super) struct Found {
    format: u32,
    shards: u16,
    epoch: String,
    owner: Owner,
}

/// The values of [`Found::FIELDS`], each where it is there.
type Fields = (Option<u32>, Option<u16>, Option<String>, Option<String>);

impl Found {
    pub(super) const FIELDS: [&str; 4] = ["format", "shards", "epoch", "owner"];

    /// `None` where the shard was never set up.
    pub(super) fn read((format, shards, epoch, owner): Fields) -> Option<Self> {
        let owner = Owner::parse(&owner.unwrap_or_default());
        Some(Self { format: format?, shards: shards?, epoch: epoch?, owner })
    }
}

impl RedisQueue {
    pub(super) async fn meet_if_there(&self, shard: &Shard) -> Result<(), QueueError> {
        let mut command = redis::cmd("HMGET");
        command.arg(shard.keys.meta()).arg(&Found::FIELDS);
        if let Some(found) = Found::read(self.command_on(shard, &command).await?) {
            _ = self.meet(shard, found, false)?;
        }
        Ok(())
    }

    pub(super) async fn set_up(&self, shard: &Shard) -> Result<(), QueueError> {
        let script = &self.scripts.set_up;
        let mut command = self.command(script, &shard.keys);
        let ours = format!("{:016x}", fastrand::u64(..));
        command.arg(FORMAT).arg(self.settings.shards).arg(ours).arg(self.settings.owner.to_string());
        let call = Call { command: &command, script: Some(script), confirm: false };
        let answer = self.servers.call(shard.index, &call).await?;
        let found = Found::read(self.read_answer(answer.value)?);
        let unknown =
            || QueueError::Deployment(format!("{}: a shard says nothing of itself", self.address()));
        if let Some(owner) = self.meet(shard, found.ok_or_else(unknown)?, true)? {
            let mut command = redis::cmd("HSET");
            command.arg(shard.keys.meta()).arg("owner").arg(owner.to_string());
            let _: u64 = self.command_on(shard, &command).await?;
        }
        Ok(())
    }

    /// Adds what is new about this deployment to the owner of every shard: one that no delivery has met since a secret
    /// was added would know the old secret only, and refuse the process that has the new one alone. A shard without
    /// an owner keeps none: the first delivery that is genuine claims it, so that a mistyped secret does not.
    ///
    /// # Errors
    /// That of the first shard that can't be asked, or that belongs to another deployment. The others are done.
    pub(super) async fn note_owner(&self) -> Result<(), QueueError> {
        let mut failed = None;
        for shard in &self.shards {
            if let Err(error) = self.note_owner_of(shard).await {
                failed = failed.or(Some(error));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn note_owner_of(&self, shard: &Shard) -> Result<(), QueueError> {
        let mut command = redis::cmd("HMGET");
        command.arg(shard.keys.meta()).arg(&Found::FIELDS);
        let found = Found::read(self.command_on(shard, &command).await?);
        let Some(found) = found.filter(|found| found.owner != Owner::default()) else { return Ok(()) };
        if matches!(self.settings.owner.claim(&found.owner), Claim::Same) {
            return Ok(());
        }
        self.set_up(shard).await
    }

    /// Takes note of what a shard is, where we can work with it. Returns its owner where more is known of it now. A
    /// call that only reads (`writes` is false) does not take note while there is something to write about the owner:
    /// the next call that writes then sets the shard up.
    pub(super) fn meet(
        &self,
        shard: &Shard,
        found: Found,
        writes: bool,
    ) -> Result<Option<Owner>, QueueError> {
        let address = self.address();
        let Found { format, shards, epoch, owner } = found;
        if format != FORMAT {
            return Err(QueueError::Deployment(format!(
                "{address}: its data are in format {format} and this Rollbook knows {FORMAT}; use the Rollbook that made them, or a newer one"
            )));
        }
        if shards != self.settings.shards {
            return Err(QueueError::Deployment(format!(
                "{address}: its queue has {shards} shards and queue_shards is {}; set it to {shards}, or drain the queue and delete its keys first",
                self.settings.shards
            )));
        }
        let is_unclaimed = owner == Owner::default() && self.settings.owner != Owner::default();
        let add = match self.settings.owner.claim(&owner) {
            Claim::Same => None,
            Claim::Add(owner) => Some(owner),
            Claim::Other => return Err(self.belongs_to_another(shard, &owner)),
        };
        // Data that were kept while meta was lost have another epoch, and are the ones that we knew.
        if writes || (add.is_none() && !is_unclaimed) {
            *shard.epoch() = Some(epoch);
        }
        Ok(add)
    }

    pub(super) fn belongs_to_another(&self, shard: &Shard, owner: &Owner) -> QueueError {
        QueueError::Deployment(format!(
            "{}: the queue with the key prefix {} belongs to another deployment (its owner: {owner}; this process: {}). Fix: \
             set redis_key_prefix to a name of this deployment's own. Only if the queue is this deployment's, and all signing \
             secrets or the Clerk instance were replaced: redis-cli HDEL '{}' owner, for each shard",
            self.address(),
            self.settings.key_prefix,
            self.settings.owner,
            shard.keys.meta()
        ))
    }

    /// Whether the shard's data are the ones we knew. Says so where they are not. An empty epoch: `meta` is gone and the data
    /// are there.
    pub(super) fn is_known(&self, shard: &Shard, found: Option<&str>) -> bool {
        let mut known = shard.epoch();
        let Some(epoch) = known.as_deref().filter(|known| found != Some(*known)) else { return true };
        let address = self.address();
        if found
            .is_some_and(|found| found.is_empty() || (found.starts_with(KEPT) && !epoch.starts_with(KEPT)))
        {
            warn!("{address}: {} was gone and is written anew; the messages are there", shard.keys.meta());
            *known = None;
            return true;
        }
        error!(
            "{address}: the queue was emptied or replaced (FLUSHALL, a restart without its data, another server); what \
             waited there is gone and the work goes on. Replay the time since from Clerk's dashboard",
        );
        *known = None;
        false
    }
}
