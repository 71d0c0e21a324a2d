//! Waiting for new messages without leasing them.
//!
//! One lane listens for all: a blocking read on the streams of all shards, on a separate connection. The
//! other lanes wait for their turn, or for the next poll of a shard. A cluster has no blocking read on
//! several shards: there the shards are polled in turn (`idle.rs`).

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, cmd};
use rollbook_core::queue::QueueError;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::debug;

use super::RedisQueue;

/// Maximum time of one blocking read.
const BLOCK_MAX: Duration = Duration::from_millis(250);
/// Minimum wait.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// Divisor of the call's time limit after which the answer of a finished blocking read is late.
const LATE_AFTER_SHARE: u32 = 4;

/// Connection of the blocking read, used by one lane at a time: the others wait for their turn, so that a
/// single message does not wake all lanes.
#[derive(Default)]
pub(super) struct BlockingRead(Mutex<Option<MultiplexedConnection>>);

/// Streams with new entries: name, then entries as id and fields.
type NewEntries = Option<Vec<(String, Vec<(String, Vec<Vec<u8>>)>)>>;

impl RedisQueue {
    /// Returns whether a blocking read reports new messages.
    pub(super) fn has_blocking_read(&self) -> bool {
        !self.servers.is_cluster() || self.shards.len() == 1
    }

    /// Returns when messages may be due, or after `at_most`.
    pub(super) async fn wait(&self, at_most: Duration) -> Result<(), QueueError> {
        let until =
            self.next_poll().min(Instant::now() + at_most.min(BLOCK_MAX)).max(Instant::now() + WAIT_MIN);
        let Ok(mut listening) = timeout_at(until, self.blocking_read.0.lock()).await else { return Ok(()) };
        // The previous lane may have found that messages are due.
        if self.next_poll() <= Instant::now() {
            return Ok(());
        }
        let command = if self.has_blocking_read() { self.listen_until(until) } else { None };
        let Some(command) = command else {
            sleep_until(until).await;
            return Ok(());
        };
        match self.listen(&mut listening, &command).await {
            // The scripts report whether the server is reachable. The blocking read only saves time.
            Err(error @ QueueError::Unavailable(_)) => {
                debug!("blocking read for new messages failed: {error}");
                sleep_until(until).await;
                Ok(())
            }
            listened => listened,
        }
    }

    /// Time of the next poll of any shard.
    fn next_poll(&self) -> Instant {
        let now = Instant::now();
        self.shards.iter().map(|shard| shard.idle.poll_at().unwrap_or(now)).min().unwrap_or(now)
    }

    /// Builds the blocking read on all shards.
    fn listen_until(&self, until: Instant) -> Option<Cmd> {
        let cursors =
            self.shards.iter().filter_map(|shard| Some((shard.keys.new_messages(), shard.idle.cursor()?)));
        let (streams, cursors): (Vec<&str>, Vec<String>) = cursors.unzip();
        let block = until.saturating_duration_since(Instant::now()).max(WAIT_MIN);
        let millis = u64::try_from(block.as_millis()).unwrap_or(u64::MAX);
        let mut command = cmd("XREAD");
        command.arg("COUNT").arg(1).arg("BLOCK").arg(millis).arg("STREAMS").arg(&streams).arg(&cursors);
        (!streams.is_empty()).then_some(command)
    }

    async fn listen(
        &self,
        listening: &mut Option<MultiplexedConnection>,
        command: &Cmd,
    ) -> Result<(), QueueError> {
        let server = self.servers.server_of(0).await?;
        let mut connection = match listening.take() {
            Some(connection) => connection,
            None => server.connect_to_wait(BLOCK_MAX).await?,
        };
        // A connection dropped by the network does not answer: it delays one lane by this time, once.
        let limit = BLOCK_MAX + self.servers.call_timeout() / LATE_AFTER_SHARE;
        let answer: RedisResult<NewEntries> = match timeout(limit, command.query_async(&mut connection)).await
        {
            Ok(answer) => answer,
            Err(_) => return Err(QueueError::Unavailable(format!("{}: no answer in time", server.name()))),
        };
        let new_entries = answer.map_err(|error| server.classify(&error))?;
        // Kept only after an answer: a connection that is still blocked would delay the next lane.
        *listening = Some(connection);
        for (stream, entries) in new_entries.into_iter().flatten() {
            let shard = self.shards.iter().find(|shard| shard.keys.new_messages() == stream);
            if let (Some(shard), Some((entry, _))) = (shard, entries.into_iter().next()) {
                shard.idle.record_new_entry(Instant::now(), entry);
            }
        }
        Ok(())
    }
}
