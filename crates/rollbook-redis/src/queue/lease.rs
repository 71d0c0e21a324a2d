//! Leasing of messages.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use redis::Cmd;
use rollbook_core::lock::lock;
use rollbook_core::queue::{Lease, LeaseRequest, LeaseRequestId, LeaseToken, QueueError};
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::idle::Cursors;
use super::{BATCH_MAX, RedisQueue, Shard};
use crate::id;
use crate::pool::Call;
use crate::value::{self, Stored};

/// Interval between deletions of idle consumers, and the idle time after which a consumer is deleted.
const REAP_EVERY: Duration = Duration::from_secs(600);
const REAP_AFTER: Duration = Duration::from_secs(3_600);

/// Maximum shards that are asked concurrently to delete idle consumers.
const REAPED_AT_ONCE: usize = 4;

/// Requests that a shard has not answered, by lane and shard. The shard may have leased messages to such a
/// request, so it is asked again with the same number. The other shards have answered meanwhile, and the lane
/// has continued.
#[derive(Default)]
pub(super) struct Unanswered(Mutex<HashMap<(u32, usize), u64>>);

impl Unanswered {
    /// Removes and returns the number of an unanswered request; the caller repeats it.
    fn take(&self, lane: u32, shard: usize) -> Option<u64> {
        lock(&self.0).remove(&(lane, shard))
    }

    fn put(&self, id: LeaseRequestId, shard: usize) {
        lock(&self.0).insert((id.lane, shard), id.number);
    }
}

/// Answer of the script: epoch, recreated groups, entries without a message, last entries of the two streams,
/// milliseconds until something is due, leases.
type Answer = (Option<String>, Vec<String>, u64, String, String, i64, Vec<Row>);

/// Lease: token, due time, attempt, unsettled, id, value.
type Row = (String, i64, u32, u32, Vec<u8>, Vec<u8>);

impl RedisQueue {
    pub(super) async fn lease_or_wait(&self, request: LeaseRequest) -> Result<Vec<Lease>, QueueError> {
        let started = Instant::now();
        // A request that does not wait polls every shard; one that waits, only shards where messages may be
        // due.
        let all_shards = request.wait.is_zero();
        loop {
            let leases = self.lease_due(&request, all_shards).await?;
            let left = request.wait.saturating_sub(started.elapsed());
            if !leases.is_empty() || left.is_zero() {
                return Ok(leases);
            }
            self.wait(left).await;
        }
    }

    /// Leases due messages without waiting. A shard that fails does not block the messages of the others: it
    /// is an error only if all fail.
    async fn lease_due(&self, request: &LeaseRequest, all_shards: bool) -> Result<Vec<Lease>, QueueError> {
        self.reap_if_due();
        let started = Instant::now();
        let (mut leases, mut bytes, mut failure) = (Vec::new(), 0, None);
        // Each call starts at another shard, so that no shard is always served first.
        let first = self.next_start.fetch_add(1, Ordering::Relaxed);
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
            if !(shard.idle.claim(started) || all_shards || repeated.is_some()) {
                continue;
            }
            let id = LeaseRequestId { number: repeated.unwrap_or(request.id.number), ..request.id };
            let left = LeaseRequest { id, max, bytes_max, ..request.clone() };
            match self.lease_from(shard, &left, leases.is_empty()).await {
                Ok(found) => {
                    bytes += found.iter().map(|(_, lease)| lease.body.len()).sum::<usize>();
                    leases.extend(found);
                }
                // All other shards are on the same server.
                Err(error) if !self.servers.is_cluster() => {
                    failure = Some(error);
                    break;
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let all_fail = || self.shards.iter().all(|shard| shard.idle.failure().is_some());
        if let Some(error) = failure
            && leases.is_empty()
            && (!self.servers.is_cluster() || all_fail())
        {
            return Err(error);
        }
        leases.sort_by_key(|(due, _)| *due);
        Ok(leases.into_iter().map(|(_, lease)| lease).collect())
    }

    /// Leases due messages of one shard, each with its due time.
    async fn lease_from(
        &self,
        shard: &Shard,
        request: &LeaseRequest,
        is_first: bool,
    ) -> Result<Vec<(i64, Lease)>, QueueError> {
        let news = shard.idle.news();
        let answer = self.call_lease(shard, request, is_first).await;
        let (epoch, recreated, without_message, new, bell, wait, found) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.unanswered.put(request.id, shard.index);
                self.listener.reconnect();
                // Unreachable servers are logged where they are detected.
                let pauses = self.pauses_without_listener();
                let is_new = shard.idle.fail(Instant::now(), error.clone(), pauses);
                if is_new && self.servers.is_cluster() && !matches!(error, QueueError::Unavailable(_)) {
                    error!("shard {} leases no messages, while other shards do: {error}", shard.index);
                }
                return Err(error);
            }
        };
        // New data has new groups: recreated groups are then expected.
        if self.check_epoch(shard, epoch.as_deref()) {
            self.log_anomalies(&recreated, without_message);
        }
        if found.is_empty() {
            let next_due_after = u64::try_from(wait).ok().map(Duration::from_millis);
            let cursors = Cursors { new, bell };
            shard.idle.begin(Instant::now(), news, cursors, next_due_after, self.pauses());
            self.listener.shard_is_idle();
        } else {
            shard.idle.end();
        }
        Ok(found.into_iter().map(|row| (row.1, lease_of(shard.index, row))).collect())
    }

    /// Asks one shard. If no other shard has leased anything yet, the first message is leased whatever its
    /// size.
    async fn call_lease(
        &self,
        shard: &Shard,
        request: &LeaseRequest,
        is_first: bool,
    ) -> Result<Answer, QueueError> {
        self.call(&self.scripts.lease, shard, |command| {
            command.arg(&self.consumer).arg(request.id.lane).arg(request.id.number);
            command.arg(request.max).arg(request.bytes_max).arg(u8::from(is_first));
            command.arg(millis(request.lease_for));
            command.arg(millis(self.settings.due_ahead_max.max(request.lease_for)));
        })
        .await
    }

    fn log_anomalies(&self, recreated: &[String], without_message: u64) {
        let address = self.address();
        if !recreated.is_empty() {
            warn!(
                "{address}: the group of {} was missing and is recreated from the first entry on: leased messages are \
                 delivered once more, and no message is lost",
                recreated.join(" and ")
            );
        }
        if without_message > 0 {
            error!(
                without_message,
                "{address}: stream entries without a message are removed. After a kill of Redis they are of deliveries that were \
                 not acknowledged, and Svix sends those again; otherwise another program writes to the queue's keys, or data is \
                 lost"
            );
        }
    }

    /// Deletes idle consumers in the background, so that a server that hangs does not block a lane. Failures
    /// are retried in the next interval.
    fn reap_if_due(&self) {
        let known: Vec<&Shard> = self.shards.iter().filter(|shard| shard.is_known()).collect();
        {
            let mut reaped_at = lock(&self.reaped_at);
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
        self.servers.spawn_background(async move {
            let reap = async |(shard, command): (usize, Cmd)| {
                let call = Call { command: &command, script: Some(&scripts.reap), confirm: false };
                if let Err(error) = servers.call(shard, &call).await {
                    debug!("idle consumers could not be deleted, retrying later: {error}");
                }
            };
            stream::iter(calls).for_each_concurrent(REAPED_AT_ONCE, reap).await;
        });
    }
}

/// Converts a duration to milliseconds for a script.
pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Builds a lease. The token contains the shard, because entries of two shards may have the same id.
fn lease_of(shard: usize, (token, _, attempt, unsettled, id, stored): Row) -> Lease {
    let (Stored { received_at, traceparent, body }, unreadable) = match value::decode(&stored) {
        Ok(stored) => (stored, None),
        Err(why) => (value::show(&stored), Some(format!("the stored message can't be decoded: {why}"))),
    };
    Lease {
        token: LeaseToken(format!("{shard}/{token}")),
        id: id::to_message_id(&id),
        attempt,
        unsettled,
        received_at,
        traceparent,
        body,
        unreadable,
    }
}
