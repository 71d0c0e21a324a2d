//! Settling of leases.

use std::collections::{BTreeSet, HashSet};

use redis::Cmd;
use rollbook_core::queue::{Lease, QueueError, Settled, Settlement};
use serde_json::json;

use super::{BATCH_MAX, RedisQueue, Shard};
use crate::id;

/// Token of a lease: its shard; then, as written by the script, the letter of its stream, the first and last
/// entry of its batch, and its own entry.
struct Token<'a> {
    shard: usize,
    /// Name of the batch: the letter and the two entries.
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

/// Position of a settlement in the batch, and its lease.
type PendingSettlement<'a> = (usize, Token<'a>);

impl RedisQueue {
    pub(super) async fn settle(
        &self,
        settlements: &[(Lease, Settlement)],
    ) -> Vec<Result<Settled, QueueError>> {
        let mut parts: Vec<Vec<PendingSettlement<'_>>> = self.shards.iter().map(|_| Vec::new()).collect();
        let mut seen = HashSet::with_capacity(settlements.len());
        for (position, (lease, _)) in settlements.iter().enumerate() {
            // A lease is settled once: the second settlement in a batch counts as lost, like any later one.
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
                        // The first call may have settled them: whether a lease was lost is unknown until the
                        // caller repeats.
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

    /// Counts the attempt of a valid lease.
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

    /// Settles one piece. Returns the positions with a valid lease, and whether the call was sent twice.
    async fn settle_piece(
        &self,
        shard: &Shard,
        piece: &[PendingSettlement<'_>],
        settlements: &[(Lease, Settlement)],
    ) -> Result<(Vec<usize>, bool), QueueError> {
        let is_done = |(position, _): &&PendingSettlement<'_>| settlements[*position].1 == Settlement::Ack;
        let (done, others): (Vec<_>, Vec<_>) = piece.iter().partition(is_done);
        let (new, again): (Vec<_>, Vec<_>) = done.into_iter().partition(|(_, token)| token.is_new);
        let (answers, repeated): (Vec<u8>, bool) = self
            .call_reporting_repeat(&self.scripts.settle, shard, |command| {
                for done in [&new, &again] {
                    command.arg(done.len());
                    for (position, token) in done {
                        command.arg(token.entry).arg(&*id::stored(settlements[*position].0.id.as_str()));
                    }
                }
                command.arg(others.len());
                for (position, token) in &others {
                    push_other_settlement(command, token, &settlements[*position]);
                }
                let batches: BTreeSet<&str> = piece.iter().map(|(_, token)| token.batch).collect();
                command.arg(batches);
            })
            .await?;
        if !others.is_empty() {
            shard.wake();
        }
        let ended = new.iter().chain(&again).chain(&others);
        let stood = ended.zip(answers).filter(|(_, answer)| *answer == 1);
        Ok((stood.map(|((position, _), _)| *position).collect(), repeated))
    }
}

/// Adds the arguments of a settlement that may keep the message.
fn push_other_settlement(command: &mut Cmd, token: &Token<'_>, (lease, settlement): &(Lease, Settlement)) {
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
