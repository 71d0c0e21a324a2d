//! The queue as a whole: whether there is one, what its server's clock says, and its end.

use redis::cmd;
use rollbook_core::queue::QueueError;
use rollbook_core::time::Timestamp;

use super::RedisQueue;

impl RedisQueue {
    /// Whether a queue was ever made here, empty as it may be. Makes none.
    ///
    /// # Errors
    /// The server can't be asked.
    pub async fn exists(&self) -> Result<bool, QueueError> {
        let mut failed = None;
        for shard in &self.shards {
            match self.command_on::<u64>(shard, cmd("EXISTS").arg(shard.keys.all())).await {
                Ok(0) => {}
                Ok(_) => return Ok(true),
                Err(error) if self.servers.are_several() => failed = failed.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        failed.map_or(Ok(false), Err)
    }

    /// What the server's clock says, which decides what is due. Of a cluster: one server's.
    ///
    /// # Errors
    /// The server can't be asked.
    pub async fn server_time(&self) -> Result<Timestamp, QueueError> {
        let mut failed = None;
        for shard in &self.shards {
            match self.command_on::<(i64, i64)>(shard, &cmd("TIME")).await {
                Ok((seconds, micros)) => {
                    return Ok(Timestamp::from_millis(
                        seconds.saturating_mul(1000).saturating_add(micros / 1000),
                    ));
                }
                Err(error) if self.servers.are_several() => failed = failed.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or_else(|| QueueError::Deployment("the queue has no shards".to_owned())))
    }

    /// Deletes the queue with all that waits in it. Nobody may be using it.
    ///
    /// # Errors
    /// The server can't be asked: part of it may still be there.
    pub async fn remove(&self) -> Result<(), QueueError> {
        for shard in &self.shards {
            let _: u64 = self.command_on(shard, cmd("UNLINK").arg(shard.keys.all())).await?;
            *shard.epoch() = None;
        }
        Ok(())
    }
}
