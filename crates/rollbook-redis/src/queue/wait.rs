//! Waiting for new messages without taking any.
//!
//! One lane listens for all: a read that blocks on the streams of all shards at once, on a connection of its own. The
//! other lanes wait for their turn, or for a shard's next look. A cluster has no read that blocks on several shards: there
//! the shards are looked at in turn (`idle.rs`).

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, cmd};
use rollbook_core::queue::QueueError;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tracing::debug;

use super::RedisQueue;

/// How long one read blocks at most.
const BLOCK_MAX: Duration = Duration::from_millis(250);
/// The shortest wait.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// The share of the time of a call after which the answer of a read that no longer blocks is late.
const LATE_AFTER_SHARE: u32 = 4;

/// The connection on which this process waits, one lane at a time: the others wait for their turn, so
/// that a single message does not wake them all.
#[derive(Default)]
pub(super) struct Doorbell(Mutex<Option<MultiplexedConnection>>);

/// Streams with new entries: name, entries as id and fields.
type Rung = Option<Vec<(String, Vec<(String, Vec<Vec<u8>>)>)>>;

impl RedisQueue {
    /// Whether a read that blocks tells of new messages.
    pub(super) fn has_bell(&self) -> bool {
        !self.servers.are_several() || self.shards.len() == 1
    }

    /// Returns when something may be due, or after `at_most`.
    pub(super) async fn wait(&self, at_most: Duration) -> Result<(), QueueError> {
        let until =
            self.next_look().min(Instant::now() + at_most.min(BLOCK_MAX)).max(Instant::now() + WAIT_MIN);
        let Ok(mut listening) = timeout_at(until, self.doorbell.0.lock()).await else { return Ok(()) };
        // The lane before may have found that something is due.
        if self.next_look() <= Instant::now() {
            return Ok(());
        }
        let command = if self.has_bell() { self.listen_until(until) } else { None };
        let Some(command) = command else {
            sleep_until(until).await;
            return Ok(());
        };
        match self.listen(&mut listening, &command).await {
            // Whether the server can be asked is for the scripts to say. Listening only saves time.
            Err(error @ QueueError::Unavailable(_)) => {
                debug!("new messages are not listened for: {error}");
                sleep_until(until).await;
                Ok(())
            }
            listened => listened,
        }
    }

    /// When the first of the shards is looked at.
    fn next_look(&self) -> Instant {
        let now = Instant::now();
        self.shards.iter().map(|shard| shard.idle.look_at().unwrap_or(now)).min().unwrap_or(now)
    }

    /// The read that blocks on all shards.
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
        // A connection that was forgotten on the way answers nothing: it holds up one lane for this long, once.
        let limit = BLOCK_MAX + self.servers.call_timeout() / LATE_AFTER_SHARE;
        let answer: RedisResult<Rung> = match timeout(limit, command.query_async(&mut connection)).await {
            Ok(answer) => answer,
            Err(_) => return Err(QueueError::Unavailable(format!("{}: no answer in time", server.name()))),
        };
        let rung = answer.map_err(|error| server.judge(&error))?;
        // Kept only when it has answered: a connection that still waits would hold up the next.
        *listening = Some(connection);
        for (stream, entries) in rung.into_iter().flatten() {
            let shard = self.shards.iter().find(|shard| shard.keys.new_messages() == stream);
            if let (Some(shard), Some((entry, _))) = (shard, entries.into_iter().next()) {
                shard.idle.rang(Instant::now(), entry);
            }
        }
        Ok(())
    }
}
