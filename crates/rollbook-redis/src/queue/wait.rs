//! Waiting for new messages without taking any.

use std::time::Duration;

use redis::{Value, cmd};
use rollbook_core::queue::QueueError;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::RedisQueue;
use crate::connection::Connection;
use crate::fault;

/// How long one read blocks at most. What is released, redriven or due again rings no bell: it is
/// noticed after this time at the latest.
const BLOCK_MAX: Duration = Duration::from_millis(250);

/// How often several shards are looked at: a cluster has no read that blocks on more than one.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The connection on which this process waits, one lane at a time: the others wait for their turn, so
/// that a single message does not wake them all.
#[derive(Default)]
pub(super) struct Doorbell(Mutex<Option<Connection>>);

impl RedisQueue {
    /// Returns when something may be due, or after `at_most`.
    pub(super) async fn wait(&self, cursors: &[String], at_most: Duration) -> Result<(), QueueError> {
        let block = at_most.min(BLOCK_MAX).max(Duration::from_millis(1));
        let ([shard], [cursor]) = (&self.shards[..], cursors) else {
            tokio::time::sleep(block.min(LOOK_AGAIN)).await;
            return Ok(());
        };
        let Ok(mut waiting) = timeout(block, shard.doorbell.0.lock()).await else { return Ok(()) };
        let mut connection = match waiting.take() {
            Some(connection) => connection,
            None => self.pool.manager().connect_to_wait(BLOCK_MAX).await?,
        };
        let mut command = cmd("XREAD");
        let millis = u64::try_from(block.as_millis()).unwrap_or(u64::MAX);
        command.arg("COUNT").arg(1).arg("BLOCK").arg(millis).arg("STREAMS");
        command.arg(shard.keys.new_messages()).arg(cursor);
        // Kept only when it has answered: a connection that still waits would hold up the next.
        let _: Value = command
            .query_async(&mut connection)
            .await
            .map_err(|error| fault::judge(&error, self.pool.manager().address()))?;
        *waiting = Some(connection);
        Ok(())
    }
}
