//! Giving messages out.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use redis::Cmd;
use rollbook_core::queue::{Lease, LeaseRequest, LeaseRequestId, LeaseToken, QueueError};
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::idle::Pauses;
use super::{BATCH_MAX, RedisQueue, Shard};
use crate::id;
use crate::pool::Call;
use crate::value::{self, Stored};

/// How often consumers of processes that are gone are looked for, and for how long one must have been silent.
const REAP_EVERY: Duration = Duration::from_secs(600);
const REAP_AFTER: Duration = Duration::from_secs(3_600);

/// How many shards are asked at once for consumers that are gone.
const REAPED_AT_ONCE: usize = 4;

/// The requests that a shard has not answered, by lane and shard: it is asked again with the number that it knows, since
/// it may have given leases to it. The other shards have answered meanwhile, and the lane has gone on.
#[derive(Default)]
pub(super) struct Unanswered(Mutex<HashMap<(u32, usize), u64>>);

impl Unanswered {
    fn numbers(&self) -> MutexGuard<'_, HashMap<(u32, usize), u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number to ask with, where a request was not answered. Who takes it asks.
    fn take(&self, lane: u32, shard: usize) -> Option<u64> {
        self.numbers().remove(&(lane, shard))
    }

    fn put(&self, id: LeaseRequestId, shard: usize) {
        self.numbers().insert((id.lane, shard), id.number);
    }
}

/// The script's answer: epoch, groups made again, entries without a message, cursor, milliseconds
/// until something is due, leases.
type Answer = (Option<String>, Vec<String>, u64, String, i64, Vec<Row>);

/// A lease: token, due, attempt, unsettled, id, value.
type Row = (String, i64, u32, u32, Vec<u8>, Vec<u8>);

impl RedisQueue {
    pub(super) async fn take_or_wait(&self, request: LeaseRequest) -> Result<Vec<Lease>, QueueError> {
        let started = Instant::now();
        // Who does not wait looks everywhere; who waits, where something may be due.
        let everywhere = request.wait.is_zero();
        loop {
            let leases = self.take(&request, everywhere).await?;
            let left = request.wait.saturating_sub(started.elapsed());
            if !leases.is_empty() || left.is_zero() {
                return Ok(leases);
            }
            self.wait(left).await?;
        }
    }

    /// Leases what is due, without waiting. A shard that can't be asked holds up nobody else's messages: it is an error
    /// only where that is so of all.
    async fn take(&self, request: &LeaseRequest, everywhere: bool) -> Result<Vec<Lease>, QueueError> {
        self.reap_now_and_then();
        let started = Instant::now();
        let (mut leases, mut bytes, mut failure) = (Vec::new(), 0, None);
        // Each call begins at another shard, so that none is served before the others.
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        for index in 0..self.shards.len() {
            let shard = &self.shards[(first + index) % self.shards.len()];
            let max = request.max.min(BATCH_MAX).saturating_sub(leases.len());
            let bytes_max = request.bytes_max.saturating_sub(bytes);
            if max == 0
                || (bytes_max == 0 && !leases.is_empty())
                || started.elapsed() >= self.servers.call_timeout() * 2
            {
                break;
            }
            let repeated = self.unanswered.take(request.id.lane, shard.index);
            if !(shard.idle.claim(started) || everywhere || repeated.is_some()) {
                continue;
            }
            let id = LeaseRequestId { number: repeated.unwrap_or(request.id.number), ..request.id };
            let left = LeaseRequest { id, max, bytes_max, ..request.clone() };
            match self.look_into(shard, &left, leases.is_empty()).await {
                Ok(found) => {
                    bytes += found.iter().map(|(_, lease)| lease.body.len()).sum::<usize>();
                    leases.extend(found);
                }
                // All the others are on the same server.
                Err(error) if !self.servers.are_several() => {
                    failure = Some(error);
                    break;
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let all_fail = || self.shards.iter().all(|shard| shard.idle.failure().is_some());
        if let Some(error) = failure
            && leases.is_empty()
            && (!self.servers.are_several() || all_fail())
        {
            return Err(error);
        }
        leases.sort_by_key(|(due, _)| *due);
        Ok(leases.into_iter().map(|(_, lease)| lease).collect())
    }

    /// Leases what is due in a shard, each with its due time.
    async fn look_into(
        &self,
        shard: &Shard,
        request: &LeaseRequest,
        is_first: bool,
    ) -> Result<Vec<(i64, Lease)>, QueueError> {
        let pauses = Pauses::of(self.shards.len(), self.has_bell());
        let looked = self.take_from(shard, request, is_first).await;
        let (epoch, healed, vanished, cursor, wait, found) = match looked {
            Ok(looked) => looked,
            Err(error) => {
                self.unanswered.put(request.id, shard.index);
                // That servers are unreachable is said where they are asked.
                let is_new = shard.idle.fail(Instant::now(), error.clone(), pauses);
                if is_new && self.servers.are_several() && !matches!(error, QueueError::Unavailable(_)) {
                    error!("shard {} gives no messages, and the others do: {error}", shard.index);
                }
                return Err(error);
            }
        };
        // Data that are new have new groups: that is no news then.
        if self.is_known(shard, epoch.as_deref()) {
            self.tell(&healed, vanished);
        }
        if found.is_empty() {
            shard.idle.begin(
                Instant::now(),
                cursor,
                u64::try_from(wait).ok().map(Duration::from_millis),
                pauses,
            );
        } else {
            shard.idle.end();
        }
        Ok(found.into_iter().map(|row| (row.1, lease_of(shard.index, row))).collect())
    }

    /// Asks one shard. Where nothing is given yet by others, its first message is given whatever its size.
    async fn take_from(
        &self,
        shard: &Shard,
        request: &LeaseRequest,
        is_first: bool,
    ) -> Result<Answer, QueueError> {
        self.call(&self.scripts.lease, shard, |command| {
            command.arg(&self.consumer).arg(request.id.lane).arg(request.id.number);
            command.arg(request.max).arg(request.bytes_max).arg(u8::from(is_first));
            command.arg(millis(request.lease_for));
            command.arg(millis(self.settings.due_within.max(request.lease_for)));
        })
        .await
    }

    fn tell(&self, healed: &[String], vanished: u64) {
        let address = self.address();
        if !healed.is_empty() {
            warn!(
                "{address}: the group of {} was gone and is there again, from the first entry on: what was in hand is \
                 given out once more, and nothing is lost",
                healed.join(" and ")
            );
        }
        if vanished > 0 {
            error!(
                vanished,
                "{address}: entries without a message: someone else writes to our keys, or part of the data is gone"
            );
        }
    }

    /// Looks for consumers that are gone, beside all lanes: a server that hangs holds up none. What can't be reaped now is
    /// reaped another time.
    fn reap_now_and_then(&self) {
        let known: Vec<&Shard> = self.shards.iter().filter(|shard| shard.is_known()).collect();
        {
            let mut reaped_at = self.reaped_at.lock().unwrap_or_else(PoisonError::into_inner);
            if known.is_empty() || reaped_at.is_some_and(|at| at.elapsed() < REAP_EVERY) {
                return;
            }
            *reaped_at = Some(Instant::now());
        }
        let calls: Vec<(usize, Cmd)> = known
            .into_iter()
            .map(|shard| {
                let mut command = self.command(&self.scripts.reap, &shard.keys);
                command.arg(millis(REAP_AFTER));
                (shard.index, command)
            })
            .collect();
        let (servers, scripts) = (self.servers.clone(), Arc::clone(&self.scripts));
        self.servers.run_beside(async move {
            let reap = async |(shard, command): (usize, Cmd)| {
                let call = Call { command: &command, script: Some(&scripts.reap), confirm: false };
                if let Err(error) = servers.call(shard, &call).await {
                    debug!("consumers that are gone are looked for another time: {error}");
                }
            };
            stream::iter(calls).for_each_concurrent(REAPED_AT_ONCE, reap).await;
        });
    }
}

/// A span for a script.
pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Two shards may give their entries the same names, so the shard is part of the token.
fn lease_of(shard: usize, (token, _, attempt, unsettled, id, stored): Row) -> Lease {
    let (Stored { received_at, traceparent, body }, unreadable) = match value::decode(&stored) {
        Ok(stored) => (stored, None),
        Err(why) => (value::show(&stored), Some(format!("the queue's entry can't be read: {why}"))),
    };
    Lease {
        token: LeaseToken(format!("{shard}/{token}")),
        id: id::shown(&id),
        attempt,
        unsettled,
        received_at,
        traceparent,
        body,
        unreadable,
    }
}
