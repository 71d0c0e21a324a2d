//! Counts.

use rollbook_core::queue::{QueueError, QueueStats};
use rollbook_core::time::Timestamp;

use super::RedisQueue;

impl RedisQueue {
    pub(super) async fn read_stats(&self) -> Result<QueueStats, QueueError> {
        let mut stats = QueueStats::default();
        for shard in &self.shards {
            let (depth, leased, delayed, dead, oldest): (u64, u64, u64, u64, Option<i64>) =
                self.ask(&self.scripts.stats, shard, |_| {}).await?;
            stats.leased += leased;
            stats.delayed += delayed;
            stats.ready += depth.saturating_sub(leased + delayed);
            stats.dead += dead;
            let oldest = oldest.map(Timestamp::from_millis);
            stats.oldest_received_at = stats.oldest_received_at.into_iter().chain(oldest).min();
        }
        Ok(stats)
    }
}
