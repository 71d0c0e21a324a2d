//! Taking deliveries in.

use std::collections::HashMap;

use rollbook_core::delivery::Delivery;
use rollbook_core::queue::{Enqueued, QueueError};

use super::{BATCH_MAX, RedisQueue};
use crate::value;

impl RedisQueue {
    pub(super) async fn enqueue(&self, deliveries: &[Delivery]) -> Vec<Result<Enqueued, QueueError>> {
        // The first of an id is the one that is sent; the others are its duplicates.
        let mut positions: Vec<Vec<usize>> = vec![Vec::new(); self.shards.len()];
        let mut first = HashMap::with_capacity(deliveries.len());
        for (position, delivery) in deliveries.iter().enumerate() {
            if *first.entry(delivery.id.as_str()).or_insert(position) == position {
                positions[self.shard_of(delivery.id.as_str())].push(position);
            }
        }
        let mut answers = vec![Ok(Enqueued::Duplicate); deliveries.len()];
        let parts = positions.iter().enumerate();
        let parts =
            parts.flat_map(|(shard, positions)| positions.chunks(BATCH_MAX).map(move |part| (shard, part)));
        let calls = parts.map(async |(shard, part)| (part, self.enqueue_part(shard, deliveries, part).await));
        // To the end, all of them: a call that is given up costs its connection.
        for (part, answered) in futures_util::future::join_all(calls).await {
            let answered = answered.unwrap_or_else(|error| vec![Err(error); part.len()]);
            for (position, answer) in part.iter().zip(answered) {
                answers[*position] = answer;
            }
        }
        // A duplicate within the batch is as durable as the first of its id.
        for (position, delivery) in deliveries.iter().enumerate() {
            let first = first[delivery.id.as_str()];
            if first != position
                && let Err(error) = &answers[first]
            {
                answers[position] = Err(error.clone());
            }
        }
        answers
    }

    /// Takes these in. One answer for each position, in their order.
    async fn enqueue_part(
        &self,
        index: usize,
        deliveries: &[Delivery],
        positions: &[usize],
    ) -> Result<Vec<Result<Enqueued, QueueError>>, QueueError> {
        let (script, shard) = (&self.scripts.enqueue, &self.shards[index]);
        let limit = self.depth_max();
        let (depth, taken): (u64, Vec<u8>) = self
            .call_confirmed(script, shard, |command| {
                command.arg(limit).arg(positions.len());
                for position in positions {
                    command.arg(deliveries[*position].id.as_str());
                }
                for position in positions {
                    command.arg(value::encode(&deliveries[*position]));
                }
            })
            .await?;
        shard.stir();
        if taken.len() != positions.len() {
            let address = self.address();
            return Err(QueueError::Deployment(format!(
                "{address}: enqueue has no answer for each delivery"
            )));
        }
        let depth = depth + taken.iter().map(|taken| u64::from(*taken == 1)).sum::<u64>();
        let answer = |taken| match taken {
            0 => Ok(Enqueued::Duplicate),
            1 => Ok(Enqueued::Queued),
            _ => Err(QueueError::Full { depth, limit }),
        };
        Ok(taken.into_iter().map(answer).collect())
    }
}
