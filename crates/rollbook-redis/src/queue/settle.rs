//! Ending leases.

use std::collections::{BTreeSet, HashSet};

use redis::Cmd;
use rollbook_core::queue::{Lease, QueueError, Settled, Settlement};
use serde_json::json;

use super::{BATCH_MAX, RedisQueue, Shard};

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

/// What is to be settled on one shard, by position, in the order of the script's arguments.
#[derive(Default)]
struct Part<'a> {
    done_new: Vec<(usize, Token<'a>)>,
    done_again: Vec<(usize, Token<'a>)>,
    others: Vec<(usize, Token<'a>)>,
}

impl RedisQueue {
    pub(super) async fn settle(
        &self,
        settlements: &[(Lease, Settlement)],
    ) -> Result<Vec<Settled>, QueueError> {
        let mut parts: Vec<Part<'_>> = self.shards.iter().map(|_| Part::default()).collect();
        let mut seen = HashSet::with_capacity(settlements.len());
        for (position, (lease, settlement)) in settlements.iter().enumerate() {
            // A lease ends once: the second time in a batch is as lost as any later one.
            if !seen.insert(&lease.token) {
                continue;
            }
            let Some(token) = Token::parse(&lease.token.0) else { continue };
            let Some(part) = parts.get_mut(token.shard) else { continue };
            let list = match settlement {
                Settlement::Ack if token.is_new => &mut part.done_new,
                Settlement::Ack => &mut part.done_again,
                _ => &mut part.others,
            };
            list.push((position, token));
        }
        let mut settled = vec![Settled::LeaseLost; settlements.len()];
        let pieces = self
            .shards
            .iter()
            .zip(&parts)
            .flat_map(|(shard, part)| part.pieces().map(move |piece| (shard, piece)));
        let calls = pieces.map(|(shard, piece)| self.settle_piece(shard, piece, settlements));
        for ended in futures_util::future::join_all(calls).await {
            for position in ended? {
                settled[position] = Settled::Done;
            }
        }
        Ok(settled)
    }

    /// Settles these and returns the positions of those whose lease stood.
    async fn settle_piece(
        &self,
        shard: &Shard,
        piece: Piece<'_, '_>,
        settlements: &[(Lease, Settlement)],
    ) -> Result<Vec<usize>, QueueError> {
        let answers: Vec<u8> = self
            .call(&self.scripts.settle, shard, |command| {
                for done in [piece.done_new, piece.done_again] {
                    command.arg(done.len());
                    for (position, token) in done {
                        command.arg(token.entry).arg(settlements[*position].0.id.as_str());
                    }
                }
                command.arg(piece.others.len());
                for (position, token) in piece.others {
                    end_otherwise(command, token, &settlements[*position]);
                }
                let batches: BTreeSet<&str> = piece.all().map(|(_, token)| token.batch).collect();
                command.arg(batches);
            })
            .await?;
        let stood = piece.all().zip(answers).filter(|(_, answer)| *answer == 1);
        Ok(stood.map(|((position, _), _)| *position).collect())
    }
}

/// A piece small enough for one call.
#[derive(Clone, Copy, Default)]
struct Piece<'a, 'b> {
    done_new: &'a [(usize, Token<'b>)],
    done_again: &'a [(usize, Token<'b>)],
    others: &'a [(usize, Token<'b>)],
}

impl<'b> Part<'b> {
    /// One, as a rule: a worker's batch is far smaller than the limit.
    fn pieces<'a>(&'a self) -> impl Iterator<Item = Piece<'a, 'b>> {
        let count = self.done_new.len() + self.done_again.len() + self.others.len();
        let whole = Piece { done_new: &self.done_new, done_again: &self.done_again, others: &self.others };
        let is_small = count <= BATCH_MAX;
        let one = (is_small && count > 0).then_some(whole);
        let split =
            |list: &'a [(usize, Token<'b>)]| list.chunks(if is_small { usize::MAX } else { BATCH_MAX });
        let several = split(&self.done_new)
            .map(|done_new| Piece { done_new, ..Piece::default() })
            .chain(split(&self.done_again).map(|done_again| Piece { done_again, ..Piece::default() }))
            .chain(split(&self.others).map(|others| Piece { others, ..Piece::default() }));
        one.into_iter().chain(several.filter(move |_| !is_small))
    }
}

impl<'a, 'b> Piece<'a, 'b> {
    fn all(self) -> impl Iterator<Item = &'a (usize, Token<'b>)> {
        self.done_new.iter().chain(self.done_again).chain(self.others)
    }
}

/// The arguments of a lease that does not end with its message.
fn end_otherwise(command: &mut Cmd, token: &Token<'_>, (lease, settlement): &(Lease, Settlement)) {
    let (how, after, failure) = match settlement {
        Settlement::Ack => ("ack", 0, String::new()),
        Settlement::Retry { after, .. } => ("retry", after.as_millis(), String::new()),
        Settlement::Release => ("release", 0, String::new()),
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
        .arg(lease.id.as_str())
        .arg(lease.attempt)
        .arg(lease.unsettled)
        .arg(lease.received_at.as_millis())
        .arg(u64::try_from(after).unwrap_or(u64::MAX))
        .arg(failure);
}
