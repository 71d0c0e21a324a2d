//! Calls to the server of a shard.

use redis::{Cmd, FromRedisValue, Script, Value};
use rollbook_core::queue::QueueError;

use super::{RedisQueue, Shard};
use crate::address::Address;
use crate::fault;
use crate::pool::{Answer, Call};

impl RedisQueue {
    /// Address of the queue, for error texts.
    pub(super) fn address(&self) -> &Address {
        self.servers.address()
    }

    pub(super) async fn call<T: FromRedisValue>(
        &self,
        script: &Script,
        shard: &Shard,
        arguments: impl FnOnce(&mut Cmd),
    ) -> Result<T, QueueError> {
        self.call_reporting_repeat(script, shard, arguments).await.map(|(answer, _)| answer)
    }

    /// Like [`call`](Self::call); also returns whether the call was sent twice: the first one may have been
    /// executed too.
    pub(super) async fn call_reporting_repeat<T: FromRedisValue>(
        &self,
        script: &Script,
        shard: &Shard,
        arguments: impl FnOnce(&mut Cmd),
    ) -> Result<(T, bool), QueueError> {
        self.ensure_set_up(shard).await?;
        self.run(script, shard, false, arguments).await
    }

    /// Like [`call`](Self::call); returns when the write is confirmed as configured.
    pub(super) async fn call_confirmed<T: FromRedisValue>(
        &self,
        script: &Script,
        shard: &Shard,
        arguments: impl FnOnce(&mut Cmd),
    ) -> Result<T, QueueError> {
        self.ensure_set_up(shard).await?;
        self.run(script, shard, true, arguments).await.map(|(answer, _)| answer)
    }

    /// Runs a read-only script. A shard that was never set up counts as empty and is not set up: health
    /// checks and operator commands must not write.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        script: &Script,
        shard: &Shard,
        arguments: impl FnOnce(&mut Cmd),
    ) -> Result<T, QueueError> {
        self.ensure_compatible(shard).await?;
        self.run(script, shard, false, arguments).await.map(|(answer, _)| answer)
    }

    /// Runs a script. Also returns whether the call was sent twice.
    async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        shard: &Shard,
        confirm: bool,
        arguments: impl FnOnce(&mut Cmd),
    ) -> Result<(T, bool), QueueError> {
        let mut command = self.command(script, &shard.keys);
        arguments(&mut command);
        let call = Call { command: &command, script: Some(script), confirm };
        let Answer { value, repeated } = self.servers.call(shard.index, &call).await?;
        Ok((self.read_answer(value)?, repeated))
    }

    /// Runs a read-only command.
    pub(super) async fn read<T: FromRedisValue>(
        &self,
        shard: &Shard,
        command: &Cmd,
    ) -> Result<T, QueueError> {
        self.ensure_compatible(shard).await?;
        self.command_on(shard, command).await
    }

    /// Runs a command on the server of a shard, without checking the shard.
    pub(super) async fn command_on<T: FromRedisValue>(
        &self,
        shard: &Shard,
        command: &Cmd,
    ) -> Result<T, QueueError> {
        let call = Call { command, script: None, confirm: false };
        self.read_answer(self.servers.call(shard.index, &call).await?.value)
    }

    pub(super) fn read_answer<T: FromRedisValue>(&self, value: Value) -> Result<T, QueueError> {
        T::from_redis_value(value).map_err(|error| fault::classify(&error.into(), self.address()))
    }

    /// Writes to the first shard that accepts it, confirmed like a delivery.
    pub(super) async fn write_probe(&self) -> Result<(), QueueError> {
        let mut failed = QueueError::Unavailable(format!("{}: no shard was asked", self.address()));
        for shard in &*self.shards {
            let mut command = redis::cmd("HSET");
            command.arg(shard.keys.meta()).arg("asked_at").arg(0);
            let call = Call { command: &command, script: None, confirm: true };
            let written = match self.ensure_set_up(shard).await {
                Ok(()) => self.servers.call(shard.index, &call).await.map(drop),
                Err(error) => Err(error),
            };
            match written {
                Ok(()) => return Ok(()),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}
