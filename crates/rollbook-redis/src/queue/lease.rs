//! Giving messages out.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rollbook_core::queue::{Lease, LeaseRequest, LeaseToken, QueueError};
use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::{BATCH_MAX, RedisQueue, Shard};
use crate::id;
use crate::value::{self, Stored};

/// How often consumers of processes that are gone are looked for, and for how long one must have been silent.
const REAP_EVERY: Duration = Duration::from_secs(600);
const REAP_AFTER: Duration = Duration::from_secs(3_600);

/// What a look for due messages found.
pub(super) struct Taken {
    pub(super) leases: Vec<Lease>,
    /// Where each shard's stream of new messages was when nothing was found.
    pub(super) cursors: Vec<String>,
    /// When something will be due, where that is known.
    pub(super) next_due_after: Option<Duration>,
}

/// The script's answer: epoch, groups made again, entries without a message, cursor, milliseconds
/// until something is due, leases.
type Answer = (Option<String>, Vec<String>, u64, String, i64, Vec<Row>);

/// A lease: token, due, attempt, unsettled, id, value.
type Row = (String, i64, u32, u32, Vec<u8>, Vec<u8>);

impl RedisQueue {
    /// Leases what is due, without waiting.
    pub(super) async fn take(&self, request: &LeaseRequest) -> Result<Taken, QueueError> {
        self.reap_now_and_then().await;
        let mut given: Vec<(i64, Lease)> = Vec::new();
        let mut cursors = vec![String::new(); self.shards.len()];
        let mut next_due_after: Option<Duration> = None;
        // Each call begins at another shard, so that none is served before the others.
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        for index in 0..self.shards.len() {
            let index = (first + index) % self.shards.len();
            let Some(left) = left(request, &given) else { break };
            let shard = &self.shards[index];
            let looked = self.take_from(shard, &left, given.is_empty()).await;
            // A shard that is away holds up nobody else's messages: what is in hand goes out, and the
            // error comes again when that shard is the first to be looked at.
            if looked.is_err() && !given.is_empty() {
                break;
            }
            let (epoch, healed, vanished, cursor, wait, rows) = looked?;
            // Data that are new have new groups: that is no news then.
            if self.is_known(shard, epoch.as_deref()) {
                self.tell(&healed, vanished);
            }
            given.extend(rows.into_iter().map(|row| (row.1, lease_of(index, row))));
            cursors[index] = cursor;
            let wait = u64::try_from(wait).ok().map(Duration::from_millis);
            next_due_after = next_due_after.into_iter().chain(wait).min();
        }
        given.sort_by_key(|(due, _)| *due);
        let leases = given.into_iter().map(|(_, lease)| lease).collect();
        Ok(Taken { leases, cursors, next_due_after })
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
        let address = self.pool.manager().address();
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

    /// What can't be reaped now is reaped another time, and keeps nobody from a lease.
    async fn reap_now_and_then(&self) {
        {
            let mut reaped_at = self.reaped_at.lock().unwrap_or_else(PoisonError::into_inner);
            if reaped_at.is_some_and(|at| at.elapsed() < REAP_EVERY) {
                return;
            }
            *reaped_at = Some(Instant::now());
        }
        for shard in &self.shards {
            let reaped: Result<u64, _> =
                self.call(&self.scripts.reap, shard, |command| _ = command.arg(millis(REAP_AFTER))).await;
            if let Err(error) = reaped {
                debug!("consumers that are gone are looked for another time: {error}");
            }
        }
    }
}

/// The request with what these have left of its limits. `None` where nothing more fits.
fn left(request: &LeaseRequest, given: &[(i64, Lease)]) -> Option<LeaseRequest> {
    let bytes: usize = given.iter().map(|(_, lease)| lease.body.len()).sum();
    let max = request.max.min(BATCH_MAX).saturating_sub(given.len());
    let bytes_max = request.bytes_max.saturating_sub(bytes);
    let fits = max > 0 && (bytes_max > 0 || given.is_empty());
    fits.then(|| LeaseRequest { max, bytes_max, ..request.clone() })
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
