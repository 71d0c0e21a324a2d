//! Statistics of the queue.

use futures_util::stream::{self, StreamExt as _};
use rollbook_core::queue::{QueueError, QueueStats};
use rollbook_core::time::Timestamp;

use super::{RedisQueue, Shard};

/// Maximum shards asked concurrently.
const ASKED_AT_ONCE: usize = 4;

/// Answer of the script: depth, leased, delayed, dead, receipt time of the oldest message.
type Counts = (u64, u64, u64, u64, Option<i64>);

impl RedisQueue {
    /// Adds up the counts of all shards that answer.
    pub(super) async fn read_stats(&self) -> Result<QueueStats, QueueError> {
        let mut stats = QueueStats::default();
        let (mut have_answered, mut failure) = (false, None);
        let asked: Vec<_> = self.shards.iter().map(|shard| self.count_shard(shard)).collect();
        let mut counted = stream::iter(asked).buffer_unordered(ASKED_AT_ONCE);
        while let Some(counts) = counted.next().await {
            match counts {
                Ok((depth, leased, delayed, dead, oldest)) => {
                    have_answered = true;
                    stats.leased += leased;
                    stats.delayed += delayed;
                    stats.ready += depth.saturating_sub(leased + delayed);
                    stats.dead += dead;
                    let oldest = oldest.map(Timestamp::from_millis);
                    stats.oldest_received_at = stats.oldest_received_at.into_iter().chain(oldest).min();
                }
                // One unreachable shard does not fail the call.
                Err(error @ QueueError::Unavailable(_)) if self.servers.is_cluster() => {
                    failure = failure.or(Some(error));
                }
                Err(error) => return Err(error),
            }
        }
        match failure {
            Some(error) if !have_answered => Err(error),
            _ => Ok(stats),
        }
    }

    async fn count_shard(&self, shard: &Shard) -> Result<Counts, QueueError> {
        self.ask(&self.scripts.stats, shard, |_| {}).await
    }
}
