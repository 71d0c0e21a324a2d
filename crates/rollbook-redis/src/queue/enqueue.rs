//! Taking deliveries in.

use std::collections::HashMap;

use redis::{Value, from_redis_value};
use rollbook_core::delivery::Delivery;
use rollbook_core::queue::{Enqueued, QueueError};

use super::{BATCH_MAX, RedisQueue};
use crate::value;

impl RedisQueue {
    pub(super) async fn enqueue(&self, deliveries: &[Delivery]) -> Result<Vec<Enqueued>, QueueError> {
        // The first of an id is the one that is sent; the others are its duplicates.
        let mut positions: Vec<Vec<usize>> = vec![Vec::new(); self.shards.len()];
        let mut first = HashMap::with_capacity(deliveries.len());
        for (position, delivery) in deliveries.iter().enumerate() {
            if *first.entry(delivery.id.as_str()).or_insert(position) == position {
                positions[self.shard_of(delivery.id.as_str())].push(position);
            }
        }
        let mut answers = vec![Enqueued::Duplicate; deliveries.len()];
        let parts = positions.iter().enumerate();
        let parts =
            parts.flat_map(|(shard, positions)| positions.chunks(BATCH_MAX).map(move |part| (shard, part)));
        let calls = parts.map(|(shard, part)| self.enqueue_part(shard, deliveries, part));
        // To the end, all of them: a call that is given up costs its connection.
        for answered in futures_util::future::join_all(calls).await {
            for position in answered? {
                answers[position] = Enqueued::Queued;
            }
        }
        Ok(answers)
    }

    /// Takes these in and returns the positions of those that are new.
    async fn enqueue_part(
        &self,
        index: usize,
        deliveries: &[Delivery],
        positions: &[usize],
    ) -> Result<Vec<usize>, QueueError> {
        let (script, shard) = (&self.scripts.enqueue, &self.shards[index]);
        let mut line = self.line(shard).await?;
        let mut command = self.command(script, &shard.keys);
        command.arg(self.depth_max()).arg(positions.len());
        for position in positions {
            command.arg(deliveries[*position].id.as_str());
        }
        for position in positions {
            command.arg(value::encode(&deliveries[*position]));
        }
        let taken: Vec<u8> = match line.run(script, &command).await? {
            Value::Int(depth) => {
                let depth = u64::try_from(depth).unwrap_or_default();
                return Err(QueueError::Full { depth, limit: self.depth_max() });
            }
            answers => from_redis_value(answers).unwrap_or_default(),
        };
        line.confirm(index).await?;
        if taken.len() != positions.len() {
            let address = self.pool.manager().address();
            return Err(QueueError::Deployment(format!(
                "{address}: enqueue has no answer for each delivery"
            )));
        }
        let new = positions.iter().zip(taken).filter(|(_, taken)| *taken == 1);
        Ok(new.map(|(position, _)| *position).collect())
    }
}
