//! Ending leases.

use std::collections::{BTreeSet, HashSet};

use redis::Cmd;
use rollbook_core::queue::{Lease, QueueError, Settled, Settlement};
use serde_json::json;

use super::{BATCH_MAX, RedisQueue, Shard};
use crate::id;

/// A lease's token: its shard, then as the script wrote it the letter of its stream, the first and the last
/// entry of its batch, its own entry.
struct Token<'a> {
    shard: usize,
    /// The letter and the two entries: the batch's name.
    batch: &'a str,
    is_new: bool,
    entry: &'a str,
}

impl<'a> Token<'a> {
    fn parse(token: &'a str) -> Option<Self> {
        let (shard, token) = token.split_once('/')?;
        let (batch, entry) = token.rsplit_once('/')?;
        let is_new = batch.starts_with("n/");
        (is_new || batch.starts_with("a/")).then_some(Self {
            shard: shard.parse().ok()?,
            batch,
            is_new,
            entry,
        })
    }
}

/// A settlement's position in the batch, and the lease that it ends.
type Ending<'a> = (usize, Token<'a>);

impl RedisQueue {
    pub(super) async fn settle(
        &self,
        settlements: &[(Lease, Settlement)],
    ) -> Vec<Result<Settled, QueueError>> {
        let mut parts: Vec<Vec<Ending<'_>>> = self.shards.iter().map(|_| Vec::new()).collect();
        let mut seen = HashSet::with_capacity(settlements.len());
        for (position, (lease, _)) in settlements.iter().enumerate() {
            // A lease ends once: the second time in a batch is as lost as any later one.
            if !seen.insert(&lease.token) {
                continue;
            }
            let Some(token) = Token::parse(&lease.token.0) else { continue };
            let Some(part) = parts.get_mut(token.shard) else { continue };
            part.push((position, token));
        }
        let mut settled = vec![Ok(Settled::LeaseLost); settlements.len()];
        let pieces = self.shards.iter().zip(&parts);
        let pieces = pieces.flat_map(|(shard, part)| part.chunks(BATCH_MAX).map(move |piece| (shard, piece)));
        let calls =
            pieces.map(async |(shard, piece)| (piece, self.settle_piece(shard, piece, settlements).await));
        for (piece, ended) in futures_util::future::join_all(calls).await {
            match ended {
                Ok((positions, repeated)) => {
                    if repeated {
                        // The first time may have ended them: whether they were lost, only who asks again can say.
                        for (position, _) in piece {
                            settled[*position] = Err(self.answer_lost());
                        }
                    }
                    for position in positions {
                        settled[position] = Ok(Settled::Done);
                    }
                }
                Err(error) => {
                    for (position, _) in piece {
                        settled[*position] = Err(error.clone());
                    }
                }
            }
        }
        settled
    }

    /// Counts the attempt of a lease that stands.
    pub(super) async fn count(&self, lease: &Lease) -> Result<Settled, QueueError> {
        let Some(token) = Token::parse(&lease.token.0) else { return Ok(Settled::LeaseLost) };
        let Some(shard) = self.shards.get(token.shard) else { return Ok(Settled::LeaseLost) };
        let counted: u8 = self
            .call(&self.scripts.count, shard, |command| {
                command
                    .arg(if token.is_new { "n" } else { "a" })
                    .arg(token.entry)
                    .arg(&*id::stored(lease.id.as_str()));
                command.arg(lease.attempt).arg(lease.unsettled);
            })
            .await?;
        Ok(if counted == 1 { Settled::Done } else { Settled::LeaseLost })
    }

    fn answer_lost(&self) -> QueueError {
        QueueError::Unavailable(format!("{}: the connection broke before the answer", self.address()))
    }

    /// Settles these and returns the positions of those whose lease stood, and whether it was sent twice.
    async fn settle_piece(
        &self,
        shard: &Shard,
        piece: &[Ending<'_>],
        settlements: &[(Lease, Settlement)],
    ) -> Result<(Vec<usize>, bool), QueueError> {
        let is_done = |(position, _): &&Ending<'_>| settlements[*position].1 == Settlement::Ack;
        let (done, others): (Vec<_>, Vec<_>) = piece.iter().partition(is_done);
        let (new, again): (Vec<_>, Vec<_>) = done.into_iter().partition(|(_, token)| token.is_new);
        let (answers, repeated): (Vec<u8>, bool) = self
            .call_twice(&self.scripts.settle, shard, |command| {
                for done in [&new, &again] {
                    command.arg(done.len());
                    for (position, token) in done {
                        command.arg(token.entry).arg(&*id::stored(settlements[*position].0.id.as_str()));
                    }
                }
                command.arg(others.len());
                for (position, token) in &others {
                    end_otherwise(command, token, &settlements[*position]);
                }
                let batches: BTreeSet<&str> = piece.iter().map(|(_, token)| token.batch).collect();
                command.arg(batches);
            })
            .await?;
        if !others.is_empty() {
            shard.stir();
        }
        let ended = new.iter().chain(&again).chain(&others);
        let stood = ended.zip(answers).filter(|(_, answer)| *answer == 1);
        Ok((stood.map(|((position, _), _)| *position).collect(), repeated))
    }
}

/// The arguments of a lease that does not end with its message.
fn end_otherwise(command: &mut Cmd, token: &Token<'_>, (lease, settlement): &(Lease, Settlement)) {
    let (how, after, failure) = match settlement {
        Settlement::Ack => ("ack", 0, String::new()),
        Settlement::Retry { after, .. } => ("retry", after.as_millis(), String::new()),
        Settlement::Release => ("release", 0, String::new()),
        Settlement::Postpone { after } => ("release", after.as_millis(), String::new()),
        Settlement::DeadLetter { failure } => {
            let failure = json!({
                "reason": failure.reason.as_str(),
                "detail": failure.detail,
                "event_type": failure.event_type,
                "attempts": lease.attempt,
            });
            ("dead", 0, failure.to_string())
        }
    };
    command
        .arg(how)
        .arg(if token.is_new { "n" } else { "a" })
        .arg(token.entry)
        .arg(&*id::stored(lease.id.as_str()))
        .arg(lease.attempt)
        .arg(lease.unsettled)
        .arg(lease.received_at.as_millis())
        .arg(u64::try_from(after).unwrap_or(u64::MAX))
        .arg(failure);
}
