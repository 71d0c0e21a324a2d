//! Enqueueing of deliveries.

use std::collections::HashMap;

use rollbook_core::delivery::Delivery;
use rollbook_core::queue::{Enqueued, QueueError};

use super::{BATCH_MAX, RedisQueue};
use crate::value;

/// Maximum bytes of bodies in one call, unless a single body is larger.
const CALL_BYTES_MAX: usize = 8 << 20;

impl RedisQueue {
    pub(super) async fn enqueue(&self, deliveries: &[Delivery]) -> Vec<Result<Enqueued, QueueError>> {
        // The first delivery of an id is sent; the others are duplicates.
        let mut positions: Vec<Vec<usize>> = vec![Vec::new(); self.shards.len()];
        let mut first = HashMap::with_capacity(deliveries.len());
        for (position, delivery) in deliveries.iter().enumerate() {
            if *first.entry(delivery.id.as_str()).or_insert(position) == position {
                positions[self.shard_of(delivery.id.as_str())].push(position);
            }
        }
        let mut answers = vec![Ok(Enqueued::Duplicate); deliveries.len()];
        let parts = positions.iter().enumerate();
        let parts = parts.flat_map(|(shard, positions)| {
            parts_of(deliveries, positions).into_iter().map(move |part| (shard, part))
        });
        let calls = parts.map(async |(shard, part)| (part, self.enqueue_part(shard, deliveries, part).await));
        // All calls run to completion: an abandoned call costs its connection.
        for (part, answered) in futures_util::future::join_all(calls).await {
            let answered = answered.unwrap_or_else(|error| vec![Err(error); part.len()]);
            for (position, answer) in part.iter().zip(answered) {
                answers[*position] = answer;
            }
        }
        // A duplicate within the batch has the same result as the first of its id.
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

    /// Enqueues one part. Returns one answer per position, in order.
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
        shard.wake();
        if taken.len() != positions.len() {
            let address = self.address();
            return Err(QueueError::Deployment(format!(
                "{address}: the enqueue script did not return one answer per delivery"
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

/// Splits positions into calls, each with a bounded number of messages and bytes and at least one message.
fn parts_of<'a>(deliveries: &[Delivery], mut positions: &'a [usize]) -> Vec<&'a [usize]> {
    let mut parts = Vec::new();
    while !positions.is_empty() {
        let mut bytes = 0;
        let fits = |position: &&usize| {
            bytes += deliveries[**position].body.len();
            bytes <= CALL_BYTES_MAX
        };
        let count = positions.iter().take(BATCH_MAX).take_while(fits).count().max(1);
        let (part, rest) = positions.split_at(count);
        parts.push(part);
        positions = rest;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use rollbook_core::delivery::MessageId;
    use rollbook_core::time::Timestamp;

    #[test]
    fn a_call_stays_within_the_limits_and_has_at_least_one_message() {
        let delivery = |bytes| Delivery {
            id: MessageId::new("msg"),
            received_at: Timestamp::from_millis(1),
            traceparent: None,
            body: vec![0; bytes].into(),
        };
        let sizes = |bytes: &[usize]| {
            let deliveries: Vec<Delivery> = bytes.iter().map(|bytes| delivery(*bytes)).collect();
            let positions: Vec<usize> = (0..bytes.len()).collect();
            parts_of(&deliveries, &positions).iter().map(|part| part.len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[CALL_BYTES_MAX - 1, 1, 1]), [2, 1]);
        assert_eq!(sizes(&[CALL_BYTES_MAX + 1, CALL_BYTES_MAX + 1, 0, 1]), [1, 1, 2]);
        assert_eq!(sizes(&vec![0; BATCH_MAX + 1]), [BATCH_MAX, 1]);
        assert_eq!(sizes(&[]), [0; 0]);
    }
}
