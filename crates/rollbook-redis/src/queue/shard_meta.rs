//! Data of a shard about itself (`meta`), and the check whether this process may use it.

use rollbook_core::lock::lock;
use rollbook_core::queue::QueueError;
use tracing::{error, warn};

use super::{FORMAT, RedisQueue, Shard};
use crate::owner::{Claim, Owner};
use crate::pool::Call;

/// Prefix of an epoch that was created for existing data (`set_up.lua`).
const KEPT_PREFIX: &str = "kept-";

/// Content of a shard's `meta`.
pub(super) struct ShardMeta {
    format: u32,
    shards: u16,
    epoch: String,
    owner: Owner,
}

/// Values of [`ShardMeta::FIELDS`], as far as present.
type Fields = (Option<u32>, Option<u16>, Option<String>, Option<String>);

impl ShardMeta {
    pub(super) const FIELDS: [&str; 4] = ["format", "shards", "epoch", "owner"];

    /// Returns `None` if the shard was never set up.
    pub(super) fn read((format, shards, epoch, owner): Fields) -> Option<Self> {
        let owner = Owner::parse(&owner.unwrap_or_default());
        Some(Self { format: format?, shards: shards?, epoch: epoch?, owner })
    }
}

impl RedisQueue {
    pub(super) async fn load_meta(&self, shard: &Shard) -> Result<(), QueueError> {
        let mut command = redis::cmd("HMGET");
        command.arg(shard.keys.meta()).arg(&ShardMeta::FIELDS);
        if let Some(found) = ShardMeta::read(self.command_on(shard, &command).await?) {
            _ = self.accept(shard, found, false)?;
        }
        Ok(())
    }

    pub(super) async fn set_up(&self, shard: &Shard) -> Result<(), QueueError> {
        let script = &self.scripts.set_up;
        let mut command = self.command(script, &shard.keys);
        let ours = format!("{:016x}", fastrand::u64(..));
        command.arg(FORMAT).arg(self.settings.shards).arg(ours).arg(self.owner.current().to_string());
        let call = Call { command: &command, script: Some(script), confirm: false };
        let answer = self.servers.call(shard.index, &call).await?;
        let found = ShardMeta::read(self.read_answer(answer.value)?);
        let unknown =
            || QueueError::Deployment(format!("{}: a shard has no metadata after its setup", self.address()));
        if let Some(owner) = self.accept(shard, found.ok_or_else(unknown)?, true)? {
            let mut command = redis::cmd("HSET");
            command.arg(shard.keys.meta()).arg("owner").arg(owner.to_string());
            let _: u64 = self.command_on(shard, &command).await?;
        }
        Ok(())
    }

    /// Adds new data about this deployment to the owner of every shard: a shard that received no delivery
    /// since a secret was added would know only the old secret, and refuse a process that has only the new
    /// one. A shard without an owner stays without one: the first verified delivery claims it, so that a
    /// mistyped secret can't.
    ///
    /// # Errors
    /// Returns the error of the first shard that can't be reached or belongs to another deployment. The other
    /// shards are updated.
    pub(super) async fn store_owner(&self) -> Result<(), QueueError> {
        let mut failed = None;
        for shard in &*self.shards {
            if let Err(error) = self.store_owner_in(shard).await {
                failed = failed.or(Some(error));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn store_owner_in(&self, shard: &Shard) -> Result<(), QueueError> {
        let mut command = redis::cmd("HMGET");
        command.arg(shard.keys.meta()).arg(&ShardMeta::FIELDS);
        let found = ShardMeta::read(self.command_on(shard, &command).await?);
        let Some(found) = found.filter(|found| found.owner != Owner::default()) else { return Ok(()) };
        if matches!(self.owner.current().claim(&found.owner), Claim::Same) {
            return Ok(());
        }
        self.set_up(shard).await
    }

    /// Accepts a shard if this process can use it. Returns the owner to store if there is new data about it.
    /// A read-only call (`writes` is false) does not accept a shard while there is data to store about the
    /// owner: the next call that writes then sets the shard up.
    pub(super) fn accept(
        &self,
        shard: &Shard,
        found: ShardMeta,
        writes: bool,
    ) -> Result<Option<Owner>, QueueError> {
        let address = self.address();
        let ShardMeta { format, shards, epoch, owner } = found;
        if format != FORMAT {
            return Err(QueueError::Deployment(format!(
                "{address}: the queue's data has format {format} and this Rollbook supports {FORMAT}; use the Rollbook that created it, or a newer one"
            )));
        }
        if shards != self.settings.shards {
            return Err(QueueError::Deployment(format!(
                "{address}: the queue has {shards} shards and queue_shards is {}; set it to {shards}, or drain the queue and delete its keys first",
                self.settings.shards
            )));
        }
        let ours = self.owner.current();
        let is_unclaimed = owner == Owner::default() && *ours != Owner::default();
        let add = match ours.claim(&owner) {
            Claim::Same => None,
            Claim::Add(owner) => Some(owner),
            Claim::Other => return Err(self.belongs_to_another(shard, &owner)),
        };
        // If meta was lost and the data kept, the epoch is new and the data is what this process knew.
        if writes || (add.is_none() && !is_unclaimed) {
            *lock(&shard.epoch) = Some(epoch);
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
            self.owner.current(),
            shard.keys.meta()
        ))
    }

    /// Returns whether the shard's data is the data that this process knows; logs if not. An empty epoch
    /// means that `meta` is gone and the data exists.
    pub(super) fn check_epoch(&self, shard: &Shard, found: Option<&str>) -> bool {
        let mut known = lock(&shard.epoch);
        let Some(epoch) = known.as_deref().filter(|known| found != Some(*known)) else { return true };
        let address = self.address();
        if found.is_some_and(|found| {
            found.is_empty() || (found.starts_with(KEPT_PREFIX) && !epoch.starts_with(KEPT_PREFIX))
        }) {
            warn!("{address}: {} was missing and is recreated; no message is lost", shard.keys.meta());
            *known = None;
            return true;
        }
        error!(
            "{address}: the queue was emptied or replaced (FLUSHALL, a restart without its data, another server); waiting \
             messages are lost and work continues. Fix: replay the time since then from Clerk's dashboard",
        );
        *known = None;
        false
    }
}
